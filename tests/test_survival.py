"""One process that survives: bad batches, SIGTERM, the clock, bad places."""

import dataclasses
import json
import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_mesh

from embeddinggemma import cache, checkpoint, distributed, sharding
from embeddinggemma.cli import main
from embeddinggemma.config import GuardConfig
from embeddinggemma.data import loader
from embeddinggemma.training import checkpoints, guard, hooks, stages
from embeddinggemma.training import workdir as workdir_lib
from embeddinggemma.training.fit import StepInfo
from embeddinggemma.types import BadInput, PairBatch, TrainState


def poison(monkeypatch, total):
  """Makes the loss of the batch NaN whose keys sum up to `total`."""
  make, programs = stages.make, cache._shared
  programs.pop("program", None)

  def made(config, mesh):
    stage = make(config, mesh)

    def objective(params, batch):
      loss, metrics = stage.objective(params, batch)
      bad = jnp.sum(batch.keys) == np.uint32(total)
      return jnp.where(bad, jnp.nan, loss), metrics

    return dataclasses.replace(stage, objective=objective)

  monkeypatch.setattr(stages, "make", made)


@pytest.fixture
def command(train_command):
  """(workdir, more) -> the arguments of a training of eight steps."""
  return lambda workdir, *more: [
    *train_command(workdir),
    "--config.steps=8",
    "--config.every_checkpoint=3",
    *more,
  ]


def test_a_bad_batch_stops_or_is_left_out(
  command, tmp_path, monkeypatch, capsys
):
  sums, to_devices = [], sharding.to_devices

  def watched(batch, mesh):
    if isinstance(batch, PairBatch):
      sums.append(int(np.sum(batch.keys, dtype=np.uint32)))
    return to_devices(batch, mesh)

  monkeypatch.setattr(sharding, "to_devices", watched)
  assert main.call(command(tmp_path / "whole")) == 0
  whole = hooks.read_metrics(tmp_path / "whole" / hooks.METRICS)
  poison(monkeypatch, sums[4])
  capsys.readouterr()

  # Off by default: the step is named, the checkpoint before it stays.
  run, every = tmp_path / "run", "--config.every_checkpoint=4"
  assert main.call(command(run, every)) == 1
  said = capsys.readouterr().err
  assert "step 5: loss is nan" in said and "damaged" not in said
  assert checkpoint.steps(run) == [4]

  # At once after a checkpoint, that may be what is wrong.
  assert main.call(command(run, every)) == 1
  assert f"{run}/checkpoints/4: if that is damaged" in capsys.readouterr().err

  # The same workdir goes on with a skip: what was the sixth batch is fifth.
  assert main.call(command(run, "--config.guard.skips=1")) == 0
  assert "goes back, leaves it out (1 of 1)" in capsys.readouterr().err
  rows = [row["rows"] for row in hooks.read_metrics(run / hooks.METRICS)]
  assert rows[:7] == [row["rows"] for n, row in enumerate(whole) if n != 4]
  assert len(rows) == 8
  place = checkpoint.find(run)
  position = json.loads((place / "data" / "metadata").read_text())
  assert position == {"next_index": 9, "skipped": [4]}

  # And it is no other run that meets it before its first checkpoint.
  early = tmp_path / "early"
  more = ("--config.guard.skips=1", "--config.every_checkpoint=8")
  assert main.call(command(early, *more)) == 0
  assert checkpoint.content_hash(
    checkpoint.read_params(checkpoint.find(early))
  ) == checkpoint.content_hash(checkpoint.read_params(place))


def info(number, norm, loss=1.0):
  """A step of which the guard judges."""
  metrics = {"loss": loss, "grad_norm": norm, "update_norm": 1.0}
  loaded = loader.Loaded(None, "qa", np.zeros(0, np.int64), 1, 1)
  return StepInfo(number, metrics, loaded, 0.0, 0.0)


def test_a_jump_of_the_gradient_norm_is_a_fault():
  watch = guard.Guard(GuardConfig(jump=5.0, window=20))
  norms = [1 + 0.01 * n for n in range(30)]
  assert not any(watch(info(n, norm)) for n, norm in enumerate(norms))
  assert "grad_norm is 9, 7.5 times the median" in watch(info(30, 9.0))
  # It did not count, and one that knows the last norms says the same.
  assert not watch(info(31, 1.3))
  again = guard.Guard(GuardConfig(jump=5.0, window=20), norms)
  assert again(info(30, 9.0)) and not again(info(30, 5.0))
  assert "loss is nan" in again(info(31, 1.0, float("nan")))
  # Too little is known at first, and by default nothing is asked.
  assert not guard.Guard(GuardConfig(jump=5.0))(info(1, 1e9))
  off = guard.Guard(GuardConfig(), norms)
  assert not off(info(30, 1e9))
  with pytest.raises(BadInput, match=r"guard\.jump=0.5 must be above 1"):
    GuardConfig(jump=0.5)


def test_sigterm_saves_and_the_same_command_continues(
  command, tmp_path, capsys
):
  assert main.call(command(tmp_path / "whole", "--config.steps=20")) == 0
  run = tmp_path / "run"
  before = signal.getsignal(signal.SIGTERM)

  def send():
    while not hooks.read_metrics(run / hooks.METRICS):
      time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)

  sender = threading.Thread(target=send)
  sender.start()
  arguments = command(run, "--config.steps=20")
  assert main.call(arguments) == 42
  sender.join()
  assert signal.getsignal(signal.SIGTERM) == before
  said = capsys.readouterr().err
  saved = checkpoint.steps(run)[-1]
  assert f"told to stop: saved at step {saved}; the same" in said
  assert 0 < saved < 20
  assert main.call(arguments) == 0
  hashes = [
    checkpoint.content_hash(checkpoint.read_params(checkpoint.find(place)))
    for place in (run, tmp_path / "whole")
  ]
  assert hashes[0] == hashes[1]


def test_saves_by_the_clock():
  now = [0.0]
  timer = distributed.EveryMinutes(2.0, lambda: now[0])
  assert not timer(1)
  now[0] = 119
  assert not timer(2)
  now[0] = 120
  assert timer(3)
  timer.done()
  assert not timer(4)
  now[0] = 240
  assert timer(5)
  off = distributed.EveryMinutes(0.0, lambda: now[0])
  now[0] = 1e9
  assert not off(6)


def test_irregular_saves_do_not_drive_out_regular_ones(tmp_path):
  store = checkpoints.Checkpoints(tmp_path, 2, lambda n: n % 10 == 0)
  state = lambda n: TrainState(
    jnp.asarray(n, jnp.int32), {"model": {"up": jnp.ones((2, 2)) * n}}, {}
  )
  kept = {}
  for n in (10, 20, 23, 27, 30, 31):
    store.save(n, state(n), {"next_index": n}, {})
    store.wait()
    kept[n] = checkpoint.steps(tmp_path)
  store.close()
  assert kept[23] == [10, 20, 23]
  assert kept[27] == [10, 20, 27]
  assert kept[30] == [20, 30]
  assert kept[31] == [20, 30, 31]


def test_saves_by_time_change_no_mean(data_folder, tmp_path):
  def trained(name, minutes):
    arguments = [
      "train",
      f"--config=configs/adapt.py:tiny,data={data_folder}",
      f"--workdir={tmp_path / name}",
      "--config.steps=6",
      "--config.average=2",
      "--config.keep_checkpoints=2",
      "--config.model.num_layers=1",
      "--config.decoder.num_layers=1",
      f"--config.every_minutes={minutes}",
    ]
    assert main.call(arguments) == 0
    place = checkpoint.find(tmp_path / name)
    recipe = json.loads(checkpoint.read_files(place)["recipe.json"])
    assert recipe["mean_of_steps"] == [4, 6]
    return checkpoint.content_hash(checkpoint.read_params(place))

  saved, save = [], checkpoints.Checkpoints.save

  def noted(self, step, *rest):
    saved.append(step)
    save(self, step, *rest)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(checkpoints.Checkpoints, "save", noted)
    often = trained("often", 1e-9)
  assert saved == [1, 2, 3, 4, 5, 6]
  assert trained("seldom", 0.0) == often


def test_a_place_that_cannot_be_written_is_found_first(
  command, tmp_path, capsys
):
  with pytest.raises(BadInput, match="is an address, not a folder; mount"):
    cache.as_folder("gs://bucket/run")
  assert main.call(command("gs://bucket/run")) == 2
  assert "gcsfuse bucket" in capsys.readouterr().err
  file = tmp_path / "file"
  file.write_text("")
  assert main.call(command(file / "run")) == 2
  assert "cannot be written (Not a directory)" in capsys.readouterr().err
  cache.require_writable(tmp_path / "new")
  assert list((tmp_path / "new").iterdir()) == []

  class Hanging(type(tmp_path)):
    def mkdir(self, *args, **kwargs):
      time.sleep(5)

  with pytest.raises(BadInput, match="no answer within 0 s"):
    cache.require_writable(Hanging(tmp_path / "slow"), seconds=0.1)


def test_a_checkpoint_of_another_model_is_refused(command, tmp_path, capsys):
  run = tmp_path / "run"
  assert main.call(command(run)) == 0
  capsys.readouterr()
  assert main.call(command(run, "--config.model.width=64")) == 2
  assert "model.width=" in capsys.readouterr().err
  (run / workdir_lib.CONFIG_FILE).unlink()
  assert main.call(command(run, "--config.model.width=64")) == 2
  assert "can be read" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("names", "line"),
  [
    ({"JAX_NUM_PROCESSES": "2"}, "JAX_NUM_PROCESSES is set, but JAX_COORD"),
    (
      {
        "JAX_COORDINATOR_ADDRESS": "here",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "0",
      },
      "JAX_COORDINATOR_ADDRESS=here must be HOST:PORT",
    ),
    (
      {
        "JAX_COORDINATOR_ADDRESS": "here:1",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "2",
      },
      "JAX_PROCESS_ID=2 must be below JAX_NUM_PROCESSES=2",
    ),
  ],
)
def test_half_an_environment_is_refused(
  command, tmp_path, monkeypatch, capsys, names, line
):
  for name, value in names.items():
    monkeypatch.setenv(name, value)
  assert main.call(command(tmp_path / "run")) == 2
  assert line in capsys.readouterr().err


def test_gradients_of_a_tied_table_computed_apart_are_the_same():
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  joint = test_mesh.language_config("adapt")
  apart = dataclasses.replace(joint, separate_gradients=True)
  batch = sharding.to_devices(test_mesh.language_batch("adapt", 0, 1), mesh)

  def gradients(config):
    stage = stages.make(config, mesh)
    params = stage.init(jax.random.key(0))
    value = lambda params: stage.objective(params, batch)[0]
    return jax.jit(jax.grad(value)).lower(params), params

  (one, params), (other, _) = gradients(joint), gradients(apart)
  barriers = [
    lowered.as_text().count("optimization_barrier") for lowered in (one, other)
  ]
  assert barriers[1] >= barriers[0] + 2
  found = [lowered.compile()(params) for lowered in (one, other)]
  for a, b in zip(*map(jax.tree.leaves, found), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
  with pytest.raises(BadInput, match="separate_gradients=True is for one"):
    dataclasses.replace(apart, tied=False)
