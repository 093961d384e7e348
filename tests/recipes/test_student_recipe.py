"""A student of own texts or pairs, as a user runs it: made, killed, refused."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from embeddinggemma import checkpoint
from embeddinggemma.cli import main
from embeddinggemma.data import prompts, sources
from embeddinggemma.data.single_texts import Texts
from embeddinggemma.evaluation.kinds.task import EvalTask
from embeddinggemma.loading import load
from embeddinggemma.mining import teacher
from embeddinggemma.model import embedder
from embeddinggemma.recipes.own import scores
from embeddinggemma.recipes.student import (
  compare,
  draw,
  forecast,
  texts,
  timing,
)
from embeddinggemma.report import students
from embeddinggemma.retrieval.measure import BY_CHARACTERS
from embeddinggemma.saved import model_of
from embeddinggemma.students import documents
from embeddinggemma.types import BadInput

NAMES = "river stone copper lantern garden winter harbour signal".split()
TEXTS = (
  "inputs",
  "shrink",
  "forecast",
  "draw",
  "teach",
  "head",
  "distil",
  "qat",
  "evaluate",
  "export",
  "index",
)


@pytest.fixture(scope="module")
def base(trained, tmp_path_factory) -> pathlib.Path:
  """The workdir of a random embedder with two layers."""
  place = checkpoint.find(trained)
  files = dict(checkpoint.read_files(place))
  config = dataclasses.replace(
    model_of(place, files), num_layers=2, max_length=32
  )
  files["model.json"] = json.dumps(dataclasses.asdict(config)).encode()
  params = embedder.init(config)(jax.random.key(0))
  workdir = tmp_path_factory.mktemp("base")
  kept = ("model.json", "tokenizer.model", "prompts.json")
  checkpoint.write(workdir, params, {name: files[name] for name in kept})
  return workdir


@pytest.fixture(scope="module")
def notes(tmp_path_factory) -> pathlib.Path:
  """A folder of files of text, one of which is none."""
  folder = tmp_path_factory.mktemp("notes")
  for a, name in enumerate(NAMES):
    parts = [
      f"# The {name} and {b}\n\nThe {name} stands by the {b} number {a}."
      for b in NAMES * 2
    ]
    (folder / f"{name}.md").write_text("\n\n".join(parts))
  (folder / "picture.png").write_bytes(b"\0\1\2")
  return folder


@pytest.fixture(scope="module")
def general(tmp_path_factory) -> pathlib.Path:
  """A suite of other text."""
  folder = tmp_path_factory.mktemp("general") / "sts"
  folder.mkdir()
  rows = [
    {"sentence1": f"a {a}", "sentence2": f"a {b}", "score": float(a == b)}
    for a in NAMES
    for b in NAMES
  ]
  lines = "\n".join(map(json.dumps, rows))
  (folder / "test.jsonl").write_text(lines + "\n")
  return folder.parent


@pytest.fixture(scope="module")
def command(base, general):
  def make(data: object, workdir: pathlib.Path, *more: str) -> list[str]:
    return [
      "run",
      f"--config=configs/recipe.py:student,base={base},data={data}",
      f"--workdir={workdir}",
      "--config.layers=1",
      "--config.vocabulary=700",
      "--config.max_length=32",
      *(
        f"--config.{stage}.batch_size=16"
        for stage in ("distil", "finetune", "qat")
      ),
      "--config.distil.steps=8",
      "--config.distil.every_checkpoint=3",
      "--config.qat.steps=3",
      f"--config.general.suite={general}",
      "--config.measure.timed=0",
      "--config.export.formats=()",
      *more,
    ]

  return make


@pytest.fixture(scope="module")
def finished(command, notes, tmp_path_factory) -> tuple[pathlib.Path, dict]:
  """The workdir of an undisturbed run on texts, and its summary."""
  workdir = tmp_path_factory.mktemp("student")
  assert main.call(command(notes, workdir)) == 0
  return workdir, summary(workdir)


def summary(workdir: pathlib.Path) -> dict:
  return json.loads((workdir / "summary.json").read_text())


def cached(found: dict) -> set[str]:
  return {stage["name"] for stage in found["stages"] if stage["cached"]}


def digest(place: pathlib.Path) -> str:
  found = checkpoint.read_params(checkpoint.find(place))
  return checkpoint.content_hash(found)


def said(capsys) -> str:
  return capsys.readouterr().err.splitlines()[-1]


def test_the_summary_says_what_came_of_it(finished, base):
  workdir, found = finished
  assert [stage["name"] for stage in found["stages"]] == list(TEXTS)
  assert digest(workdir) == found["final"]["hash"]  # by the summary
  assert digest(workdir / "distil") == found["float"]["hash"]
  assert found["base"]["hash"] == digest(base)
  rows = {row["name"]: row for row in found["students"]["rows"]}
  assert list(rows) == ["base", "cut", "head", "student", "int4"]
  sizes = [rows[name]["bytes"] for name in ("base", "student", "int4")]
  assert sizes == sorted(sizes, reverse=True)
  # A model is as its own neighbours are.
  for name in ("cosine@32", "overlap"):
    assert rows["base"]["figures"][name] == pytest.approx(1, abs=1e-5)
    assert rows["cut"]["figures"][name] < 1
  assert load(workdir).precision == "q4_0"
  assert load(workdir / "distil").config.num_layers == 1
  (exported,) = found["exports"]
  assert pathlib.Path(exported["place"]).is_dir()
  assert exported["format"] == "gguf" and exported["dtype"] == "q4_0"
  page = (workdir / "report.html").read_text()
  assert "Base and students" in page and "student, int4" in page


def test_head_and_distillation_bring_the_base_nearer(finished):
  rows = {row["name"]: row for row in finished[1]["students"]["rows"]}
  near = lambda name: rows[name]["figures"]["cosine@32"]
  assert near("cut") < near("head") and near("cut") < near("student")


def test_the_result_answers(finished, capsys):
  workdir, found = finished
  assert found["command"].startswith(f"embeddinggemma query --model={workdir}")
  argv = ["query", f"--model={workdir}", f"--index={workdir / 'index'}"]
  assert main.call([*argv, "--json", "the copper and signal"]) == 0
  assert json.loads(capsys.readouterr().out)


def test_a_second_run_does_nothing(command, notes, finished):
  workdir, found = finished
  assert main.call(command(notes, workdir)) == 0
  again = summary(workdir)
  assert cached(again) == set(TEXTS)
  for name in ("final", "float", "students", "exports"):
    assert again[name] == found[name]


def unfinished(folder: pathlib.Path) -> None:
  """Make a task's folder one that was stopped before its end."""
  stage = json.loads((folder / "stage.json").read_text())
  (folder / "stage.json").unlink()
  started = {"key": stage["key"], "seconds": 1.0}
  (folder / "key.json").write_text(json.dumps(started))


def test_what_was_stopped_goes_on_to_the_same_weights(
  command, notes, finished, tmp_path
):
  """In the forecast, in distillation, before four bits and scores are complete."""
  workdir = tmp_path / "w"
  shutil.copytree(finished[0], workdir)
  for name in ("forecast", "distil", "qat", "evaluate"):
    unfinished(workdir / name)
  shutil.rmtree(workdir / "distil" / "checkpoints" / "8")
  shutil.rmtree(workdir / "qat" / "checkpoints" / "3")
  (workdir / "evaluate" / "int4.json").unlink()
  assert main.call(command(notes, workdir)) == 0
  again = summary(workdir)
  assert not cached(again) & {"forecast", "distil", "qat", "evaluate"}
  assert {"teach", "export", "index"} <= cached(again)
  assert again["final"]["hash"] == finished[1]["final"]["hash"]
  assert again["students"] == finished[1]["students"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["distil", "qat"])
def test_killed_it_ends_with_the_same_weights(
  command, notes, finished, tmp_path, stage
):
  metrics = tmp_path / stage / "metrics.jsonl"
  process = subprocess.Popen(
    [sys.executable, "-m", "embeddinggemma", *command(notes, tmp_path)],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    env=os.environ | {"GLIBC_TUNABLES": ""},
  )
  deadline = time.monotonic() + 480
  while not (metrics.is_file() and metrics.read_text().count("\n") >= 2):
    assert process.poll() is None, "the run ended before it could be killed"
    assert time.monotonic() < deadline
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not (tmp_path / "summary.json").exists()
  assert main.call(command(notes, tmp_path)) == 0
  found = summary(tmp_path)
  assert {"inputs", "shrink", "forecast", "draw", "teach"} <= cached(found)
  assert found["final"]["hash"] == finished[1]["final"]["hash"]


@pytest.mark.slow
def test_pairs_are_finetuned_on_and_models_timed(
  command, write_pairs, small_pairs, tmp_path
):
  tasks = (
    "code code_name comment heading span qa retrieval documentation".split()
  )
  rows = [
    {**row, "task": tasks[number % len(tasks)]}
    for number, row in enumerate(small_pairs(240))
  ]
  data = write_pairs(tmp_path / "data", rows)
  more = (
    "--config.finetune.steps=8",
    "--config.measure.timed=8",
    "--config.export.formats=('sentence-transformers',)",
  )
  assert main.call(command(data, tmp_path / "w", *more)) == 0
  found = summary(tmp_path / "w")
  names = [stage["name"] for stage in found["stages"]]
  assert {"finetune", "choose", "time"} <= set(names)
  assert found["students"]["own"] == "own test"
  rows = {row["name"]: row for row in found["students"]["rows"]}
  assert set(rows) >= {"base", "cut", "head", "student", "int4"}
  for row in rows.values():
    assert {"own test", "general"} <= set(row["figures"])
  for name in ("base", "student", "int4"):
    timed = rows[name]["timing"]
    assert all(value > 0 for value in timed.values())
  assert digest(tmp_path / "w") == found["final"]["hash"]
  header, shown = students.quality(found["students"])
  assert "own test, of the base's" in header
  assert len({len(row) for row in shown} | {len(header)}) == 1
  assert len(found["exports"]) == 2
  # What a step was to take, it takes: a batch of pairs is whole in the forecast.
  stage = json.loads((tmp_path / "w" / "forecast" / "stage.json").read_text())
  steps = stage["metrics"]["paces"]["steps"]
  assert steps["finetune"] / steps["distil"] == pytest.approx(
    positions(tmp_path / "w" / "finetune")
    / positions(tmp_path / "w" / "distil"),
    rel=0.2,
  )


def positions(stage: pathlib.Path) -> float:
  """Token positions of a step, padding included: their mean."""
  lines = (stage / "metrics.jsonl").read_text().splitlines()
  rows = [row for row in map(json.loads, lines) if "padding" in row]
  return float(np.mean([row["tokens"] / (1 - row["padding"]) for row in rows]))


def test_what_is_asked_of_it_is_checked_first(command, notes, tmp_path, capsys):
  def refused(expected: str, data: object, *more: str) -> None:
    assert main.call(command(data, tmp_path / "w", *more)) == 2
    assert expected in said(capsys)
    assert not (tmp_path / "w" / "shrink").exists()

  absent = tmp_path / "absent"
  refused("does not exist; give data=", absent)
  refused("the model has the layers 0 to 1", notes, "--config.layers=9")
  refused("--config.layers=1,0: name each", notes, "--config.layers=1,0")
  refused("minutes=0.0", notes, "--config.minutes=0.0")
  whole = ("--config.layers=2", "--config.vocabulary=0")
  refused("all layers and pieces is the base itself", notes, *whole)
  server = "--config.teach.teacher=http://127.0.0.1:9/v1/embeddings"
  refused("is not known before it answers", notes, server)
  stored = tmp_path / "v.npy"
  np.save(stored, np.ones((1, 32), np.float32))
  stored.with_suffix(".txt").write_text("a\n")
  npy = f"--config.teach.teacher={stored}"
  refused("has vectors of texts that are known", notes, npy)
  empty = tmp_path / "empty"
  empty.mkdir()
  refused("holds no text and no pairs", empty)
  (empty / "one.md").write_text("# One\n\nA short text.")
  refused("passages are too few; a student needs 16", empty)
  (empty / "t.csv").write_text("foo,bar\n1,2\n")
  refused("foo", empty / "t.csv")


def test_a_vocabulary_and_minutes_that_are_too_few_are_named(
  command, notes, finished, tmp_path, capsys
):
  workdir = tmp_path / "w"
  shutil.copytree(finished[0], workdir)
  argv = command(notes, workdir, "--config.vocabulary=20")
  assert main.call(argv) == 2
  assert "--config.vocabulary=20 is too small" in said(capsys)
  argv = command(notes, workdir, "--config.minutes=0.0001")
  assert main.call(argv) == 2
  assert "minutes=0.0001 leave time for" in said(capsys)


def test_the_base_is_an_embedder_that_is_there(
  command, notes, base, tmp_path, capsys
):
  argv = command(notes, tmp_path / "w")
  for path, expected in ((tmp_path, "no checkpoint"), ("/none", "not exist")):
    other = [word.replace(str(base), str(path)) for word in argv]
    assert main.call(other) == 2
    assert expected in said(capsys)


def test_a_workdir_of_another_run_is_left_alone(
  command, notes, trained, tmp_path, capsys
):
  assert main.call(command(notes, trained)) == 2
  assert "is the workdir of another run (checkpoints)" in said(capsys)
  (tmp_path / "pretrain").mkdir()
  (tmp_path / "pretrain" / "stage.json").write_text("{}")
  assert main.call(command(notes, tmp_path)) == 2
  assert "is the workdir of another run (pretrain)" in said(capsys)


def test_small_tasks_are_drawn_whole_and_large_ones_alike():
  sizes = {"a": 100, "b": 3, "c": 50}
  assert draw.quotas(sizes, 23) == {"b": 3, "a": 10, "c": 10}
  assert draw.quotas(sizes, 1000) == sizes
  rows = draw.rows(sizes, 23, seed=1, ordered=False)
  assert all(np.all(np.diff(places) > 0) for places in rows.values())
  again = draw.rows(sizes, 23, seed=1, ordered=False)
  other = draw.rows(sizes, 23, seed=2, ordered=False)
  assert all(np.array_equal(rows[task], again[task]) for task in sizes)
  assert not np.array_equal(rows["a"], other["a"])
  assert draw.rows(sizes, 23, seed=1, ordered=True)["a"].tolist() == [
    *range(10)
  ]


def test_texts_are_cut_to_what_is_read(finished, base, write_pairs, tmp_path):
  tokenizer = load(base).tokenizer
  long = "The river stands by the stone. " * 40
  rows = [{"query": f"the river {n}", "positive": f"{n} {long}"} for n in "ab"]
  rows[0]["negative"] = [long, "a stone", "a river"]
  pairs, _ = sources.read_pairs(write_pairs(tmp_path / "d", rows))
  found = draw.write(iter(pairs), tokenizer, 32, 2, tmp_path / "out")
  assert (found.pairs, found.texts, found.cut) == (2, 6, 3)
  alone = Texts(tmp_path / "out" / draw.SINGLE / "corpus/train/texts.jsonl")
  assert {text.prompt for text in alone} == {"retrieval", "document"}
  kept, _ = sources.read_pairs(tmp_path / "out" / "corpus" / "train")
  assert [len(pair.negatives) for pair in kept] == [2, 0]
  for before, after in zip(pairs, kept, strict=True):
    assert before.positive.startswith(after.positive)
    (length,) = tokenizer.counts([f"title: none | text: {after.positive}"])
    assert 20 < length <= 32


@pytest.mark.parametrize(
  ("text", "first"),
  [
    ("## About rivers. They flow on and on.", "About rivers. They flow on and"),
    (
      "A river is a stream of water. It flows.",
      "A river is a stream of water.",
    ),
    ("short", "short"),
    ("---", "---"),
    ("word " * 100, ("word " * 32).strip()),
    ("x" * 500, "x" * 160),
    (
      "川は水の流れである。それは海に流れる。山から来る。",
      "川は水の流れである。それは海に流れる。",
    ),
  ],
)
def test_the_first_sentence_is_a_query(text, first):
  assert texts.first_sentence(text).startswith(first)
  assert len(texts.first_sentence(text)) <= 160


def test_what_data_are_is_told_by_their_content(tmp_path, write_pairs):
  pairs = write_pairs(tmp_path / "p", [{"query": "a", "positive": "b"}])
  assert texts.kind_of(pairs, "") == texts.PAIRS
  rows = tmp_path / "texts.jsonl"
  rows.write_text('{"text": "a river"}\n')
  assert texts.kind_of(rows, "") == texts.TEXTS
  assert texts.kind_of(tmp_path, "query:a") == texts.PAIRS
  table = tmp_path / "table.csv"
  table.write_text("foo,bar\n1,2\n")
  assert texts.kind_of(table, "") == texts.PAIRS  # whose reading says what
  (tmp_path / "a.md").write_text("A river")
  assert texts.kind_of(tmp_path / "a.md", "") == texts.TEXTS


def test_jsonl_of_texts_in_a_folder_is_read_by_rows(tmp_path):
  folder, out = tmp_path / "own", tmp_path / "out"
  folder.mkdir()
  out.mkdir()
  (folder / "runs").mkdir()
  (folder / "runs" / "documents.jsonl").write_text('{"text": "of a run"}\n')
  (folder / "a.md").write_text("A garden in winter.")
  (folder / "b.jsonl").write_text(
    '{"text": "a river", "title": "Water"}\n{"text": "a stone"}\n'
  )
  lines: list[str] = []
  made = texts.write(
    texts.TEXTS,
    str(folder),
    "",
    False,
    folder / "runs",  # of this run, whose files are no data
    BY_CHARACTERS,
    0,
    out,
    lines.append,
  )
  assert made.pairs == 3
  assert f"{folder}: 3 passages of 2 files" in lines
  kept, _ = sources.read_pairs(out / "corpus" / "train")
  assert {(pair.title, pair.positive) for pair in kept} == {
    ("Water", "a river"),
    ("", "a stone"),
    ("a", "A garden in winter."),
  }


def test_tables_are_read_by_rows_or_told(tmp_path):
  """Never as plain text, in which a line of a table would be a passage."""
  read = lambda path, skipped=None: documents.read(
    path, BY_CHARACTERS, (), skipped
  )
  (tmp_path / "a.json").write_text('[{"text": "a river", "title": "Water"}]')
  (chunk,) = read(tmp_path / "a.json").chunks
  assert (chunk.text, chunk.title) == ("a river", "Water")
  (tmp_path / "b.csv").write_text("frage;antwort\nwo;da\n")
  (tmp_path / "c.md").write_text("A garden in winter.")
  found = read(tmp_path)
  assert {chunk.text for chunk in found.chunks} == {
    "a river",
    "A garden in winter.",
  }
  (reason,) = found.reasons
  assert "neither those of pairs nor of texts" in reason
  alone = tmp_path / "alone"
  alone.mkdir()
  shutil.copy(tmp_path / "b.csv", alone)
  with pytest.raises(BadInput, match="frage"):
    read(alone)
  rows = alone / "texts.jsonl"
  rows.write_text('{"text": 1}\n{"text": "a stone", "prompt": "qa"}\n')
  with pytest.raises(BadInput, match=r"texts\.jsonl:1: 'text' is not text"):
    read(alone)
  skipped: list[str] = []
  found = read(alone, skipped)
  assert [chunk.text for chunk in found.chunks] == ["a stone"]
  assert len(skipped) == 1
  assert "the field 'prompt' of its rows" in found.reasons


def test_texts_beside_pairs_are_named(tmp_path, write_pairs, small_pairs):
  data, out = write_pairs(tmp_path / "d", small_pairs(40)), tmp_path / "out"
  (data / "notes.md").write_text("A river.")
  out.mkdir()
  lines: list[str] = []
  texts.write(
    texts.PAIRS,
    str(data),
    "",
    False,
    tmp_path / "w",
    BY_CHARACTERS,
    0,
    out,
    lines.append,
  )
  assert any("1 files of text are not read: notes.md" in x for x in lines)


def test_first_passages_are_fair_to_all_files(tmp_path):
  for name, count in (("large", 40), ("small", 2)):
    parts = [
      f"# {name} {n}\n\nText {n} of the {name} file." for n in range(count)
    ]
    (tmp_path / f"{name}.md").write_text("\n\n".join(parts))
  found = documents.read(tmp_path, BY_CHARACTERS)
  rows = texts.passages(tmp_path, found, 0, lambda line: None)
  first = [row["positive"] for row in rows[:4]]
  assert sum("small" in text for text in first) == 2
  assert len(rows) == 42


def test_fewer_queries_keep_their_answers():
  task = EvalTask(
    "own",
    "retrieval",
    "qa",
    tuple(f"q{n}" for n in range(10)),
    tuple(f"d{n}" for n in range(10)),
    ("",) * 10,
    tuple({9 - n: 1} for n in range(10)),
    (-1,) * 10,
  )
  suites = {scores.TEST: [task], scores.GENERAL: [task]}
  few = compare.fewer(suites, 3)
  (own,) = few[scores.TEST]
  assert own.queries == ("q0", "q1", "q2") and len(own.documents) == 6
  for n, answers in enumerate(own.gold):
    (place,) = answers
    assert own.documents[place] == f"d{9 - n}"
  assert few[scores.GENERAL] == [task]
  assert compare.fewer(suites, 10)[scores.TEST] == [task]


def test_likeness_by_hand():
  random = np.random.default_rng(0)
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  base = unit(random.normal(size=(30, 8)))
  sizes = [(4, 11), (5, 10)]
  alike = compare.likeness(base, base, sizes)
  assert alike == pytest.approx({"cosine@8": 1, "overlap": 1})
  other = unit(random.normal(size=(30, 8)))
  found = compare.likeness(other, base, sizes)
  assert found["cosine@8"] == pytest.approx(np.mean(np.sum(base * other, 1)))
  shared = []
  for asked, answers in (
    (range(4), range(4, 15)),
    (range(15, 20), range(20, 30)),
  ):
    for q in asked:
      near = [
        set(np.argsort(-(x[list(answers)] @ x[q]))[:5]) for x in (base, other)
      ]
      shared.append(len(near[0] & near[1]) / 5)
  assert found["overlap"] == pytest.approx(np.mean(shared))


STEPS = {"distil": 1.0, "qat": 1.5}
PACES = forecast.Paces(0.001, 0.001, 0.0001, STEPS, 1.0, 1.0, 1, 2)
COUNTED = forecast.Counted(100_000, 1.5, 100.0, 1e5, 10.0, 1e6)


def budget(minutes: float, **given: int | None) -> forecast.Budget:
  return forecast.budget(
    COUNTED, PACES, minutes, 1e9, 32, 1.0, {"qat": 0.1}, given, 3
  )


def test_the_budget_is_spent_and_not_exceeded():
  found = budget(90)
  assert 0.95 * 90 * 60 < found.whole <= 90 * 60 * 1.001
  assert found.steps["distil"] == np.ceil(1.5 * found.pairs / 32)
  assert found.steps["qat"] == round(0.1 * found.steps["distil"])
  # Where scoring takes it all, half is for teaching and training.
  short = budget(2)
  assert short.pairs > 0 and short.whole > 120
  fixed = budget(90, distil=100)
  assert fixed.steps == {"distil": 100, "qat": 10}
  assert fixed.pairs > found.pairs
  assert 0.95 * 90 * 60 < fixed.whole <= 90 * 60 * 1.001
  whole = forecast.budget(COUNTED, PACES, 90, 10, 32, 1.0, {"qat": 0.1}, {}, 3)
  assert whole.pairs == 10 and whole.steps["distil"] == 1


def test_too_few_minutes_are_refused():
  found = budget(90)._replace(pairs=10)
  with pytest.raises(BadInput, match="leave time for 10 pairs, and a student"):
    forecast.require_enough(found, 64, 0.1, 1000)
  forecast.require_enough(found, 64, 0.1, 10)  # asked for no more
  with pytest.raises(BadInput, match=r"leave no pair .* raise --config.choose"):
    forecast.require_enough(found._replace(pairs=0), 64, 0.1, 0)


def test_a_service_is_not_asked_to_be_timed(base):
  def start(items, own):
    raise AssertionError("it is paid for")

  model = teacher.TeacherModel({"teacher": "x"}, 4, start, pace=0.5)
  tokenizer = load(base).tokenizer
  assert forecast.teaching_pace(model, [], tokenizer, base) == 0.5


def test_what_a_call_takes_whatever_its_texts_is_left_out(base):
  """As the start of another program for a file of llama.cpp."""
  tokenizer = load(base).tokenizer
  items = [teacher.Item("document", f"the river {n}", "") for n in range(64)]

  def encode(few):
    time.sleep(0.2 + 0.002 * len(few))
    return np.ones((len(few), 4))

  model = teacher.TeacherModel({"teacher": "x"}, 4, lambda all_, own: encode)
  found = forecast.teaching_pace(model, items, tokenizer, base)
  texts = [prompts.prompted(*item) for item in items]
  tokens = sum(tokenizer.counts(texts)) / len(texts)
  assert found == pytest.approx(0.002 / tokens, rel=0.3)


@pytest.mark.slow
def test_a_model_is_timed_in_a_process_of_its_own(base):
  found = timing.of_model(base, ["a river"] * 2, ["a stone by the river"] * 8)
  assert found.query_ms > 0 and found.peak_bytes > 1e7
  with pytest.raises(Exception, match="could not be timed"):
    timing.of_model("/none", ["a"], ["b"])
