"""One line on what a training changed, from its metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embeddinggemma.losses import geometry

# Words, keys of metrics of which the first that is there counts, digits.
_FIGURES = (
  ("in-batch accuracy", ("accuracy",), 2),
  (
    "effective rank",
    (f"{geometry.RANK}/positive", f"{geometry.RANK}/query"),
    1,
  ),
  (
    "uniformity",
    (f"{geometry.UNIFORMITY}/positive", f"{geometry.UNIFORMITY}/query"),
    2,
  ),
)


def line(rows: Sequence[Mapping[str, Any]]) -> str:
  """What is at the start and at the end of training; "" if there is no telling.

  Each is the mean of the first and of the last tenth of the rows that have it.
  """
  found = []
  for words, keys, digits in _FIGURES:
    lists = (_values(rows, key) for key in keys)
    values = next((x for x in lists if len(x) > 1), [])
    if values:
      some = max(1, len(values) // 10)
      first, last = np.mean(values[:some]), np.mean(values[-some:])
      found.append(f"{words} {first:.{digits}f} -> {last:.{digits}f}")
  return f"learned: {', '.join(found)}" if found else ""


def _values(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
  return [row[key] for row in rows if row.get(key) is not None]
