"""A semantic index on disk: one folder that is complete at every moment.

index.json names a folder of files beside it. A new index is written under a
name of its own, and index.json is replaced last; so a reader, or a process
killed halfway, leaves and finds either the old index or the new one. No file is
a pickle.

  index.json            what the index is; `data` names the folder of the rest
  data-*/chunks.jsonl   a row for each chunk: path, line, title, text
  data-*/files.jsonl    a row for each file: its hash, number of chunks and what
                        was done to cut it, or why it was left out
  data-*/vectors.npy    float16, unit norm
  data-*/codes.npy      int8 or bits, which select the vectors to compare
  data-*/spread.npz     mean, covariance and scale of the vectors
  data-*/graph.usearch  HNSW graph of the codes, if they are many
  data-*/bm25/          the BM25 index
"""

import contextlib
import dataclasses
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jaxtyping import Float16, Shaped

from embeddinggemma import cache, checkpoint, lexical
from embeddinggemma.model import identity
from embeddinggemma.model.identity import Identity
from embeddinggemma.retrieval import chunks, codes, reading
from embeddinggemma.types import IDENTITY, BadInput

FORMAT = 2
INDEX_FILE = "index.json"
GRAPH = "graph.usearch"
PENDING = "pending"  # folder of vectors whose index is not complete yet
# Keys that index.json must have, and their types.
_ABOUT = {
  **dict.fromkeys(("data", "model", "document_prompt", "vectors"), str),
  **dict.fromkeys(("dim", "chunks"), int),
}
_DATA = "data-"
_MADE = re.compile(rf"{_DATA}[a-z0-9_]{{8}}")  # names as tempfile makes them
# What else the folder of an index may hold: whole names, and beginnings of the
# names of files, which are written under a longer name first. A recipe keeps
# its own notes there.
_NAMES = (PENDING, cache.LOCK_FILE, cache.PROGRAMS)
_FILES = (INDEX_FILE, cache.KEY_FILE, cache.STAGE_FILE)
_BROKEN = (
  OSError,
  EOFError,
  ValueError,
  LookupError,
  TypeError,
  RuntimeError,
  zipfile.BadZipFile,
)


class Damaged(BadInput):
  """An index with a missing or broken part; the verb `index` rebuilds it."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Index:
  """An opened index; vectors and codes are memory-mapped."""

  about: Mapping[str, Any]  # content of index.json
  lines: Sequence[bytes]  # of chunks.jsonl
  vectors: Float16[np.ndarray, "n D"]
  codes: Shaped[np.ndarray, "n _"]
  spread: codes.Spread
  graph: Any | None  # usearch.index.Index
  words: lexical.BM25
  folder: Path

  def __len__(self) -> int:
    return len(self.lines)

  def __repr__(self) -> str:
    kind, dim = self.about["vectors"], self.about["dim"]
    place = str(self.folder.parent)
    return (
      f"Index({place!r}, chunks={len(self):,}, dim={dim}, vectors={kind!r})"
    )

  def chunk(self, place: int) -> chunks.Chunk:
    """The chunk in a place; Damaged if its line is broken."""
    try:
      return chunks.Chunk(**json.loads(self.lines[place]))
    except _BROKEN as error:
      raise Damaged(_damaged(self.folder.parent, error)) from None

  def read(self) -> reading.Reading:
    """All chunks by file, and the files that were left out, as first read."""
    files, skipped, start = [], {}, 0
    try:
      for line in (self.folder / "files.jsonl").read_bytes().splitlines():
        row = json.loads(line)
        if "skipped" in row:
          skipped[row["path"]] = row["skipped"]
          continue
        places = range(start, start := start + row["chunks"])
        own = [self.chunk(place) for place in places]
        did = row.get("did", {})
        files.append(reading.File(row["path"], row["digest"], own, did))
      if start != len(self):
        raise ValueError("files.jsonl is not of these chunks")
    except _BROKEN as error:
      raise Damaged(_damaged(self.folder.parent, error)) from None
    return reading.Reading(files, skipped)


def _damaged(directory: Path, error: Exception) -> str:
  return f"{directory}: a damaged index ({error}); `index` again makes it anew"


def open_index(directory: Path) -> Index:
  """Open an index.

  Raises BadInput if the folder is no index or one of another format, and
  Damaged if a part is missing or broken.
  """
  while True:
    about = about_of(directory)
    require_format(directory, about)
    try:
      return _open(directory / about["data"], about)
    except _BROKEN as error:
      # An update that came between has taken the files away.
      if about_of(directory) == about:
        raise Damaged(_damaged(directory, error)) from None


def about_of(directory: Path) -> dict[str, Any]:
  """The content of index.json; BadInput if there is none, Damaged if broken."""
  path = directory / INDEX_FILE
  if not path.is_file() and (directory / PENDING).is_dir():
    raise BadInput(f"{directory}: not an index yet; `index` again finishes it")
  if not path.is_file():
    raise BadInput(f"{directory}: not an index; make one with `index`")
  try:
    about = json.loads(path.read_text(encoding="utf-8"))
    if about["format"] == FORMAT:
      for name, type_ in _ABOUT.items():
        if not isinstance(about[name], type_):
          raise ValueError(f"its {name} is {about[name]!r}")
      if about["vectors"] not in get_args(codes.Kind):
        raise ValueError(f"its vectors are {about['vectors']!r}")
      if not isinstance(about.get(IDENTITY, {}), dict):
        raise ValueError(f"its {IDENTITY} is {about[IDENTITY]!r}")
  except _BROKEN as error:
    raise Damaged(
      f"{directory}: not an index ({error!r}); if it was one, `index` again"
      " makes it anew"
    ) from None
  return about


def choices(directory: Path) -> dict[str, Any]:
  """The content of index.json, or {} if there is none.

  It provides the options that a user need not repeat.
  """
  try:
    return about_of(directory)
  except BadInput:
    return {}


def as_written(about: Mapping[str, Any]) -> bool:
  """Whether the index's vectors are of texts with their outer white space.

  Earlier versions stripped it.
  """
  return checkpoint.AS_WRITTEN.items() <= about.items()


def differences(about: Mapping[str, Any], model: Identity) -> list[str]:
  """How a model differs from the one that an index was made with.

  Earlier versions kept the weights' hash and the document prompt alone; these
  are then compared.
  """
  there = {
    "weights": about["model"],
    "prompts": {"document": about["document_prompt"]},
    **about.get(IDENTITY, {}),
  }
  used = identity.SEARCH if IDENTITY in about else ("document",)
  return identity.differences(there, model.as_json(), used)


def by_characters(about: Mapping[str, Any]) -> bool:
  """Whether earlier versions cut the texts, without asking what a model reads."""
  return not isinstance(about.get("cut"), Mapping)


def note(about: Mapping[str, Any], stripped: str, cut: str) -> str:
  """What an index of earlier versions lacks, a line each; "" for others.

  Args:
    about: the content of index.json.
    stripped: what is, or can be, done about white space that was stripped.
    cut: the same about texts that were cut by characters.
  """
  made = "the index was made by a version that"
  notes = {
    f"{made} ignored white space around a text; {stripped}": as_written(about),
    f"{made} cut by characters; {cut}": not by_characters(about),
    f"{made} recorded only the weights and the document prompt of its model: its"
    " tokenizer, query prompt and lengths cannot be compared": (
      IDENTITY in about
    ),
  }
  return "\n".join(line for line, fine in notes.items() if not fine)


def require_format(directory: Path, about: Mapping[str, Any]) -> None:
  """Raise BadInput for an index that was written in another format."""
  if about["format"] != FORMAT:
    raise BadInput(
      f"{directory}: index format {about['format']}, where this version has"
      f" {FORMAT}; make it anew with `index --rebuild`"
    )


def _open(folder: Path, about: Mapping[str, Any]) -> Index:
  lines = (folder / "chunks.jsonl").read_bytes().splitlines()
  vectors = np.load(folder / "vectors.npy", mmap_mode="r")
  coded = np.load(folder / "codes.npy", mmap_mode="r")
  with np.load(folder / "spread.npz") as file:
    spread = codes.Spread(*(file[name] for name in codes.Spread._fields))
  path, graph = folder / GRAPH, None
  if path.is_file():
    graph = codes.empty_graph(about["vectors"], about["dim"])
    graph.view(str(path))
  try:
    words = lexical.load_bm25(folder / "bm25")
  except BadInput as error:
    raise ValueError(error) from None
  sizes = {len(lines), len(vectors), len(coded), words.size, about["chunks"]}
  if len(sizes) > 1 or vectors.shape[1] != about["dim"]:
    raise ValueError("its files disagree")
  return Index(about, lines, vectors, coded, spread, graph, words, folder)


@contextlib.contextmanager
def writing(output: Path) -> Iterator[None]:
  """Lock an index against other writers, and delete leftovers of killed ones.

  Pending vectors are deleted once the block has ended without an error. Raises
  BadInput if the folder holds anything else than an index.
  """
  require_ours(output)
  with cache.locked(output, "--output"):
    _clear(output)
    yield
    shutil.rmtree(output / PENDING, ignore_errors=True)


def commit(
  output: Path,
  about: dict[str, Any],
  read: reading.Reading,
  vectors: Float16[np.ndarray, "n D"],
) -> dict[str, Any]:
  """Write an index, put it in place of the old one and return its index.json.

  Codes are made anew from the vectors each time, so their scale always fits. An
  updated index is therefore equal to a rebuilt one, byte for byte, except for
  the graph of a large one, which several threads build.
  """
  folder = Path(tempfile.mkdtemp(prefix=_DATA, dir=output))
  try:
    folder.chmod(0o755)
    _write_rows(folder, read)
    cache.write_array(folder / "vectors.npy", vectors)
    spread = codes.spread(vectors)
    np.savez(folder / "spread.npz", **spread._asdict())
    coded = codes.encode(vectors, about["vectors"], spread)
    cache.write_array(folder / "codes.npy", coded)
    if len(coded) > codes.EXACT_UP_TO:
      graph = codes.make_graph(coded, about["vectors"], about["dim"])
      (folder / GRAPH).write_bytes(graph.save())
    texts = [f"{chunk.title} {chunk.text}" for chunk in read.chunks]
    lexical.save_bm25(lexical.bm25(texts, "stemmed"), folder / "bm25")
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    about = {"format": FORMAT, "data": folder.name, **about, "bytes": size}
    cache.write_json(output / INDEX_FILE, about)
  finally:
    _clear(output)
  return about


def _write_rows(folder: Path, read: reading.Reading) -> None:
  """Write chunks.jsonl and files.jsonl.

  They are ASCII because a text may contain characters that separate lines.
  """
  with (folder / "chunks.jsonl").open("w", encoding="ascii") as file:
    for chunk in read.chunks:
      file.write(json.dumps(chunk._asdict()) + "\n")
  with (folder / "files.jsonl").open("w", encoding="ascii") as file:
    for path, digest, own, did in read.files:
      row: dict[str, Any] = {"path": path, "digest": digest, "chunks": len(own)}
      file.write(json.dumps(row | ({"did": did} if did else {})) + "\n")
    for path, reason in read.skipped.items():
      file.write(json.dumps({"path": path, "skipped": reason}) + "\n")


def require_ours(output: Path) -> None:
  """Raise BadInput for an existing folder that is no index, not even begun."""
  if not output.exists() or {"format", "data"} <= choices(output).keys():
    return
  names = {p.name for p in output.iterdir()} if output.is_dir() else {"a file"}
  ours = all(
    name in _NAMES or name.startswith(_FILES) or _MADE.fullmatch(name)
    for name in names
  )
  # Whoever makes an index leaves one of these before anything else.
  begun = {cache.LOCK_FILE, cache.KEY_FILE} & names
  if not (ours and begun) and names - {cache.PROGRAMS}:
    raise BadInput(f"{output}: exists and is no index; name another folder")


def _clear(output: Path) -> None:
  """Deletes the data that index.json does not name."""
  named = choices(output).get("data")
  for path in output.iterdir():
    if _MADE.fullmatch(path.name) and path.name != named:
      shutil.rmtree(path, ignore_errors=True)
