"""Pairs that nothing is compared with: said, not counted, and moving nothing."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embeddinggemma import sharding
from embeddinggemma.cli import main
from embeddinggemma.config import OptimizerConfig
from embeddinggemma.data import rivals
from embeddinggemma.losses import objectives
from embeddinggemma.training import optimizer, prepare, stages, step
from embeddinggemma.training.stages import pairs
from embeddinggemma.types import BadInput, Stage

SMALL = [
  "--config.steps=6",
  "--config.model.num_layers=1",
  "--config.negatives=0",
  "--config.batch_size=8",
]


def command(data: pathlib.Path, workdir: pathlib.Path) -> list[str]:
  config = f"--config=configs/finetune.py:tiny,data={data}"
  return ["train", config, f"--workdir={workdir}", *SMALL]


def one_positive(small_pairs, count: int, task: str) -> list[dict[str, str]]:
  return [
    pair | {"positive": "the same answer to all", "task": task}
    for pair in small_pairs(count)
  ]


def rows_of(workdir: pathlib.Path) -> list[dict]:
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.fixture
def stage() -> Stage:
  """A weight with decay, and a batch's number; 0 is idle, whatever it says."""

  def objective(params, batch):
    loss = jnp.sum(params["model"]["up"] ** 2) + 1.0
    return loss, {objectives.IDLE: batch == 0}

  init = lambda key: {"model": {"up": jnp.ones((2, 2))}, "aux": {}}
  config = OptimizerConfig(1e-1, 0, 0.0, 0.1, 0.9, 0.99, 1e-8, 1.0)
  return Stage("test", init, objective, optimizer.adamw(config, 8))


def test_an_idle_batch_moves_nothing_but_the_schedule(stage):
  state = step.init_state(stage, 0, sharding.make_mesh(1, 1, jax.devices()[:1]))
  run = jax.jit(lambda state, batch: step.train_step(stage, state, batch))
  moved, _ = run(state, jnp.ones(()))
  idle, metrics = run(moved, jnp.zeros(()))
  counts = 0
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path((moved.params, moved.opt_state)),
    jax.tree.leaves((idle.params, idle.opt_state)),
    strict=True,
  ):
    schedule = a.ndim == 0 and a != b
    counts += schedule
    assert schedule or np.array_equal(a, b), path
  assert counts == 1 and int(idle.step) == 2
  assert metrics["grad_norm"] == metrics["update_norm"] == 0
  again, _ = run(idle, jnp.ones(()))
  assert not np.array_equal(
    again.params["model"]["up"], idle.params["model"]["up"]
  )


def test_who_is_alone_is_counted_by_both_texts():
  keys = np.array([[1, 1], [1, 2], [1, 3], [4, 1]], np.uint32)
  assert rivals.alone(keys).tolist() == [True, False, False, False]
  assert rivals.alone(keys[:3]).all() and rivals.alone(keys[:1]).all()
  assert not rivals.alone(np.arange(8, dtype=np.uint32).reshape(4, 2)).any()
  twice = np.array([[1, 1], [1, 1], [2, 2]], np.uint32)
  assert not rivals.alone(twice).any()
  assert rivals.alone(twice[:2]).all()


@pytest.mark.parametrize("same", ["positive", "query"])
def test_pairs_with_one_text_are_refused(
  small_pairs, write_pairs, tmp_path, capsys, same
):
  given = [pair | {same: "one and the same"} for pair in small_pairs(40)]
  data = write_pairs(tmp_path / "data", given)
  argv = command(data, tmp_path / "w")
  assert main.call(argv) == 2
  said = capsys.readouterr().err.splitlines()[-1]
  assert "pairs share their query or positive" in said
  assert "add pairs with other texts" in said
  assert not (tmp_path / "w" / "checkpoints").exists()


def test_a_batch_of_one_pair_is_refused(trained):
  config = stages.build(json.loads((trained / "config.json").read_bytes()))
  made = prepare.inputs_in(config, trained / "inputs")
  one = dataclasses.replace(config, batch_size=1)
  pairs.examine(config, made, lambda line: pytest.fail(line))
  with pytest.raises(BadInput, match=r"set --config\.batch_size=32"):
    pairs.examine(one, made, print)


@pytest.fixture(scope="module")
def mixed(small_pairs, write_pairs, tmp_path_factory) -> pathlib.Path:
  """Pairs of two tasks; those of one share their positive."""
  others = [pair | {"task": "qa"} for pair in small_pairs(80)[40:]]
  given = one_positive(small_pairs, 40, "code") + others
  return write_pairs(tmp_path_factory.mktemp("mixed"), given)


def test_a_task_without_negatives_is_said_and_has_no_metrics(
  mixed, tmp_path, capsys
):
  workdir = tmp_path / "w"
  assert main.call(command(mixed, workdir)) == 0
  said = capsys.readouterr().err
  assert "of the pairs have no negative in their batch" in said
  assert "none of code has any" in said
  rows = rows_of(workdir)
  assert {row["task"] for row in rows} == {"code", "qa"}
  for row in rows:
    idle = row["task"] == "code"
    assert row["without_negatives"] == idle and "idle" not in row
    assert (row["loss"] is None) == (row["accuracy"] is None) == idle
    assert (row["contrastive"] is None) == idle
    assert (row["update_norm"] == 0) == idle


def test_each_dimension_and_term_is_a_figure(data_folder, tmp_path):
  workdir = tmp_path / "w"
  argv = command(data_folder, workdir)
  argv += ["--config.loss.matryoshka=(32, 8)", "--config.loss.spread_out=0.5"]
  assert main.call(argv) == 0
  for row in rows_of(workdir):
    for term in ("contrastive", "spread_out"):
      parts = row[f"{term}/32"] + row[f"{term}/8"]
      assert row[term] == pytest.approx(parts, rel=1e-5)
    whole = row["contrastive"] + 0.5 * row["spread_out"]
    assert row["loss"] == pytest.approx(whole, rel=1e-5)
    assert row["without_negatives"] == 0
