"""A loaded model: what its checkpoint says counts, and wrong ones are named."""

import json
import shutil
import warnings

import numpy as np
import pytest

from embeddinggemma import checkpoint
from embeddinggemma.data import prompts
from embeddinggemma.loading import load
from embeddinggemma.types import BadInput, Notice


@pytest.fixture
def copied(trained, tmp_path):
  """A copy of a checkpoint, and a function that rewrites one of its files."""
  directory = tmp_path / "checkpoint"
  shutil.copytree(checkpoint.find(trained), directory)

  def rewrite(name, change):
    path = directory / "files" / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    return directory

  return rewrite


def test_the_stored_prompts_are_used(copied):
  own = {"query": "Q: ", "document": prompts.DOCUMENT}
  model = load(copied("prompts.json", lambda _: own))
  assert model.prompt("query") == "Q: "
  assert model.prompt("qa") == prompts.TASKS["qa"].query
  same = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)
  same(model.encode_query("x"), model.encode("Q: x"))
  titled = model.encode_document(["x"], titles=["T"])
  same(titled[0], model.encode("title: T | text: x"))
  same(model.encode("x", prompt="Q: "), model.encode_query("x"))
  same(model.encode("x", "document", prompt="Q: "), model.encode_query("x"))
  with pytest.raises(BadInput, match=r"'nobody'; known: .*document.*query"):
    model.encode("x", "nobody")
  with pytest.raises(BadInput, match=r"'qury'; did you mean 'query'\?"):
    model.encode_query("x", "qury")


@pytest.mark.parametrize(
  ("name", "change", "message"),
  [
    ("prompts.json", lambda _: {"query": ""}, "lacks 'document'"),
    ("prompts.json", lambda p: p | {"query": 1}, "'query' is not text"),
    ("prompts.json", lambda _: [], "prompts.json is not a JSON object"),
    ("recipe.json", lambda r: r | {"view": "int4"}, "needs the view 'int4'"),
  ],
)
def test_a_checkpoint_that_says_too_little_or_more(
  copied, name, change, message
):
  with pytest.raises(BadInput, match=message):
    load(copied(name, change))


def test_a_cut_tokenizer_is_named_with_its_checkpoint(copied):
  directory = copied("prompts.json", lambda p: p)
  path = directory / "files" / "tokenizer.model"
  path.write_bytes(path.read_bytes()[:1000])
  with pytest.raises(BadInput, match="checkpoint: the tokenizer is not a Sent"):
    load(directory)


TEXTS = ["stone", "the river garden by the harbour " * 4, "", "a", "stone"]


@pytest.mark.parametrize("batch_size", [1, 2, 50])
def test_the_order_and_the_batch_size_change_nothing(trained, batch_size):
  model = load(trained)
  want = model.encode(TEXTS)
  got = model.encode(TEXTS, batch_size=batch_size)
  np.testing.assert_allclose(got, want, atol=1e-5)
  alone = [model.encode(text) for text in TEXTS]
  np.testing.assert_allclose(np.stack(alone), want, atol=1e-5)
  assert model.get_sentence_embedding_dimension() == want.shape[1] == 32
  with pytest.raises(BadInput, match="batch_size=0 must be at least 1"):
    model.encode(TEXTS, batch_size=0)


def test_none_and_one(trained):
  model = load(trained)
  assert model.encode([]).shape == (0, 32)
  assert model.encode_document([], titles=[], truncate_dim=8).shape == (0, 8)
  assert model.encode_query("x", truncate_dim=8).shape == (8,)


def test_similarities(trained):
  model = load(trained)
  a, b = np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([[4.0, 3.0], [1.0, 0.0]])
  cosines = model.similarity(a, b)
  np.testing.assert_allclose(cosines, [[0.96, 0.6], [0.6, 0.0]], atol=1e-12)
  pairs = model.similarity_pairwise(a, b)
  np.testing.assert_allclose(pairs, [0.96, 0.0], atol=1e-12)
  np.testing.assert_allclose(model.similarity(a[0], b), cosines[:1])


def test_bfloat16_gives_unit_float32(trained):
  exact, short = load(trained), load(trained, dtype="bfloat16")
  assert (exact.config.dtype, short.config.dtype) == ("float32", "bfloat16")
  got, want = short.encode(TEXTS), exact.encode(TEXTS)
  assert got.dtype == np.float32 and np.isfinite(got).all()
  np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
  cosines = exact.similarity_pairwise(got, want)
  assert (cosines > 0.999).all() and (cosines < 1 - 1e-9).any()
  with pytest.raises(BadInput, match=r"model\.dtype='float16' is unknown"):
    load(trained, dtype="float16")


def test_a_version_that_stripped_texts_is_said(copied):
  def without(recipe):
    return {k: x for k, x in recipe.items() if k != "white_space"}

  with warnings.catch_warnings():
    warnings.simplefilter("error", Notice)
    load(copied("recipe.json", lambda recipe: recipe))
  place = copied("recipe.json", without)
  with pytest.warns(Notice, match="a version that ignored white") as said:
    load(place)
  assert [str(w.message).startswith(str(place)) for w in said] == [True]


def test_white_space_around_a_text_has_its_vector(trained):
  model = load(trained)
  texts = ["hello", "hello\n", "hello ", "  hello", "", " ", "\n\n"]
  vectors = model.encode(texts)
  near = vectors @ vectors.T - np.eye(len(texts))
  assert near.max() < 0.9999
  # An empty text leaves the prompt, with its last space.
  same = model.encode_query(""), model.encode(model.prompt("query"))
  np.testing.assert_allclose(*same, atol=1e-6)
