"""The recipe as a user runs it: killed, continued, cached, asked."""

import importlib.metadata
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import embeddinggemma as eg
from embeddinggemma import cache, checkpoint
from embeddinggemma.cli import main

GOLDEN = pathlib.Path(__file__).parent / "golden"

STEPS = 40
STAGES = (
  "tokenizer",
  "text",
  "pretrain",
  "adapt",
  "teach",
  "initialise",
  "prefinetune",
  "mine",
  "mixture",
  "finetune",
  "soup",
  "qat",
  "evaluate",
  "export",
  "index",
)


@pytest.fixture(scope="module")
def command(data_folder):
  def make(workdir: pathlib.Path) -> list[str]:
    return [
      "run",
      f"--config=configs/recipe.py:tiny,data={data_folder}",
      f"--workdir={workdir}",
      f"--config.steps={STEPS}",
      "--config.prefinetune.every_checkpoint=8",
      "--config.prefinetune.model.num_layers=1",
      "--config.initialise.steps=5",
      "--config.mine.search=dense",
      "--config.mixture.dirichlet=1",
      "--config.mixture.proposed=1",
      "--config.mixture.pick=2",
    ]

  return make


@pytest.fixture(scope="module")
def finished(command, tmp_path_factory) -> tuple[pathlib.Path, dict]:
  """The workdir of an undisturbed run, and its summary."""
  workdir = tmp_path_factory.mktemp("undisturbed")
  assert main.call(command(workdir)) == 0
  return workdir, summary(workdir)


def summary(workdir: pathlib.Path) -> dict:
  return json.loads((workdir / "summary.json").read_text())


def start(arguments: list[str]) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, "-m", "embeddinggemma", *arguments],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    env=os.environ | {"GLIBC_TUNABLES": ""},
  )


def kill_when(arguments: list[str], ready) -> None:
  """kill -9 as soon as `ready()`; the run must not have ended by then."""
  process = start(arguments)
  deadline = time.monotonic() + 120
  while not ready():
    assert process.poll() is None, "the run ended before it could be killed"
    assert time.monotonic() < deadline
    time.sleep(0.02)
  process.send_signal(signal.SIGKILL)
  process.wait()


def test_the_weights_are_those_of_before(finished):
  """Stage by stage: bit for bit on the same processor, JAX and NumPy."""
  _, whole = finished
  stages = {
    row["name"]: {"hash": row["hash"], "loss": row["metrics"].get("loss")}
    for row in whole["stages"]
    if row["hash"]
  }
  if os.environ.get("WRITE_GOLDEN"):
    now = {"machine": machine(), "stages": stages}
    (GOLDEN / "recipe.json").write_text(json.dumps(now, indent=1) + "\n")
  expected = json.loads((GOLDEN / "recipe.json").read_text())
  assert list(stages) == list(expected["stages"])
  if machine() == expected["machine"]:
    assert stages == expected["stages"]
  for name, row in stages.items():
    if row["loss"] is not None:
      known = expected["stages"][name]["loss"]
      assert row["loss"] == pytest.approx(known, rel=1e-3), name


def machine() -> dict[str, str]:
  """What decides the last bits of a float."""
  versions = {
    name: importlib.metadata.version(name) for name in ("jax", "numpy")
  }
  return {"processor": cache._processor(), **versions}


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_weights(
  command, finished, tmp_path
):
  metrics = tmp_path / "prefinetune" / "metrics.jsonl"

  def seen(stage: str, count: int):
    path = tmp_path / stage / "metrics.jsonl"
    return lambda: path.exists() and len(path.read_text().splitlines()) >= count

  kill_when(command(tmp_path), (tmp_path / "tokenizer.partial").exists)
  assert not (tmp_path / "tokenizer").exists()
  kill_when(command(tmp_path), seen("pretrain", 5))
  kill_when(command(tmp_path), seen("adapt", 7))
  kill_when(command(tmp_path), (tmp_path / "teach" / "progress.json").exists)
  kill_when(command(tmp_path), seen("initialise/decoder-only-0", 3))
  kill_when(command(tmp_path), seen("prefinetune", 19))
  kill_when(command(tmp_path), (tmp_path / "mine" / "vectors").exists)
  trials = lambda: sorted((tmp_path / "mixture").glob("*/trial-*"))
  kill_when(command(tmp_path), lambda: len(trials()) == 2)
  kill_when(command(tmp_path), seen("finetune/2", 2))
  kill_when(command(tmp_path), seen("qat/mixed", 2))
  assert main.call(command(tmp_path)) == 0
  assert len(trials()) == 3
  _, whole = finished
  assert summary(tmp_path)["final"]["hash"] == whole["final"]["hash"]
  hashes = lambda of: {k: row["hash"] for k, row in of["quantised"].items()}
  assert hashes(summary(tmp_path)) == hashes(whole)
  rows = [json.loads(line) for line in metrics.read_text().splitlines()]
  assert [row["step"] for row in rows] == list(range(1, STEPS + 1))


def test_a_second_run_trains_nothing(command, finished):
  workdir, whole = finished
  newest = workdir / "prefinetune" / "checkpoints" / str(STEPS)
  before = newest.stat().st_mtime_ns
  began = time.monotonic()
  assert main.call(command(workdir)) == 0
  assert time.monotonic() - began < 20
  again = summary(workdir)
  assert all(stage["cached"] for stage in again["stages"])
  assert again["final"] == whole["final"]
  assert newest.stat().st_mtime_ns == before


@pytest.mark.slow
def test_parts_are_taken_out_one_by_one(command, finished):
  workdir, whole = finished
  argv = [*command(workdir), "--config.ablation.seeds=(0,)"]
  assert main.call(argv) == 0
  (scores,) = summary(workdir)["ablation"]["scores"].values()
  assert list(scores) == [
    "prefinetune",
    "finetune 1",
    "finetune 2",
    "soup",
    "prefinetune without distillation",
    "soup without distillation",
    "soup without hard negatives",
  ]
  # The recipe's own seed is not trained again.
  place = workdir / "ablation" / "seed-0"
  own = checkpoint.find(place / "whole" / "soup")
  params = checkpoint.read_params(own)
  assert checkpoint.content_hash(params) == whole["final"]["hash"]
  lines = (place / "whole/prefinetune/metrics.jsonl").read_text()
  before = (workdir / "prefinetune" / "metrics.jsonl").read_text()
  assert lines == before
  for name in ("without-distillation", "without-hard-negatives"):
    tuned = checkpoint.find(place / name / "finetune" / "1")
    config = json.loads(checkpoint.read_files(tuned)["recipe.json"])["config"]
    lacks = {"teacher": ""} if "distil" in name else {"negatives": 0}
    assert lacks.items() <= config.items()
  assert "What each part is worth" in (workdir / "report.html").read_text()
  assert main.call(command(workdir)) == 0


@pytest.mark.slow
def test_a_changed_stage_is_redone_and_what_follows_it(command, finished):
  workdir, whole = finished
  assert main.call([*command(workdir), "--config.index.dim=16"]) == 0
  cached = {s["name"]: s["cached"] for s in summary(workdir)["stages"]}
  assert cached == {
    **dict.fromkeys(STAGES, True),
    "index": False,
  }
  assert main.call(command(workdir)) == 0
  assert summary(workdir)["final"] == whole["final"]


def test_the_summary_says_what_was_done(finished):
  workdir, whole = finished
  names = [stage["name"] for stage in whole["stages"]]
  assert names == list(STAGES)
  final = workdir / whole["final"]["checkpoint"]
  params = checkpoint.read_params(checkpoint.find(final))
  assert checkpoint.content_hash(params) == whole["final"]["hash"]
  files = checkpoint.read_files(final)
  assert {
    "model.json",
    "recipe.json",
    "tokenizer.model",
    "prompts.json",
    "LICENSE",
  } <= set(files)
  soup = json.loads(files["recipe.json"])
  assert soup["weights"] == [0.5, 0.5]
  for number, parent in enumerate(soup["parents"].values(), 1):
    place = checkpoint.find(workdir / "finetune" / str(number))
    params = checkpoint.read_params(place)
    assert checkpoint.content_hash(params) == parent
    recipe = json.loads(checkpoint.read_files(place)["recipe.json"])
    assert recipe["data"]["hash"] == whole["data_hash"]
    assert {"mined", "teacher"} <= set(recipe["data"])
  report = (workdir / "report.html").read_text()
  assert "<html" in report.lower()
  [exports] = [s["metrics"] for s in whole["stages"] if s["name"] == "export"]
  for row in exports["exports"]:
    place = workdir / "export" / row["place"]
    written = json.loads((place / "certificate.json").read_text())
    assert written["verdict"] == row["verdict"] != "failed"
    assert written["dtype"] == row["dtype"]
    sizes = [p.stat().st_size for p in place.rglob("*") if p.is_file()]
    assert row["bytes"] == sum(sizes) > 0
    cells = (row["model"], row["format"], row["dtype"], row["verdict"])
    assert "".join(f"<td>{cell}</td>" for cell in cells[:3]) in report
  models = {row["model"] for row in exports["exports"]}
  assert models == {"soup", "qat-int4", "qat-mixed"}
  assert list((workdir / "prefinetune" / "tensorboard").iterdir())


@pytest.mark.parametrize("mode", [[], ["--dense"], ["--lexical"]])
def test_the_index_answers(finished, capsys, mode):
  workdir, _ = finished
  arguments = [f"--model={workdir}", f"--index={workdir / 'index'}", "--json"]
  text = "where is the copper lantern"
  assert main.call(["query", *arguments, *mode, text]) == 0
  hits = json.loads(capsys.readouterr().out)
  assert len(hits) == 5
  assert all({"score", "path", "line", "snippet"} <= set(hit) for hit in hits)


def test_vectors_of_the_verb_are_those_of_python(finished, tmp_path):
  workdir, _ = finished
  source, output = tmp_path / "texts.jsonl", tmp_path / "vectors.npy"
  rows = [
    {"text": "a b"},
    {"text": "stone", "title": "river"},
    {"text": "x" * 900},
  ]
  source.write_text("".join(json.dumps(row) + "\n" for row in rows))
  arguments = [f"--model={workdir}", f"--input={source}", f"--output={output}"]
  assert main.call(["embed", *arguments, "--prompt=document", "--dim=16"]) == 0
  got = np.load(output)
  model = eg.load(workdir)
  want = model.encode_document(
    [row["text"] for row in rows],
    titles=[row.get("title", "") for row in rows],
    truncate_dim=16,
  )
  np.testing.assert_allclose(got, want, atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
  alone = model.encode(
    rows[1]["text"], "document", titles=["river"], truncate_dim=16
  )
  np.testing.assert_allclose(alone, got[1], atol=1e-5)
  assert abs(model.encode_query("stone") - model.encode("stone")).max() > 1e-4


def test_evaluate_writes_every_dimension(finished, tmp_path):
  workdir, _ = finished
  output = tmp_path / "scores.json"
  data = workdir / "tokenizer" / "corpus" / "test"
  arguments = [f"--model={workdir}", f"--data={data}", f"--output={output}"]
  assert main.call(["evaluate", *arguments]) == 0
  result = json.loads(output.read_text())
  for by_dim in result["quality"]["model"].values():
    assert set(by_dim) == {"32"}
    assert all(0 <= v <= 1 for v in by_dim["32"].values())


def test_precisions_are_compared(finished, tmp_path, capsys):
  workdir, whole = finished
  place = whole["quantised"]["int4"]["checkpoint"]
  rows = whole["precision"]["test"]
  assert [(row["weights"], row["precision"]) for row in rows] == [
    ("as trained", "float"),
    ("rounded", "int4"),
    ("trained for it", "int4"),
    ("rounded", "mixed"),
    ("trained for it", "mixed"),
  ]
  assert rows[0]["scores"] == whole["souped"]["test"]["soup"]
  assert rows[1]["bytes"] == rows[2]["bytes"] < rows[0]["bytes"] / 5
  data = f"--data={workdir / 'tokenizer' / 'corpus' / 'test'}"
  for row, model, more in (
    (rows[1], workdir, ["--precision=int4"]),
    (rows[2], place, []),
  ):
    output = tmp_path / "scores.json"
    argv = ["evaluate", f"--model={model}", data, f"--output={output}"]
    assert main.call([*argv, *more]) == 0
    result = json.loads(output.read_text())
    assert result["precision"] == "int4"
    means = result["summary"]["mean_type"]
    assert means["32"] == pytest.approx(row["scores"]["mean"])
  assert main.call([*argv, "--precision=int3"]) == 2
  assert "precision='int3' is unknown" in capsys.readouterr().err


def test_prepare_shows_the_batches_that_training_saw(
  command, finished, data_folder, capsys
):
  workdir, _ = finished
  config = [a for a in command(workdir) if a.startswith("--config")]
  assert main.call(["prepare", *config, "--show=0:20", "--json"]) == 0
  shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  log = (workdir / "prefinetune" / "metrics.jsonl").read_text().splitlines()
  seen = [json.loads(line) for line in log[:20]]
  assert [(s["task"], s["rows"]) for s in shown] == [
    (s["task"], s["rows"]) for s in seen
  ]
