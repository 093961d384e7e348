"""ConfigDicts in, frozen dataclasses out; a misspelling fails here."""

import dataclasses
import difflib
import importlib.util
import pathlib
import types as pytypes
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from embeddinggemma.types import BadInput

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Sizes of the mesh axes; data = -1 takes what fsdp leaves."""

  data: int
  fsdp: int
  rules: str = "fsdp"  # what is split: a table of sharding.RULES


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """AdamW with linear warm-up and cosine decay."""

  lr: float
  warmup_steps: int
  end_factor: float  # learning rate at the end, as a part of lr
  weight_decay: float
  b1: float
  b2: float
  eps: float
  clip_norm: float

  def __post_init__(self) -> None:
    at_least("optimizer.warmup_steps", self.warmup_steps, 0)
    above_zero("optimizer.lr", self.lr)
    above_zero("optimizer.clip_norm", self.clip_norm)


@dataclasses.dataclass(frozen=True)
class GuardConfig:
  """What becomes of a batch that makes a loss or gradient no good.

  A skip goes back to the last checkpoint and leaves the batch out.
  """

  skips: int = 0  # of a run, at most; then, and at 0, training stops
  # A gradient norm so many times the median of the last `window` is no good;
  # 0: any finite one is.
  jump: float = 0.0
  window: int = 100

  def __post_init__(self) -> None:
    at_least("guard.skips", self.skips, 0)
    at_least("guard.window", self.window, 10)
    if self.jump and not self.jump > 1:
      raise BadInput(f"guard.jump={self.jump} must be above 1, or 0 for none")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Low-rank factors that learn instead of the weights; rank 0: none."""

  rank: int = 0
  alpha: float = 1.0  # their product counts alpha / rank

  def __post_init__(self) -> None:
    at_least("lora.rank", self.rank, 0)
    above_zero("lora.alpha", self.alpha)


@dataclasses.dataclass(frozen=True)
class QuantizeConfig:
  """The grids that training sees the weights on: a spec of quantize.SPECS."""

  spec: str = "int4"


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """The paper's section 2.2; coefficients are not published."""

  temperature: float
  keep_positive: bool  # j = i stays in the denominator of equation 2
  spread_out: float  # weight of equation 4
  matryoshka: tuple[int, ...]  # () is the paper's, up to the model's width
  hardness: float = 5.0  # alpha of equation 2's weight of a hard negative
  distill: float = 0.0  # weight of embedding matching with a teacher
  distance: str = "l2"  # of it: "l2" or "cosine"
  # Of a teacher that the student reaches through a projection that is learned
  # beside it; 0: the teacher's vectors are as wide as the student's.
  teacher_width: int = 0
  # Another pair's positive whose cosine is more than this above the own one's
  # is taken for a false negative and left out; None: none is.
  false_negative_margin: float | None = None

  def __post_init__(self) -> None:
    above_zero("loss.temperature", self.temperature)
    if self.false_negative_margin is not None:
      at_least("loss.false_negative_margin", self.false_negative_margin, 0)
    for name in ("spread_out", "hardness", "distill", "teacher_width"):
      at_least(f"loss.{name}", getattr(self, name), 0)


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Where pairs come from. Empty path: the standard library's."""

  path: str
  skip_bad_rows: bool
  weights: dict[str, float]  # by task; tasks that the data lacks are ignored
  size_exponent: float  # share of a task: weight * pairs ** exponent
  tokenizer: str  # a SentencePiece model; empty: trained on the corpus


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """Where running text comes from. Empty path: the texts of the same pairs."""

  path: str  # what `prepare` made, */pairs.jsonl, or *.jsonl and *.txt
  skip_bad_rows: bool
  tokenizer: str
  seqio: str  # a task or mixture, read instead of a path
  seqio_module: str  # the module that registers it; empty: none is imported
  seqio_feature: str  # of its examples; empty: the first that is text

  def __post_init__(self) -> None:
    if self.path and self.seqio:
      raise BadInput(
        f"data.path={self.path} and data.seqio={self.seqio} exclude each other"
      )


def at_least(name: str, value: float, bound: float) -> None:
  """Raises BadInput unless value >= bound (NaN is not)."""
  if not value >= bound:
    raise BadInput(f"{name}={value} must be at least {bound}")


def above_zero(name: str, value: float) -> None:
  """Raises BadInput unless value > 0 (NaN is not)."""
  if not value > 0:
    raise BadInput(f"{name}={value} must be above 0")


def build(cls: type[T], tree: Mapping[str, Any], path: str = "") -> T:
  """A dataclass, with nested ones, from a mapping.

  A key that is missing has its default, so that what an earlier version wrote
  stays readable. Raises BadInput for a key that is unknown (with the nearest
  known one), or missing without a default, and for a value of another type.
  """
  hints = typing.get_type_hints(cls)
  fields = dataclasses.fields(cls)  # type: ignore
  names = [field.name for field in fields]
  for key in tree:
    if key not in names:
      raise BadInput(f"unknown config key {path + key!r}{suggest(key, names)}")
  for field in fields:
    if field.name not in tree and field.default is dataclasses.MISSING:
      raise BadInput(f"config key {path + field.name!r} is missing")
  values = {
    name: _value(hints[name], tree[name], path + name)
    for name in names
    if name in tree
  }
  return cls(**values)


def suggest(name: str, known: list[str]) -> str:
  """'; did you mean X?' or '; known: ...', to end an error with."""
  close = difflib.get_close_matches(name, known, 1)
  if close:
    return f"; did you mean {close[0]!r}?"
  return f"; known: {', '.join(sorted(known))}"


def _value(hint: Any, value: Any, path: str) -> Any:
  if dataclasses.is_dataclass(hint):
    return build(typing.cast(type, hint), value, path + ".")
  if hint is Any:
    return value
  origin = typing.get_origin(hint) or hint
  if origin is tuple and isinstance(value, list | tuple):
    inner = typing.get_args(hint)[0]
    return tuple(_value(inner, item, path) for item in value)
  if origin is dict and isinstance(value, Mapping):
    inner = typing.get_args(hint)[1]
    return {k: _value(inner, v, f"{path}.{k}") for k, v in value.items()}
  if origin is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if isinstance(hint, pytypes.UnionType):
    origin = hint
  wrong_bool = isinstance(value, bool) and origin is not bool
  if wrong_bool or not isinstance(value, origin):
    name = getattr(hint, "__name__", str(hint))
    raise BadInput(f"config key {path!r} must be {name}, got {value!r}")
  return value


def parse_arg(arg: str | None, **defaults: Any) -> dict[str, Any]:
  """'laptop,data=DIR' -> {"preset": "laptop", "data": "DIR"}.

  The first default takes the bare word; unknown names are BadInput; values
  take the type of their default.
  """
  values = dict(defaults)
  first = next(iter(defaults))
  for part in (arg or "").split(","):
    if not part:
      continue
    name, equals, value = part.partition("=")
    if not equals:
      name, value = first, part
    if name not in defaults:
      raise BadInput(
        f"unknown config argument {name!r}{suggest(name, list(defaults))}"
      )
    try:
      values[name] = type(defaults[name])(value)
    except ValueError as error:
      raise BadInput(f"config argument {part!r}: {error}") from None
  return values


def sibling(file: str, name: str) -> pytypes.ModuleType:
  """The config NAME.py beside a config file, which may be anywhere."""
  path = pathlib.Path(file).with_name(f"{name}.py")
  spec = importlib.util.spec_from_file_location(name, path)
  if not (spec and spec.loader and path.is_file()):
    raise BadInput(f"{file} builds on {path}, which does not exist")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module
