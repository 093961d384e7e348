"""The step, whole: differentiate the stage's objective, update, apply."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from embeddinggemma import sharding
from embeddinggemma.types import BadInput, Metrics, Stage, TrainState

Program = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


def optimizer_of(stage: Stage, params: Any) -> optax.GradientTransformation:
  """The stage's optimizer on what is trainable; the rest has no moments."""
  labels = _trainable(stage, params)
  if all(jax.tree.leaves(labels)):
    return stage.optimizer
  frozen = optax.set_to_zero()
  return optax.partition({True: stage.optimizer, False: frozen}, labels)


def _trainable(stage: Stage, params: Any) -> Any:
  return jax.tree_util.tree_map_with_path(
    lambda path, _: stage.trainable(sharding.path_name(path)), params
  )


def init_state(
  stage: Stage, seed: int, mesh: Mesh, params: Any | None = None
) -> TrainState:
  """A fresh state, sharded as it is made; `params` replaces stage.init."""
  make, source = functools.partial(_fresh, stage), params
  if params is None:
    make, source = _from_key(stage), jax.random.key(seed)
  shapes = jax.eval_shape(make, source)
  shardings = sharding.tree_shardings(shapes, mesh, stage.rules)
  return jax.jit(make, out_shardings=shardings)(source)


def train_step(
  stage: Stage, seed: int, state: TrainState, batch: Any
) -> tuple[TrainState, Metrics]:
  """One update; the random key is folded from the step, so it resumes."""
  key = jax.random.fold_in(jax.random.key(seed), state.step)

  def loss_of(params: Any) -> tuple[jax.Array, Metrics]:
    # What is frozen has no gradient, so none is computed.
    params = jax.tree.map(
      lambda x, free: x if free else jax.lax.stop_gradient(x),
      params,
      _trainable(stage, params),
    )
    return stage.objective(stage.view(params), batch, key)

  (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(
    state.params
  )
  optimizer = optimizer_of(stage, state.params)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params: Any = optax.apply_updates(state.params, updates)
  metrics |= {
    "loss": loss,
    "grad_norm": optax.tree.norm(grads),
    "update_norm": optax.tree.norm(updates),
  }
  return TrainState(state.step + 1, params, opt_state), metrics


def compile_step(
  stage: Stage,
  seed: int,
  mesh: Mesh,
  compiler_options: Mapping[str, Any] | None = None,
) -> Program:
  """train_step under jit, the state's shardings kept.

  The state is donated where each device updates what it holds. Whole
  parameters that are gathered from all devices are not written in place: XLA
  would copy them before, and again after (a v5e: 3.6 million cycles a step at
  300M), and that takes the memory which donating them saves.
  """
  in_place = mesh.size == 1 or stage.rules != "zero1"
  shapes = abstract_state(stage, seed, mesh)
  shardings = jax.tree.map(lambda x: x.sharding, shapes)
  return jax.jit(
    lambda state, batch: train_step(stage, seed, state, batch),
    donate_argnums=0 if in_place else (),
    in_shardings=(shardings, None),
    out_shardings=(shardings, None),
    compiler_options=dict(compiler_options or {}),
  )


def abstract_state(stage: Stage, seed: int, mesh: Mesh) -> Any:
  """A fresh state's shapes with their shardings: nothing is allocated."""
  shapes = jax.eval_shape(lambda: _from_key(stage)(jax.random.key(seed)))
  return sharding.placed_shapes(shapes, mesh, stage.rules)


class ByShape:
  """The step, compiled for each shape of batch when it is first needed.

  Unlike a jitted function, it also compiles for shapes alone, of which no
  array exists: so the memory of a step is known before it runs, and the run
  has no second compilation.
  """

  def __init__(self, jitted: Any):
    self._jitted = jitted
    self._made: dict[Any, jax.stages.Compiled] = {}

  def compiled(self, state: Any, batch: Any) -> jax.stages.Compiled:
    """The program for arrays, or for shapes with their shardings."""
    leaves, tree = jax.tree.flatten(batch)
    key = tree, tuple((x.shape, np.dtype(x.dtype)) for x in leaves)
    if key not in self._made:
      try:
        self._made[key] = self._jitted.lower(state, batch).compile()
      except jax.errors.JaxRuntimeError as error:
        if "compile option" not in str(error):
          raise
        raise BadInput(f"compiler_options: {error}") from None
    return self._made[key]

  def __call__(
    self, state: TrainState, batch: Any
  ) -> tuple[TrainState, Metrics]:
    """One step; the state may be donated."""
    return self.compiled(state, batch)(state, batch)


def _from_key(stage: Stage) -> Callable[[Any], TrainState]:
  return lambda key: _fresh(stage, stage.init(key))


def _fresh(stage: Stage, params: Any) -> TrainState:
  opt_state = optimizer_of(stage, params).init(params)
  return TrainState(jnp.zeros((), jnp.int32), params, opt_state)
