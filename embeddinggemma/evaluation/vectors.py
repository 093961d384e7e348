"""What shorter and coarser vectors lose in quality, and save in bytes and time.

Bytes are per vector, times per query.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from jaxtyping import Float

from embeddinggemma import encode as encode_lib
from embeddinggemma.data import truncation
from embeddinggemma.evaluation import kinds, metrics, suite
from embeddinggemma.retrieval import codes
from embeddinggemma.types import TextEncoder

FLOAT = "float32"
FORMS = {FLOAT: 32, "int8": 8, "binary": 1}  # bits per number
TIMED = 20_000  # vectors that a timed query is compared with
_QUERIES = 9  # timed queries, of which the median counts

# {"vectors": one of FORMS, "dim", "bytes" per vector, "ms" per query,
# "score": the mean of the tasks' main metrics}
Row = Mapping[str, Any]


def compare(
  encode: TextEncoder, tasks: Sequence[suite.EvalTask], dims: Sequence[int]
) -> list[Row]:
  """A row per dimension and storage form, on the tasks that search.

  The rows are Row mappings; without such a task there are none.
  """
  tasks = [task for task in tasks if kinds.of(task).searches]
  with truncation.counted() as counts:
    encoded = [suite.encoded(encode, task) for task in tasks]
  truncation.report(counts)
  return [
    _row(tasks, encoded, dim, form)
    for dim in dims
    for form in (FORMS if tasks else ())
  ]


def _row(
  tasks: Sequence[suite.EvalTask],
  encoded: Sequence[suite.Vectors],
  dim: int,
  form: str,
) -> Row:
  scores = []
  cut = [
    (encode_lib.truncate(left, dim), encode_lib.truncate(right, dim))
    for left, right in encoded
  ]
  for task, (queries, documents) in zip(tasks, cut, strict=True):
    scored = metrics.dense_scores(queries, stored(documents, form))
    rankings = metrics.rank(scored, task.same, len(task.documents))
    found = metrics.retrieval(rankings, task.gold)
    scores.append(found[kinds.main_metric(found)])
  return {
    "vectors": form,
    "dim": dim,
    "bytes": math.ceil(dim * FORMS[form] / 8),
    "ms": _milliseconds(*cut[-1], form),
    "score": statistics.fmean(scores),
  }


def stored(
  vectors: Float[np.ndarray, "n D"], form: str
) -> Float[np.ndarray, "n D"]:
  """Unit vectors, decoded again after they were stored in a form.

  A bit becomes +1 or -1, for above or below the dimension's mean.
  """
  if form == FLOAT:
    return vectors
  kind, spread = cast(codes.Kind, form), codes.spread(vectors)
  coded = codes.encode(vectors, kind, spread)
  if kind == "int8":
    return coded.astype(np.float32) * np.float32(spread.scale / 127)
  bits = np.unpackbits(coded, axis=1, count=vectors.shape[1])
  return 2 * bits.astype(np.float32) - 1


def _milliseconds(
  queries: Float[np.ndarray, "q D"],
  documents: Float[np.ndarray, "n D"],
  form: str,
) -> float:
  """The median time, in ms, to compare a query with TIMED vectors."""
  vectors = documents[np.arange(TIMED) % len(documents)]
  find: Callable[[np.ndarray], Any]
  if form == FLOAT:
    find = lambda query: np.argpartition(vectors @ query, -10)
  else:
    kind, spread = cast(codes.Kind, form), codes.spread(documents)
    coded = codes.encode(vectors, kind, spread)
    find = lambda query: codes.nearest(
      coded, codes.of_query(query, kind, spread), kind, 10
    )
  times = []
  for n in range(_QUERIES):
    began = time.perf_counter()
    find(queries[n % len(queries)])
    times.append(time.perf_counter() - began)
  return 1e3 * statistics.median(times)
