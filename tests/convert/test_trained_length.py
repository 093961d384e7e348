"""How long the texts were that a model was trained on, as far as it says so."""

import json

import pytest

from embeddinggemma import checkpoint, loading, soups
from embeddinggemma.evaluation.long_context import reach
from embeddinggemma.types import BadInput


@pytest.mark.parametrize(
  ("recipe", "length"),
  [
    ({"config": {"max_length": 128}}, 128),
    ({"config": {"model": {"max_length": 64}}}, None),
    ({"trained_length": 96}, 96),
    ({"config": {"max_length": "long"}}, None),
    ({}, None),
  ],
)
def test_the_trained_length_is_what_the_recipe_says(recipe, length):
  files = {"recipe.json": json.dumps(recipe).encode()}
  assert checkpoint.trained_length(files) == length
  assert checkpoint.trained_length({}) is None


def test_a_soup_keeps_the_length_that_its_ingredients_read(trained, tmp_path):
  soups.soup([trained, trained], None, tmp_path)
  config = loading.load(trained).config
  assert reach.trained(tmp_path, config) == reach.Trained(32, reach.TRAINING)


def test_weights_that_do_not_say_it_have_their_limit(model, config, exported):
  for place in (model, exported):
    limit = reach.Trained(config.max_length, reach.LIMIT)
    assert reach.trained(place, config) == limit
  with pytest.raises(BadInput, match="holds no checkpoint"):
    reach.trained(model / "checkpoints" / "0" / "params", config)
