"""What a model does not read of a text is counted, and said at every call."""

import json
import warnings

import numpy as np
import pytest

import embeddinggemma as eg
from embeddinggemma.cli import main
from embeddinggemma.data import truncation
from embeddinggemma.types import BadInput

LONG = "word " * 200


@pytest.fixture(scope="module")
def model(trained):
  return eg.load(trained)


def test_every_call_warns_at_the_callers_line(model):
  # The filters of a Python that was just started.
  with warnings.catch_warnings(record=True) as said:
    warnings.resetwarnings()
    for _ in range(2):
      model.encode([LONG, "short"], "query")
    model.encode_document([LONG, LONG, "short"])
    model.encode(["short"])
  tokens = model.token_counts(LONG, "query")[0]
  assert [str(w.message) for w in said] == [
    *[
      "1 of 2 texts is longer than max_length=64 tokens and was cut; the"
      f" longest has {tokens}"
    ]
    * 2,
    "2 of 3 texts are longer than max_length=64 tokens and were cut; the"
    f" longest has {model.token_counts(LONG, 'document')[0]}",
  ]
  assert all(w.category is eg.Truncated for w in said)


def test_filters_count_as_for_any_warning(model):
  with warnings.catch_warnings():
    warnings.simplefilter("error", eg.Truncated)
    with pytest.raises(eg.Truncated, match="1 of 1 text is longer"):
      model.encode(LONG)
    warnings.simplefilter("ignore", eg.Truncated)
    assert model.encode(LONG).shape == (32,)


def test_a_text_that_must_not_be_cut_is_named(model):
  tokens = model.token_counts([LONG], "query")[0]
  said = rf"sentences\[1\] has {tokens} tokens with its prompt, more than"
  with pytest.raises(BadInput, match=said):
    model.encode_query(["short", LONG], truncate=False)
  with pytest.raises(BadInput, match=r"as have 1 more \(the longest \d+\)"):
    model.encode([LONG, LONG], truncate=False)
  with pytest.raises(BadInput, match=r"^sentences has \d+ tokens"):
    model.encode(LONG, truncate=False)
  got = model.encode_query(["short"], truncate=False)
  np.testing.assert_array_equal(got, model.encode_query(["short"]))


def test_tokens_are_counted_as_they_are_encoded(model):
  texts = ["", "a", LONG, "the river"]
  bare = model.token_counts(texts)
  assert bare.dtype == np.int64 and bare[0] == 2  # BOS and EOS
  titled = model.token_counts(texts, "document", ["T"] * 4)
  own = [f"title: T | text: {text}" for text in texts]
  np.testing.assert_array_equal(titled, model.token_counts(own))
  assert model.token_counts([]).shape == (0,)
  assert model.token_counts("a", prompt="b ")[0] > bare[1]
  # A text that just fits is whole, one token more is cut.
  fits = LONG[: len(LONG) * 64 // int(bare[2])]
  while model.token_counts(fits)[0] > 64:
    fits = fits[:-1]
  model.encode(fits, truncate=False)


def test_a_cut_text_is_its_beginning(model):
  ids = model.tokenizer.encode(LONG)[:63]
  begin = model.tokenizer.decode(ids)
  with pytest.warns(eg.Truncated):
    cut = model.encode(LONG)
  assert model.token_counts(begin)[0] == 64
  np.testing.assert_allclose(cut, model.encode(begin), atol=1e-6)


def test_long_work_counts_and_warns_once(model):
  with pytest.warns(eg.Truncated) as said:
    with truncation.counted() as counts:
      model.encode([LONG, "short"])
      model.encode([LONG])
    assert not said.list
    truncation.report(counts)
  assert [str(w.message)[:14] for w in said] == ["2 of 3 texts a"]
  assert counts.as_json() == {
    "cut": 2,
    "of": 3,
    "longest": model.token_counts(LONG)[0],
    "max_length": 64,
  }


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
  """Pairs of which two queries and a positive are too long."""
  folder = tmp_path_factory.mktemp("suite")
  rows = [
    {"query": f"{LONG} {n}" if n < 2 else f"query {n}", "positive": f"text {n}"}
    for n in range(5)
  ]
  rows[4]["positive"] = LONG
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "own").mkdir()
  (folder / "own" / "pairs.jsonl").write_text(lines)
  return folder


def test_evaluations_count_by_task_and_side(model, suite):
  with pytest.warns(eg.Truncated) as said:
    found = eg.evaluate(model, suite)["truncated"]
  assert [str(w.message)[:14] for w in said] == ["3 of 10 texts "]
  queries, documents = found["own"]["queries"], found["own"]["documents"]
  assert (queries["cut"], queries["of"]) == (2, 5)
  assert (documents["cut"], documents["of"]) == (1, 5)
  assert queries["max_length"] == 64 < documents["longest"]


def test_verbs_say_it_in_a_line_and_in_json(trained, suite, tmp_path, capsys):
  def call(*argv):
    assert main.call([argv[0], f"--model={trained}", *argv[1:]]) == 0
    return capsys.readouterr()

  texts = tmp_path / "texts.txt"
  texts.write_text(f"{LONG}\nshort\n")
  out, vectors = tmp_path / "out.json", tmp_path / "vectors.npy"
  said = call("embed", f"--input={texts}", f"--output={vectors}")
  line, last = said.err.splitlines()
  assert line.startswith(
    "warning: 1 of 2 texts is longer than max_length=64 tokens and was cut; the"
  )
  assert last.endswith("vectors.npy: 2 x 32, 1 of the texts cut")
  flags = f"--input={texts}", f"--output={vectors}", "--json"
  about = json.loads(call("embed", *flags).out)
  assert about["truncated"]["cut"] == 1 and about["texts"] == 2
  said = call("evaluate", f"--data={suite}", f"--output={out}")
  assert said.err.count("warning: 3 of 10 texts are longer") == 1
  assert json.loads(out.read_text())["truncated"]["own"]["queries"]["cut"] == 2
  labels = tmp_path / "labels.jsonl"
  rows = [{"text": "red", "label": "a"}, {"text": "blue", "label": "b"}]
  labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
  said = call("query", f"--labels={labels}", f"--input={texts}", "--json")
  assert [row["cut"] for row in json.loads(said.out)] == [True, False]
  assert said.err.count("warning: 1 of 4 texts is longer") == 1


def test_a_searched_query_that_is_cut_is_said(trained, tmp_path, capsys):
  notes, index = tmp_path / "notes", tmp_path / "index"
  notes.mkdir()
  (notes / "a.md").write_text("the river\n")
  flags = f"--model={trained}", f"--input={notes}", f"--output={index}"
  assert main.call(["index", *flags]) == 0
  capsys.readouterr()
  for query, cut in (LONG, True), ("river", False):
    flags = f"--model={trained}", f"--index={index}", "--json"
    assert main.call(["query", *flags, query]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)[0]["query_cut"] is cut
    assert ("warning: 1 of 1 text is longer" in said.err) is cut


@pytest.mark.parametrize("setting", ["ignore", "error", "once"])
def test_no_setting_of_python_hides_it_from_the_command_line(
  trained, tmp_path, capsys, setting
):
  (tmp_path / "texts.txt").write_text(LONG)
  flags = f"--input={tmp_path / 'texts.txt'}", f"--output={tmp_path / 'x.npy'}"
  with warnings.catch_warnings():
    warnings.simplefilter(setting)
    assert main.call(["embed", f"--model={trained}", *flags]) == 0
  assert "warning: 1 of 1 text is longer" in capsys.readouterr().err


def test_a_teacher_counts_what_it_cuts_once(model, tmp_path):
  from rich.console import Console

  from embeddinggemma.mining import teach
  from embeddinggemma.mining.teachers import checkpoint as checkpoints
  from embeddinggemma.types import Pair

  pairs = [
    Pair(f"{LONG} {n}", f"text {n}", (), "", "qa", "", f"x:{n}")
    for n in range(3)
  ]
  made = checkpoints.of_model(model)
  work = lambda: teach.teach(
    pairs, made, "float32", tmp_path, Console(quiet=True)
  )
  with pytest.warns(eg.Truncated, match="3 of 6 texts are longer"):
    work()
  about = json.loads((tmp_path / "teacher.json").read_text())
  assert about["truncated"]["cut"] == 3 and about["truncated"]["of"] == 6
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    work()  # done already: nothing is cut
