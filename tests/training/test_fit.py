"""The loop: order of hooks, NaN, freezing, and resumed trajectories."""

import dataclasses
import errno
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from embeddinggemma import checkpoint, sharding
from embeddinggemma.config import OptimizerConfig
from embeddinggemma.data import loader
from embeddinggemma.losses import collapse
from embeddinggemma.training import checkpoints, fit, hooks, optimizer, step
from embeddinggemma.types import BadInput, Stage, Stopped

STEPS = 12


def stage(poison: int | None = None) -> Stage:
  """A regression on token counts: compiles in no time.

  `poison`: rows of this key make the loss NaN.
  """

  def objective(params, batch):
    w = params["model"]["up"]
    target = batch.keys[:, 0].astype(jnp.float32) / 100
    loss = jnp.mean((w[0, 0] * target - target) ** 2 + w[1, 1] ** 2)
    if poison is not None:
      loss = jnp.where(jnp.any(batch.keys[:, 0] == poison), jnp.nan, loss)
    return loss, {"half": loss / 2}

  init = lambda key: {
    "model": {"up": jax.random.normal(key, (2, 2))},
    "aux": {},
  }
  return Stage("test", init, objective, optax.adam(0.05))


def parts(rows, chosen, mesh_shape=(1, 1)):
  size = mesh_shape[0] * mesh_shape[1]
  mesh = sharding.make_mesh(*mesh_shape, devices=jax.devices()[:size])
  tasks = {"code": rows("code", 40), "qa": rows("qa", 24)}
  packer = loader.Packer(tasks, 8, size, seed=0)
  data = loader.load(tasks, {"code": 0.6, "qa": 0.4}, 8, 0, packer)
  state = step.init_state(chosen, 0, mesh)
  return step.compile_step(chosen, 0, mesh), state, loader.Stream(data, mesh)


def train(
  rows, workdir, steps, chosen=None, every=5, mesh_shape=(1, 1), stop=None
):
  """Trains or continues; `stop` raises at that step, as a kill would."""
  program, state, stream = parts(rows, chosen or stage(), mesh_shape)
  store = checkpoints.Checkpoints(workdir)
  restored = store.restore(state)
  if restored:
    state = restored[0]
    stream.restore(restored[1])
  seen = []

  def observe(info):
    seen.append(
      (
        info.step,
        info.loaded.task,
        info.loaded.rows.tolist(),
        info.metrics["loss"],
      )
    )
    if info.step == stop:
      raise KeyboardInterrupt

  save = lambda n, s, data: store.save(n, s, data.state(), {"note": b"x"})
  try:
    state = fit.fit(
      program, state, stream, steps, [fit.Hook(every, save)], [observe]
    )
  except KeyboardInterrupt:
    pass
  finally:
    store.close()
  return state, seen


def same(a, b):
  return all(
    np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))
  )


@pytest.fixture(scope="module")
def undisturbed(rows, tmp_path_factory):
  return train(rows, tmp_path_factory.mktemp("whole"), STEPS)


@pytest.mark.parametrize("stop", [1, 5, 6, 11])
def test_a_stopped_run_continues_as_if_it_had_not(
  rows, undisturbed, tmp_path, stop
):
  _, before = train(rows, tmp_path, STEPS, stop=stop)
  state, after = train(rows, tmp_path, STEPS)
  whole, seen = undisturbed
  assert same(state, whole)
  first = after[0][0]
  assert before[: first - 1] + after == seen
  assert first == 5 * (min(stop, 10) // 5) + 1 or first <= stop + 1


def test_resumes_on_another_mesh_with_the_same_rows(
  rows, undisturbed, tmp_path
):
  train(rows, tmp_path, STEPS, stop=7)
  state, after = train(rows, tmp_path, STEPS, mesh_shape=(4, 2))
  whole, seen = undisturbed
  assert [s[:3] for s in after] == [s[:3] for s in seen[after[0][0] - 1 :]]
  np.testing.assert_allclose(
    state.params["model"]["up"], whole.params["model"]["up"], rtol=1e-5
  )


def test_a_damaged_checkpoint_is_stepped_over(rows, undisturbed, tmp_path):
  train(rows, tmp_path, STEPS)
  newest = tmp_path / "checkpoints" / str(STEPS)
  for path in (newest / "params").rglob("*"):
    if path.is_file():
      path.write_bytes(b"")
  _, state, _ = parts(rows, stage())
  store = checkpoints.Checkpoints(tmp_path)
  got, _, damaged = store.restore(state)
  store.close()
  assert int(got.step) == 10
  assert len(damaged) == 1 and f"{STEPS} is damaged" in damaged[0]
  assert (tmp_path / f"damaged-{STEPS}").is_dir()
  state, _ = train(rows, tmp_path, STEPS)
  assert same(state, undisturbed[0])
  params = checkpoint.read_params(checkpoint.find(tmp_path))
  assert same(params["model"], undisturbed[0].params["model"])


def test_nan_names_step_and_rows_and_keeps_the_last_good(rows, tmp_path):
  poisoned = stage(poison=2 * 7)  # row 7 of either task
  with pytest.raises(Stopped) as error:
    train(rows, tmp_path, STEPS, poisoned, every=1)
  seen = str(error.value)
  number = int(seen.split("step ")[1].split(":")[0])
  assert "loss is nan" in seen and "task " in seen
  assert "7" in seen.split("rows ")[1].split(";")[0].split(",")
  assert checkpoint.steps(tmp_path)[-1:] == ([number - 1] if number > 1 else [])
  for found in checkpoint.steps(tmp_path):
    params = checkpoint.read_params(tmp_path / "checkpoints" / str(found))
    assert np.isfinite(params["model"]["up"]).all()


def test_frozen_parameters_do_not_move_and_have_no_moments(rows):
  frozen = dataclasses.replace(
    stage(),
    init=lambda key: {
      "model": {"up": jnp.ones((2, 2)), "down": jnp.ones((2, 2))},
      "aux": {},
    },
    trainable=lambda path: not path.endswith("model/down"),
  )
  program, state, stream = parts(rows, frozen)
  moments = sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim)
  assert moments == 2 * 4
  for _ in range(3):
    state, _ = program(state, next(stream).batch)
  np.testing.assert_array_equal(state.params["model"]["down"], 1)
  assert (np.asarray(state.params["model"]["up"]) != 1).any()


def test_the_schedule_warms_up_and_decays():
  config = OptimizerConfig(1.0, 10, 0.1, 0.0, 0.9, 0.99, 1e-8, 1.0)
  rate = optimizer.schedule(config, 100)
  assert rate(0) == 0
  assert rate(10) == pytest.approx(1.0)
  assert rate(100) == pytest.approx(0.1)
  assert (
    optimizer.schedule(dataclasses.replace(config, warmup_steps=0), 5)(0) == 1
  )


def test_metrics_of_steps_done_again_are_dropped(tmp_path):
  path = tmp_path / hooks.METRICS
  lines = [json.dumps({"step": n, "loss": 1.0}) for n in (1, 2, 3)]
  path.write_text("\n".join(lines) + '\n{"step": 4, "lo')
  log = hooks.MetricsLog(tmp_path, 2, collapse.Alarm(), print)
  log.close()
  assert [row["step"] for row in hooks.read_metrics(path)] == [1, 2]


def test_a_checkpoint_is_found_by_any_of_its_names(tmp_path):
  params = {"model": {"up": np.ones((2, 2), np.float32)}, "aux": {}}
  made = checkpoint.write(tmp_path, params, {"note": b"hello"}, step=3)
  assert checkpoint.find(made) == checkpoint.find(tmp_path) == made
  assert checkpoint.read_files(made) == {"note": b"hello"}
  again = checkpoint.read_params(made)
  assert checkpoint.content_hash(again) == checkpoint.content_hash(params)
  again["model"]["up"] = again["model"]["up"] + 1e-7
  assert checkpoint.content_hash(again) != checkpoint.content_hash(params)
  with pytest.raises(BadInput, match="does not exist"):
    checkpoint.find(tmp_path / "nowhere")
  (tmp_path / "empty").mkdir()
  with pytest.raises(BadInput, match="holds no checkpoint"):
    checkpoint.find(tmp_path / "empty")


def test_a_checkpoint_that_does_not_fit_is_not_started(tmp_path, monkeypatch):
  usage = checkpoint.shutil.disk_usage(tmp_path)
  monkeypatch.setattr(
    checkpoint.shutil, "disk_usage", lambda path: usage._replace(free=10)
  )
  params = {"model": {"up": np.ones((2, 2), np.float32)}, "aux": {}}
  with pytest.raises(OSError, match=r"needed, 0\.0 MiB are free") as error:
    checkpoint.write(tmp_path, params, {})
  assert error.value.errno == errno.ENOSPC
  assert checkpoint.steps(tmp_path) == []
