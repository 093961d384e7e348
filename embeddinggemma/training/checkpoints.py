"""The checkpoints of a running training: saving, keeping and restoring."""

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

_PART = 2**20  # smallest part of an array, in bytes, that a replica writes


def always(step: int) -> bool:
  """The default of `regular`: every step counts."""
  del step
  return True


@dataclasses.dataclass(frozen=True)
class _Keep:
  """A policy of Orbax: keep the newest `count` regular steps, and the newest.

  A checkpoint that was saved because of the time or a preemption is deleted
  once the next one exists, so the regular ones are those of an undisturbed run.
  """

  count: int
  regular: Callable[[int], bool]

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    """Whether to keep each of the checkpoints, which are given oldest first."""
    del context
    numbers = [found.step for found in checkpoints]
    kept = {*[n for n in numbers if self.regular(n)][-self.count :]}
    return [n in kept or n == numbers[-1] for n in numbers]


def _without_devices() -> None:
  """Let Orbax's processes wait for each other at JAX's coordination service.

  Its default is a sum over all devices, which queues behind training steps and
  has no time limit.
  """
  flags.FLAGS.mark_as_parsed()  # ours are elsewhere
  name = multihost.EXPERIMENTAL_ORBAX_USE_DISTRIBUTED_BARRIER.name
  flags.FLAGS[name].value = True


def _arrays() -> ocp.PyTreeCheckpointHandler:
  """A handler that lets replicas write parts of large arrays only.

  Orbax would cut up every array, with an operation for each part and device,
  which delays steps for longer than copying small arrays does.
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

  All processes of the run call it alike; saves continue in threads of their
  own. It keeps the newest `keep` of the `regular` steps, and the newest step.
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
    """Start to save a step; one that exists is kept.

    Raises OSError (ENOSPC), before it starts, if the disk has too little room.
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
    """Wait until everything is on disk; raises the error of a failed save."""
    self._manager.wait_until_finished()

  def saving(self) -> bool:
    """Whether a save is in progress."""
    return self._manager.is_saving_in_progress()

  def restore(
    self, like: TrainState
  ) -> tuple[TrainState, dict[str, Any], list[str]] | None:
    """The newest step that every process can read, with `like`'s shardings.

    Returns (state, position of the data, a line for each damaged step that was
    skipped), or None if there is no step. Raises BadInput if every step is
    damaged.
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
        f"no checkpoint under {self._root} can be read; {damaged[0]}; put a copy"
        " of one there, or begin anew with another --workdir"
      )
    return None

  def _move_aside(self, damaged: Sequence[int]) -> None:
    """Move damaged steps out of the way, so that they can be saved again."""
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
    """Restore a step by the handlers alone.

    A manager would wait for the other processes, forever if only one of them
    finds damage.
    """
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
    """Wait until everything is on disk; raises the error of a failed save."""
    with self._silence:
      self._manager.wait_until_finished()
      self._manager.close()
