"""The training step: differentiate the stage's objective, update, apply."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from embeddinggemma import sharding
from embeddinggemma.losses import objectives
from embeddinggemma.types import BadInput, Metrics, Probe, Stage, TrainState

Program = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


def optimizer_of(stage: Stage, params: Any) -> optax.GradientTransformation:
  """The stage's optimizer on trainable parameters; others have no moments."""
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
  """A fresh train state, made sharded; `params` replaces stage.init."""
  make, source = functools.partial(_fresh, stage), params
  if params is None:
    make, source = _from_key(stage), jax.random.key(seed)
  shapes = jax.eval_shape(make, source)
  shardings = sharding.tree_shardings(shapes, mesh, stage.rules)
  return jax.jit(make, out_shardings=shardings)(source)


def train_step(
  stage: Stage, state: TrainState, batch: Any
) -> tuple[TrainState, Metrics]:
  """One update of the parameters; returns the new state and its metrics."""

  def loss_of(params: Any) -> tuple[jax.Array, Metrics]:
    # What is frozen has no gradient, so none is computed.
    params = jax.tree.map(
      lambda x, free: x if free else jax.lax.stop_gradient(x),
      params,
      _trainable(stage, params),
    )
    return stage.objective(stage.view(params), batch)

  (loss, metrics), grads = jax.value_and_grad(loss_of, has_aux=True)(
    state.params
  )
  optimizer = optimizer_of(stage, state.params)

  def update() -> tuple[Any, Any, jax.Array]:
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return params, opt_state, optax.tree.norm(updates)

  grad_norm = optax.tree.norm(grads)
  idle = metrics.get(objectives.IDLE)
  if idle is None:
    params, opt_state, update_norm = update()
  else:
    # Chosen by a condition: to compute both would take memory for moments.
    held = lambda: (state.params, _held(state.opt_state), jnp.zeros(()))
    params, opt_state, update_norm = jax.lax.cond(idle, held, update)
    grad_norm = jnp.where(idle, 0.0, grad_norm)
  metrics |= {
    "loss": loss,
    "grad_norm": grad_norm,
    "update_norm": update_norm,
  }
  return TrainState(state.step + 1, params, opt_state), metrics


def _held(opt_state: Any) -> Any:
  """The optimizer's state after a batch that teaches nothing.

  Only the schedule's place goes on, as the number of the step does. By momentum
  and weight decay, such a batch would else move weights.
  """
  is_place = lambda x: isinstance(x, optax.ScaleByScheduleState)
  goes_on = lambda x: (
    x._replace(count=optax.safe_increment(x.count)) if is_place(x) else x
  )
  return jax.tree.map(goes_on, opt_state, is_leaf=is_place)


def compile_step(
  stage: Stage,
  seed: int,
  mesh: Mesh,
  compiler_options: Mapping[str, Any] | None = None,
) -> Program:
  """A jitted `train_step` that keeps the state's shardings.

  The state is donated if each device updates the parameters that it holds.
  Parameters that are gathered whole from all devices cannot be updated in
  place: XLA would copy them before and after (on a v5e 3.6 million cycles a
  step at 300M), which takes the memory that donation saves.
  """
  in_place = mesh.size == 1 or stage.rules != "zero1"
  shapes = abstract_state(stage, seed, mesh)
  shardings = jax.tree.map(lambda x: x.sharding, shapes)
  return jax.jit(
    lambda state, batch: train_step(stage, state, batch),
    donate_argnums=0 if in_place else (),
    in_shardings=(shardings, None),
    out_shardings=(shardings, None),
    compiler_options=dict(compiler_options or {}),
  )


def compile_probe(
  probe: Probe, compiler_options: Mapping[str, Any] | None = None
) -> Any:
  """A stage's probe, jitted; `ByShape` compiles it."""
  return jax.jit(probe, compiler_options=dict(compiler_options or {}))


def abstract_state(stage: Stage, seed: int, mesh: Mesh) -> Any:
  """Shapes of a fresh train state with their shardings; allocates nothing."""
  shapes = jax.eval_shape(lambda: _from_key(stage)(jax.random.key(seed)))
  return sharding.placed_shapes(shapes, mesh, stage.rules)


class ByShape:
  """The step, or a probe, compiled for each shape of batch when first needed.

  Unlike a jitted function it can also be compiled from shapes alone, without
  arrays. So the memory of a step is known before it runs, and the run does not
  compile a second time.
  """

  def __init__(self, jitted: Any):
    self._jitted = jitted
    self._made: dict[Any, jax.stages.Compiled] = {}

  def compiled(self, state: Any, batch: Any) -> jax.stages.Compiled:
    """The program for these arrays, or shapes with their shardings.

    Raises BadInput for compiler options that are not accepted.
    """
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

  def __call__(self, state: Any, batch: Any) -> Any:
    """One step, whose state may be donated, or one look of a probe."""
    return self.compiled(state, batch)(state, batch)


def _from_key(stage: Stage) -> Callable[[Any], TrainState]:
  return lambda key: _fresh(stage, stage.init(key))


def _fresh(stage: Stage, params: Any) -> TrainState:
  opt_state = optimizer_of(stage, params).init(params)
  return TrainState(jnp.zeros((), jnp.int32), params, opt_state)
