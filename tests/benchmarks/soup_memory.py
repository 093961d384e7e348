"""Memory and time of a soup of five checkpoints of the paper's 308M model.

  python tests/benchmarks/soup_memory.py [COUNT]

Random weights in a temporary folder (1.1 GiB each, and as much for the soup),
gone afterwards. Each measurement is a process of its own: its peak resident
memory, wall and processor seconds; `import` is what both others begin with.
"""

import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np

from embeddinggemma import checkpoint, soups
from embeddinggemma.model import embedder
from embeddinggemma.presets import preset

PRESET = "embeddinggemma_300m"
FILES = {
  "model.json": b"{}",
  "prompts.json": b"{}",
  "tokenizer.model": b"none",
}


def main(count: int) -> None:
  """Makes the checkpoints; prints the measurements and the ratio."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    need = (count + 2) * 1.3e9
    if shutil.disk_usage(folder).free < need:
      sys.exit(f"{folder} has less than {need / 1e9:.0f} GB")
    places = [folder / f"{n}" for n in range(count)]
    jobs = ("import", "make", "read", "soup")
    found = {job: measure(job, folder, places) for job in jobs}
  read, made = found["read"], found["soup"]
  for clock in ("wall", "processor"):
    ratio = made[clock] / read[clock]
    print(f"soup / reading once: {ratio:.2f} in {clock} seconds")
  print(f"peak of the soup: {made['peak']:.2f} GB")


def measure(
  job: str, folder: pathlib.Path, places: list[pathlib.Path]
) -> dict[str, float]:
  """What `job` takes, in a process of its own."""
  command = [sys.executable, __file__, job, str(folder), *map(str, places)]
  # What the command line sets for itself.
  env = os.environ | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
  out = subprocess.run(
    command, check=True, capture_output=True, text=True, env=env
  )
  found = json.loads(out.stdout.splitlines()[-1])
  print(
    f"{job:<7} {found['wall']:6.1f} s wall, {found['processor']:6.1f} s"
    f" processor, peak {found['peak']:.2f} GB",
    flush=True,
  )
  return found


def make(folder: pathlib.Path, places: list[pathlib.Path]) -> None:
  """Checkpoints as training on one device writes them: a chunk a tensor."""
  del folder
  shapes = jax.eval_shape(
    embedder.init(preset(PRESET).model), jax.random.key(0)
  )
  for seed, place in enumerate(places):
    rng = np.random.default_rng(seed)
    weights = lambda s, rng=rng: rng.standard_normal(s.shape, np.float32)
    checkpoint.write(place, jax.tree.map(weights, shapes), FILES)


def read_once(folder: pathlib.Path, places: list[pathlib.Path]) -> None:
  """Reads every checkpoint whole, one after the other."""
  del folder
  for place in places:
    checkpoint.read_params(checkpoint.find(place))


def make_soup(folder: pathlib.Path, places: list[pathlib.Path]) -> None:
  """The soup, as the command makes it."""
  soups.soup(places, None, folder / "soup")


def nothing(folder: pathlib.Path, places: list[pathlib.Path]) -> None:
  """What imports cost."""
  del folder, places


JOBS = {
  "import": nothing,
  "make": make,
  "read": read_once,
  "soup": make_soup,
}


def child(job: str, folder: str, places: list[str]) -> None:
  """Runs one job; prints its measurement."""
  began, spent = time.perf_counter(), time.process_time()
  JOBS[job](pathlib.Path(folder), [pathlib.Path(p) for p in places])
  wall, processor = time.perf_counter() - began, time.process_time() - spent
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
  print(json.dumps({"wall": wall, "processor": processor, "peak": peak}))


if __name__ == "__main__":
  if sys.argv[1:2] and sys.argv[1] in JOBS:
    child(sys.argv[1], sys.argv[2], sys.argv[3:])
  else:
    main(int(sys.argv[1]) if sys.argv[1:] else 5)
