"""Hard negatives by exact search, and why each candidate was kept or dropped.

Finetuning needs texts that are near a query and no answer to it (paper,
section 2.2). Of the top-k neighbours that may be one, the lowest-scoring is
taken, as in Gecko (arXiv 2403.20327) and Gemini Embedding (2503.07891).
Candidates are the positives of the same task; what pairs of a symmetric task
join, as translations of one sentence, are answers too.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int32

from embeddinggemma import cache, lexical
from embeddinggemma.mining import arrays, candidates, neighbours
from embeddinggemma.mining.candidates import MiningConfig, Sides
from embeddinggemma.types import BadInput, Pair

FORMAT = 1
# Of query i (first axis) and rank j (second); candidate -1 is no candidate.
LEDGER = np.dtype([("candidate", "<i4"), ("score", "<f4"), ("reason", "u1")])
_ABOUT = "mining.json"
_SNIPPET = 100  # characters of a text in an explanation


class Mined(NamedTuple):
  """Mined negatives of one task; candidates are rows of the mined pairs."""

  about: dict[str, Any]  # the content of mining.json
  negatives: Int32[np.ndarray, "n N"]  # -1: none
  own: Float32[np.ndarray, "n"]  # the positives' scores
  ledger: np.ndarray  # (n, k) of dtype LEDGER: all candidates, best first


def mine(
  pairs: Sequence[Pair],
  vectors: Sides | None,
  config: MiningConfig,
  directory: Path,
  *,
  progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
  """Mine negatives for the pairs of one task among their positives.

  The folder gets negatives.npy, own.npy, ledger.npy (see `Mined`) and
  mining.json, which is returned: the `hash` of the content, and counts, by
  reason, of candidates and of queries without a negative. Such a query counts
  under the commonest reason of its candidates. A folder that has the same
  already is left as it is; a killed call continues, to the same bytes.

  Args:
    pairs: pairs of one task.
    vectors: their unit vectors; for dense search and for cosines of
      near-duplicates.
    config: what is searched, dropped and taken.
    directory: the folder.
    progress: called with (queries done, queries).
  """
  _check(pairs, vectors, config)
  inputs = {
    "format": FORMAT,
    "config": dataclasses.asdict(config),
    "texts": texts_hash(pairs),
    "vectors": [_hash_of(side) for side in vectors or ()],
    "bm25": [lexical.K1, lexical.B],
  }
  texts = candidates.Texts(pairs)
  k = min(config.top_k, len(texts.rows))
  layout = {
    "negatives": ((len(pairs), config.negatives), np.int32),
    "own": ((len(pairs),), np.float32),
    "ledger": ((len(pairs), k), LEDGER),
  }
  filling = arrays.Filling(directory, _ABOUT, inputs, layout)
  if filling.about:
    return filling.about
  judge = candidates.Judge(pairs, texts, vectors, config)
  search = _search(pairs, texts, vectors, config.search, k)
  for part in neighbours.chunks(filling.done, len(pairs), len(texts.rows)):
    found = search(part, texts.column[part])
    filling.add(_rows(found, part.start, judge, k))
    if progress:
      progress(part.stop, len(pairs))
  return filling.finish(_counts(filling.arrays))


def open_mined(directory: Path) -> Mined:
  """Open what `mine` wrote; BadInput if it is missing or incomplete."""
  try:
    about = cache.read_json(directory / _ABOUT)
    negatives, own, ledger = (
      np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)
      for name in ("negatives", "own", "ledger")
    )
    if ledger.dtype != LEDGER or about["format"] != FORMAT:
      raise ValueError("it is of another version")
  except (OSError, EOFError, ValueError, KeyError) as error:
    raise BadInput(f"{directory}: holds no negatives ({error})") from None
  return Mined(about, negatives, own, ledger)


def explain(mined: Mined, row: int, pairs: Sequence[Pair]) -> list[str]:
  """A query's candidates with rank, score and reason, one per line."""
  if not 0 <= row < len(mined.own) or len(pairs) != len(mined.own):
    raise BadInput(
      f"no row {row} of {len(pairs)} pairs; rows 0 to {len(mined.own) - 1} were"
      " mined"
    )
  lines = [
    f"query {row}: {_snippet(pairs[row].query)}",
    f"positive, score {mined.own[row]:.4f}: {_snippet(pairs[row].positive)}",
  ]
  for rank, (candidate, score, reason) in enumerate(mined.ledger[row].tolist()):
    if candidate >= 0:
      fate = candidates.REASONS[reason]
      text = _snippet(pairs[candidate].positive)
      lines.append(f"{rank + 1:4}. {score:.4f}  row {candidate}: {fate}")
      lines.append(f"      {text}")
  if len(lines) == 2:
    lines.append(f"   {candidates.NO_NEIGHBOUR}")
  return lines


def texts_hash(pairs: Sequence[Pair]) -> str:
  """The hash of the pairs' texts; `texts` in mining.json."""
  digest = hashlib.sha256()
  for pair in pairs:
    for text in pair.query, pair.title, pair.positive:
      data = text.encode()
      digest.update(b"%d " % len(data) + data)
  return digest.hexdigest()


def _check(
  pairs: Sequence[Pair], vectors: Sides | None, config: MiningConfig
) -> None:
  if not pairs:
    raise BadInput("there are no pairs to mine negatives for")
  tasks = sorted({pair.task for pair in pairs})
  if len(tasks) > 1:
    raise BadInput(f"pairs of {' and '.join(tasks)}; mine one task at a time")
  if vectors is None:
    if config.search == "dense":
      raise BadInput("dense mining needs vectors; give a model or use BM25")
    return
  for name, side in zip(("query", "positive"), vectors):
    if len(side) != len(pairs):
      raise BadInput(f"{len(side)} {name} vectors for {len(pairs)} pairs")
    neighbours.check_unit(side, name)


def _search(
  pairs: Sequence[Pair],
  texts: candidates.Texts,
  vectors: Sides | None,
  kind: str,
  k: int,
) -> neighbours.Search:
  if kind == "dense" and vectors is not None:
    documents = vectors.positive
    if len(texts.rows) < len(documents):
      documents = documents[texts.rows]
    return neighbours.by_vectors(vectors.query, documents, k)
  titled = lambda pair: f"{pair.title} {pair.positive}"
  documents = [titled(pairs[row]) for row in texts.rows]
  queries = [pair.query for pair in pairs]
  return neighbours.by_words(queries, documents, kind, k)


def _rows(
  found: neighbours.Found, start: int, judge: candidates.Judge, k: int
) -> dict[str, np.ndarray]:
  """The rows of the arrays for a chunk of queries, from its neighbours."""
  ledger = np.zeros((len(found.own), k), LEDGER)
  ledger["candidate"] = -1
  place = found.query, found.rank
  ledger["candidate"][place] = judge.texts.rows[found.document]
  ledger["score"][place] = found.score
  ledger["reason"][place] = judge(found, start + found.query)
  left = (ledger["candidate"] >= 0) & (ledger["reason"] == candidates.LEFT_OVER)
  turn = np.where(left, _turns(judge.config, start, left.shape), np.inf)
  turn = np.argsort(turn, axis=1, kind="stable")[:, : judge.config.negatives]
  taken = np.take_along_axis(left, turn, axis=1)
  chosen = np.take_along_axis(ledger["candidate"], turn, axis=1)
  negatives = np.full((len(left), judge.config.negatives), -1, np.int32)
  negatives[:, : turn.shape[1]] = np.where(taken, chosen, -1)
  query, order = np.nonzero(taken)
  ledger["reason"][query, turn[query, order]] = candidates.CHOSEN
  return {"negatives": negatives, "own": found.own, "ledger": ledger}


def _turns(
  config: MiningConfig, start: int, shape: tuple[int, ...]
) -> Float[np.ndarray, "q k"]:
  """Sort keys of each query's k candidates; the lowest are taken first.

  Random ones depend on the seed and the query's row alone.
  """
  queries, k = shape
  if config.choose == "lowest":
    return np.broadcast_to(-np.arange(k, dtype=np.float64), shape)
  draw = lambda row: np.random.default_rng([config.seed, row]).random(k)
  return np.stack([draw(start + query) for query in range(queries)])


def _counts(filled: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Counts, by reason, of candidates and of queries without a negative."""
  names = candidates.REASONS
  total = np.zeros(len(names), np.int64)
  without: collections.Counter[str] = collections.Counter()
  negatives = 0
  for start in range(0, len(filled["own"]), neighbours.MAX_QUERIES):
    part = slice(start, start + neighbours.MAX_QUERIES)
    ledger, chosen = filled["ledger"][part], filled["negatives"][part] >= 0
    negatives += int(chosen.sum())
    there = ledger["candidate"] >= 0
    of_each = [there & (ledger["reason"] == i) for i in range(len(names))]
    of_each = np.stack([found.sum(axis=1) for found in of_each], axis=1)
    total += of_each.sum(axis=0)
    for found in of_each[~chosen.any(axis=1)]:
      commonest = names[found.argmax()]
      without[commonest if found.any() else candidates.NO_NEIGHBOUR] += 1
  return {
    "pairs": len(filled["own"]),
    "negatives": negatives,
    "without": dict(sorted(without.items())),
    "candidates": dict(zip(names, total.tolist())),
  }


def _hash_of(vectors: Float32[np.ndarray, "n M"]) -> str:
  digest = hashlib.sha256(repr(vectors.shape).encode())
  for start in range(0, len(vectors), neighbours.MAX_QUERIES):
    rows = vectors[start : start + neighbours.MAX_QUERIES]
    digest.update(np.ascontiguousarray(rows).data)
  return digest.hexdigest()


def _snippet(text: str) -> str:
  text = " ".join(text.split())
  return text if len(text) <= _SNIPPET else text[:_SNIPPET].rstrip() + " ..."
