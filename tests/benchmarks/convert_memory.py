"""Memory and time of import and export of the paper's 308M model.

  python tests/benchmarks/convert_memory.py

A checkpoint of random weights (1.2 GB) is exported, imported and exported
again, in a temporary folder. Each is a process of its own: seconds, wall and of
CPU, and peak resident memory. Then every tensor of the second export is
compared with the first, and the hash of what was imported with what went in.
Exports to GGUF follow, each without and with its certificate, which needs
llama.cpp (xllamacpp), whose own memory is not counted. A word limits the work to
the jobs that it begins: gguf.
"""

import dataclasses
import functools
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from embeddinggemma import checkpoint
from embeddinggemma.cli import main
from embeddinggemma.convert import safetensors_io
from embeddinggemma.convert.certify import certificate
from embeddinggemma.convert.write import exporting, gguf
from embeddinggemma.data.prompts import PROMPTS
from embeddinggemma.data.tokenizer import train_tokenizer
from embeddinggemma.model import embedder
from embeddinggemma.presets import preset

PRESET = "embeddinggemma_300m"
FORMAT = "sentence-transformers"


def measure_all(begins: str) -> None:
  """Makes the model, measures, compares."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    for job in JOBS:
      if job in ("nothing", "make") or job.startswith(begins):
        measure(job, folder)
    if begins:
      return
    first, second = folder / "exported", folder / "again"
    for place in ("", "2_Dense", "3_Dense"):
      a = safetensors_io.open_folder(first / place)
      b = safetensors_io.open_folder(second / place)
      assert a.keys() == b.keys()
      assert all(safetensors_io.same(a[key], b[key]) for key in a)
    marks = [(p / "embeddinggemma.json").read_text() for p in (first, second)]
    assert marks[0] == marks[1], "the hashes of the weights differ"
    print("all tensors equal, hashes equal")


def measure(job: str, folder: pathlib.Path) -> None:
  """Runs one job in a process of its own; prints what it took."""
  command = [sys.executable, __file__, job, str(folder)]
  # What the command line sets for itself.
  env = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
  out = subprocess.run(
    command, check=True, capture_output=True, text=True, env=env
  )
  for line in out.stdout.splitlines():
    print(f"{job:<24} {line}", flush=True)


def make(folder: pathlib.Path) -> None:
  """A checkpoint of random weights, and a small tokenizer."""
  config = preset(PRESET).model
  shapes = jax.eval_shape(embedder.init(config), jax.random.key(0))
  rng = np.random.default_rng(0)
  # Scaled as trained ones are, or rounding errors would be magnified.
  weights = lambda s: (
    rng.standard_normal(s.shape, np.float32)
    * np.float32(0.3 if len(s.shape) == 1 else s.shape[0] ** -0.5)
  )
  params = jax.tree.map(weights, shapes)
  texts = [f"a text of the number {n}" for n in range(500)]
  train_tokenizer(texts, folder / "tokenizer.model", 600)
  files = {
    "model.json": json.dumps(dataclasses.asdict(config)).encode(),
    "prompts.json": json.dumps(dict(PROMPTS)).encode(),
    "tokenizer.model": (folder / "tokenizer.model").read_bytes(),
  }
  checkpoint.write(folder / "model", params, files)


def export(folder: pathlib.Path, source: str, target: str) -> None:
  """The verb `export`."""
  model, output = f"--model={folder / source}", f"--output={folder / target}"
  assert not main.call(["export", model, f"--format={FORMAT}", output])


def bring(folder: pathlib.Path) -> None:
  """The verb `import`."""
  source, workdir = folder / "exported", folder / "imported"
  assert not main.call(["import", f"--from={source}", f"--workdir={workdir}"])


def to_gguf(folder: pathlib.Path, dtype: str, certified: bool) -> None:
  """A GGUF file, and its certificate."""
  job = []
  output = folder / f"gguf-{dtype}"
  written = exporting.export(
    gguf.FORMAT,
    str(folder / "model"),
    output,
    dtype,
    certify=lambda *args: job.extend(args) if certified else None,
  )
  path = output / written.artefact.name
  print(f"{path.stat().st_size:,} bytes")
  if certified:
    began = time.perf_counter()
    place = written._replace(artefact=path)
    found = certificate.certify(gguf.FORMAT, job[0], output, place)
    print(certificate.summary(found))
    print(f"certificate {time.perf_counter() - began:.1f} s")


JOBS = {
  "nothing": lambda folder: None,
  "make": make,
  "export": lambda folder: export(folder, "model", "exported"),
  "import": bring,
  "again": lambda folder: export(folder, "imported", "again"),
  **{
    f"gguf {dtype}{' certified' * certified}": functools.partial(
      to_gguf, dtype=dtype, certified=certified
    )
    for dtype in ("float32", "q4_0")
    for certified in (False, True)
  },
}


def child(job: str, folder: pathlib.Path) -> None:
  """Runs one job; prints its measurement."""
  began = time.perf_counter()
  JOBS[job](folder)
  seconds = time.perf_counter() - began
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
  who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
  used = [resource.getrusage(x) for x in who]
  cpu = sum(x.ru_utime + x.ru_stime for x in used)
  print(f"{seconds:6.1f} s wall, {cpu:.1f} s of CPU, peak {peak:.2f} GB")


if __name__ == "__main__":
  if sys.argv[2:]:
    child(sys.argv[1], pathlib.Path(sys.argv[2]))
  else:
    measure_all("".join(sys.argv[1:]))
