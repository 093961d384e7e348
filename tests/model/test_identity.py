"""The identity of a model: what decides its vectors, and what does not."""

import dataclasses
import json

import pytest

from embeddinggemma.model import identity
from embeddinggemma.model.config import GLOBAL, LOCAL
from embeddinggemma.presets import preset

CONFIG = preset("tiny").model
PROMPTS = {"query": "q: ", "document": "d: "}


def of_model(config=CONFIG, prompts=PROMPTS, **parts):
  given = {"weights": "w" * 64, "precision": "float", "tokenizer": "t" * 64}
  return identity.of_model(config, prompts=prompts, **(given | parts))


@pytest.mark.parametrize(
  "changes",
  [
    {"pooling": "last"},
    {"max_length": 99},
    {"window": CONFIG.window + 2},
    {"pattern": (GLOBAL, LOCAL)},
    {"up_width": 99},
    {"embed_dim": 16},
    {"global_rope_base": 5e5},
    {"norm_eps": 1e-5},
  ],
)
def test_what_decides_vectors_is_named(changes):
  here = of_model(dataclasses.replace(CONFIG, **changes))
  assert here.hash != of_model().hash
  there = json.loads(json.dumps(of_model().as_json()))
  (line,) = identity.differences(there, here.as_json())
  name = next(iter(changes))
  assert line.startswith(name if name == "max_length" else f"model.{name}=")


@pytest.mark.parametrize(
  "changes",
  [{"dtype": "bfloat16"}, {"remat": "full"}, {"projection_init": "identity"}],
)
def test_what_decides_nothing_is_no_part(changes):
  assert of_model(dataclasses.replace(CONFIG, **changes)) == of_model()


def test_equal_patterns_are_one():
  twice = dataclasses.replace(CONFIG, pattern=CONFIG.pattern * 2)
  assert of_model(twice) == of_model()


def test_hashes_are_short_and_lacking_prompts_are_said():
  there = of_model(prompts={**PROMPTS, "STS": "s: "}).as_json()
  here = of_model(weights="v" * 64).as_json()
  assert identity.differences(there, here) == [
    "weights=wwwwwwwwwwww there, vvvvvvvvvvvv now",
    "prompts.STS='s: ' there, <none> now",
  ]
  assert identity.differences(there, here, identity.SEARCH) == [
    "weights=wwwwwwwwwwww there, vvvvvvvvvvvv now"
  ]


def test_what_was_not_recorded_is_not_compared():
  assert identity.differences({}, of_model().as_json()) == []
  assert identity.differences({"max_length": 9}, of_model().as_json()) == [
    f"max_length=9 there, {CONFIG.max_length} now"
  ]
