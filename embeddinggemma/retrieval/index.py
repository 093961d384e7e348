"""A semantic index on disk, and hybrid search in it.

Vectors are cut to a Matryoshka dimension, brought back to unit length and
held in int8 with one global scale by usearch; a stemmed BM25 index stands
beside them. No file is a pickle.
"""

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from embeddinggemma import encode as encode_lib
from embeddinggemma import lexical
from embeddinggemma.retrieval import chunks
from embeddinggemma.types import BadInput, TextEncoder

FORMAT = 1
CANDIDATES = 100  # of each side, that hybrid search fuses
EXACT_UP_TO = 100_000  # vectors: below, every one is compared
BLOCK = 4096  # chunks encoded at a time
SNIPPET_CHARS = 240

_BROKEN = (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError)
Mode = Literal["hybrid", "dense", "lexical"]


class Hit(NamedTuple):
  """One answer: where it stands and how it begins."""

  score: float
  path: str
  line: int
  title: str
  snippet: str


@dataclasses.dataclass(frozen=True)
class Index:
  """An opened index."""

  about: Mapping[str, Any]
  chunks: list[chunks.Chunk]
  words: lexical.BM25
  vectors: Any  # usearch.index.Index
  moments: Float[np.ndarray, "R D"]  # mean, then covariance


def build_index(
  encode: TextEncoder,
  source: Path,
  output: Path,
  *,
  dim: int,
  model: str,
  query_prompt: str = "query",
  document_prompt: str = "document",
  excluded: Sequence[Path] = (),
  progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
  """Indexes a folder, a text file or a JSONL {"text", "title"?}.

  `model` is the content hash of the model's weights, which search checks.
  `progress` is called with (chunks encoded, chunks). The output appears whole
  or not at all, and replaces an older index; BadInput if it is anything else.
  Returns what index.json holds.
  """
  _require_replaceable(output)
  reading = chunks.read(source, (output, *excluded))
  if not reading.chunks:
    raise BadInput(f"{source}: no text to index (skipped: {reading.skipped})")
  vectors = _encode(encode, reading.chunks, dim, document_prompt, progress)
  scale = _scale(vectors)
  about = {
    "format": FORMAT,
    "model": model,
    "dim": dim,
    "dtype": "i8",
    "scale": scale,
    "query_prompt": query_prompt,
    "document_prompt": document_prompt,
    "bm25": {"k1": lexical.K1, "b": lexical.B, "analyser": "stemmed"},
    "source": str(source.resolve()),
    "chunks": len(reading.chunks),
    "files": reading.files,
    "skipped": reading.skipped,
  }
  output.parent.mkdir(parents=True, exist_ok=True)
  part = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
  try:
    _write(part, about, reading.chunks, vectors)
    _replace(part, output)
  finally:
    shutil.rmtree(part, ignore_errors=True)
  return about


def open_index(directory: Path) -> Index:
  """Opens an index; the vectors stay on disk until they are read."""
  from usearch import index as usearch

  try:
    about = json.loads((directory / "index.json").read_text(encoding="utf-8"))
    if about["format"] != FORMAT:
      raise BadInput(f"{directory}: index format {about['format']}; build anew")
    lines = (directory / "chunks.jsonl").read_text(encoding="utf-8")
    vectors = usearch.Index(ndim=about["dim"], metric="ip", dtype="i8")
    vectors.view(str(directory / "vectors.usearch"))
    moments = np.load(directory / "moments.npy", allow_pickle=False)
  except _BROKEN as error:
    raise BadInput(f"{directory}: not an index ({error})") from None
  rows = [chunks.Chunk(**json.loads(line)) for line in lines.splitlines()]
  words = lexical.load_bm25(directory / "bm25")
  if not len(rows) == len(vectors) == words.size:
    raise BadInput(f"{directory}: its files disagree; build the index anew")
  return Index(about, rows, words, vectors, moments)


def search(
  index: Index | Path,
  encode: TextEncoder | None,
  text: str,
  *,
  model: str,
  mode: Mode = "hybrid",
  k: int = 10,
) -> list[Hit]:
  """The k best chunks; hybrid sums standardised cosines and BM25 scores.

  `lexical` needs no encoder. BadInput: an empty query, k below 1, or an index
  that was made with another model.
  """
  if isinstance(index, Path):
    index = open_index(index)
  if not text.strip():
    raise BadInput("the query is empty; give some words to search for")
  if k < 1:
    raise BadInput(f"k is {k}; ask for at least one result")
  if mode == "lexical":
    places, scores = _lexical(index, text, k)
  else:
    query = _query_vector(index, encode, text, model)
    find = _dense if mode == "dense" else _hybrid
    places, scores = find(index, query, text, k)
  return [
    _hit(index.chunks[place], float(score))
    for place, score in zip(places[:k], scores[:k], strict=True)
  ]


def _encode(
  encode: TextEncoder,
  rows: list[chunks.Chunk],
  dim: int,
  prompt: str,
  progress: Callable[[int, int], None] | None,
) -> Float[np.ndarray, "n D"]:
  parts = []
  for start in range(0, len(rows), BLOCK):
    block = rows[start : start + BLOCK]
    texts, titles = [r.text for r in block], [r.title for r in block]
    parts.append(encode_lib.truncate(encode(texts, prompt, titles), dim))
    if progress:
      progress(start + len(block), len(rows))
  return np.concatenate(parts)


def _scale(vectors: Float[np.ndarray, "n D"]) -> float:
  """The number that 127 stands for; a rare larger one is clipped."""
  return float(np.quantile(np.abs(vectors).max(axis=1), 0.99))


def _write(
  folder: Path,
  about: Mapping[str, Any],
  rows: list[chunks.Chunk],
  vectors: Float[np.ndarray, "n D"],
) -> None:
  from usearch import index as usearch

  store = usearch.Index(ndim=about["dim"], metric="ip", dtype="i8")
  codes = np.clip(np.round(vectors / about["scale"] * 127), -127, 127)
  codes = codes.astype(np.int8)
  store.add(np.arange(len(codes)), codes, threads=1)  # one: same file again
  store.save(str(folder / "vectors.usearch"))
  mean = vectors.mean(axis=0)
  covariance = vectors.T @ vectors / len(vectors) - np.outer(mean, mean)
  np.save(folder / "moments.npy", np.vstack([mean, covariance]))
  words = lexical.bm25([f"{row.title} {row.text}" for row in rows], "stemmed")
  lexical.save_bm25(words, folder / "bm25")
  with (folder / "chunks.jsonl").open("w", encoding="utf-8") as file:
    for row in rows:  # ASCII: a text may hold line separators
      file.write(json.dumps(row._asdict()) + "\n")
  (folder / "index.json").write_text(json.dumps(about, indent=2) + "\n")


def _require_replaceable(output: Path) -> None:
  if not output.exists() or (output / "index.json").is_file():
    return
  if not output.is_dir() or any(output.iterdir()):
    raise BadInput(f"{output}: exists and is no index; name another folder")


def _replace(part: Path, output: Path) -> None:
  part.chmod(0o755)
  old = part.with_name(part.name + ".old")
  if output.exists():
    output.rename(old)
  os.replace(part, output)
  shutil.rmtree(old, ignore_errors=True)


def _query_vector(
  index: Index, encode: TextEncoder | None, text: str, model: str
) -> Float[np.ndarray, "D"]:
  if encode is None:
    raise BadInput("dense search needs a model; give --model or --lexical")
  if index.about["model"] != model:
    raise BadInput(
      f"the index was made with model {index.about['model'][:12]}, not "
      f"{model[:12]}; index again or search with that model"
    )
  vector = encode([text], index.about["query_prompt"])
  return encode_lib.truncate(vector, index.about["dim"])[0]


def _lexical(index: Index, text: str, k: int) -> tuple[np.ndarray, np.ndarray]:
  best, values = lexical.top_k(index.words([text]), k)
  found = values[0] > 0
  return best[0][found], values[0][found]


def _dense(
  index: Index, query: Float[np.ndarray, "D"], text: str, k: int
) -> tuple[np.ndarray, np.ndarray]:
  del text
  places = _nearest(index, query, max(k, CANDIDATES))
  return _sorted(places, _cosines(index, query, places))


def _hybrid(
  index: Index, query: Float[np.ndarray, "D"], text: str, k: int
) -> tuple[np.ndarray, np.ndarray]:
  words = index.words([text])
  best, _ = lexical.top_k(words, max(k, CANDIDATES))
  places = np.union1d(_nearest(index, query, max(k, CANDIDATES)), best[0])
  mean, covariance = index.moments[0], index.moments[1:]
  spread = np.sqrt(np.maximum(query @ covariance @ query, 0.0))
  dense = lexical.standardised(
    _cosines(index, query, places), query @ mean, spread
  )
  sparse = lexical.standardised(words[0][places], words.mean(), words.std())
  return _sorted(places, dense + sparse)


def _nearest(
  index: Index, query: Float[np.ndarray, "D"], count: int
) -> np.ndarray:
  codes = np.round(query / np.abs(query).max() * 127).astype(np.int8)
  exact = len(index.chunks) <= EXACT_UP_TO
  found = index.vectors.search(codes, count, exact=exact, threads=1)
  return np.asarray(found.keys, np.int64)


def _cosines(
  index: Index, query: Float[np.ndarray, "D"], places: np.ndarray
) -> Float[np.ndarray, "n"]:
  codes = np.stack(index.vectors.get(places, dtype="i8"))
  return codes.astype(np.float32) @ query * (index.about["scale"] / 127)


def _sorted(
  places: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  order = np.lexsort((places, -scores))
  return places[order], scores[order]


def _hit(row: chunks.Chunk, score: float) -> Hit:
  snippet = row.text.strip()
  if len(snippet) > SNIPPET_CHARS:
    snippet = snippet[:SNIPPET_CHARS].rstrip() + " ..."
  return Hit(score, row.path, row.line, row.title, snippet)
