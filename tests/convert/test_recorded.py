"""Files record the identity of a model; a difference is named with its part."""

import json
import shutil
import warnings

import pytest

import embeddinggemma as eg
from embeddinggemma.cli import main
from embeddinggemma.data.tokenizer import train_tokenizer


def recipe(workdir):
  return workdir / "checkpoints" / "0" / "files" / "recipe.json"


@pytest.fixture(scope="module")
def imported(tmp_path_factory, exported):
  workdir = tmp_path_factory.mktemp("imported") / "w"
  argv = ["import", f"--from={exported}", f"--workdir={workdir}"]
  assert main.call(argv) == 0
  return workdir


def changed(workdir, folder, name, change):
  """A copy of a workdir in which one of its files was changed."""
  copy = shutil.copytree(workdir, folder / "changed")
  path = copy / "checkpoints" / "0" / "files" / name
  if name.endswith(".json"):
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
  else:
    change(path)
  return copy


def other_tokenizer(path):
  train_tokenizer([f"winter is {n} times long" for n in range(99)], path, 400)


CHANGES = [
  ("prompts.json", lambda t: {**t, "query": "q: "}, "prompts.query="),
  ("prompts.json", lambda t: {**t, "document": "d: "}, "prompts.document="),
  ("model.json", lambda t: {**t, "max_length": 33}, "max_length="),
  ("model.json", lambda t: {**t, "window": 4}, "model.window="),
  ("tokenizer.model", other_tokenizer, "tokenizer="),
]


def test_a_model_has_one_identity_in_all_its_files(imported, exported, model):
  ours = eg.load(imported).identity
  assert eg.load(exported).identity == ours == eg.load(model).identity
  written = json.loads((exported / "embeddinggemma.json").read_text())
  assert written["identity"] == ours.as_json()
  assert json.loads(recipe(imported).read_text())["identity"] == ours.parts


@pytest.mark.parametrize(("name", "change", "said"), CHANGES)
def test_an_index_refuses_a_model_that_differs(
  imported, tmp_path, capsys, name, change, said
):
  (tmp_path / "texts").mkdir()
  (tmp_path / "texts" / "a.txt").write_text("the river was seen at noon")
  index = f"--index={tmp_path / 'index'}"
  make = ["index", f"--input={tmp_path / 'texts'}"]
  make.append(f"--output={tmp_path / 'index'}")
  assert main.call([*make, f"--model={imported}"]) == 0
  assert main.call(["query", f"--model={imported}", index, "river"]) == 0
  other = changed(imported, tmp_path, name, change)
  capsys.readouterr()
  assert main.call(["query", f"--model={other}", index, "river"]) == 2
  *notes, error = capsys.readouterr().err.strip().splitlines()
  assert f"was made with another model: {said}" in error
  # The checkpoint itself tells what of it was changed.
  assert any(f"changed after it was made: {said}" in note for note in notes)
  # An update may read more or less at once, and cuts what it reads anew.
  code = 0 if said == "max_length=" else 2
  assert main.call([*make, f"--model={other}"]) == code
  output = capsys.readouterr()
  assert said in output.out + output.err


def test_a_changed_export_is_told_at_loading(exported, tmp_path):
  copy = shutil.copytree(exported, tmp_path / "copy")
  path = copy / "config_sentence_transformers.json"
  tree = json.loads(path.read_text())
  tree["prompts"]["query"] = "q: "
  path.write_text(json.dumps(tree))
  with warnings.catch_warnings():
    warnings.simplefilter("error", eg.Notice)
    eg.load(exported)
  said = "changed after it was made: prompts.query="
  with pytest.warns(eg.Notice, match=said):
    eg.load(copy)


def test_what_is_recorded_may_be_anything(exported, tmp_path):
  """A file that others wrote, or changed, is told in one line."""
  copy = shutil.copytree(exported, tmp_path / "copy")
  path = copy / "embeddinggemma.json"
  tree = json.loads(path.read_text())
  for junk in ("x", None, 3, {"prompts": 3}):
    path.write_text(json.dumps(tree | {"identity": junk}))
    with pytest.warns(eg.Notice, match="changed after it was made") as said:
      eg.load(copy)
    assert len(said) == 1 and len(str(said[0].message)) < len(str(copy)) + 250


def test_an_evaluation_says_of_which_model(imported, tmp_path):
  rows = [
    {"sentence1": "a river", "sentence2": f"the river {n}", "score": n}
    for n in range(4)
  ]
  task = tmp_path / "data" / "sts"
  task.mkdir(parents=True)
  lines = (json.dumps(row) + "\n" for row in rows)
  (task / "sts.jsonl").write_text("".join(lines))
  argv = ["evaluate", f"--model={imported}", f"--data={tmp_path / 'data'}"]
  assert main.call([*argv, f"--output={tmp_path / 'e.json'}"]) == 0
  found = json.loads((tmp_path / "e.json").read_text())
  assert found["identity"] == eg.load(imported).identity.as_json()


def test_changed_prompts_are_said_once_by_each_verb(imported, tmp_path, capsys):
  """Losing the prompts of its training costs a model points, silently."""
  task = tmp_path / "data" / "sts"
  task.mkdir(parents=True)
  rows = [
    {"sentence1": "a river", "sentence2": f"the river {n}", "score": n}
    for n in range(4)
  ]
  (task / "sts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
  other = changed(
    imported, tmp_path, "prompts.json", lambda tree: {**tree, "query": ""}
  )
  said = "changed after it was made: prompts.query="
  capsys.readouterr()
  argv = ["evaluate", f"--model={other}", f"--data={tmp_path / 'data'}"]
  assert main.call([*argv, f"--output={tmp_path / 'e.json'}"]) == 0
  assert capsys.readouterr().err.count(said) == 1
  main.call(["doctor", str(other)])
  assert capsys.readouterr().err.count(said) == 1
