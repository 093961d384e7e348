"""The checkpoints of a running training: saved, kept and restored."""

import contextlib
import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import flags
from etils import epath
from orbax.checkpoint._src.metadata import array_metadata_store
from orbax.checkpoint._src.multihost import multihost

from embeddinggemma import checkpoint, distributed
from embeddinggemma.types import BadInput, TrainState

_PART = 2**20  # bytes that are worth a replica's help with a save


def always(step: int) -> bool:
  """Every step is one of those that are kept by their number."""
  del step
  return True


@dataclasses.dataclass(frozen=True)
class _Keep:
  """The newest `count` of the regular steps, and the newest of all.

  A save that time or a preemption asked for goes when the next one is there: so
  the regular ones are those of a run that nothing disturbed.
  """

  count: int
  regular: Callable[[int], bool]

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    """Orbax's question, of the steps oldest first."""
    del context
    numbers = [found.step for found in checkpoints]
    kept = {*[n for n in numbers if self.regular(n)][-self.count :]}
    return [n in kept or n == numbers[-1] for n in numbers]


def _without_devices() -> None:
  """Orbax's processes wait for each other at JAX's service.

  By default they do it by a sum over all devices, which queues behind the
  steps, and has no limit.
  """
  flags.FLAGS.mark_as_parsed()  # ours are elsewhere
  name = multihost.EXPERIMENTAL_ORBAX_USE_DISTRIBUTED_BARRIER.name
  flags.FLAGS[name].value = True


def _arrays() -> ocp.PyTreeCheckpointHandler:
  """Replicas write parts of what is large.

  Orbax has them cut everything up, an operation a part and device, which held
  steps up for longer than the copies of small arrays did.
  """
  handler = ocp.type_handlers.ArrayHandler(
    min_slice_bytes_for_replica_parallel=_PART,
    array_metadata_store=array_metadata_store.Store(),
  )
  registry = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, handler)
  )
  return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


class Checkpoints:
  """Saves and restores the state and the data position of one run.

  All processes of the run call it alike; saves go on in threads of their own.
  `keep`: so many of the steps that are `regular`, and the newest.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    keep: int | None = None,
    regular: Callable[[int], bool] = always,
    asynchronous: bool = True,
  ):
    self._root = (workdir / checkpoint.CHECKPOINTS).absolute()
    self._root.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(
      preservation_policy=_Keep(keep, regular) if keep else None,
      cleanup_tmp_directories=True,
      enable_async_checkpointing=asynchronous,
    )
    if distributed.count() > 1:
      _without_devices()
    # Until `close`, because of the threads.
    self._silence = contextlib.ExitStack()
    self._silence.enter_context(checkpoint.quiet())
    self._manager = checkpoint.Manager(
      self._root,
      options=options,
      item_names=checkpoint.ITEMS,
      item_handlers={
        "params": _arrays(),
        "opt_state": _arrays(),
        "files": checkpoint.FilesHandler(),
      },
    )

  def save(
    self,
    step: int,
    state: TrainState,
    data: Mapping[str, Any],
    files: checkpoint.Files,
  ) -> None:
    """Starts to write a step; an existing one is kept.

    Raises OSError (ENOSPC) before it starts where the disk has no room.
    """
    if step in self._manager.all_steps():
      return
    self._manager.wait_until_finished()
    checkpoint.require_room(
      self._root, sum(x.nbytes for x in jax.tree.leaves(state))
    )
    items = {
      "params": ocp.args.PyTreeSave(dict(state.params)),
      "opt_state": ocp.args.PyTreeSave({"opt_state": state.opt_state}),
      "data": ocp.args.JsonSave(dict(data)),
      "files": checkpoint.FilesSave(files),
    }
    self._manager.save(step, args=ocp.args.Composite(**items), force=True)

  def wait(self) -> None:
    """Until everything is on disk; raises what a save raised."""
    self._manager.wait_until_finished()

  def saving(self) -> bool:
    """Whether a save still goes on."""
    return self._manager.is_saving_in_progress()

  def restore(
    self, like: TrainState
  ) -> tuple[TrainState, dict[str, Any], list[str]] | None:
    """The newest step that every process can read, onto `like`'s shardings.

    Also returns what was stepped over: one line for each damaged step.
    """
    damaged: list[str] = []
    for step in sorted(self._manager.all_steps(), reverse=True):
      restored, reason = None, ""
      try:
        restored = self._restore(step, like)
      except Exception as error:  # orbax raises many kinds
        reason = str(error).splitlines()[0] if str(error) else repr(error)
      # With shards, damage may be in what another process reads.
      reason = next(filter(None, distributed.gather("restore", reason)), "")
      if restored is None or reason:
        damaged.append(f"{self._root / str(step)} is damaged: {reason}")
        continue
      self._move_aside([s for s in self._manager.all_steps() if s > step])
      return (*restored, damaged)
    if damaged:
      raise BadInput(
        f"no checkpoint under {self._root} can be read; {damaged[0]}"
      )
    return None

  def _move_aside(self, damaged: Sequence[int]) -> None:
    """Out of the way, so that these steps can be saved anew; not deleted."""
    for step in damaged if distributed.is_first() else ():
      target = self._root.parent / f"damaged-{step}"
      shutil.rmtree(target, ignore_errors=True)
      (self._root / str(step)).rename(target)
    if damaged:
      distributed.barrier("damaged")
      self._manager.reload()

  def _restore(
    self, step: int, like: TrainState
  ) -> tuple[TrainState, dict[str, Any]]:
    """By the handlers alone: a manager waits for the other processes, which
    would wait for ever if only one of them found damage."""
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    path = epath.Path(self._root / str(step))
    arrays, position = (
      ocp.StandardCheckpointHandler(),
      ocp.JsonCheckpointHandler(),
    )
    read = lambda name, tree: arrays.restore(
      path / name, args=ocp.args.StandardRestore(tree)
    )
    params = read("params", dict(abstract.params))
    moments = read("opt_state", {"opt_state": abstract.opt_state})
    data = position.restore(path / "data")
    for handler in (arrays, position):
      handler.close()
    number = jax.make_array_from_callback(
      (), like.step.sharding, lambda _: np.int32(step)
    )
    return TrainState(number, params, moments["opt_state"]), dict(data)

  def close(self) -> None:
    """Waits until everything is on disk; raises what a save raised."""
    with self._silence:
      self._manager.wait_until_finished()
      self._manager.close()
