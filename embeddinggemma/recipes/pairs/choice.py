"""Which model is handed over: of the training's checkpoints, and of their means
with the base, what the user's own validation and the general suite say."""

import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.console import Console

from embeddinggemma import cache, checkpoint
from embeddinggemma import soup as soup_lib
from embeddinggemma.load import load
from embeddinggemma.recipes.pairs import scores
from embeddinggemma.training import result
from embeddinggemma.training.config import PairConfig

JUDGES = (scores.VALIDATION, scores.GENERAL)
_EQUAL = 1e-9  # between means that are the same but for their last bits


class Point(NamedTuple):
  """A candidate, and its means on the suites that judge: base, a step of the
  training, or a mean of both."""

  step: int  # of the training; 0: the base
  share: float  # of that step, the rest is the base
  means: Mapping[str, float]

  @property
  def name(self) -> str:
    """For people."""
    if not self.share:
      return "base"
    whole = f"step {self.step}"
    if self.share == 1:
      return whole
    return f"{self.share:.0%} {whole}, {1 - self.share:.0%} base"


def fault(point: Point, base: Point, most_loss: float) -> str:
  """Why a point must not be handed over, or ""."""
  own, general = JUDGES
  lost = lambda name: base.means[name] - point.means[name]
  if own in base.means and lost(own) > _EQUAL:
    return f"is worse than the base on {own} ({-lost(own):+.3f})"
  if lost(general) > most_loss + _EQUAL:
    return f"loses more than {most_loss:g} in general ({-lost(general):+.3f})"
  return ""


def best(points: Sequence[Point], most_loss: float) -> tuple[Point, str]:
  """The point to hand over, and why.

  Of those without a fault, the one with the best mean of the own validation
  part and the general suite; of equal ones the one that is trained most.
  Without a validation part there is nothing to rank by: then that one too.

  Args:
    points: the base, the training's steps, means of the two.
    most_loss: on the general suite.
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
  """The steps whose checkpoints a training that nothing disturbs leaves."""
  regular = [
    step
    for step in range(1, stage.steps + 1)
    if result.is_regular(stage, stage.steps, step)
  ]
  return regular[-stage.keep_checkpoints :]


class Walk(NamedTuple):
  """The way from the base to what was trained, in a stage's folder."""

  stage: PairConfig
  base: str
  trained: pathlib.Path  # the training's workdir
  suites: scores.Suites
  directory: pathlib.Path  # keeps the scores, so that a call can go on
  console: Console

  def points(self, base: scores.Scores, shares: Sequence[float]) -> list[Point]:
    """The base, the training's checkpoints, and means of the base and that of
    them which judges like best."""
    trained = [
      self._point(step, 1.0) for step in checkpoint.steps(self.trained)
    ]
    top = max(trained, key=lambda p: (sum(p.means.values()), p.step))
    mixed = [self._point(top.step, share) for share in shares]
    shutil.rmtree(self.directory / "point", ignore_errors=True)
    return [Point(0, 0.0, self._judged(base)), *trained, *mixed]

  def place(self, point: Point) -> pathlib.Path:
    """The checkpoint of a point: the training's own, or one made to stay."""
    if point.share:
      return self._made(point.step, point.share, self.directory)
    base = checkpoint.find(self.base)
    params, files = checkpoint.read_params(base), checkpoint.read_files(base)
    return checkpoint.write(self.directory, params, files)

  def after(
    self, point: Point, before: scores.Scores, place: pathlib.Path
  ) -> scores.Scores:
    """The scores of a point on all suites, of which it has those that judge.

    Args:
      before: the base's, which are the point's where it is the base.
      place: its checkpoint.
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
    """Scored, unless an earlier call did that."""
    path = self._file(step, share)
    if not path.is_file():
      room = self.directory / "point"
      shutil.rmtree(room, ignore_errors=True)
      place = self._made(step, share, room)
      names = [name for name in JUDGES if name in self.suites]
      title = Point(step, share, {}).name
      cache.write_json(path, self._scored(place, names, title))
    return Point(step, share, self._judged(cache.read_json(path)))

  def _scored(
    self, place: pathlib.Path, names: Sequence[str], title: str
  ) -> scores.Scores:
    model = load(place)
    return scores.score_of(model, self.suites, names, title, self.console)

  def _file(self, step: int, share: float) -> pathlib.Path:
    return self.directory / f"{step}-{share:.6f}.json"

  def _made(self, step: int, share: float, room: pathlib.Path) -> pathlib.Path:
    """A point's checkpoint; what has to be made for it is made in `room`."""
    plain = self.trained / checkpoint.CHECKPOINTS / str(step)
    if self.stage.lora.rank:
      plain = result.merged(self.stage, plain, room / "plain")
    if share == 1:
      return plain
    place = soup_lib.soup((self.base, plain), (1 - share, share), room)
    shutil.rmtree(room / "plain", ignore_errors=True)
    return place
