"""The import is exact, and gives the similarities of the model's card."""

import importlib.util
import json

import numpy as np
import pytest
import reference
import safetensors

from embeddinggemma import checkpoint
from embeddinggemma.data.prompts import PROMPTS

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
ASKS = [("query", [QUERY]), ("document", DOCUMENTS)]
PARAMETERS = 307_581_696  # the paper's 308M


def similarities(vectors):
  """Of the card's query, which is the first row, to its documents."""
  return vectors[1:] @ vectors[0]


@pytest.fixture(scope="module")
def ours(encode, folder):
  """The similarities from the folder itself."""
  return similarities(encode("ours", folder, ASKS))


def bits(array):
  """Size, and the sum of the bits, of which no order of elements is part."""
  flat = np.ascontiguousarray(array).view(np.uint32)
  return array.size, int(flat.sum(dtype=np.uint64))


def test_every_tensor_is_imported_bit_by_bit(folder, base, real, figure):
  theirs = []
  for path in sorted(folder.rglob("*.safetensors")):
    with safetensors.safe_open(path, "np") as file:
      theirs += [bits(file.get_tensor(name)) for name in file.keys()]
  place = checkpoint.find(base)
  imported = [bits(array) for _, array in checkpoint.stream(place)]
  assert sorted(imported) == sorted(theirs)
  parameters = sum(size for size, _ in imported)
  figure("parameters imported, all equal", f"{parameters:,}")
  assert parameters == PARAMETERS or not real


def test_its_prompts_are_ours(base):
  files = checkpoint.read_files(checkpoint.find(base))
  prompts = json.loads(files["prompts.json"])
  assert prompts == {name: PROMPTS[name] for name in prompts}
  assert len(prompts) == 14


def test_a_checkpoint_gives_the_folder_s_similarities(encode, base, ours):
  imported = similarities(encode("ours", base, ASKS))
  np.testing.assert_allclose(imported, ours, rtol=0, atol=1e-6)


def test_it_gives_the_model_cards_similarities(ours, folder, real, figure):
  """Of small weights no card tells; numpy computes them from the same files."""
  vectors = [reference.encode(folder, texts, name) for name, texts in ASKS]
  computed = similarities(np.concatenate(vectors))
  np.testing.assert_allclose(ours, computed, rtol=0, atol=1e-5)
  figure("the card's similarities", " ".join(f"{x:.4f}" for x in ours))
  figure("  as numpy has them", " ".join(f"{x:.4f}" for x in computed))
  if real:
    np.testing.assert_allclose(ours, SIMILARITIES, rtol=0, atol=1e-3)


@pytest.mark.skipif(
  not importlib.util.find_spec("sentence_transformers"),
  reason="sentence-transformers is not installed",
)
def test_sentence_transformers_gives_the_same(encode, folder, ours, figure):
  theirs = similarities(encode("theirs", folder, ASKS))
  figure("  sentence-transformers", " ".join(f"{x:.4f}" for x in theirs))
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
