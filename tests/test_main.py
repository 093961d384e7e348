"""The command line: what a person got wrong is one line, and exit code 2."""

import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

import embeddinggemma as eg
from embeddinggemma import cache, checkpoint
from embeddinggemma.cli import flags as command_line
from embeddinggemma.cli import main
from embeddinggemma.cli.verbs import VERBS
from embeddinggemma.types import BadInput

TINY = "--config=configs/prefinetune.py:tiny"
RECIPE = "--config=configs/recipe.py:tiny"


@pytest.fixture
def fails(capsys):
  """Calls a verb that must fail; returns its one line on stderr."""

  def run(*argv: object, code: int = 2) -> str:
    capsys.readouterr()
    assert main.call([str(arg) for arg in argv]) == code
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if line.startswith("error: ")]
    assert len(said) == 1 and lines[-1] == said[0], lines
    return said[0].removeprefix("error: ")

  return run


def test_help_lists_the_verbs(capsys):
  assert main.call(["--help"]) == 0
  said = capsys.readouterr().out
  assert all(verb in said for verb in main.VERBS)
  assert main.call(["query", "--help"]) == 0
  assert "--lexical" in capsys.readouterr().out
  assert main.call([]) == 2


def test_an_unknown_verb_is_named(capsys):
  assert main.call(["quary"]) == 2
  error = capsys.readouterr().err
  assert error == "error: unknown verb 'quary'; did you mean 'query'?\n"


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    ([RECIPE], "run: --workdir is missing; see embeddinggemma run --help"),
    (
      ["--workdir=w"],
      "run: --config is missing; see embeddinggemma run --help",
    ),
    (
      [RECIPE, "--workdr=w"],
      "run: unknown flag '--workdr'; did you mean '--wo",
    ),
    ([RECIPE, "--workdir="], "run: --workdir is empty; give a value or"),
    ([RECIPE, "--workdir=w", "more"], "unexpected argument 'more'"),
    (
      ["--config=configs/none.py"],
      "config 'configs/none.py' does not exist; shipped in configs/:"
      " adapt.py, finetune.py, mine.py, mixture.py, pairs.py, prefinetune.py, pretrain.py,"
      " qat.py, recipe.py, student.py, teach.py",
    ),
    (
      ["--config=configs/recipe.py:huge"],
      "unknown preset 'huge'; use one of embeddinggemma_300m",
    ),
    (
      ["--config=configs/recipe.py:tiny,dat=x"],
      "unknown config argument 'dat'; did you mean 'data'?",
    ),
    (
      [RECIPE, "--config.optimizer.lrr=1"],
      "unknown config key 'optimizer.lrr'; did you mean 'lr'?",
    ),
    (
      ["--config.sed=1", RECIPE],
      "unknown config key 'sed'; did you mean 'seed'?",
    ),
    (
      [RECIPE, "--config.prefinetune.data.weights.cod=1"],
      "unknown config key 'prefinetune.data.weights.cod'; did you mean 'code'",
    ),
    (
      [RECIPE, "--config.optimizer.lr=fast"],
      "config key 'optimizer.lr' is a number, not 'fast'; write",
    ),
    (
      [RECIPE, "--workdir=w", "--config.prefinetune.stage=adpt"],
      "unknown stage 'adpt'; did you mean 'adapt'?",
    ),
    (
      [RECIPE, "--workdir=w", "--config.optimizer.lr=0."],
      "optimizer.lr=0.0 must be above 0",
    ),
    (
      [RECIPE, "--workdir=w", "--config.index.dim=64"],
      "index.dim=64 exceeds model.embed_dim=32",
    ),
    (
      [RECIPE, "--workdir=w", "--config.prefinetune.init_from=a"],
      "prefinetune.init_from is set, but in a recipe prefinetune starts from",
    ),
    (
      [RECIPE, "--workdir=w", "--config.prefinetune.init=random"],
      "a stage starts from the lsa table, which only prefinetune.init=lsa",
    ),
    ([TINY, "--workdir=w"], "run: --config is no recipe; give configs/recipe"),
  ],
)
def test_a_bad_command_line_is_named(fails, argv, message):
  assert fails("run", *argv).startswith(message)
  assert not pathlib.Path("w").exists()


def test_the_last_config_and_workdir_count(fails):
  said = fails("run", RECIPE, "--config", "none.py", "--workdir=a")
  assert "'none.py' does not exist" in said


def test_a_broken_config_file_is_one_line(fails, tmp_path):
  path = tmp_path / "mine.py"
  path.write_text("def get_config():\n  return 1 / 0\n")
  assert "division by zero" in fails("run", f"--config={path}", "--workdir=w")


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    (["--config.mesh.fsdp=3"], "mesh.fsdp=3 does not give 8 devices"),
    (["--config.batch_size=12"], "batch_size=12 does not divide into 8 groups"),
    (["--config.groups_per_device=3"], "does not divide into 24 groups"),
    (["--config.init_from=none"], "none does not exist; give a checkpoint"),
    (["--config.max_length=65"], "max_length=65 exceeds model.max_length=64"),
    (["--config.data.tokenizer=none"], "cannot read tokenizer none: No such"),
    (["--config.data.path=none"], "none: no such folder or file; give one of"),
  ],
)
def test_what_no_data_can_mend_fails_first(
  fails, tmp_path, data_folder, overrides, message
):
  workdir = tmp_path / "w"
  said = fails(
    "train", f"{TINY},data={data_folder}", f"--workdir={workdir}", *overrides
  )
  assert re.search(message, said)
  assert not workdir.exists()


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--config.model.num_layers=3"], "model.num_layers=3, where the checkpo"),
    (["--config.model.window=3"], "model.window=3, where the checkpoint"),
    (["--config.model.window_rule=t5gemma"], "model.window_rule=t5gemma, wher"),
    (["--config.model.pooling=last"], "model.pooling=last, where the checkpo"),
    (["--config.model.global_rope_base=77."], "trained with 1000000.0; set it"),
    (["--config.model.width=128"], "init_from=TRAINED: checkpoint tensor 'mod"),
    (["--config.init_from=gs://a/b"], "init_from: gs://a/b is an address, not"),
    (["--config.data.path=gs://a/b"], "data.path: gs://a/b is an address, no"),
    (["--config.init_from=HALF"], "HALF/checkpoints/6 cannot be read: files:"),
  ],
)
def test_a_parent_that_is_another_model_is_refused(
  fails, tmp_path, data_folder, trained, flags, message
):
  half = tmp_path / "half"
  (half / "checkpoints/6/params").mkdir(parents=True)
  names = {"TRAINED": trained, "HALF": half}
  named = lambda text: re.sub("[A-Z]{4,}", lambda m: str(names[m[0]]), text)
  said = fails(
    *("train", f"{TINY},data={data_folder}", f"--workdir={tmp_path / 'w'}"),
    *("--config.model.num_layers=1", f"--config.init_from={trained}"),
    *map(named, flags),
  )
  assert named(message) in said


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ("tpuu={}", "compiler_options.tpuu: no such platform; use cpu"),
    ("cpu={'xla_nonsense': True}", "compiler_options: .*'xla_nonsense'"),
  ],
)
def test_options_that_the_compiler_lacks(
  fails, tmp_path, data_folder, options, message
):
  path = tmp_path / "mine.py"
  path.write_text(f"""
import importlib
def get_config():
  config = importlib.import_module("configs.prefinetune").get_config("tiny")
  config.compiler_options = dict({options})
  return config
""")
  said = fails(
    *("train", f"--config={path}", f"--config.data.path={data_folder}"),
    f"--workdir={tmp_path / 'w'}",
  )
  assert re.search(message, said)


def test_an_interrupted_program_ends_at_once():
  """XLA may compile still, in threads that outlive what they work for."""
  code = "main.call = lambda _: 42; atexit.register(print, 'late'); main.main()"
  code = f"import atexit; from embeddinggemma.cli import main; {code}"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True)
  assert (done.returncode, done.stdout) == (42, b"")


def test_weights_that_are_all_zero(fails, tmp_path, data_folder):
  flags = [f"{TINY},data={data_folder}", f"--workdir={tmp_path / 'w'}"]
  zero = [f"--config.data.weights.{task}=0." for task in ("qa", "code")]
  said = fails("train", *flags, *zero)
  assert said.startswith(
    "all weights of the mixture are zero; set data.weights"
  )
  assert said.endswith("one of the data's tasks: code, qa")
  said = fails("train", *flags, "--config.data.weights.qa=-1.")
  assert said == "data.weights.qa=-1.0: weights are >= 0"


BAD_ROWS = {
  '{"query": "a", ': "not JSON",
  '{"query": "a"}': "no field 'positive'",
  '{"query": " ", "positive": "b"}': "'query' is empty",
  '{"query": 3, "positive": "b"}': "'query' is not text but int",
  '["a", "b"]': "not a JSON object but list",
  '{"query": "a", "positive": "b", "task": "cod"}': "unknown task 'cod'",
  '{"query": "a", "positive": "b", "negative": 3}': "column 'negative' (int 3) is neither",
}


@pytest.mark.parametrize("verb", ["train", "run"])
@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_bad_row_stops_before_training(
  fails, tmp_path, small_pairs, write_pairs, verb, row
):
  first, second = small_pairs(2)
  folder = write_pairs(tmp_path / "data", [first, row, second])
  workdir = tmp_path / "w"
  config = TINY if verb == "train" else RECIPE
  said = fails(verb, f"{config},data={folder}", f"--workdir={workdir}")
  place = folder / "small" / "pairs.jsonl"
  assert said.startswith(f"{place}:2: {BAD_ROWS[row]}")
  assert [path.name for path in workdir.iterdir()] == [cache.LOCK_FILE]


def test_bad_rows_are_skipped_and_listed_on_request(
  tmp_path, small_pairs, write_pairs, capsys
):
  folder = write_pairs(tmp_path / "data", [*small_pairs(40), *BAD_ROWS])
  argv = ["prepare", f"{TINY},data={folder}", "--show=0:1", "--json"]
  assert main.call([*argv, "--skip_bad_rows"]) == 0
  said = capsys.readouterr()
  assert f"{folder / 'small' / 'pairs.jsonl'}:41: not JSON" in said.err
  assert f"skipped {len(BAD_ROWS)} bad rows" in said.err
  batch = json.loads(said.out)
  assert batch["step"] == 0 and batch["task"] in ("qa", "code")


def test_prepare_takes_a_recipe_and_a_range(fails, data_folder, capsys):
  flags = [f"{RECIPE},data={data_folder}"]
  assert main.call(["prepare", *flags, "--show=1:2"]) == 0
  assert capsys.readouterr().out.startswith("step 1  task ")
  for wrong in ("3", "2:2", "5:1", "a:b", "-1:2"):
    said = fails("prepare", *flags, f"--show={wrong}")
    assert said == f"--show={wrong}: give FIRST:LAST, such as 0:20"


def test_training_says_once_what_it_cut(
  trained, train_command, capsys, monkeypatch
):
  monkeypatch.setattr(cache, "_shared", {})  # as in another process
  assert main.call(train_command(trained)) == 0
  said = capsys.readouterr().err
  assert len(re.findall(r"\d+ texts are longer than max_length=32", said)) == 1
  assert "continues at step 2" in said


def test_a_workdir_of_another_config_is_refused(fails, trained, train_command):
  argv = train_command(trained)
  said = fails(*argv, "--config.seed=1", "--config.loss.temperature=0.1")
  assert "loss.temperature=0.05 there, 0.1 now; seed=0 there, 1 now" in said
  new = f"--workdir={trained.with_name(trained.name + '-2')}"
  assert f"add --config.init_from={trained} {new}; " in said
  assert f"to train from the start, add {new}" in said


def test_a_workdir_in_use_is_refused(fails, trained, train_command):
  with cache.locked(trained):
    said = fails(*train_command(trained))
  assert said.startswith(f"{trained} is in use by another process")


def test_a_full_disk_while_training(fails, tmp_path, trained, train_command):
  workdir = tmp_path / "w"
  workdir.mkdir()
  (workdir / "inputs").symlink_to(trained / "inputs")
  (workdir / "metrics.jsonl").symlink_to("/dev/full")
  said = fails(*train_command(workdir))
  assert said.startswith("No space left on device")
  assert said.endswith("then start the same command again")


def test_a_full_disk_while_embedding(fails, tmp_path, trained):
  output = tmp_path / "a.npy"
  output.with_name("a.npy.partial").symlink_to("/dev/full")
  (tmp_path / "a.txt").write_text("some text\n")
  flags = [f"--model={trained}", f"--input={tmp_path / 'a.txt'}"]
  said = fails("embed", *flags, f"--output={output}")
  assert said.startswith("No space left on device")
  assert not output.exists()


def test_a_path_that_does_not_fit_is_one_line(fails, tmp_path, trained):
  (tmp_path / "a.txt").write_text("some text\n")
  flags = [f"--model={trained}", f"--input={tmp_path / 'a.txt'}"]
  said = fails("embed", *flags, f"--output={tmp_path}")
  assert said == f"--output={tmp_path} is a folder; name a file"
  said = fails("embed", *flags, f"--output={tmp_path / ('x' * 300)}")
  assert said.startswith("File name too long: ")
  assert said.endswith("; choose another path")
  said = fails("index", *flags, f"--output={tmp_path}/i", "--dim=0")
  assert said == "--dim=0: the model has dimensions 1 to 32"


def test_a_workdir_that_is_a_file(fails, tmp_path, train_command):
  (tmp_path / "w").write_text("")
  said = fails(*train_command(tmp_path / "w"))
  assert re.search("(File exists|Not a directory).*; choose another path", said)


def test_embeds_lines(trained, tmp_path, capsys):
  (tmp_path / "a.txt").write_text("some text\nanother\n")
  output = tmp_path / "a.npy"
  flags = [f"--model={trained}", f"--input={tmp_path / 'a.txt'}", "--dim=8"]
  assert main.call(["embed", *flags, f"--output={output}"]) == 0
  vectors = np.load(output)
  assert vectors.shape == (2, 8) and vectors.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_what_is_embedded_keeps_its_white_space(trained, tmp_path, name):
  """A line that is empty is an empty text; its prompt keeps its last space."""
  texts = ["hello", "hello ", "", " ", "\thello"]
  lines = texts
  if name == "a.jsonl":
    lines = [json.dumps({"text": text}) for text in texts]
  (tmp_path / name).write_text("".join(f"{line}\r\n" for line in lines))
  output = tmp_path / "a.npy"
  flags = [f"--model={trained}", f"--input={tmp_path / name}"]
  assert main.call(["embed", *flags, f"--output={output}"]) == 0
  model, found = eg.load(trained), np.load(output)
  np.testing.assert_allclose(found, model.encode_document(texts), atol=1e-6)
  assert np.abs(found[0] - found[1]).max() > 1e-3
  bare = model.encode(["title: none | text:", "title: none | text: "])
  assert np.abs(found[2] - bare[0]).max() > 1e-3
  np.testing.assert_allclose(found[2], bare[1], atol=1e-5)


@pytest.mark.parametrize(
  ("name", "content", "flags", "message"),
  [
    ("none.txt", None, [], "cannot read .*none.txt: No such file"),
    ("none.jsonl", None, [], "cannot read .*none.jsonl: No such file"),
    ("a.txt", b"", [], "a.txt: holds no text"),
    ("a.txt", b"x\n\xff\n", [], "a.txt:2: not UTF-8"),
    ("a.jsonl", b'{"txt": "x"}\n', [], "a.jsonl:1: no field 'text'"),
    ("a.jsonl", b'{"text": "x", "title": 1}\n', [], "a.jsonl:1: 'title'"),
    ("a.txt", b"x\n", ["--dim=33"], "truncate_dim=33: the model has dim"),
    ("a.txt", b"x\n", ["--prompt=qurey"], "unknown prompt name 'qurey'"),
  ],
)
def test_what_cannot_be_embedded(
  fails, trained, tmp_path, name, content, flags, message
):
  path = tmp_path / name
  if content is not None:
    path.write_bytes(content)
  argv = [f"--model={trained}", f"--input={path}", f"--output={tmp_path}/o"]
  assert re.search(message, fails("embed", *argv, *flags))
  assert not (tmp_path / "o").exists()


@pytest.fixture(scope="module")
def indexed(trained, tmp_path_factory):
  """An index of two small files."""
  source = tmp_path_factory.mktemp("source")
  (source / "river.md").write_text("# Rivers\n\nThe river is wide.\n")
  (source / "code.py").write_text("def cross():\n  return 'bridge'\n")
  output = tmp_path_factory.mktemp("index") / "index"
  flags = [f"--model={trained}", f"--input={source}", f"--output={output}"]
  assert main.call(["index", *flags]) == 0
  return output


def test_answers_name_a_line(trained, indexed, capsys):
  flags = [f"--model={trained}", f"--index={indexed}", "--json"]
  assert main.call(["query", *flags, "--lexical", "wide", "river"]) == 0
  (hit,) = json.loads(capsys.readouterr().out)
  assert (hit["path"], hit["line"]) == ("river.md", 1)


def test_index_says_what_it_did(fails, trained, tmp_path, capsys):
  source, output = tmp_path / "source", tmp_path / "index"
  source.mkdir()
  (source / "a.md").write_text("The river is wide.")
  (source / "b.png").write_bytes(b"\0")
  argv = ["index", f"--model={trained}", f"--input={source}"]
  argv += [f"--output={output}", "--dim=16", "--vectors=binary"]
  assert main.call(argv) == 0
  said = capsys.readouterr().out.splitlines()
  assert said[0].startswith(
    f"{output}: 1 chunks of 1 files, binary at 16 dimensions, 0.0 MB"
  )
  assert said[1].startswith("0 kept, 1 new, 0 removed; 1 embedded in ")
  assert said[2:] == ["left out, binary: 1 (b.png)"]
  (source / "c.md").write_text("A bridge.")
  as_is = argv[:4]  # dimension and vectors are those of the index
  assert main.call([*as_is, "--json"]) == 0
  about = json.loads(capsys.readouterr().out)
  assert {"kept": 1, "new": 1, "dim": 16, "vectors": "binary"} == {
    key: about[key] for key in ("kept", "new", "dim", "vectors")
  }
  said = fails(*as_is, "--dim=8")
  assert said.startswith(f"{output}: dim=16 there, 8 now; add --rebuild")
  assert main.call([*as_is, "--rebuild"]) == 0
  assert "int8 at 32 dimensions" in capsys.readouterr().out
  assert fails(*argv, "--vectors=int4") == "--vectors=int4: give int8 or binary"


def test_labels_of_a_text_and_of_many(trained, tmp_path, capsys):
  rows = [("the river is wide", "water"), ("a stone wall", "stone")]
  labels, texts = tmp_path / "labels.jsonl", tmp_path / "texts.txt"
  labels.write_text(
    "".join(
      json.dumps({"text": text, "label": name}) + "\n" for text, name in rows
    )
  )
  texts.write_text("the river is wide\na stone wall\n")
  argv = ["query", f"--model={trained}", f"--labels={labels}"]
  assert main.call([*argv, "the river", "is wide"]) == 0
  said = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert [name for _, name in said] == ["water", "stone"]
  assert sum(float(share) for share, _ in said) == pytest.approx(1, abs=2e-3)
  assert main.call([*argv, f"--input={texts}"]) == 0
  said = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
  assert [row[1:] for row in said] == [[label, text] for text, label in rows]
  assert main.call([*argv, f"--input={texts}", "--k=1", "--json"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert [list(row["labels"]) for row in found] == [["water"], ["stone"]]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["x"], "query: --index is missing"),
    (["--index=i", "--input=t", "x"], "query: --input is for --labels"),
    (["--labels=l"], "the text is empty; put it last"),
    (["--labels=l", "--index=i", "x"], "query: --labels goes without --index"),
    (["--labels=l", "--dense", "x"], "query: --labels goes without --index"),
    (["--labels=l", "--input=t", "x"], "query: 'x' or --input=t, not both"),
    (["--labels=none.jsonl", "x"], "cannot read none.jsonl: No such file"),
  ],
)
def test_a_query_that_is_neither_search_nor_labels(fails, flags, message):
  assert fails("query", "--model=none", *flags).startswith(message)


def test_a_query_says_that_an_index_is_of_stripped_texts(
  trained, indexed, tmp_path, capsys
):
  output = tmp_path / "index"
  shutil.copytree(indexed, output)
  flags = ["query", f"--model={trained}", f"--index={output}", "a date"]
  assert main.call(flags) == 0
  assert "ignored" not in capsys.readouterr().err
  about = json.loads((output / "index.json").read_text())
  del about["white_space"]
  cache.write_json(output / "index.json", about)
  assert main.call(flags) == 0
  said = "ignored white space around a text; `index` again embeds"
  assert said in capsys.readouterr().err
  assert main.call([*flags[:-1], "--lexical", "a date"]) == 0
  assert said not in capsys.readouterr().err  # words have no vectors


def test_a_bad_query_is_refused(fails, trained, indexed, tmp_path):
  flags = ["query", f"--model={trained}", f"--index={indexed}"]
  assert fails(*flags).startswith("the query is empty; put it last")
  assert fails(*flags, " ").startswith("the query is empty")
  assert fails(*flags, "\udc80").startswith("the query is not UTF-8")
  said = fails(*flags, "--dense", "--lexical", "x")
  assert said.startswith("--dense and --lexical exclude each other")
  assert fails(*flags, "--k=0", "x") == "--k=0 must be at least 1"
  said = fails("query", f"--model={trained}", f"--index={tmp_path}", "x")
  assert said.startswith(f"{tmp_path}: not an index")
  said = fails("query", f"--model={tmp_path}", f"--index={indexed}", "x")
  assert said.startswith(f"{tmp_path} holds no checkpoint; give a checkpoint")


def test_a_model_that_is_none_is_refused(fails, tmp_path):
  file = tmp_path / "m.gguf"
  file.write_bytes(b"GGUF")
  with pytest.raises(BadInput, match=r"m\.gguf is to be imported first"):
    checkpoint.find(file)
  said = fails("evaluate", "--model=none", f"--output={tmp_path}/e.json")
  assert said.startswith("none does not exist; give a checkpoint directory")
  path = f"--input={tmp_path}"
  said = fails("index", "--model=none", path, f"--output={tmp_path}/i")
  assert said.startswith("none does not exist")


def test_an_interrupt_asks_to_start_again(monkeypatch, capsys):
  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(main, "function", lambda verb: interrupted)
  assert main.call(["evaluate", "--model=a", "--output=b"]) == 42
  assert "the same command continues" in capsys.readouterr().err


def test_a_soup_is_a_model(trained, tmp_path, capsys):
  flags = [f"--inputs={trained},{trained}", f"--workdir={tmp_path / 's'}"]
  assert main.call(["soup", *flags, "--weights=0.75,0.25"]) == 0
  place = pathlib.Path(capsys.readouterr().out.strip())
  assert place == checkpoint.find(tmp_path / "s")
  digest = lambda path: checkpoint.content_hash(
    checkpoint.read_params(checkpoint.find(path))
  )
  assert digest(place) == digest(trained)


@pytest.mark.parametrize(
  ("inputs", "flags", "message"),
  [
    (1, [], "a soup of 1 checkpoints, where at least 2 were asked for"),
    (2, ["--weights=1,x"], "--weights=1,x: give numbers, such as"),
    (2, ["--weights=0.5,0.4"], "weights 0.5,0.4 sum to 0.9, not to 1"),
    (2, ["--data=d"], "soup: --data is for --path=N"),
    (2, ["--path=3", "--weights=1,0"], "soup: --path and --weights exclude"),
    (3, ["--path=3"], "--path goes between two --inputs, not 3"),
    (2, ["--path=1"], "a path of 1 points; it needs at least its two ends"),
    (2, ["--last=2"], "soup: --last=N takes the checkpoints of one"),
    (1, ["--last=1"], "a soup of 1 checkpoints, where at least 2"),
  ],
)
def test_a_bad_soup_is_refused(
  fails, trained, tmp_path, inputs, flags, message
):
  given = [f"--inputs={','.join([str(trained)] * inputs)}", *flags]
  said = fails("soup", *given, f"--workdir={tmp_path / 's'}")
  assert said.startswith(message)
  assert not (tmp_path / "s").exists()


def test_a_soup_of_the_last_of_a_run(fails, train_command, tmp_path):
  run = tmp_path / "run"
  assert main.call([*train_command(run), "--config.every_checkpoint=1"]) == 0
  flags = [f"--inputs={run}", f"--workdir={tmp_path / 's'}"]
  said = fails("soup", *flags, "--last=3")
  assert said.startswith(f"{run} holds 2 checkpoints, 3 were asked for")
  assert main.call(["soup", *flags, "--last=2"]) == 0
  places = [run / "checkpoints" / step for step in ("1", "2")]
  down = lambda path: checkpoint.read_params(path)["model"]["down"]
  want = np.mean([down(place) for place in places], axis=0)
  got = down(checkpoint.find(tmp_path / "s"))
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_path_is_scored_on_its_own_test(trained, tmp_path, capsys):
  flags = [f"--inputs={trained},{trained}", f"--workdir={tmp_path / 's'}"]
  assert main.call(["soup", *flags, "--path=2"]) == 0
  assert "0.000 1.000" in capsys.readouterr().err
  rows = json.loads((tmp_path / "s" / "path.json").read_text())["points"]
  assert [row["share"] for row in rows] == [0, 1]
  assert rows[0]["hash"] == rows[1]["hash"]
  (score,) = rows[0]["scores"].values()
  assert 0 <= score <= 1


SWEEP = ["sweep", TINY, "--config.steps=1"]


@pytest.mark.parametrize("wrong", ["c.nothing", "{}['nothing']", "1 / 0"])
def test_a_config_file_that_fails(tmp_path, capsys, wrong):
  path = tmp_path / "bad.py"
  path.write_text(
    "from ml_collections import ConfigDict\n\ndef get_config():\n"
    f"  c = ConfigDict()\n  c.a = {wrong}\n  return c\n"
  )
  argv = ["train", f"--config={path}", "--config.seed=1", "--workdir=w"]
  assert main.call(argv) == 2
  said = capsys.readouterr().err
  assert said.startswith("error: config: ") and said.count("\n") == 1


def test_sweep_prints_commands(tmp_path, capsys):
  flags = [f"--workdir={tmp_path / 's'}", "--print"]
  expression = "product(seed=[0, 1], optimizer.lr=[1e-3])"
  assert main.call([*SWEEP, *flags, f"--sweep={expression}"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 2
  program, verb, *argv = shlex.split(lines[1])
  assert (program, verb) == ("embeddinggemma", "train")
  values, _ = command_line.parse(verb, VERBS[verb], argv)
  assert values.config.seed == 1 and values.config.steps == 1
  assert values.config.optimizer.lr == 1e-3
  assert values.workdir == f"{tmp_path}/s/seed=1,optimizer.lr=0.001"
  argv = [word.replace("prefinetune", "recipe") for word in SWEEP[:2]]
  assert main.call([*argv, *flags, "--sweep=product(seed=[0])"]) == 0
  assert capsys.readouterr().out.startswith("embeddinggemma run ")
  assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ([], "configs/prefinetune.py has no sweep(); add one, or give --sweep="),
    (["--sweep=product(sed=[0])"], "unknown config key 'sed'; did you mean 's"),
    (
      ["--sweep=product(seed=['a'])"],
      "config key 'seed' is a whole number, not 'a'; write",
    ),
    (["--sweep=product(seed=[0])", "--jobs=0"], "--jobs=0 must be at least 1"),
  ],
)
def test_a_bad_sweep_is_refused(fails, tmp_path, flags, message):
  said = fails(*SWEEP, *flags, f"--workdir={tmp_path / 's'}")
  assert said.startswith(message)
  assert not (tmp_path / "s").exists()


def test_a_sweep_that_does_not_parse_has_a_caret(tmp_path, capsys):
  flags = [f"--workdir={tmp_path / 's'}", "--sweep=product(seed=3)"]
  assert main.call([*SWEEP, *flags]) == 2
  first, *place = capsys.readouterr().err.splitlines()
  assert first == "error: sweep: seed needs a list, such as [0, 1]"
  assert place == ["product(seed=3)", "             ^"]


def test_a_sweep_with_a_failure_exits_with_1(tmp_path, data_folder, capsys):
  flags = [f"--workdir={tmp_path / 's'}", f"--config.data.path={data_folder}"]
  expression = "--sweep=product(batch_size=[12])"  # not of 8 groups
  assert main.call([*SWEEP, *flags, expression, "--config.steps=0"]) == 1
  assert "batch_size=12" in capsys.readouterr().err
  saved = json.loads((tmp_path / "s" / "sweep.json").read_text())
  assert [run["exit"] for run in saved["runs"]] == [2]
