"""An alarm for vectors that become one: loud, early, and not at every start.

Vectors have collapsed when different texts have almost the same, or when all lie
along few directions, and the model does not find the answers of its own batch.
Either is normal at a random start, and goes away within some steps. So the alarm
is raised where it comes after vectors of the same task that were well, or does
not begin to go away.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from embeddinggemma.losses import geometry

KEY = "collapse"  # of the row at which the alarm was raised: its words
Row = Mapping[str, Any]  # of metrics.jsonl

# Healthy models have cosines up to .54 and ranks from 10 on texts of one topic,
# random weights about .65 and 6 (docs/measured.md). Above 1 - temperature, logits
# differ by less than one on average, so that a softmax over them is flat.
_COSINE = 0.95
_RANK = 3.0
_FEWEST = 16  # distinct texts that a rank is judged by
_FOUND = 0.5  # of the queries; a model that finds more tells texts apart
_FALLEN = 2  # looks in a row, after one that was well
_STUCK = 5  # looks in a row from the start
_BETTER = 1.5  # times as far apart, or of so many times the rank


class Look(NamedTuple):
  """The worse side's figures of one row."""

  step: int
  task: str
  cosine: float  # mean, of different texts
  rank: float
  distinct: float  # texts
  accuracy: float | None

  @property
  def collapsed(self) -> bool:
    """Whether no more can be told apart."""
    if self.accuracy is not None and self.accuracy > _FOUND:
      return False
    return self.close or self.flat

  @property
  def close(self) -> bool:
    """Whether different texts have almost the same vectors."""
    return self.cosine > _COSINE

  @property
  def flat(self) -> bool:
    """Whether enough texts to tell lie along few directions."""
    return self.distinct >= _FEWEST and self.rank < _RANK

  def better_than(self, other: "Look") -> bool:
    """Whether the vectors move apart, in each way in which the others did not."""
    apart = 1 - self.cosine >= _BETTER * (1 - other.cosine)
    wider = self.rank >= _BETTER * other.rank
    return (apart or not other.close) and (wider or not other.flat)


def look_of(row: Row) -> Look | None:
  """The figures of a row; None if nothing was looked at, or of too few texts."""
  of = lambda name: [
    row[f"{name}/{side}"]
    for side in geometry.SIDES
    if _is_number(row.get(f"{name}/{side}"))
  ]
  cosines, ranks = of(geometry.COSINE), of(geometry.RANK)
  if not (cosines and ranks):
    return None
  accuracy = row.get("accuracy")
  return Look(
    row.get("step", 0),
    str(row.get("task", "")),
    max(cosines),
    min(ranks),
    min(of(geometry.DISTINCT), default=0),
    accuracy if _is_number(accuracy) else None,
  )


class Alarm:
  """Called with rows in order; says once, in words, that vectors collapse.

  `grace` is the number of steps, such as those of warm-up, by which a start
  need not have moved. A row that holds an alarm, under KEY, is the last.
  """

  def __init__(self, grace: int = 0) -> None:
    self._grace, self._raised = grace, False
    self._well: set[str] = set()  # tasks
    self._streak: list[Look] = []

  def __call__(self, row: Row) -> str:
    """The alarm, or ""."""
    look = look_of(row)
    self._raised |= KEY in row
    if look is None or self._raised:
      return ""
    if not look.collapsed:
      self._well.add(look.task)
      self._streak = []
      return ""
    self._streak.append(look)
    self._raised = self._fallen() or self._stuck()
    return _words(look) if self._raised else ""

  def _fallen(self) -> bool:
    """Whether what was well is not, for some looks in a row."""
    fallen = [look for look in self._streak if look.task in self._well]
    return len(fallen) >= _FALLEN

  def _stuck(self) -> bool:
    """Whether nothing got better for some looks in a row."""
    recent = [look for look in self._streak if look.step > self._grace]
    recent = recent[-_STUCK:]
    return len(recent) == _STUCK and not any(
      look.better_than(recent[0]) for look in recent[1:]
    )


def raised(rows: Iterable[Row]) -> tuple[int, str] | None:
  """The step and the words of the alarm that these rows hold, if any."""
  found = ((row.get("step"), row.get(KEY)) for row in rows)
  return next(
    (
      (step, words)
      for step, words in found
      if isinstance(step, int) and isinstance(words, str)
    ),
    None,
  )


def _words(look: Look) -> str:
  """What is seen, beside what is usual, and what to do."""
  found = ""
  if look.accuracy is not None:
    found = f", and {look.accuracy:.0%} of the queries find their positive"
  return (
    f"the vectors collapse: at step {look.step} (task {look.task}) different"
    f" texts have a mean cosine of {look.cosine:.3f} and vary along"
    f" {look.rank:.1f} directions{found}; stop, and train again from an earlier"
    " checkpoint with a lower --config.optimizer.lr or a higher"
    " --config.loss.spread_out; if it comes back, look whether the texts of a"
    " batch differ, and the teacher's vectors of them"
  )


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and math.isfinite(value)
