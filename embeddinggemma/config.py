"""Build frozen config dataclasses from ConfigDicts; misspellings fail here."""

import dataclasses
import difflib
import importlib.util
import pathlib
import types as pytypes
import typing
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from embeddinggemma.types import BadInput

T = TypeVar("T")
TEXTS = "texts"  # the task of single texts, beside those of pairs


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Sizes of the mesh axes; data = -1 takes the devices that fsdp leaves."""

  data: int
  fsdp: int
  rules: str = "fsdp"  # key of sharding.RULES: which arrays are split, and how


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """AdamW with linear warm-up and cosine decay."""

  lr: float
  warmup_steps: int
  end_factor: float  # final learning rate as a share of lr
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
  """What happens when a batch makes a loss or gradient faulty.

  Skipping a batch means returning to the last checkpoint and leaving it out.
  """

  skips: int = 0  # most batches that a run skips; at the next one it stops
  # A gradient norm above this multiple of the median of the last `window` steps
  # is faulty; 0: any finite norm is good.
  jump: float = 0.0
  window: int = 100

  def __post_init__(self) -> None:
    at_least("guard.skips", self.skips, 0)
    at_least("guard.window", self.window, 10)
    if self.jump and not self.jump > 1:
      raise BadInput(f"guard.jump={self.jump} must be above 1, or 0 for none")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Low-rank factors that are trained instead of the weights; rank 0: none."""

  rank: int = 0
  alpha: float = 1.0  # the product of the factors is scaled by alpha / rank

  def __post_init__(self) -> None:
    at_least("lora.rank", self.rank, 0)
    above_zero("lora.alpha", self.alpha)


@dataclasses.dataclass(frozen=True)
class QuantizeConfig:
  """The grids on which training sees the weights: a key of quantize.SPECS."""

  spec: str = "int4"


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """Losses of the paper's section 2.2; their coefficients are not published."""

  temperature: float  # tau; similarities are cosines over tau
  keep_positive: bool  # whether j = i stays in the denominator of equation 2
  spread_out: float  # weight of equation 4
  matryoshka: tuple[int, ...]  # dimensions; (): the paper's, up to the width
  hardness: float = 5.0  # alpha of equation 2's weight of a hard negative
  distill: float = 0.0  # weight of embedding matching with a teacher
  distance: str = "l2"  # between student and teacher: "l2" or "cosine"
  # Width of the teacher's vectors, to which a learned projection maps those of
  # the student; 0: they are equally wide, without a projection.
  teacher_width: int = 0
  # Another pair's positive whose cosine exceeds the own positive's by more
  # than this counts as a false negative and is masked; None: none is.
  false_negative_margin: float | None = None
  # Whose cosines these are: the "student"'s, as they are now, or a "teacher"'s.
  false_negatives_by: str = "student"
  contrastive: float = 1.0  # weight of equation 2
  # Dimensions at which embedding matching also compares prefixes, for a teacher
  # that was trained with Matryoshka dimensions; (): whole vectors alone.
  distill_dims: tuple[int, ...] = ()
  # Weight of the divergence of the student's in-batch scores from a teacher's.
  score_matching: float = 0.0
  score_temperature: float = 0.05  # of both; that of NeMo AutoModel's loss

  def __post_init__(self) -> None:
    above_zero("loss.temperature", self.temperature)
    above_zero("loss.score_temperature", self.score_temperature)
    if self.false_negative_margin is not None:
      at_least("loss.false_negative_margin", self.false_negative_margin, 0)
    for name in (
      "contrastive",
      "spread_out",
      "hardness",
      "distill",
      "score_matching",
      "teacher_width",
    ):
      at_least(f"loss.{name}", getattr(self, name), 0)
    self._check_teacher()

  def _check_teacher(self) -> None:
    """Raise BadInput for what is said of a teacher and has no effect."""
    by_teacher = self.false_negatives_by == "teacher"
    if by_teacher and self.false_negative_margin is None:
      raise BadInput(
        "loss.false_negatives_by='teacher' leaves nothing out without a margin;"
        " set loss.false_negative_margin=0.1"
      )
    if self.distill_dims and not self.distill:
      raise BadInput(
        f"loss.distill_dims={self.distill_dims} are of embedding matching, but"
        " loss.distill is 0; set its weight, or loss.distill_dims=()"
      )
    if self.distill_dims and self.teacher_width:
      raise BadInput(
        f"loss.distill_dims={self.distill_dims} compares prefixes of both, but"
        f" loss.teacher_width={self.teacher_width} projects the student's; set"
        " one of them alone"
      )

  @property
  def asks_teacher(self) -> str:
    """The keys that need a teacher's vectors, with their values; "": none."""
    found = [
      f"loss.{name}={getattr(self, name)}"
      for name in ("distill", "score_matching")
      if getattr(self, name)
    ]
    if self.contrastive and self.false_negatives_by == "teacher":
      found.append("loss.false_negatives_by=teacher")
    return ", ".join(found)

  @property
  def teacher_scores(self) -> bool:
    """Whether a teacher's scores of all candidates are needed."""
    return bool(self.score_matching) or self.false_negatives_by == "teacher"

  def without_teacher(self) -> "LossConfig":
    """The same losses without those that need a teacher's vectors."""
    return dataclasses.replace(
      self,
      distill=0.0,
      distill_dims=(),
      score_matching=0.0,
      false_negatives_by="student",
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Where training pairs come from; path "": the installed Python."""

  path: str
  skip_bad_rows: bool
  weights: dict[str, float]  # by task; tasks that the data lacks are ignored
  size_exponent: float  # a task's share: weight * (number of pairs) ** exponent
  tokenizer: str  # a SentencePiece model; empty: trained on the corpus
  fields: str = ""  # which column is what, as --fields has it
  # That of single texts (texts.jsonl), which only distillation alone reads.
  texts_weight: float = 1.0

  def __post_init__(self) -> None:
    at_least("data.texts_weight", self.texts_weight, 0)


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """Where running text comes from; path "": the texts of the pairs."""

  path: str  # folder of prepared shards, */pairs.jsonl, or *.jsonl and *.txt
  skip_bad_rows: bool
  tokenizer: str  # a SentencePiece model; empty: trained on the text
  seqio: str  # name of a seqio task or mixture, read instead of a path
  seqio_module: str  # module that registers it; empty: none is imported
  seqio_feature: str  # feature of its examples; empty: the first that is text
  fields: str = ""  # of pairs: which column is what, as --fields has it

  def __post_init__(self) -> None:
    if self.path and self.seqio:
      raise BadInput(
        f"data.path={self.path} and data.seqio={self.seqio} exclude each other"
      )


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
  """A tree of mappings as {"optimizer.lr": value, ...}; {} is a value."""
  if not isinstance(tree, dict) or not tree:
    return {prefix[:-1]: tree}
  return {
    path: value
    for key, inner in tree.items()
    for path, value in flat(inner, f"{prefix}{key}.").items()
  }


def at(tree: Any, path: str) -> Any:
  """The value, or the mapping, under a dotted key of a tree; else None."""
  for key in path.split("."):
    tree = tree.get(key) if isinstance(tree, dict) else None
  return tree


def one_of(name: str, value: str, known: Collection[str]) -> None:
  """Raise BadInput for a value that is not among those known."""
  if value not in known:
    raise BadInput(
      f"{name}={value!r} is unknown; use one of {', '.join(known)}"
    )


def at_least(name: str, value: float, bound: float) -> None:
  """Raises BadInput unless value >= bound (NaN is not)."""
  if not value >= bound:
    raise BadInput(f"{name}={value} must be at least {bound}")


def above_zero(name: str, value: float) -> None:
  """Raises BadInput unless value > 0 (NaN is not)."""
  if not value > 0:
    raise BadInput(f"{name}={value} must be above 0")


def divides(small: str, a: int, large: str, b: int) -> None:
  """Raises BadInput unless a >= 1 divides b; `small`, `large`: their names."""
  if a < 1 or b % a:
    raise BadInput(f"{small}={a} does not divide {large}={b}")


def build(cls: type[T], tree: Mapping[str, Any], path: str = "") -> T:
  """A dataclass, with nested ones, from a mapping.

  A missing key has its default, so that files of earlier versions stay
  readable. Raises BadInput for an unknown key (suggesting the nearest one), for
  a missing key without a default, and for a value of another type. `path` is
  the prefix of keys in messages.
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
  """The end of a message: '; did you mean X?' or '; known: ...'."""
  folded = {other.casefold(): other for other in known}
  close = [folded[name.casefold()]] if name.casefold() in folded else []
  close = close or difflib.get_close_matches(name, known, 1)
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
  """Parse the argument of a config file: 'laptop,data=DIR' -> a dict.

  A bare word is the value of the first default: with `preset` first, the
  example gives {"preset": "laptop", "data": "DIR"}. Values have the type of
  their default. Raises BadInput for an unknown name.
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
