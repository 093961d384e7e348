"""Build an index, or bring one up to date by embedding only what is new.

A vector is identified by the title and text of its chunk, so moving, renaming
or copying a file costs nothing. It is tied to the model that made it (its
weights, tokenizer, prompts and lengths: model/identity.py) and the dimension:
an existing index of others is refused. If an index was made by a version that
stripped white space, only the vectors of texts without any are reused.
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
from embeddinggemma.model.identity import Identity
from embeddinggemma.retrieval import chunks, codes, cutting, index, reading
from embeddinggemma.retrieval.measure import BY_CHARACTERS, Measure
from embeddinggemma.retrieval.pending import ID_BYTES, Pending
from embeddinggemma.types import IDENTITY, BadInput, TextEncoder

BLOCK = 512  # texts embedded at a time: what a killed process loses
_NAMED = 3  # files that index.json lists for each reason to leave some out

Progress = Callable[[int, int], None]


class Making(NamedTuple):
  """What the vectors of an index depend on besides the texts."""

  identity: Identity  # of the model
  dim: int
  vectors: codes.Kind

  @property
  def about(self) -> dict[str, Any]:
    """Its part of index.json, where `model` is the hash of the weights."""
    return {
      "model": self.identity.weights,
      "document_prompt": self.identity.prompts["document"],
      IDENTITY: self.identity.as_json(),
      "dim": self.dim,
      "vectors": self.vectors,
    }


def build_index(
  encode: TextEncoder,
  source: Path,
  output: Path,
  making: Making,
  *,
  measure: Measure = BY_CHARACTERS,
  rebuild: bool = False,
  excluded: Sequence[Path] = (),
  progress: Progress | None = None,
) -> dict[str, Any]:
  """Index a folder, a single file or a JSONL of {"text", "title"?}.

  Of an existing index, chunks with the same title and text keep their vectors.
  The new index replaces it completely or not at all.

  Args:
    encode: the model, called with the prompt named "document".
    source: what to index.
    output: the index's folder.
    making: model, prompt, dimension and kind of codes; an existing index must
      have been made with the same.
    measure: how much of a text the model reads, by which texts are cut.
    rebuild: ignore an existing index.
    excluded: paths in the folder that are left out without being listed.
    progress: called with (chunks embedded, chunks to embed).

  Returns:
    The content of index.json, with counts, a note and the seconds it took.

  Raises:
    BadInput: there is nothing to index, the output is no index or one that was
      made otherwise, or another process writes it.
    Stopped: an embedding is zero or not finite.
  """
  began = time.perf_counter()
  reading.require(source)
  if source.resolve() == output.resolve():
    raise BadInput(f"{output} is what is indexed; use another --output")
  with index.writing(output):
    before, note = _before(output, making, measure, rebuild)
    known = _known(before, measure)
    read = reading.read(source, (output, *excluded), known, measure)
    skipped = {reason: len(paths) for reason, paths in read.reasons.items()}
    if not read.chunks:
      left = ", ".join(f"{n} {reason}" for reason, n in skipped.items())
      raise BadInput(
        f"{source}: no text to index{left and f' (left out: {left})'}; what"
        " the index held before, if anything, it still holds"
      )
    key = cache.key_of(making.about | checkpoint.AS_WRITTEN)
    pending = Pending(output / index.PENDING, key)
    done = _embed(encode, read.chunks, making, before, pending, progress)
    about = {
      **making.about,
      "cut": chunks.key(measure),
      **checkpoint.AS_WRITTEN,
      "bm25": {"k1": lexical.K1, "b": lexical.B, "analyser": "stemmed"},
      "source": str(source.resolve()),
      "chunks": len(read.chunks),
      **{name: read.did[name] for name in cutting.DID},
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
  """The existing index, whose vectors are reused."""

  about: Mapping[str, Any]
  read: reading.Reading
  vectors: Float16[np.ndarray, "_n _D"]


def _before(
  output: Path, making: Making, measure: Measure, rebuild: bool
) -> tuple[_Before, str]:
  """The existing index, or an empty one with a note on why it is not used."""
  nothing = _Before({}, reading.Reading([], {}), np.empty((0, 0), np.float16))
  if rebuild or not (output / index.INDEX_FILE).exists():
    return nothing, ""
  try:
    about = index.about_of(output)
    _require_same(output, about, making)
    opened = index.open_index(output)
    before = _Before(about, opened.read(), opened.vectors)
  except index.Damaged:
    return nothing, f"{output} was damaged, and is made anew"
  stripped = "what has any is embedded anew"
  note = index.note(about, stripped, _cut_anew(before, measure))
  there, now = _length(about), making.identity.max_length
  if there not in (None, now):
    note = f"max_length={there} there, {now} now: all files are cut anew"
  return before, note


def _cut_anew(before: _Before, measure: Measure) -> str:
  """How many chunks of an index that was cut by characters are too long."""
  rows = before.read.chunks if index.by_characters(before.about) else []
  counts = measure.count([measure.read(row.text, row.title) for row in rows])
  lost = sum(count > measure.limit for count in counts)
  return (
    f"of its {len(rows):,} chunks, {lost:,} were longer than what the model"
    " reads; all files are cut anew"
  )


def _known(before: _Before, measure: Measure) -> reading.Known:
  if before.about.get("cut") != chunks.key(measure):
    return {}
  return {(file.path, file.digest): file for file in before.read.files}


def _require_same(
  output: Path, about: Mapping[str, Any], making: Making
) -> None:
  """Raise BadInput for an index whose vectors cannot be mixed with new ones."""
  index.require_format(output, about)
  changed = index.differences(about, _of_length(about, making.identity)) + [
    f"{name}={about[name]!r} there, {value!r} now"
    for name, value in (("dim", making.dim), ("vectors", making.vectors))
    if about[name] != value
  ]
  if changed:
    raise BadInput(
      f"{output}: {'; '.join(changed)}; add --rebuild to make it"
      " anew, or use another --output"
    )


def _length(about: Mapping[str, Any]) -> int | None:
  """The longest text of the model that an index was made with, if it says so."""
  return about.get(IDENTITY, {}).get("max_length")


def _of_length(about: Mapping[str, Any], model: Identity) -> Identity:
  """The model, as if it read as much as the one of an index.

  For the vectors of an index that does not matter: a chunk is kept if the text
  is cut so again, and then both read it whole.
  """
  return model._replace(max_length=_length(about) or model.max_length)


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
  """The vectors of chunks: from the old index, from a killed run, or new."""
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
  """Whether stripping white space, as older versions did, changes the text."""
  prompt = making.identity.prompts["document"]
  text = prompts.with_prompt(prompt, row.text, row.title)
  return text != text.strip()


def _id(row: chunks.Chunk) -> bytes:
  """The identifier of a chunk's vector: a hash of its title and text."""
  text = f"{row.title}\0{row.text}"
  return hashlib.sha256(text.encode()).digest()[:ID_BYTES]
