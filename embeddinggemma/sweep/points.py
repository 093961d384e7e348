"""The points of a sweep: for each the overrides of a config and a command."""

import hashlib
import itertools
import json
import pathlib
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from embeddinggemma import config
from embeddinggemma.sweep import expression
from embeddinggemma.sweep.expression import Axis, Sweep
from embeddinggemma.types import BadInput

_MOST = 10_000  # points of a sweep
_LONGEST = 100  # characters of a name; file systems allow 255 bytes

Point = dict[str, Any]  # config key -> value
Command = Callable[[Point, pathlib.Path], list[str]]  # (point, folder) -> argv


def _points(part: Sweep | Axis) -> list[Point]:
  if isinstance(part, Axis):
    return [{part.key: value} for value in part.values]
  join = itertools.product if part.kind == "product" else zip
  inner = [_points(p) for p in part.parts]
  return [
    {key: value for point in points for key, value in point.items()}
    for points in join(*inner)
  ]


def points(sweep: Sweep | str | Iterable[Mapping[str, Any]]) -> list[Point]:
  """The overrides of each run; the last axis of a product varies fastest.

  `sweep` may also be an expression, or the points themselves. Raises BadInput
  for a sweep without points or with too many, a key that is no config key, or a
  value of another type than a flag can express.
  """
  sweep = expression.parse(sweep) if isinstance(sweep, str) else sweep
  if isinstance(sweep, Sweep):
    if expression.size(sweep) > _MOST:
      raise BadInput(f"sweep: {expression.size(sweep)} points; at most {_MOST}")
    found = _points(sweep)
  else:
    found = [dict(point) for point in sweep]
  if not found:
    raise BadInput("sweep: there are no points; give at least one")
  for key, value in (item for point in found for item in point.items()):
    if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", str(key), re.ASCII):
      raise BadInput(f"sweep: {key!r} is no config key, such as 'optimizer.lr'")
    if not _is_value(value):
      raise BadInput(
        f"sweep: {key}={value!r}; use numbers, text, True, False, None or lists"
        " of them"
      )
  twice = expression.twice(map(name_of, found))
  if twice:
    raise BadInput(f"sweep: the point {twice} comes twice; leave one out")
  return found


def _is_value(value: Any) -> bool:
  if isinstance(value, list | tuple):
    return all(map(_is_value, value))
  return value is None or isinstance(value, bool | int | float | str)


def read_config(path: pathlib.Path) -> list[Point]:
  """The points that `sweep()` of a config file returns, checked by `points`."""
  module = config.sibling(str(path), path.stem)
  if not hasattr(module, "sweep"):
    raise BadInput(
      f"{path} has no sweep(); add one, or give --sweep='product(seed=[0, 1])'"
    )
  try:
    found = module.sweep()
    return points(found if isinstance(found, str) else list(found))
  except BadInput:
    raise
  except Exception as error:  # what the user's own file raised
    raise BadInput(f"{path}: sweep() failed: {error}") from error


def name_of(point: Mapping[str, Any]) -> str:
  """The folder name of a point, such as `seed=0,optimizer.lr=0.001`.

  It is unique to the point: one that is long, or has a value that cannot be
  spelled in a file name, ends in a hash.
  """
  parts = {key: spelled(value) for key, value in point.items()}
  words = [
    f"{k}={re.sub('[^A-Za-z0-9_.+-]+', '-', v)}" for k, v in parts.items()
  ]
  name = ",".join(words) or "base"
  exact = all(_reads_as(parts[key], point[key]) for key in point)
  if exact and len(name) <= _LONGEST:
    return name
  known = json.dumps(list(point.items())).encode()
  return f"{name[: _LONGEST - 9]}-{hashlib.sha256(known).hexdigest()[:8]}"


def spelled(value: Any) -> str:
  """A value as a flag of the command line takes it."""
  if isinstance(value, list | tuple):
    return repr(tuple(value))
  if isinstance(value, float):
    return repr(float(value))  # numpy's say their type as well
  return value if isinstance(value, str) else repr(value)


def _reads_as(text: str, value: Any) -> bool:
  """Whether the spelled text identifies the value unambiguously."""
  if isinstance(value, str):
    plain = re.fullmatch(r"[A-Za-z][\w.+-]*", text, re.ASCII)
    return bool(plain) and text not in (*expression.CONSTANTS, "inf", "nan")
  return not isinstance(value, list | tuple)


def with_overrides(
  words: Sequence[str], fixed: Mapping[str, Any] | None = None
) -> Command:
  """A Command: `words`, the point's folder and its overrides as flags.

  `fixed` holds overrides of every point, over which a point's own take
  precedence.
  """

  def command(point: Point, folder: pathlib.Path) -> list[str]:
    flags = [
      f"--config.{k}={spelled(v)}"
      for k, v in ({**(fixed or {}), **point}).items()
    ]
    return [*words, f"--workdir={folder}", *flags]

  return command


def commands(
  points: Sequence[Point], command: Command, workdir: pathlib.Path
) -> list[str]:
  """A shell command line for each run, to be run anywhere."""
  return [shlex.join(command(p, workdir / name_of(p))) for p in points]
