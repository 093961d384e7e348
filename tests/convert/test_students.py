"""Students: what is kept of a model is the parent's, bit for bit."""

import json

import numpy as np
import pytest

import embeddinggemma as eg
from embeddinggemma import checkpoint
from embeddinggemma.cli import main
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.students import shrink, vocabulary
from embeddinggemma.types import BadInput

TEXTS = [f"the quiet garden {n} was seen at the river" for n in range(40)]


def tensors(workdir):
  return dict(checkpoint.stream(checkpoint.find(workdir)))


def files(workdir):
  return checkpoint.read_files(checkpoint.find(workdir))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
  path = tmp_path_factory.mktemp("texts") / "texts.txt"
  path.write_text("\n".join(TEXTS))
  return path


@pytest.fixture(scope="module")
def teacher(model):
  return eg.load(model)


def test_layers_are_the_parents_with_their_kinds(
  model, teacher, tmp_path, capsys
):
  kinds = [teacher.config.attention_kind(n) for n in range(2)]
  argv = ["shrink", f"--model={model}", f"--workdir={tmp_path}"]
  assert main.call([*argv, "--layers=1"]) == 0
  assert f"layers 0 ({kinds[0]});" in capsys.readouterr().out
  ours, theirs = tensors(tmp_path), tensors(model)
  assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
  assert not any("layer_1" in name for name in ours)
  student = eg.load(tmp_path)
  assert student.config.attention_kind(0) == kinds[0]
  assert student.encode_query("a river").shape == (student.config.embed_dim,)


def test_a_list_takes_later_layers(model, teacher, tmp_path):
  last = teacher.config.num_layers - 1
  found = shrink.shrink(str(model), tmp_path, f"0,{last}")
  assert found.layers == [0, last]
  ours, theirs = tensors(tmp_path), tensors(model)
  for name, tensor in ours.items():
    there = tuple(f"layer_{last}" if x == "layer_1" else x for x in name)
    np.testing.assert_array_equal(tensor, theirs[there])
  kinds = [teacher.config.attention_kind(n) for n in found.layers]
  made = eg.load(tmp_path).config
  assert [made.attention_kind(n) for n in range(2)] == kinds


def test_a_vocabulary_of_all_used_pieces_changes_no_vector(
  model, teacher, texts, tmp_path, capsys
):
  size = teacher.tokenizer.vocab_size - 20
  argv = ["shrink", f"--model={model}", f"--workdir={tmp_path}"]
  argv += [f"--vocabulary={size}", f"--data={texts}"]
  assert main.call(argv) == 0
  assert "0 were cut; 100.0% of tokens" in capsys.readouterr().out
  student = eg.load(tmp_path)
  assert student.tokenizer.vocab_size <= size
  assert student.config.vocab_size == student.tokenizer.vocab_size
  np.testing.assert_allclose(
    student.encode_document(TEXTS), teacher.encode_document(TEXTS), atol=1e-6
  )
  recipe = json.loads(files(tmp_path)["recipe.json"])
  assert recipe["parents"] == {"base": teacher.hash}
  assert recipe["identity"] == student.identity.parts


def test_what_is_kept_is_cut_as_before(teacher):
  """Wherever a text's pieces are kept, with all from which they are merged."""
  tokenizer = teacher.tokenizer
  least = len(vocabulary.prune(tokenizer, TEXTS[:1], tokenizer.vocab_size).ids)
  made = vocabulary.prune(tokenizer, TEXTS[:1], least)
  small, kept = Tokenizer(made.model), set(made.ids.tolist())
  for text in [*TEXTS, "entirely other words, ünïcode 字"]:
    ids = tokenizer.encode(text).tolist()
    if set(ids) <= kept:
      assert made.ids[small.encode(text)].tolist() == ids
    assert small.decode(small.encode(text)) == text
  assert made.lost == 0 and made.share == 1


def test_pieces_are_merged_from_those_that_are_kept():
  scores = {"a": 0, "b": 0, "c": 0, "ab": -1.0, "bc": -2.0, "abc": -3.0}
  assert vocabulary.merged_from("abc", scores) == {"a", "b", "c", "ab", "abc"}
  assert vocabulary.merged_from("cc", scores) == set()  # no merge makes it
  assert vocabulary.merged_from("ad", scores) == set()


@pytest.mark.parametrize(
  ("layers", "said"),
  [
    ("0", "give a number from 1 to"),
    ("99", "the model has the layers 0 to"),
    ("1,0", "name each layer once, in their order"),
    ("0,0", "name each layer once"),
    ("0,9", "the model has the layers"),
    ("two", "give a number of layers, such as 6"),
    ("-1", "the model has the layers"),
  ],
)
def test_layers_that_cannot_be_are_named(model, tmp_path, layers, said):
  with pytest.raises(BadInput, match=said):
    shrink.shrink(str(model), tmp_path / "w", layers)
  assert not (tmp_path / "w" / "checkpoints").exists()


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    ((), "nothing to cut; give --layers or --vocabulary"),
    (("--vocabulary=64k",), "--vocabulary needs --data=DIR"),
    (("--data=x",), "--data is for --vocabulary=N"),
    (("--vocabulary=big", "--data=x"), "give a number, such as 64k"),
    (("--vocabulary=9", "--data={texts}"), "control pieces, bytes and pieces"),
  ],
)
def test_bad_input_is_one_line(model, texts, tmp_path, capsys, flags, said):
  argv = ["shrink", f"--model={model}", f"--workdir={tmp_path / 'w'}"]
  assert main.call([*argv, *(flag.format(texts=texts) for flag in flags)]) == 2
  assert said in capsys.readouterr().err


def test_a_workdir_with_a_checkpoint_is_kept(model, tmp_path):
  shrink.shrink(str(model), tmp_path, "1")
  with pytest.raises(BadInput, match="holds a checkpoint already"):
    shrink.shrink(str(model), tmp_path, "1")
