"""Private search: an index of code, one changed file, queries, recall, bytes.

  python tests/benchmarks/search.py MODEL [--chunks=20000] [--dim=256]

MODEL is a checkpoint, or a workdir of a run. The code is Python's standard
library and installed packages. Queries are sentences of Python's manual, and
first sentences of docstrings in that code. Recall is of the ten nearest by
exact float32 cosines at the same dimension.
"""

import argparse
import ast
import json
import os
import pathlib
import pydoc_data.topics
import random
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from embeddinggemma import encode
from embeddinggemma.loading import Model, load
from embeddinggemma.recipes.index import measure
from embeddinggemma.retrieval import chunks, index, search, update

PACKAGES = ("numpy", "jax", "flax", "optax", "rich", "sklearn")
QUERIES = 1000
K = 10


class Remembering:
  """A model that keeps its vectors, and how long it took."""

  def __init__(self, model: Model):
    self.vectors: dict[tuple[str, str], np.ndarray] = {}
    self._model = model

  def __call__(
    self, texts: Sequence[str], prompt_name: str, titles: Sequence[str] = ()
  ) -> np.ndarray:
    keys = list(zip(titles, texts, strict=True))
    if not all(key in self.vectors for key in keys):
      made = self._model(texts, prompt_name, titles)
      self.vectors.update(zip(keys, made, strict=True))
    return np.stack([self.vectors[key] for key in keys])


def run(path: str, count: int, dim: int) -> None:
  """Prints the table."""
  began = time.perf_counter()
  model = load(path)
  print(f"model: {model.name}, loaded in {time.perf_counter() - began:.1f} s")
  with tempfile.TemporaryDirectory() as folder:
    source = pathlib.Path(folder) / "source"
    fill(source, count)
    encoder = Remembering(model)
    places = {}
    for kind in ("int8", "binary"):
      places[kind] = pathlib.Path(folder) / kind
      making = update.Making(model.identity, dim, kind)
      about = update.build_index(
        encoder, source, places[kind], making, measure=measure(model)
      )
      show(kind, about)
    for title, change in changes(source).items():
      change()
      show(title, command(path, source, places["int8"]))
    queries = list(asked(source))
    for kind, place in places.items():
      opened = index.open_index(place)
      for mode in ("hybrid", "dense", "lexical"):
        print(f"{kind} {mode}: {timed(opened, model, queries[:100], mode)}")
    opened = {kind: index.open_index(place) for kind, place in places.items()}
    recalled(opened, encoder, model, queries, dim)


def fill(target: pathlib.Path, count: int) -> None:
  """Copies files of code until they make so many chunks."""
  library = pathlib.Path(sysconfig.get_path("stdlib"))
  own = [p for p in library.rglob("*.py") if "site-packages" not in p.parts]
  packages = pathlib.Path(np.__file__).parent.parent
  theirs = [p for name in PACKAGES for p in (packages / name).rglob("*.py")]
  files = sorted(p for p in [*own, *theirs] if "test" not in str(p))
  random.Random(0).shuffle(files)
  made = 0
  for path in files:
    try:
      content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
      continue
    root = library if path.is_relative_to(library) else packages
    place = target / path.relative_to(root)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content, encoding="utf-8")
    made += len(chunks.chunk(path.name, content))
    if made >= count:
      return
  raise SystemExit(f"there are only {made} chunks")


def changes(source: pathlib.Path) -> dict[str, Callable[[], object]]:
  """What happens to the files before each `index` again."""
  first, second = sorted(source.rglob("*.py"))[100:102]

  def edit() -> None:
    text = first.read_text(encoding="utf-8")
    name = f"added_{len(text)}"
    first.write_text(f"{text}\n\ndef {name}(x):\n  return 2 * x\n")

  return {
    "one file changed": edit,
    "one file changed again": edit,
    "one file removed": second.unlink,
    "nothing changed": lambda: None,
  }


def command(model: str, source: pathlib.Path, output: pathlib.Path) -> dict:
  """`index` as a user runs it; seconds and CPU seconds of the whole command."""
  argv = [sys.executable, "-m", "embeddinggemma", "index", "--json"]
  argv += [f"--model={model}", f"--input={source}", f"--output={output}"]
  began, before = time.perf_counter(), os.times()
  done = subprocess.run(argv, check=True, capture_output=True, text=True)
  after = os.times()
  return {
    **json.loads(done.stdout),
    "command": time.perf_counter() - began,
    "cpu": after.children_user
    + after.children_system
    - before.children_user
    - before.children_system,
  }


def show(title: str, about: dict) -> None:
  """A line of the table."""
  whole = ""
  if "command" in about:
    whole = f"; the command {about['command']:.1f} s, {about['cpu']:.1f} of CPU"
  print(
    f"{title}: {about['chunks']:,} chunks of {about['files']:,} files,"
    f" {about['kept']:,} kept, {about['new']:,} new, {about['removed']:,} gone;"
    f" {about['embedded']:,} embedded in {about['embedding_seconds']:.2f} s,"
    f" {about['seconds']:.2f} s in all{whole}; {about['bytes'] / 1e6:.1f} MB",
    flush=True,
  )


def asked(source: pathlib.Path) -> Iterator[str]:
  """Half of the queries from the manual, half from docstrings."""
  manual = " ".join(pydoc_data.topics.topics.values())
  sentences = re.findall(r"[A-Z][\w ,'-]{30,120}\.", manual)
  summaries = [
    text.split("\n\n")[0].replace("\n", " ")
    for path in sorted(source.rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.FunctionDef) and (text := ast.get_docstring(node))
  ]
  for texts in sorted(set(sentences)), sorted(set(summaries)):
    random.Random(0).shuffle(texts)
    yield from texts[: QUERIES // 2]


def timed(
  opened: index.Index, model: Model, queries: Sequence[str], mode: search.Mode
) -> str:
  """Milliseconds of the first query, and of the others."""
  taken = []
  for query in queries:
    began = time.perf_counter()
    search.search(opened, model, query, model=model.hash, mode=mode, k=K)
    taken.append(1000 * (time.perf_counter() - began))
  first, *rest = taken
  worst = sorted(rest)[int(0.95 * len(rest))]
  return (
    f"{statistics.median(rest):.1f} ms a query, 95% within {worst:.1f} ms, the"
    f" first {first:.0f} ms"
  )


def recalled(
  opened: dict[str, index.Index],
  encoder: Remembering,
  model: Model,
  queries: Sequence[str],
  dim: int,
) -> None:
  """Recall of each kind, and what its vectors take."""
  vectors = encode.truncate(model(queries, "query"), dim)
  for kind, one in opened.items():
    rows = [one.chunk(place) for place in range(len(one))]
    known = encoder.vectors
    if missing := [r for r in rows if (r.title, r.text) not in known]:
      texts, titles = [r.text for r in missing], [r.title for r in missing]
      encoder(texts, "document", titles)
    exact = encode.truncate(
      np.stack([known[row.title, row.text] for row in rows]), dim
    )
    shares = []
    for query in vectors:
      best = np.argsort(-(exact @ query), kind="stable")[:K]
      found, _ = search.nearest(one, query, K)
      shares.append(len(set(best) & set(found)) / K)
    taken = one.vectors.nbytes + one.codes.nbytes
    print(
      f"{kind}: recall@{K} {statistics.mean(shares):.4f} of exact float32 at"
      f" {dim}; vectors {taken / len(one):.0f} bytes a chunk, of which"
      f" {one.codes.nbytes / len(one):.0f} are compared with each query"
    )
  mean = opened["int8"].spread.mean
  print(f"length of the mean vector: {np.linalg.norm(mean):.2f}")


if __name__ == "__main__":
  parser = argparse.ArgumentParser()
  parser.add_argument("model")
  parser.add_argument("--chunks", type=int, default=20_000)
  parser.add_argument("--dim", type=int, default=256)
  flags = parser.parse_args()
  run(flags.model, flags.chunks, flags.dim)
