"""Makes an index, or brings one up to date: only what is new is embedded.

A vector is known by its chunk's title and text, so what was moved, renamed or
put into another file costs nothing. It stays with the model, the prompt and
the dimension that made it: an index of others is refused, not mixed. Of an
index of stripped texts, the vectors stay that stripping did not change.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float16

from embeddinggemma import cache, checkpoint, lexical
from embeddinggemma import encode as encode_lib
from embeddinggemma.data import prompts
from embeddinggemma.retrieval import chunks, codes, index, reading
from embeddinggemma.retrieval.pending import ID_BYTES, Pending
from embeddinggemma.types import BadInput, TextEncoder

BLOCK = 512  # texts embedded at a time: what a kill loses
_NAMED = 3  # files, for each reason to leave some out

Progress = Callable[[int, int], None]


class Making(NamedTuple):
  """What the vectors of an index depend on, beside the texts."""

  model: str  # the content hash of its weights
  document_prompt: str  # its words
  dim: int
  vectors: codes.Kind


def build_index(
  encode: TextEncoder,
  source: Path,
  output: Path,
  making: Making,
  *,
  rebuild: bool = False,
  excluded: Sequence[Path] = (),
  progress: Progress | None = None,
) -> dict[str, Any]:
  """Indexes a folder, a text file or a JSONL {"text", "title"?}.

  Of an index that is there, chunks of the same title and text keep their
  vectors. The new one takes its place whole or not at all.

  Args:
    encode: the model, called with the prompt named "document".
    source: what to index.
    output: the index's folder.
    making: what is kept beside the vectors, and must be that of those there.
    rebuild: takes no vector of the index that is there.
    excluded: paths in the folder that are left out unsaid.
    progress: called with (chunks embedded, chunks to embed).

  Returns: what index.json holds.

  Raises:
    BadInput: there is nothing to index, the output is no index or is one that
      was made otherwise, or another process writes it.
    Stopped: an embedding is zero or not finite.
  """
  began = time.perf_counter()
  reading.require(source)
  if source.resolve() == output.resolve():
    raise BadInput(f"{output} is what is indexed; use another --output")
  with index.writing(output):
    before, note = _before(output, making, rebuild)
    read = reading.read(source, (output, *excluded), _known(before))
    skipped = {reason: len(paths) for reason, paths in read.reasons.items()}
    if not read.chunks:
      left = ", ".join(f"{n} {reason}" for reason, n in skipped.items())
      raise BadInput(
        f"{source}: no text to index{left and f' (left out: {left})'}; what"
        " the index held before, if anything, it still holds"
      )
    key = cache.key_of(making._asdict() | checkpoint.AS_WRITTEN)
    pending = Pending(output / index.PENDING, key)
    done = _embed(encode, read.chunks, making, before, pending, progress)
    about = {
      **making._asdict(),
      "cut": chunks.VERSION,
      **checkpoint.AS_WRITTEN,
      "bm25": {"k1": lexical.K1, "b": lexical.B, "analyser": "stemmed"},
      "source": str(source.resolve()),
      "chunks": len(read.chunks),
      "files": len(read.files),
      "skipped": skipped,
      "examples": {r: paths[:_NAMED] for r, paths in read.reasons.items()},
    }
    if read == before.read and about.items() <= before.about.items():
      about = dict(before.about)
    else:
      about = index.commit(output, about, read, done.vectors)
  seconds = round(time.perf_counter() - began, 2)
  return {**about, **done.counts, "note": note, "seconds": seconds}


class _Before(NamedTuple):
  """The index that is there, to go on from."""

  about: Mapping[str, Any]
  read: reading.Reading
  vectors: Float16[np.ndarray, "_n _D"]


def _before(output: Path, making: Making, rebuild: bool) -> tuple[_Before, str]:
  """What there is to go on from; a word on why it is nothing."""
  nothing = _Before({}, reading.Reading([], {}), np.empty((0, 0), np.float16))
  if rebuild or not (output / index.INDEX_FILE).exists():
    return nothing, ""
  try:
    about = index.about_of(output)
    _require_same(output, about, making)
    opened = index.open_index(output)
    note = index.note(about, "what has any is embedded anew")
    return _Before(about, opened.read(), opened.vectors), note
  except index.Damaged:
    return nothing, f"{output} was damaged, and is made anew"


def _known(before: _Before) -> reading.Known:
  if before.about.get("cut") != chunks.VERSION:
    return {}
  return {(file.path, file.digest): file.chunks for file in before.read.files}


def _require_same(
  output: Path, about: Mapping[str, Any], making: Making
) -> None:
  """Fails on an index whose vectors cannot stand beside new ones."""
  index.require_format(output, about)
  changed = [
    f"{name}={_short(about[name])!r} there, {_short(value)!r} now"
    for name, value in making._asdict().items()
    if about[name] != value
  ]
  if changed:
    raise BadInput(
      f"{output}: {'; '.join(changed)}; add --rebuild to make it"
      " anew, or use another --output"
    )


def _short(value: Any) -> Any:
  """A value for a message, of a hash its head."""
  is_hash = isinstance(value, str) and len(value) == 64
  return value[:12] if is_hash else value


class _Done(NamedTuple):
  vectors: Float16[np.ndarray, "_n _D"]
  counts: dict[str, float]


def _embed(
  encode: TextEncoder,
  rows: Sequence[chunks.Chunk],
  making: Making,
  before: _Before,
  pending: Pending,
  progress: Progress | None,
) -> _Done:
  """The vectors of chunks: of the old index, of a killed run, or made now."""
  ids = [_id(row) for row in rows]
  old = [_id(row) for row in before.read.chunks]
  places = {
    name: place
    for place, (name, row) in enumerate(
      zip(old, before.read.chunks, strict=True)
    )
    if index.as_written(before.about) or not _stripped(row, making)
  }
  new = {n: r for n, r in zip(ids, rows, strict=True) if n not in places}
  todo = [item for item in new.items() if item[0] not in pending.vectors]
  began = time.perf_counter()
  for start in range(0, len(todo), BLOCK):
    names, block = zip(*todo[start : start + BLOCK], strict=True)
    texts, titles = [r.text for r in block], [r.title for r in block]
    made = encode_lib.truncate(encode(texts, "document", titles), making.dim)
    pending.add(names, made.astype(np.float16))
    if progress:
      progress(start + len(block), len(todo))
  embedding = time.perf_counter() - began
  vectors = np.empty((len(ids), making.dim), np.float16)
  for row, name in enumerate(ids):
    vectors[row] = (
      pending.vectors[name] if name in new else before.vectors[places[name]]
    )
  counts = {
    "kept": sum(name in places for name in ids),
    "new": sum(name in new for name in ids),
    "removed": (Counter(old) - Counter(ids)).total(),
    "embedded": len(todo),  # new ones, each text once
    "embedding_seconds": round(embedding, 2),
  }
  return _Done(vectors, counts)


def _stripped(row: chunks.Chunk, making: Making) -> bool:
  """Whether an index of stripped texts has the vector of another text."""
  text = prompts.with_prompt(making.document_prompt, row.text, row.title)
  return text != text.strip()


def _id(row: chunks.Chunk) -> bytes:
  """What a chunk's vector is known by."""
  text = f"{row.title}\0{row.text}"
  return hashlib.sha256(text.encode()).digest()[:ID_BYTES]
