"""Verbs on files that want to write to the terminal, and on bad places."""

import json
import os
import pathlib
import re
import subprocess
import sys
import unicodedata

import numpy as np
import pytest

from embeddinggemma import cache
from embeddinggemma.cli import flags, main, verbs
from embeddinggemma.report import report

EVIL = "\x1b[2J\x1b]0;t\x07\r\x08\x9b1m\u202e\u200b [red]x[/] :smile:"
FITS = "\x1b[2J\u202e[red]x[/] :smile:"  # in what the small model reads
SEEN = r"\x1b[2J\x1b]0;t\x07\r\x08\x9b1m\u202e\u200b [red]x[/] :smile:"
ROOT = pathlib.Path(__file__).parents[2]
TINY = "--config=configs/prefinetune.py:tiny"


@pytest.fixture
def call(capfd):
  """Calls a verb; returns its exit code, stdout and stderr, all harmless."""

  def run(*argv: object) -> tuple[int, str, str]:
    capfd.readouterr()
    code = main.call([str(arg) for arg in argv])
    said = capfd.readouterr()
    for text in said:
      found = [c for c in text if unicodedata.category(c) in ("Cc", "Zl", "Zp")]
      assert set(found) <= {"\n", "\t"}, text
      assert not re.search("[\u200b\u202a-\u202e\u2066-\u2069]", text), text
    return code, *said

  return run


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """A folder of files with evil names, titles and contents."""
  folder = tmp_path_factory.mktemp("source")
  name = EVIL.replace("/", "").replace("\r", "")
  (folder / f"{name}.md").write_text(f"# {EVIL}\n\nriver {FITS}\n")
  (folder / "a.py").write_text(f"def bridge():\n\treturn '{FITS}'\n")
  (folder / f"{name}.png").write_bytes(b"\0")
  return folder


def test_a_hit_is_text(call, trained, source, tmp_path):
  index, model = tmp_path / "index", f"--model={trained}"
  argv = ["index", model, f"--input={source}", f"--output={index}"]
  code, said, _ = call(*argv)
  assert code == 0 and r"binary: 1 (\x1b[2J\x1b]0;t\x07" in said
  for query in ("river", "bridge"):
    argv = ["query", model, f"--index={index}", "--lexical"]
    code, said, _ = call(*argv, query)
    assert code == 0
    assert r"\x1b[2J\u202e[red]x[/] :smile:" in said
    code, said, _ = call(*argv, "--json", query)
    (hit,) = json.loads(said)
    text = (source / hit["path"]).read_text()
    assert "\x1b" in hit["snippet"] and hit["snippet"][:20] in text
  shown = call(*argv, "bridge")[1].splitlines()
  assert shown[2].startswith("    \treturn '\\x1b[2J")


def test_a_label_is_text(call, trained, tmp_path):
  labels = tmp_path / "labels.jsonl"
  rows = [{"text": f"{EVIL} {n}", "label": f"{EVIL}{n % 2}"} for n in range(4)]
  labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
  argv = ["query", f"--model={trained}", f"--labels={labels}"]
  code, said, _ = call(*argv, "river")
  assert code == 0 and said.count(SEEN) == 2
  code, said, _ = call(*argv, f"--input={labels}")
  assert code == 0 and said.count(SEEN) == 8 and said.count("\n") == 4
  code, said, _ = call(*argv, f"--input={labels}", "--json")
  assert [row["text"] for row in json.loads(said)] == [r["text"] for r in rows]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, write_pairs):
  """A folder of pairs whose texts and folder are evil."""
  rows = [
    {"query": f"{EVIL} {n}", "positive": f"stone {n} {EVIL}", "task": "qa"}
    for n in range(120)
  ]
  return write_pairs(tmp_path_factory.mktemp(f"da\x1b[2J[{1}]"), rows)


def test_what_training_reads_is_text(call, pairs, tmp_path, monkeypatch):
  argv = ["prepare", f"{TINY},data={pairs}", "--show=0:1"]
  code, said, _ = call(*argv)
  assert code == 0 and r"\x1b[2J\x1b]0;t\x07" in said
  monkeypatch.setattr(cache, "_shared", {})  # as in another process
  code, said, _ = call(*argv, "--json")
  (text, *_) = json.loads(said)["texts"]
  assert "\x1b[2J\x1b]0;t" in " ".join(text)
  flags = [f"--data={pairs}", f"--output={tmp_path / 'mined'}"]
  argv = ["mine", "--config=configs/mine.py", *flags]
  assert call(*argv, "--config.search=stemmed")[0] == 0
  code, said, _ = call(*argv, "--explain=0")
  assert code == 0 and r"\x1b[2J" in said


def test_a_message_is_one_line_of_text(call, tmp_path):
  folder = tmp_path / f"a\n{EVIL.replace('/', '')}"
  for verb in ("query", "doctor", "evaluate"):
    argv = {
      "query": [f"--model={folder}", f"--index={folder}", "x"],
      "doctor": [folder],
      "evaluate": [f"--model={folder}", f"--output={tmp_path}/e"],
    }[verb]
    code, _, said = call(verb, *argv)
    assert code == 2 and said.startswith("error: ") and said.count("\n") == 1
    assert r"a\n\x1b[2J\x1b]0;t\x07\r\x08\x9b1m\u202e" in said
  rows = tmp_path / "a.jsonl"
  rows.write_text(json.dumps({"text": 1, EVIL: "\x1b"}) + "\n")
  argv = ["embed", "--model=none", f"--input={rows}", f"--output={tmp_path}/o"]
  code, _, said = call(*argv)
  assert code == 2 and said.count("\n") == 1
  assert call(EVIL)[0] == 2
  assert call("query", f"--{EVIL}=1")[0] == 2


def test_the_doctor_shows_names(call, tmp_path, trained):
  link = tmp_path / EVIL.replace("/", "")
  link.symlink_to(trained)
  _, said, _ = call("doctor", link)
  assert r"\x1b[2J" in "".join(said.split())


ALONE = """
import sys, logging, warnings
from embeddinggemma.cli import flags, main, verbs
def verb(argv):
  main._quiet()
  warnings.warn("of \\x1b[2J file")
  logging.warning("of %s", "\\x1b[2J \\u202e")
  print("\\xe9 \\ud800")
  raise ZeroDivisionError("in \\x1b[2J file")
main.call = verb
main.main()
"""


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_warnings_logs_and_tracebacks_are_text(encoding):
  done = subprocess.run(
    [sys.executable, "-c", ALONE],
    capture_output=True,
    env={**os.environ, "PYTHONIOENCODING": encoding},
  )
  assert done.returncode == 1
  assert b"\x1b" not in done.stderr and b"\xe2\x80\xae" not in done.stderr
  assert done.stderr.count(rb"\x1b[2J") >= 3
  assert b"ZeroDivisionError: in" in done.stderr
  assert rb"\ud800" in done.stdout


@pytest.mark.parametrize(
  ("shell", "code", "said"),
  [
    ("{} > /dev/full", 2, "error: No space left on device; make room"),
    ("{} >&-", 0, ""),
    ("{} | true; exit ${{PIPESTATUS[0]}}", 0, ""),
  ],
)
def test_an_output_that_takes_nothing(shell, code, said):
  argv = f"{TINY} --print --workdir=x --sweep='product(seed=[0])'"
  line = shell.format(f"{sys.executable} -m embeddinggemma sweep {argv}")
  done = subprocess.run(
    ["bash", "-c", line], stderr=subprocess.PIPE, text=True, cwd=ROOT
  )
  assert done.returncode == code
  assert done.stderr.startswith(said) and done.stderr.count("\n") == bool(said)


def test_a_narrow_evaluation_keeps_every_column(
  trained, tmp_path, capfd, monkeypatch
):
  folder = tmp_path / "data" / "code"
  folder.mkdir(parents=True)
  rows = [{"query": f"find {n}", "positive": f"row {n}"} for n in range(20)]
  (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
  flags = [f"--model={trained}", f"--data={folder.parent}"]
  for width in ("40", "60"):
    monkeypatch.setenv("COLUMNS", width)
    output = tmp_path / f"{width}.json"
    assert main.call(["evaluate", *flags, f"--output={output}"]) == 0
    said = capfd.readouterr().err
    quality = json.loads(output.read_text())["quality"]
    header, _ = report._quality_rows(quality)
    for system, by_task in quality.items():
      assert system in said
      for scores in by_task["code"].values():
        assert f"{scores['ndcg@10']:.3f}" in said
    assert header[1] in said and "\u2026" not in said
    notes = said.index("\nnote: ")  # lines that the terminal wraps
    table = said[said.index("Quality") : notes].splitlines()
    assert max(map(len, table)) <= int(width)


def places(tmp_path: pathlib.Path) -> dict[str, str]:
  """Paths at which nothing can be made -> what is said of each."""
  (tmp_path / "file").write_text("")
  return {
    "/proc/none": "No such file or directory",
    "/proc/1/none/more": "No such file or directory",
    "/dev/null/more": "Not a directory",
    f"{tmp_path}/file/more": "Not a directory",
    f"{tmp_path}/{'n' * 300}": "File name too long",
    f"{tmp_path}/{'n' * 300}/more": "File name too long",
  }


@pytest.mark.parametrize(
  ("verb", "flag"),
  [
    ("run", "workdir"),
    ("train", "workdir"),
    ("evaluate", "output"),
    ("prepare", "workdir"),
    ("embed", "output"),
    ("index", "output"),
    ("teach", "output"),
    ("mine", "output"),
    ("mixture", "workdir"),
    ("soup", "workdir"),
    ("import", "workdir"),
    ("export", "output"),
    ("sweep", "workdir"),
  ],
)
def test_a_place_where_nothing_can_be(call, tmp_path, data_folder, verb, flag):
  """Said in one line, before the model, which is none, is looked for."""
  argv = {
    "run": [f"--config=configs/recipe.py:tiny,data={data_folder}"],
    "train": [f"{TINY},data={data_folder}"],
    "evaluate": ["--model=none"],
    "prepare": [f"{TINY},data={data_folder}"],
    "embed": ["--model=none", "--input=none.txt"],
    "index": ["--model=none", "--input=none"],
    "teach": ["--config=configs/teach.py", f"--data={data_folder}"],
    "mine": ["--config=configs/mine.py", f"--data={data_folder}"],
    "mixture": [f"--config=configs/mixture.py:tiny,data={data_folder}"],
    "soup": ["--inputs=none,none"],
    "import": ["--from=none"],
    "export": ["--model=none", "--format=gguf"],
    "sweep": [TINY, "--sweep=product(seed=[0])"],
  }[verb]
  if verb == "mine":
    argv.append("--config.search=stemmed")
  for place, what in places(tmp_path).items():
    code, out, said = call(verb, *argv, f"--{flag}={place}")
    last = said.splitlines()[-1]
    assert code == 2 and out == "", said
    assert last.startswith("error: ") and what in last, said
    assert last.endswith("; choose another path"), said


def test_a_file_of_a_name_too_long_once_half_written(call, tmp_path):
  """The name fits, but not with the ending of what is not complete."""
  output = tmp_path / ("n" * 250)
  code, _, said = call("evaluate", "--model=none", f"--output={output}")
  assert code == 2 and said.startswith("error: File name too long")


def test_a_device_is_written_not_replaced(trained, tmp_path):
  """It was renamed over: /dev/null, as root, became a file."""
  os.mkfifo(tmp_path / "pipe")
  (tmp_path / "a.txt").write_text("some text\n")
  reader = subprocess.Popen(
    ["cat", tmp_path / "pipe"], stdout=(tmp_path / "got.npy").open("wb")
  )
  flags = [f"--model={trained}", f"--input={tmp_path / 'a.txt'}"]
  assert main.call(["embed", *flags, f"--output={tmp_path / 'pipe'}"]) == 0
  assert reader.wait(timeout=60) == 0
  assert (tmp_path / "pipe").is_fifo()
  assert np.load(tmp_path / "got.npy").shape[0] == 1
  assert main.call(["embed", *flags, "--output=/dev/null"]) == 0
  assert pathlib.Path("/dev/null").is_char_device()
  assert not pathlib.Path("/dev/null.partial").exists()


@pytest.mark.parametrize(
  ("override", "message"),
  [
    (
      "loss.matryoshka.dims=8,16",
      "config key 'loss.matryoshka' is a list of values and has no 'dims';"
      " write --config.loss.matryoshka=A,B",
    ),
    ("loss.matryoshka[0]=8", "'loss.matryoshka' is a list of values, which is"),
    ("loss.matryoshka.0=8", "'loss.matryoshka' is a list of values and has no"),
    ("loss.matryoshka=8 16", "write --config.loss.matryoshka=8,16"),
    (
      "model.pattern=local global",
      "config key 'model.pattern' is a list of values, not 'local global';"
      " write --config.model.pattern=local,global",
    ),
    ("frozen=layer_{0,1}", "write --config.frozen=\"'layer_{0,1}',\""),
    ("model.pattern.x=1", "'model.pattern' is a list of values and has no 'x'"),
    ("model.pattern[9]=local", "'model.pattern' is a list of values, which"),
    ("seed.x=1", "'seed' is a number and has no 'x'; write --config.seed=0"),
    ("seed[0]=1", "'seed' is a number, which is set as a whole; write"),
    ("data.path.x=1", "'data.path' is a text and has no 'x'; write --config"),
    ("data.weights.qa.x=1", "'data.weights.qa' is a number and has no 'x'"),
    (
      "data.weights=3",
      "'data.weights' is a group of keys, not '3'; write"
      " --config.data.weights.bitext=VALUE, a key at a time",
    ),
    ("loss=3", "config key 'loss' is a group of keys, not '3'; write --config"),
    (
      "loss.false_negative_margin.x=1",
      "'loss.false_negative_margin' is a value that is not set and has no 'x'",
    ),
    (
      "loss.keep_positive=maybe",
      "'loss.keep_positive' is true or false, not 'maybe'; write --config.loss"
      ".keep_positive=true or --config.loss.keep_positive=false",
    ),
    ("loss..temperature=1", "'loss..temperature' has an empty part; write"),
    ("=1", "config key '' has an empty part; write --config.KEY=VALUE"),
    ("loss[temperature]=1", "unknown config key 'loss[temperature]'"),
  ],
)
def test_an_override_that_does_not_fit(call, override, message):
  argv = ["train", TINY, "--workdir=w", "--config.steps=3"]
  code, _, said = call(*argv, f"--config.{override}")
  assert code == 2 and said.count("\n") == 1
  assert message in said


@pytest.mark.parametrize(
  ("override", "value"),
  [
    ("loss.matryoshka=8,16", (8, 16)),
    ("loss.matryoshka=(8,16)", (8, 16)),
    ("loss.matryoshka=[8,16]", (8, 16)),
    ("loss.matryoshka=8,16,", (8, 16)),
    ("loss.matryoshka=8", (8,)),
    ("model.pattern=local,global", ("local", "global")),
    ("model.pattern=local,", ("local",)),
    ("model.pattern=local", ("local",)),
    ("model.pattern='local','global'", ("local", "global")),
    ("model.pattern=('local','global')", ("local", "global")),
    ("frozen=encoder/layer_0,embedder", ("encoder/layer_0", "embedder")),
    ("frozen='layer_{0,1}',", ("layer_{0,1}",)),
    ("data.path=a,b", "a,b"),
  ],
)
def test_the_forms_of_a_list(override, value):
  argv = [TINY, "--workdir=w", f"--config.{override}"]
  values, _ = flags.parse("train", verbs.VERBS["train"], argv)
  found = values.config
  for key in override.partition("=")[0].split("."):
    found = found[key]
  assert found == value
