"""Choose the model that is handed over, so that it has not forgotten too much.

The candidates are the base, the training's checkpoints, and weighted means of
the base and the best checkpoint (WiSE-FT, arXiv 2109.01903). Scores on the
validation part of the user's pairs and on the general suite decide.
"""

import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from embeddinggemma import cache, checkpoint
from embeddinggemma import soups as soup_lib
from embeddinggemma.loading import load
from embeddinggemma.recipes.own import scores
from embeddinggemma.training.stages import common, pairs
from embeddinggemma.training.stages.pairs import PairConfig

JUDGES = (scores.VALIDATION, scores.GENERAL)
_EQUAL = 1e-9  # largest difference of means that count as equal


class Point(NamedTuple):
  """A candidate: the base, a training's checkpoint, or a mean of the two."""

  step: int  # of the training; 0: the base
  share: float  # of that step's weights; the rest is the base's
  means: Mapping[str, float]  # suite -> mean, on the suites that decide
  start: str = "base"  # what people call the model that training began with

  @property
  def name(self) -> str:
    """The candidate's name for people, such as "50% step 40, 50% base"."""
    if not self.share:
      return self.start
    whole = f"step {self.step}"
    if self.share == 1:
      return whole
    return f"{self.share:.0%} {whole}, {1 - self.share:.0%} {self.start}"


class Choice(NamedTuple):
  """The result of the task `choose`."""

  place: str  # the chosen checkpoint, relative to the recipe's workdir
  chosen: str  # its name
  reason: str
  points: list[dict[str, Any]]  # all: {"name", "share", "step", suite: mean}


def fault(point: Point, base: Point, most_loss: float) -> str:
  """Why a candidate must not be handed over; "" if it may."""
  own, general = JUDGES
  lost = lambda name: base.means[name] - point.means[name]
  if own in base.means and lost(own) > _EQUAL:
    return f"is worse than the {base.start} on {own} ({-lost(own):+.3f})"
  if lost(general) > most_loss + _EQUAL:
    return f"loses more than {most_loss:g} in general ({-lost(general):+.3f})"
  return ""


def best(points: Sequence[Point], most_loss: float) -> tuple[Point, str]:
  """The candidate to hand over, and the reason.

  It is the one without a fault that has the best mean over own validation and
  the general suite; of equal ones, the one that was trained most. Without a
  validation part nothing ranks them, and again the most trained one is taken.

  Args:
    points: the base, then the training's checkpoints and the mixed candidates.
    most_loss: how much a candidate's mean on the general suite may be below the
      base's.
  """
  base, last = points[0], [p for p in points if p.share == 1][-1]
  ranked = scores.VALIDATION in base.means
  mean = lambda p: round(sum(p.means.values()) / len(p.means), 4)
  fit = [p for p in points if not fault(p, base, most_loss)]
  chosen = max(fit, key=lambda p: (mean(p) if ranked else 0, p.share, p.step))
  if found := fault(last, base, most_loss):
    return chosen, f"the last step {found}"
  if not ranked:
    return chosen, "too few pairs for a validation part"
  return chosen, "the best mean of own validation and general"


def planned(stage: PairConfig) -> list[int]:
  """The steps whose checkpoints an uninterrupted training leaves."""
  regular = [
    step
    for step in range(1, stage.steps + 1)
    if common.is_regular(stage, stage.steps, step)
  ]
  return regular[-stage.keep_checkpoints :]


class Walk(NamedTuple):
  """Makes and scores the candidates between the base and what was trained."""

  stage: PairConfig
  base: str
  trained: pathlib.Path  # the training's workdir
  suites: scores.Suites
  directory: pathlib.Path  # keeps the scores, so that a call can continue
  console: Console
  start: str = "base"  # what people call the base

  def points(self, base: scores.Scores, shares: Sequence[float]) -> list[Point]:
    """All candidates, scored: the base, the checkpoints, and mixed ones.

    `base` are the base's scores. The base is mixed, in the given shares, with
    the checkpoint whose sum of means is highest.
    """
    trained = [
      self._point(step, 1.0) for step in checkpoint.steps(self.trained)
    ]
    top = max(trained, key=lambda p: (sum(p.means.values()), p.step))
    mixed = [self._point(top.step, share) for share in shares]
    shutil.rmtree(self.directory / "point", ignore_errors=True)
    first = Point(0, 0.0, self._judged(base), self.start)
    return [first, *trained, *mixed]

  def place(self, point: Point) -> pathlib.Path:
    """A lasting checkpoint of a candidate: the training's, or one written."""
    if point.share:
      return self._made(point.step, point.share, self.directory)
    base = checkpoint.find(self.base)
    params, files = checkpoint.read_params(base), checkpoint.read_files(base)
    return checkpoint.write(self.directory, params, files)

  def after(
    self, point: Point, before: scores.Scores, place: pathlib.Path
  ) -> scores.Scores:
    """The chosen candidate's scores on all suites.

    Those on the suites that decide are there already; the test is added.

    Args:
      point: the candidate.
      before: the base's scores, returned if the candidate is the base.
      place: the candidate's checkpoint.
    """
    if not point.share:
      return before
    found = cache.read_json(self._file(point.step, point.share))
    if scores.TEST in self.suites:
      found |= self._scored(place, (scores.TEST,), point.name)
    return {name: found[name] for name in self.suites}

  def _judged(self, found: scores.Scores) -> dict[str, float]:
    return {name: found[name]["mean"] for name in JUDGES if name in found}

  def _point(self, step: int, share: float) -> Point:
    """A candidate with its means, scored unless an earlier call did that."""
    path = self._file(step, share)
    if not path.is_file():
      room = self.directory / "point"
      shutil.rmtree(room, ignore_errors=True)
      place = self._made(step, share, room)
      names = [name for name in JUDGES if name in self.suites]
      title = Point(step, share, {}, self.start).name
      cache.write_json(path, self._scored(place, names, title))
    means = self._judged(cache.read_json(path))
    return Point(step, share, means, self.start)

  def _scored(
    self, place: pathlib.Path, names: Sequence[str], title: str
  ) -> scores.Scores:
    model = load(place)
    return scores.score_of(model, self.suites, names, title, self.console)

  def _file(self, step: int, share: float) -> pathlib.Path:
    return self.directory / f"{step}-{share:.6f}.json"

  def _made(self, step: int, share: float, room: pathlib.Path) -> pathlib.Path:
    """A candidate's checkpoint; what has to be written for it goes to `room`.

    LoRA factors are merged into the base's weights first.
    """
    plain = self.trained / checkpoint.CHECKPOINTS / str(step)
    if self.stage.lora.rank:
      plain = pairs.merged(self.stage, plain, room / "plain")
    if share == 1:
      return plain
    place = soup_lib.soup((self.base, plain), (1 - share, share), room)
    shutil.rmtree(room / "plain", ignore_errors=True)
    return place
