"""A probe of a batch: the same figures on any mesh, and no trace in a step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_mesh
import test_objectives
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddinggemma import sharding
from embeddinggemma.losses import matryoshka, objectives, probe
from embeddinggemma.training import probing, stages, step
from embeddinggemma.training.stages import pairs
from embeddinggemma.types import Seen

BATCH = test_mesh.BATCH
DIVIDED = test_objectives.DIVIDED[2::2]  # two of the ways to divide a batch


def prober(program) -> probing.Prober:
  """One that looks at every step."""
  return probing.Prober(program, 1, 1)


@functools.cache
def looked(kind: str, data: int, fsdp: int, rules: str):
  """(parameters, batch) -> the figures that a probe adds, on a mesh."""
  mesh = sharding.make_mesh(data, fsdp, jax.devices()[: data * fsdp])
  encode = sharding.data_parallel(test_objectives.bag_of_words, mesh, rules)
  config = test_mesh.config("separate")
  contrastive = 0.0 if kind == "texts" else 1.0
  loss = dataclasses.replace(config.loss, contrastive=contrastive)
  terms = pairs.terms(dataclasses.replace(config, loss=loss), mesh)
  objective = objectives.pair_objective(
    objectives.separate(encode), terms, mesh, probe.show(mesh)
  )
  run = jax.jit(objective)
  look = prober(jax.jit(probe.pair_probe(terms, mesh)))

  def call(params, batch) -> dict[str, float]:
    placed = sharding.tree_shardings({"params": params}, mesh, rules)
    params = jax.device_put(params, placed["params"])
    batch = sharding.to_devices(batch, mesh)
    metrics = run(params, batch)[1]
    known = set(metrics)
    found = jax.device_get(look(1, metrics, batch))
    return {name: found[name] for name in set(found) - known}

  return call


@pytest.mark.parametrize(
  "kind", ["pairs", pytest.param("texts", marks=pytest.mark.slow)]
)
@settings(max_examples=2, deadline=None, derandomize=True)
@given(st.integers(1, 2**31), st.integers(2, BATCH))
def test_no_division_changes_a_figure(kind, seed, size) -> None:
  """Meshes, and groups of a batch whose texts are packed otherwise."""
  held = test_objectives.params(seed)
  whole = test_objectives.batch_of(kind, seed, 1, size)
  want = looked(kind, 1, 1, "fsdp")(held, whole)
  terms = {"pairs": 4, "texts": 3}[kind]
  assert sum(name.count("/") == 1 for name in want) == terms + (
    8 if kind == "pairs" else 4
  )
  for data, fsdp, groups, rules in DIVIDED:
    batch = test_objectives.batch_of(kind, seed, data * fsdp * groups, size)
    got = looked(kind, data, fsdp, rules)(held, batch)
    assert set(got) == set(want)
    for name, value in want.items():
      np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)


@functools.cache
def steps(every: int, data: int = 1, fsdp: int = 1, groups: int = 1):
  """Two steps of a whole model with all losses: metrics, last parameters."""
  mesh = sharding.make_mesh(data, fsdp, jax.devices()[: data * fsdp])
  config = dataclasses.replace(
    test_mesh.config("separate", "zero1" if data > 1 else "fsdp"),
    every_probe=every,
  )
  stage = stages.make(config, mesh)
  state = step.init_state(stage, 0, mesh)
  program = step.ByShape(step.compile_step(stage, 0, mesh))
  look = lambda step, metrics, batch: metrics
  if every:
    look = prober(step.ByShape(step.compile_probe(stage.probe)))
  rows = []
  for number in range(2):
    batch = test_mesh.batch(number, data * fsdp * groups, distinct=True)
    batch = sharding.to_devices(batch, mesh)
    state, metrics = program(state, batch)
    rows.append(jax.device_get(look(1, metrics, batch)))
  return rows, jax.device_get(state)


@pytest.mark.slow
def test_a_probe_changes_no_bit_of_a_step() -> None:
  """The state is donated, and so is the projection that a probe reads."""
  probed, plain = steps(1), steps(0)
  for one, other in zip(
    jax.tree.leaves(probed[1]), jax.tree.leaves(plain[1]), strict=True
  ):
    np.testing.assert_array_equal(one, other)
  for one, other in zip(probed[0], plain[0], strict=True):
    assert other == {name: one[name] for name in other}
    assert objectives.SEEN not in one and "gradient/distill" in one


@pytest.mark.slow
def test_of_a_whole_model_on_a_mesh() -> None:
  for one, other in zip(steps(1)[0], steps(1, 4, 2, 2)[0], strict=True):
    assert set(one) == set(other)
    for name, value in one.items():
      np.testing.assert_allclose(
        other[name], value, rtol=2e-3, atol=1e-4, err_msg=name
      )


@pytest.mark.slow
def test_the_step_sends_nothing_more() -> None:
  """The program's collectives, of any mesh, are those without a probe."""
  mesh = sharding.make_mesh(4, 2)
  counts = []
  for every in (0, 10):
    config = dataclasses.replace(
      test_mesh.config("separate", "zero1"), every_probe=every
    )
    stage = stages.make(config, mesh)
    state = step.abstract_state(stage, 0, mesh)
    batch = sharding.to_devices(test_mesh.batch(0, 8), mesh)
    text = step.compile_step(stage, 0, mesh).lower(state, batch).compile()
    counts.append(len(test_mesh.collectives(text.as_text())))
  assert counts[0] == counts[1] > 0


def test_a_term_from_elsewhere_may_read_tokens_and_what_learns_beside() -> None:
  """It is looked at too, in a program for each shape."""
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])

  def lengths(aux, embeddings, batch):
    size = embeddings.query.shape[0]
    longer = jnp.sum(batch.query.ids > 0) * aux["projection"][0, 0]
    return jnp.full(size, longer) * jnp.sum(embeddings.query[:, 0])

  held, batch = test_objectives.params(0), test_mesh.batch(1, 1)
  vectors = jax.random.normal(jax.random.key(0), (2, BATCH, 16))
  vectors = matryoshka.truncate(vectors, 16)
  seen = Seen(held["aux"], vectors[0], vectors[1], None)
  run = jax.jit(probe.pair_probe({"own": (1.0, lengths)}, mesh))
  found = prober(run)(1, {objectives.SEEN: seen}, batch)
  count = np.sum(batch.query.ids > 0) * held["aux"]["projection"][0, 0]
  sideways = 1 - vectors[0][:, 0] ** 2  # of the gradient along the first axis
  want = abs(count) * np.sqrt(np.sum(sideways))
  np.testing.assert_allclose(found["gradient/own"], want, rtol=1e-4)


def test_when_a_training_looks() -> None:
  due = lambda every, steps: [
    n for n in range(1, steps + 1) if probing.is_due(n, every, steps)
  ]
  assert due(10, 25) == [1, 10, 20]
  assert due(10, 10) == [1, 10]
  assert due(10, 9) == due(0, 25) == []
  assert due(1, 3) == [1, 2, 3]
