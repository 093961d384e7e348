"""The published model's own numbers, where its weights are on the machine.

EMBEDDINGGEMMA_WEIGHTS=FOLDER of google/embeddinggemma-300m, as downloaded.
"""

import os
import pathlib

import numpy as np
import pytest

import embeddinggemma as eg
from embeddinggemma.data.prompts import PROMPTS

FOLDER = os.environ.get("EMBEDDINGGEMMA_WEIGHTS", "")
pytestmark = pytest.mark.skipif(
  not FOLDER, reason="EMBEDDINGGEMMA_WEIGHTS names no folder of public weights"
)
# The model card's example.
QUERY = "Which planet is known as the Red Planet?"
DOCUMENTS = [
  "Venus is often called Earth's twin because of its similar size and"
  " proximity.",
  "Mars, known for its reddish appearance, is often referred to as the Red"
  " Planet.",
  "Jupiter, the largest planet in our solar system, has a prominent red spot.",
  "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
]
SIMILARITIES = [0.3011, 0.6359, 0.4930, 0.4889]


@pytest.fixture(scope="module")
def model() -> eg.Model:
  return eg.load(pathlib.Path(FOLDER))


def test_it_has_the_papers_size(model):
  sizes = [leaf.size for leaf in _leaves(model.params["model"])]
  assert sum(sizes) == 307_581_696
  assert model.params["model"]["encoder"]["embedding"].size == 201_326_592
  assert model.config.window == 512 and model.config.max_length == 2048


def test_its_prompts_are_ours(model):
  assert model.prompts == {name: PROMPTS[name] for name in model.prompts}
  assert len(model.prompts) == 14


def test_it_gives_the_model_cards_similarities(model):
  query = model.encode_query([QUERY])
  found = model.similarity(query, model.encode_document(DOCUMENTS))[0]
  np.testing.assert_allclose(found, SIMILARITIES, atol=1e-3)


def _leaves(tree):
  if isinstance(tree, dict):
    return [leaf for child in tree.values() for leaf in _leaves(child)]
  return [tree]
