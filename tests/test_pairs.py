"""Own pairs on a base, as a user runs it: forecast, killed, continued, refused."""

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
from rich.console import Console

from embeddinggemma import checkpoint
from embeddinggemma import config as config_lib
from embeddinggemma.cli import main
from embeddinggemma.config import LoraConfig
from embeddinggemma.data import jsonl
from embeddinggemma.loading import load
from embeddinggemma.recipes.own import base as bases
from embeddinggemma.recipes.own import choice, forecast, machine
from embeddinggemma.recipes.pairs import config, smaller
from embeddinggemma.training import prepare
from embeddinggemma.types import Pair

STAGES = (
  "inputs",
  "forecast",
  "before",
  "finetune",
  "choose",
  "index",
)
STEPS = 12
WORDS = "river lantern garden harbour signal engine".split()


@pytest.fixture(scope="module")
def own(tmp_path_factory, write_pairs, small_pairs) -> pathlib.Path:
  """So many pairs that both held-out sides have tasks."""
  return write_pairs(tmp_path_factory.mktemp("own"), small_pairs(240))


@pytest.fixture(scope="module")
def general(tmp_path_factory) -> pathlib.Path:
  """A suite of other text; that of the standard library is in `killed`."""
  folder = tmp_path_factory.mktemp("general") / "sts"
  rows = [
    {
      "sentence1": f"copper {a}",
      "sentence2": f"{b} stone",
      "score": float(a == b),
    }
    for a in WORDS
    for b in WORDS
  ]
  jsonl.write_jsonl(folder / "test.jsonl", rows)
  return folder.parent


@pytest.fixture(scope="module")
def command(own, trained):
  def make(workdir: pathlib.Path, *more: str) -> list[str]:
    return [
      "run",
      f"--config=configs/recipe.py:pairs,data={own},base={trained}",
      f"--workdir={workdir}",
      f"--config.steps={STEPS}",
      "--config.finetune.every_checkpoint=4",
      "--config.optimizer.lr=1e-3",  # the base is a toy
      "--config.general.queries=20",
      "--config.points=3",
      *more,
    ]

  return make


@pytest.fixture(scope="module")
def short(command, general):
  """The same with a suite that is there at once."""
  return lambda workdir, *more: command(
    workdir, f"--config.general.suite={general}", *more
  )


@pytest.fixture(scope="module")
def finished(short, tmp_path_factory) -> tuple[pathlib.Path, dict]:
  """The workdir of an undisturbed run, and its summary."""
  workdir = tmp_path_factory.mktemp("pairs")
  assert main.call(short(workdir)) == 0
  return workdir, summary(workdir)


def summary(workdir: pathlib.Path) -> dict:
  return json.loads((workdir / "summary.json").read_text())


def digest(place: pathlib.Path) -> str:
  found = checkpoint.read_params(checkpoint.find(place))
  return checkpoint.content_hash(found)


def cached(found: dict) -> set[str]:
  return {stage["name"] for stage in found["stages"] if stage["cached"]}


def last_error(capsys) -> str:
  return capsys.readouterr().err.splitlines()[-1]


def interrupted(folder: pathlib.Path) -> pathlib.Path:
  """A stage's folder as if it had been stopped before its end."""
  stage = json.loads((folder / "stage.json").read_text())
  (folder / "stage.json").unlink()
  started = {"key": stage["key"], "seconds": 1.0}
  (folder / "key.json").write_text(json.dumps(started))
  return folder


def test_the_summary_says_what_came_of_it(finished, trained):
  workdir, found = finished
  assert [stage["name"] for stage in found["stages"]] == list(STAGES)
  assert digest(workdir) == found["final"]["hash"]
  assert found["base"]["hash"] == digest(trained)
  before, after = (found["forgetting"][k] for k in ("before", "after"))
  assert (
    set(before)
    == set(after)
    == {
      "own test",
      "own validation",
      "general",
    }
  )
  assert set(before["general"]["tasks"]) == {"sts"}
  page = (workdir / "report.html").read_text()
  assert "Before and after" in page and "within noise" in page


def test_training_learns(finished):
  rows = (finished[0] / "finetune" / "metrics.jsonl").read_text().splitlines()
  losses = [json.loads(row)["loss"] for row in rows]
  assert len(losses) == STEPS
  assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_the_best_candidate_is_handed_over(finished):
  workdir, found = finished
  told = found["forgetting"]
  points = {point["name"]: point for point in told["points"]}
  assert list(points) == ["base", "step 8", "step 12", list(points)[-1]]
  assert list(points)[-1] in (
    "50% step 8, 50% base",
    "50% step 12, 50% base",
  )
  chosen = points[told["chosen"]]
  names = ("own validation", "general")
  # The scores are those before, and of what is handed over.
  for side, point in (("before", points["base"]), ("after", chosen)):
    for name in names:
      assert point[name] == told[side][name]["mean"]
  base = points["base"]
  assert chosen["own validation"] >= base["own validation"]
  assert chosen["general"] >= base["general"] - 0.01
  again, _ = choice.best(
    [
      choice.Point(p["step"], p["share"], {n: p[n] for n in names})
      for p in points.values()
    ],
    0.01,
  )
  assert again.name == told["chosen"]
  assert not (workdir / "choose" / "point").exists()


def test_an_interrupted_choice_goes_on(short, finished, tmp_path, capsys):
  """What was scored is not scored again."""
  workdir = tmp_path / "w"
  shutil.copytree(finished[0], workdir)
  folder = interrupted(workdir / "choose")
  (folder / "12-1.000000.json").unlink()
  assert main.call(short(workdir)) == 0
  said = capsys.readouterr().err
  assert "step 12: 88/88" in said and "step 8: 88/88" not in said
  assert summary(workdir)["final"]["hash"] == finished[1]["final"]["hash"]


BASE = choice.Point(0, 0.0, {"own validation": 0.8, "general": 0.7})


@pytest.mark.parametrize(
  ("own", "general", "name", "said"),
  [
    ((0.9, 0.85), (0.695, 0.7), "step 20", "the best mean"),
    ((0.9, 0.85), (0.6, 0.7), "50% step 20, 50% base", "loses more than 0.01"),
    ((0.79, 0.8), (0.75, 0.72), "50% step 20, 50% base", "is worse than the"),
    ((0.79, 0.79), (0.75, 0.72), "base", "is worse than the base on own val"),
    ((0.82, 0.81), (0.6, 0.65), "base", "loses more than 0.01 in general"),
    ((0.8, 0.8), (0.695, 0.698), "base", "the best mean"),
    ((0.8, 0.8), (0.7, 0.7), "step 20", "the best mean"),
  ],
)
def test_nothing_worse_than_the_base_is_handed_over(own, general, name, said):
  means = [
    {"own validation": o, "general": g}
    for o, g in zip(own, general, strict=True)
  ]
  points = [choice.Point(20, 1.0, means[0]), choice.Point(20, 0.5, means[1])]
  chosen, reason = choice.best([BASE, *points], 0.01)
  assert chosen.name == name and said in reason


def test_without_validation_the_most_trained_that_forgets_little():
  base = choice.Point(0, 0.0, {"general": 0.7})
  steps = [
    choice.Point(n, 1.0, {"general": g}) for n, g in ((1, 0.9), (2, 0.695))
  ]
  chosen, reason = choice.best([base, *steps], 0.01)
  assert chosen.step == 2 and "too few pairs" in reason
  lost = steps[1]._replace(means={"general": 0.6})
  assert choice.best([base, steps[0], lost], 0.01)[0].step == 1


def test_the_forecast_has_its_parts(finished):
  found = finished[1]["forecast"]
  parts = found["training"] + found["scoring"] + found["indexing"]
  assert found["seconds"] == pytest.approx(parts)
  assert found["training"] >= STEPS * found["step"] > 0
  assert 0 < found["memory"] < found["room"]
  assert found["took"] > 0


def test_the_result_answers(finished, capsys):
  workdir, _ = finished
  argv = ["query", f"--model={workdir}", f"--index={workdir / 'index'}"]
  assert main.call([*argv, "--json", "copper lantern"]) == 0
  hits = json.loads(capsys.readouterr().out)
  assert "copper" in hits[0]["snippet"]


def test_a_second_run_does_nothing(short, finished):
  workdir, found = finished
  assert main.call(short(workdir)) == 0
  again = summary(workdir)
  assert cached(again) == set(STAGES)
  assert again["final"] == found["final"]


@pytest.mark.slow
def test_killed_in_training_it_ends_with_the_same_weights(
  command, finished, tmp_path
):
  metrics = tmp_path / "finetune" / "metrics.jsonl"
  process = subprocess.Popen(
    [sys.executable, "-m", "embeddinggemma", *command(tmp_path)],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    env=os.environ | {"GLIBC_TUNABLES": ""},
  )
  deadline = time.monotonic() + 240
  while not (metrics.is_file() and metrics.read_text().count("\n") >= 6):
    assert process.poll() is None, "the run ended before it could be killed"
    assert time.monotonic() < deadline
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert not (tmp_path / "summary.json").exists()
  assert main.call(command(tmp_path)) == 0
  found = summary(tmp_path)
  assert cached(found) == {"inputs", "general", "forecast", "before"}
  assert digest(tmp_path / "finetune") == digest(finished[0] / "finetune")
  tasks = found["forgetting"]["after"]["general"]["tasks"]
  assert set(tasks) == {"code", "documentation", "sts"}


@pytest.mark.slow
def test_factors_learn_and_the_table_stays(short, finished, trained, tmp_path):
  """A change of what is trained leaves split and scores before as they are."""
  workdir = tmp_path / "w"
  shutil.copytree(finished[0], workdir)
  argv = short(workdir, "--config.trainable=lora", "--config.lora.rank=2")
  argv += ["--config.mine.enabled=True", "--config.mine.search=stemmed"]
  assert main.call(argv) == 0
  found = summary(workdir)
  assert cached(found) == {"inputs", "before"}
  assert "mine" in [stage["name"] for stage in found["stages"]]
  assert digest(workdir) == found["final"]["hash"]
  base, result = (
    checkpoint.read_params(checkpoint.find(place))["model"]
    for place in (trained, workdir / "finetune")
  )
  table = lambda tree: tree["encoder"]["embedding"]
  np.testing.assert_array_equal(table(base), table(result))
  assert abs(base["up"] - result["up"]).max() > 0
  place = checkpoint.find(workdir / "finetune")
  recipe = checkpoint.read_files(place)["recipe.json"]
  told = json.loads(recipe)["config"]
  assert told["negatives"] == 1 and told["optimizer"]["lr"] == 1e-3


def test_what_does_not_fit_is_refused_before_training(
  short, finished, tmp_path, capsys
):
  workdir = tmp_path / "w"
  shutil.copytree(finished[0], workdir)
  argv = short(workdir, "--config.memory=0.01", "--config.seed=1")
  assert main.call(argv) == 2
  said = last_error(capsys)
  assert "training needs about" in said and "there are 0.01 GB" in said
  assert "no smaller way fits" in said
  assert not (workdir / "forecast" / "stage.json").exists()


def test_an_interrupted_forecast_goes_on(short, finished, tmp_path):
  """What was measured is not measured again."""
  workdir = tmp_path / "w"
  shutil.copytree(finished[0], workdir)
  folder = interrupted(workdir / "forecast")
  timed = json.loads((folder / "training.json").read_text()) | {"save": 1234.0}
  (folder / "training.json").write_text(json.dumps(timed))
  assert main.call(short(workdir)) == 0
  assert summary(workdir)["forecast"]["save"] == 1234.0


@pytest.fixture(scope="module")
def large(finished) -> config.PairConfig:
  """The stage that was run, with a larger batch and nothing frozen."""
  files = checkpoint.read_files(checkpoint.find(finished[0] / "finetune"))
  tree = json.loads(files["recipe.json"])["config"]
  stage = config_lib.build(config.PairConfig, tree)
  return dataclasses.replace(stage, batch_size=1024, frozen=())


LORA = LoraConfig(4, 8.0)


def test_smaller_ways_begin_with_the_least_change(large):
  ways = dict(smaller.ways(large, LORA))
  most = f"--config.groups_per_device={1024 // len(jax.devices())}"
  assert list(ways) == [
    "--config.groups_per_device=4",
    most,
    "--config.trainable=no_table",
    f"--config.trainable=no_table {most}",
    "--config.trainable=lora",
    f"--config.trainable=lora {most}",
    f"--config.trainable=lora {most} --config.max_length=32",
  ]
  assert ways["--config.trainable=no_table"].frozen == (bases.TABLE,)
  assert ways["--config.trainable=lora"].lora == LORA
  shortest = list(ways.values())[-1]
  assert shortest.max_length == 32 and shortest.lora == LORA
  frozen = ways["--config.trainable=no_table"]
  assert not any("no_table" in flags for flags, _ in smaller.ways(frozen, LORA))


def test_where_nothing_is_left_to_try_no_way_is_named(large, tmp_path):
  devices = len(jax.devices())
  least = dataclasses.replace(
    large, batch_size=devices, groups_per_device=1, max_length=32, lora=LORA
  )
  assert not list(smaller.ways(least, LORA))
  made = prepare.inputs_in(least, tmp_path)
  said = str(
    smaller.advice(least, LORA, made, forecast.Unfit(9 * 10**9), 10**9)
  )
  assert "no smaller way fits: the least takes 9.00 GB" in said


@pytest.mark.slow
def test_the_first_way_that_fits_is_named(
  large, write_pairs, small_pairs, tmp_path
):
  path = write_pairs(tmp_path / "data", small_pairs(1200))
  data = dataclasses.replace(large.data, path=str(path))
  large = dataclasses.replace(large, data=data)
  (tmp_path / "inputs").mkdir()
  made = prepare.inputs_in(large, tmp_path / "inputs")
  prepare.make(large, made.directory, Console(quiet=True))
  whole = smaller.needed(large, made, machine.room())
  # In four groups a quarter of the activations are there at a time.
  room = whole - (whole - machine.held()) // 3
  said = str(smaller.advice(large, LORA, made, forecast.Unfit(whole), room))
  assert "; --config.groups_per_device=4 takes about" in said


CPU = config.CpuConfig(2048, {"all": 2048, "lora": 1024}, 70.0)
CHOOSE = config.ChooseConfig(64, 8, 3.0, 20, 2000, CPU, 256, 1, 0.1, {})
WORK = 6 * 106e6  # of a token at 300M


@pytest.mark.parametrize(
  ("pairs", "batch", "steps"),
  [(40, 8, 20), (120, 8, 45), (600, 64, 28), (10**6, 64, 2000)],
)
def test_batch_and_steps_follow_from_the_pairs(pairs, batch, steps):
  assert config.batch_size(CHOOSE, pairs, 500, None) == batch
  assert config.steps_of(CHOOSE, pairs, batch, 1e15, None) == steps


@pytest.mark.parametrize(
  ("tokens", "batch", "groups"), [(20, 64, 1), (60, 32, 1), (365, 8, 2)]
)
def test_a_cpu_is_given_what_it_can_do(tokens, batch, groups, monkeypatch):
  monkeypatch.setattr(jax, "devices", lambda: [None])
  assert config.batch_size(CHOOSE, 800, tokens, CPU) == batch
  assert config.groups_of(batch, tokens, 2048) == groups
  assert config.groups_of(batch, tokens, 1024) == 2 * groups
  work = WORK * tokens * batch
  steps = config.steps_of(CHOOSE, 800, batch, work, CPU)
  assert steps * work <= CPU.tflop * 1e12
  assert steps == min(round(2400 / batch), int(CPU.tflop * 1e12 / work))


def test_negatives_that_will_be_mined_count(trained):
  tokenizer = load(trained).tokenizer
  texts = "where is the river", "the river is by the garden"
  pair = Pair(*texts, (), "", "qa", "", "")
  given = pair._replace(negatives=("the river is by the garden",))
  count = lambda pair, mined: config.tokens_of([pair], tokenizer, 64, 1, mined)
  assert count(pair, 0) < count(pair, 1) == count(given, 0) == count(given, 1)


def test_memory_is_there_and_held():
  held = machine.held()
  assert 50e6 < held < machine.room()
  block = np.ones(10**8, np.uint8)
  assert machine.held() > held + 0.9 * block.nbytes


@pytest.fixture(scope="module")
def language_model(trained, tmp_path_factory) -> pathlib.Path:
  """The base's encoder as a decoder: no head."""
  place = checkpoint.find(trained)
  encoder = checkpoint.read_params(place)["model"]["encoder"]
  workdir = tmp_path_factory.mktemp("decoder")
  params = {"model": {"decoder": encoder}, "aux": {}}
  checkpoint.write(workdir, params, checkpoint.read_files(place))
  return workdir


@pytest.fixture(scope="module")
def other_prompts(trained, tmp_path_factory) -> pathlib.Path:
  """The base with another prompt of queries."""
  place = checkpoint.find(trained)
  files = checkpoint.read_files(place)
  prompts = json.loads(files["prompts.json"]) | {"query": "Q: "}
  workdir = tmp_path_factory.mktemp("prompts")
  files |= {"prompts.json": json.dumps(prompts).encode()}
  checkpoint.write(workdir, checkpoint.read_params(place), files)
  return workdir


@pytest.fixture(scope="module")
def short_table(trained, tmp_path_factory) -> pathlib.Path:
  """The base with fewer rows than its tokenizer has pieces."""
  place = checkpoint.find(trained)
  files = checkpoint.read_files(place)
  model = json.loads(files["model.json"]) | {"vocab_size": 300}
  files |= {"model.json": json.dumps(model).encode()}
  workdir = tmp_path_factory.mktemp("short")
  checkpoint.write(workdir, checkpoint.read_params(place), files)
  return workdir


@pytest.mark.parametrize(
  ("arg", "flags", "message"),
  [
    ("data={own},base=none", [], "none does not exist; give a checkpoint"),
    ("data={own}", [], "base= is missing"),
    ("base={trained}", [], "data= is missing"),
    ("data=none,base={trained}", [], "none: no such folder"),
    ("data={own},base={language_model}", [], "no embedding head"),
    ("data={own},base={short_table}", [], "they are not of one model"),
    ("data={own},base={other_prompts}", [], "its prompt 'query' is 'Q: '"),
    (
      "data={own},base={trained}",
      ["--config.trainable=some"],
      "trainable='some' is unknown; use one of all, no_table, lora",
    ),
    (
      "data={own},base={trained}",
      ["--config.max_length=128"],
      "max_length=128 exceeds model.max_length=64",
    ),
    (
      "data={own},base={trained}",
      ["--config.trainable=lora", "--config.lora.rank=0"],
      "lora.rank=0 must be at least 1",
    ),
    (
      "data={own},base={trained}",
      ["--config.general.suite=none"],
      "general.suite=none does not exist",
    ),
    (
      "data={own},base={trained}",
      ["--config.mine.enabled=True", "--config.mine.search=fast"],
      "search='fast' is unknown",
    ),
    ("data={own},base={trained}", ["--config.points=1"], "points=1 must be"),
    ("data={own},base={trained}", ["--config.memory=0."], "memory=0.0 must"),
  ],
)
def test_bad_input_is_one_line_before_any_work(
  arg, flags, message, request, tmp_path, capsys
):
  class Fixtures(dict):
    def __missing__(self, name: str) -> pathlib.Path:
      return request.getfixturevalue(name)

  workdir = tmp_path / "w"
  config = f"--config=configs/recipe.py:pairs,{arg.format_map(Fixtures())}"
  assert main.call(["run", config, f"--workdir={workdir}", *flags]) == 2
  assert message in last_error(capsys)
  assert not workdir.exists()


def test_a_base_is_for_pairs_alone(tmp_path, capsys):
  argv = ["run", "--config=configs/recipe.py:tiny,base=x"]
  assert main.call([*argv, f"--workdir={tmp_path / 'w'}"]) == 2
  assert "base=x is for configs/recipe.py:pairs" in last_error(capsys)


def test_a_bad_line_stops_or_is_skipped(own, trained, tmp_path, capsys):
  data = tmp_path / "data"
  shutil.copytree(own, data)
  with (data / "small" / "pairs.jsonl").open("a") as file:
    file.write('{"query": "no positive"}\n')
  argv = ["run", f"--config=configs/recipe.py:pairs,data={data},base={trained}"]
  assert main.call([*argv, f"--workdir={tmp_path / 'w'}"]) == 2
  assert "pairs.jsonl:241: no field 'positive'" in last_error(capsys)
  assert not (tmp_path / "w").exists()
