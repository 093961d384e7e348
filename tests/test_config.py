"""Configs: a misspelling, a missing key or a wrong type is one clear line."""

import dataclasses

import pytest

from embeddinggemma import config
from embeddinggemma.presets import PRESETS, preset
from embeddinggemma.training import stages
from embeddinggemma.types import BadInput


@dataclasses.dataclass(frozen=True)
class Inner:
  """A nested part."""

  rate: float
  sizes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Outer:
  """All kinds of fields."""

  name: str
  steps: int
  quiet: bool
  weights: dict[str, float]
  inner: Inner


def tree(**changes) -> dict:
  return {
    "name": "a",
    "steps": 3,
    "quiet": False,
    "weights": {"code": 1},
    "inner": {"rate": 1, "sizes": [4, 2]},
  } | changes


def test_builds_nested_values():
  built = config.build(Outer, tree())
  assert built == Outer("a", 3, False, {"code": 1.0}, Inner(1.0, (4, 2)))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"stepps": 3}, "unknown config key 'stepps'; did you mean 'steps'?"),
    (
      {"inner": {"rat": 1, "sizes": ()}},
      "unknown config key 'inner.rat'; did you mean 'rate'?",
    ),
    ({"inner": {"rate": 1.0}}, "config key 'inner.sizes' is missing"),
    ({"steps": "3"}, "config key 'steps' must be int, got '3'"),
    ({"steps": True}, "config key 'steps' must be int, got True"),
    ({"quiet": 1}, "config key 'quiet' must be bool, got 1"),
    (
      {"inner": {"rate": 1, "sizes": ["x"]}},
      "config key 'inner.sizes' must be int, got 'x'",
    ),
    (
      {"weights": {"code": None}},
      "config key 'weights.code' must be float, got None",
    ),
  ],
)
def test_names_the_bad_key(changes, message):
  with pytest.raises(BadInput) as error:
    config.build(Outer, tree(**changes))
  assert str(error.value) == message


def test_arguments_take_the_type_of_their_default():
  parsed = config.parse_arg("tiny,data=DIR=1,n=3", preset="", data="", n=0)
  assert parsed == {"preset": "tiny", "data": "DIR=1", "n": 3}
  assert config.parse_arg(None, preset="laptop") == {"preset": "laptop"}


@pytest.mark.parametrize(
  ("arg", "message"),
  [
    ("dta=x", "unknown config argument 'dta'; did you mean 'data'?"),
    ("n=x", "config argument 'n=x': invalid literal"),
  ],
)
def test_a_bad_argument_is_named(arg, message):
  with pytest.raises(BadInput) as error:
    config.parse_arg(arg, preset="", data="", n=0)
  assert str(error.value).startswith(message)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_bounds_refuse_nan(value):
  with pytest.raises(BadInput, match="lr="):
    config.above_zero("lr", value)
  with pytest.raises(BadInput, match="at least 1"):
    config.at_least("steps", value, 1)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"pooling": "max"}, "model.pooling='max' is unknown; use one of mean"),
    ({"num_kv_heads": 3}, "model.num_kv_heads=3 does not divide"),
    ({"pattern": ("wide",)}, "model.pattern='wide' is unknown"),
    ({"pooling": "attention", "pooling_heads": 5}, "does not divide"),
  ],
)
def test_a_model_that_cannot_be_is_refused(changes, message):
  with pytest.raises(BadInput) as error:
    dataclasses.replace(preset("tiny").model, **changes)
  assert message in str(error.value)


def test_an_unknown_preset_lists_the_known():
  with pytest.raises(BadInput, match="embeddinggemma_300m"):
    preset("huge")


def test_input_widths_of_the_laptop_fit_every_export_format():
  laptop = PRESETS["laptop"].model
  widths = (laptop.width, laptop.mlp_width, laptop.up_width)
  assert all(width % 32 == 0 for width in widths)


def test_stages_are_known():
  assert set(stages.KINDS) == {
    "pretrain",
    "adapt",
    "prefinetune",
    "finetune",
    "distil",
    "qat",
  }
