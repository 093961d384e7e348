"""A loaded model: what its checkpoint says counts, and wrong ones are named."""

import json
import shutil

import numpy as np
import pytest

from embeddinggemma import checkpoint
from embeddinggemma.data import prompts
from embeddinggemma.load import load
from embeddinggemma.types import BadInput


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
  with pytest.raises(BadInput, match="unknown prompt name 'nobody'"):
    model.encode("x", "nobody")


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


def test_cut_texts_are_counted_once(trained, capsys):
  model = load(trained)
  model.encode(["word " * 200, "short"], "query")
  said = capsys.readouterr().err
  assert said == "1 text is longer than max_length=64 tokens and was cut\n"
  model.encode(["word " * 200])
  assert capsys.readouterr().err == ""
