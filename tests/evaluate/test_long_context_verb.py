"""`evaluate --suite=long`, as users type it, on a small random model."""

import json
import pathlib
import shutil

import pytest

from embeddinggemma import checkpoint, loading
from embeddinggemma.cli import main
from embeddinggemma.evaluation import suite
from embeddinggemma.evaluation.long_context import curve, made, reach

DOCS = pathlib.Path(__file__).parents[2] / "docs"
LENGTHS = "--lengths=320,448"
SUITE = "--suite=long:documents=12"


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
  """The folder with what `evaluate` writes of the project's own pages."""
  place = tmp_path_factory.mktemp("long")
  shutil.copytree(DOCS, place / "docs")
  assert main.call(_argv(trained, place, f"--data={place / 'docs'}")) == 0
  return place


def _argv(model, place, *more):
  flags = [f"--model={model}", f"--output={place / 'long.json'}", *more]
  flags += [] if any("--suite" in flag for flag in flags) else [SUITE, LENGTHS]
  return ["evaluate", *flags]


@pytest.fixture
def fails(trained, tmp_path, capsys):
  """flags -> the one line with which the verb ends."""

  def call(*flags: str) -> str:
    before = set(tmp_path.rglob("*"))
    argv = ["evaluate", f"--model={trained}", f"--output={tmp_path / 'x.json'}"]
    assert main.call([*argv, *flags]) == 2
    assert set(tmp_path.rglob("*")) == before, "nothing is left behind"
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ")

  return call


def test_it_writes_the_curve(run, trained):
  found = json.loads((run / "long.json").read_text())
  model = loading.load(trained)
  assert found["model"] == model.hash
  names = [
    f"{task}/{length}"
    for task in ("needle", "passage")
    for length in (320, 448)
  ]
  assert list(found["quality"]["model"]) == names
  assert set(found["summary"]["types"]) == {
    "question answering",
    "search result",
  }
  long = found["long_context"]
  assert [(r["task"], r["length"]) for r in long["rows"]] == [
    (task, length) for task in ("needle", "passage") for length in (320, 448)
  ]
  assert long["weights"] == checkpoint.hash_of(checkpoint.find(trained))
  assert (long["trained_length"], long["max_length"]) == (32, 64)
  assert long["trained_known_from"] == reach.TRAINING
  for row in long["rows"]:
    name = f"{row['task']}/{row['length']}"
    scores = found["quality"]["model"][name]["32"]
    assert row["model"]["all"]["ndcg@10"] == pytest.approx(scores["ndcg@10"])
    words = found["quality"]["BM25 stemmed"][name][""]["ndcg@10"]
    assert row["words"]["all"]["ndcg@10"] == pytest.approx(words)
    assert row["beyond"] and row["cut_at"] is None
    assert row["length"] - 24 <= row["tokens"] <= row["length"]
    assert found["truncated"][name]["documents"]["cut"] == 0
  html = (run / "long.curve.html").read_text()
  assert html.count("<svg") == 2 and "beyond the trained length" in html


def test_documents_have_their_lengths_in_the_models_own_tokens(run, trained):
  model = loading.load(trained)
  for task in suite.read_suite(run / "long.suite"):
    counts = model.token_counts(task.documents, "document")
    length = int(task.name.split("/")[1])
    assert length - 40 <= min(counts) and max(counts) <= length


def test_it_is_made_once_and_scored_alike(run, trained, capsys):
  before = json.loads((run / "long.json").read_text())
  argv = _argv(trained, run, f"--data={run / 'docs'}")
  assert main.call(argv) == 0
  said = capsys.readouterr().err
  assert (
    f"found  {run / 'long.suite'}  12 documents of 320,448 tokens (9,216"
    in said
  )
  assert "needle 448 *" in said and "passage 320 *" in said
  assert "beyond the trained length of 32 tokens, known from its last" in said
  assert "documents of more than 64 tokens were read whole here" in said
  assert json.loads((run / "long.json").read_text()) == before
  (run / "docs" / "more.md").write_text("One more page.\n")
  try:
    assert main.call(argv) == 0
  finally:
    (run / "docs" / "more.md").unlink()
  assert f"made  {run / 'long.suite'}" in capsys.readouterr().err


def test_a_suite_may_be_the_data(run, trained, tmp_path):
  """So that models with other tokenizers are scored on the same documents."""
  data = f"--data={run / 'long.suite'}"
  assert main.call(_argv(trained, tmp_path, data, "--suite=long")) == 0
  mine, theirs = (
    json.loads((place / "long.json").read_text()) for place in (tmp_path, run)
  )
  assert mine["long_context"] == theirs["long_context"]
  assert not (tmp_path / "long.suite").exists()


def test_a_model_that_cuts_is_said_to(run, trained):
  """Without --suite, and of an encoder whose cut cannot be turned off."""
  found = made.read(run / "long.suite")
  model = loading.load(trained)
  trained_at = reach.Trained(512, reach.LIMIT)
  rows = curve.rows(suite.remember(model), found, trained_at)
  assert [row["cut_at"] for row in rows] == [64] * 4
  assert not any(row["beyond"] for row in rows)
  whole = reach.reading(model, 448)
  rows = curve.rows(suite.remember(whole), found, trained_at)
  assert [row["cut_at"] for row in rows] == [None] * 4
  assert reach.reading(whole, 400) is whole


def test_a_pipe_gets_the_json_alone(run, trained, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  argv = [f"--model={trained}", "--output=/dev/null", SUITE, LENGTHS]
  assert main.call(["evaluate", *argv, f"--data={run / 'docs'}"]) == 0
  assert not list(tmp_path.iterdir())


def test_names_of_what_is_written_never_clash(run, trained, tmp_path):
  for name in ("a.html", "b.suite"):
    output = tmp_path / name
    argv = [f"--model={trained}", f"--output={output}", "--suite=long"]
    argv += [f"--data={run / 'long.suite'}"]
    assert main.call(["evaluate", *argv]) == 0
    assert "long_context" in json.loads(output.read_text())
  assert (tmp_path / "a.curve.html").is_file()


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    (["--lengths=256"], "evaluate: --lengths needs --suite=long"),
    (["--suite=long", "--mteb=a"], "evaluate: --suite and --mteb exclude each"),
    (["--suite=long", "--dim=64"], "evaluate: --suite and --dim exclude each"),
    (["--suite=lang"], "--suite=lang: no suite 'lang'; did you mean 'long'?"),
    (["--suite=long:lengths=3"], "unknown config argument 'lengths'; known"),
    (["--suite=long:few"], "config argument 'few': invalid literal"),
    (["--suite=long:documents=3"], "documents=3 must be at least 12"),
    (["--suite=long", "--lengths=2x"], "--lengths=2x: give numbers of tokens"),
    (["--suite=long", "--lengths=512,256"], "--lengths=512,256 must ascend"),
    (
      ["--suite=long", "--fields=query:a"],
      "--fields is for pairs; --suite=long",
    ),
    (["--suite=long", "--data=none"], "none: no such folder or file of text"),
    (["--suite=long", "--lengths=64"], "--lengths=64: the document prompt"),
    (["--suite=long", "--lengths=256,9000000"], "a document of 9000000 tokens"),
  ],
)
def test_bad_input_is_one_line_before_any_work(fails, flags, said):
  assert fails(*flags).startswith(said)


def test_a_made_suite_has_its_lengths(fails, run):
  data = f"--data={run / 'long.suite'}"
  for flags in (["--suite=long", LENGTHS], [SUITE]):
    said = fails(*flags, data)
    assert "is a suite, whose lengths and documents are made; leave" in said
