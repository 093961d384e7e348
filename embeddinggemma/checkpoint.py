"""Checkpoints: the only file that knows Orbax.

DIR/checkpoints/<step>/ holds `params` (raw weights), `opt_state`, `data` (the
position in the stream) and `files`: model.json, recipe.json, tokenizer.model,
prompts.json, LICENSE: all that any verb needs. Orbax writes a step under a
temporary name and renames it, so a directory named by a number is whole.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import math
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import flags
from etils import epath
from orbax.checkpoint._src.multihost import multihost

from embeddinggemma import distributed
from embeddinggemma.types import BadInput, Params, TrainState

CHECKPOINTS = "checkpoints"
# Workdirs inside one: the mean of its last checkpoints, or the last one with
# its low-rank factors merged.
AVERAGE, MERGED = "average", "merged"
_ORBAX = ("commit_success.txt", "_CHECKPOINT_METADATA")  # its own notes
_ITEMS = ("params", "opt_state", "data", "files")
_CHUNK, _FILE = 2**22, 2**26  # bytes of `write`: decoded, encoded
_TOGETHER = 2**24  # bytes of the tensors that are read at once

Files = Mapping[str, bytes]
Name = tuple[str, ...]  # of a tensor of the model: its path
Shapes = Mapping[Name, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class Lazy:
  """A tensor that is read when `write` comes to it."""

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  @property
  def size(self) -> int:
    """Elements."""
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    """Bytes."""
    return self.size * self.dtype.itemsize


class _LazyHandler(ocp.type_handlers.NumpyHandler):
  """Writes what is read, one tensor after the other, as numpy arrays."""

  async def _background_serialize(
    self, values: Any, infos: Any, args: Any = None
  ) -> None:
    for value, info, arg in zip(values, infos, args, strict=True):
      await super()._background_serialize([value.read()], [info], [arg])


class _FilesHandler(ocp.CheckpointHandler):
  """Small files inside a step, so that they are committed with the weights."""

  def save(self, directory: Any, args: "_FilesSave") -> None:
    if jax.process_index() == 0:
      for name, content in args.files.items():
        (pathlib.Path(directory) / name).write_bytes(content)

  def restore(self, directory: Any, args: Any = None) -> Files:
    del args
    return {p.name: p.read_bytes() for p in pathlib.Path(directory).iterdir()}


@ocp.args.register_with_handler(_FilesHandler, for_save=True)
@dataclasses.dataclass
class _FilesSave(ocp.args.CheckpointArgs):
  files: Files


@ocp.args.register_with_handler(_FilesHandler, for_restore=True)
@dataclasses.dataclass
class _FilesRestore(ocp.args.CheckpointArgs):
  pass


@contextlib.contextmanager
def _quiet() -> Any:
  """Orbax narrates on absl's logger; what fails, it raises as well."""
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.CRITICAL)
  try:
    yield
  finally:
    logger.setLevel(level)


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


def _alone() -> ocp.options.MultiprocessingOptions:
  """For what one process does, whatever the others do meanwhile."""
  own = jax.process_index()
  return ocp.options.MultiprocessingOptions(
    primary_host=own, active_processes={own}
  )


class _Manager(ocp.CheckpointManager):
  """Orbax's, without its question of a preemption.

  Its saving threads ask with the number of an older step, and JAX's sync point
  is one more than the largest number that was asked about last.
  """

  def reached_preemption(self, step: int) -> bool:
    """No: who calls `save` knows why."""
    del step
    return False


def _without_devices() -> None:
  """Orbax's processes wait for each other at JAX's service.

  By default they do it by a sum over all devices, which queues behind the
  steps, and has no limit.
  """
  flags.FLAGS.mark_as_parsed()  # ours are elsewhere
  name = multihost.EXPERIMENTAL_ORBAX_USE_DISTRIBUTED_BARRIER.name
  flags.FLAGS[name].value = True


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
    self._root = (workdir / CHECKPOINTS).absolute()
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
    self._silence.enter_context(_quiet())
    self._manager = _Manager(
      self._root,
      options=options,
      item_names=_ITEMS,
      item_handlers={"files": _FilesHandler()},
    )

  def save(
    self,
    step: int,
    state: TrainState,
    data: Mapping[str, Any],
    files: Files,
  ) -> None:
    """Starts to write a step; an existing one is kept.

    Raises OSError (ENOSPC) before it starts where the disk has no room.
    """
    if step in self._manager.all_steps():
      return
    self._manager.wait_until_finished()
    require_room(self._root, sum(x.nbytes for x in jax.tree.leaves(state)))
    items = {
      "params": ocp.args.StandardSave(dict(state.params)),
      "opt_state": ocp.args.StandardSave({"opt_state": state.opt_state}),
      "data": ocp.args.JsonSave(dict(data)),
      "files": _FilesSave(files),
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


def require_room(folder: pathlib.Path, size: int) -> None:
  """Raises OSError (ENOSPC) where so many bytes do not fit.

  Orbax writes in threads, whose failure halfway is a page of tracebacks.
  """
  free = shutil.disk_usage(folder).free
  if free < size:
    raise OSError(
      errno.ENOSPC,
      f"No space left on device: {size / 2**20:.1f} MiB are needed,"
      f" {free / 2**20:.1f} MiB are free",
      str(folder),
    )


def write(
  workdir: pathlib.Path, params: Params, files: Files, step: int = 0
) -> pathlib.Path:
  """One checkpoint of parameters alone, by one process; its directory.

  Little memory is needed beside arrays that are on the host: nothing is copied
  first, and small chunks leave for the disk as they are encoded. Of leaves that
  are `Lazy`, one is in memory at a time. An existing step is kept.
  """
  root = (workdir / CHECKPOINTS).absolute()
  root.mkdir(parents=True, exist_ok=True)
  if (root / str(step)).exists():
    return workdir / CHECKPOINTS / str(step)
  on_host = lambda x: x if isinstance(x, Lazy) else np.asarray(x)
  held = jax.tree.map(on_host, dict(params))
  require_room(root, sum(x.nbytes for x in jax.tree.leaves(held)))
  chunks = lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK)
  items = {
    "params": ocp.args.PyTreeSave(
      held,
      save_args=jax.tree.map(chunks, held),
      ocdbt_target_data_file_size=_FILE,
    ),
    "opt_state": ocp.args.StandardSave({"opt_state": {}}),
    "data": ocp.args.JsonSave({}),
    "files": _FilesSave(files),
  }
  as_it_is = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
  lazily = _LazyHandler(deepcopy_host_arrays=False)
  registry = ocp.type_handlers.create_type_handler_registry(
    (np.ndarray, as_it_is), (Lazy, lazily)
  )
  options = ocp.CheckpointManagerOptions(
    enable_async_checkpointing=False,
    cleanup_tmp_directories=True,
    create=False,
    multiprocessing_options=_alone(),
  )
  with _quiet():
    arrays = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    handlers = {"params": arrays, "files": _FilesHandler()}
    with _Manager(
      root, options=options, item_names=_ITEMS, item_handlers=handlers
    ) as manager:
      manager.save(step, args=ocp.args.Composite(**items))
  return workdir / CHECKPOINTS / str(step)


def steps(workdir: pathlib.Path) -> list[int]:
  """The whole checkpoints of a workdir, oldest first."""
  root = workdir / CHECKPOINTS
  names = [p.name for p in root.iterdir()] if root.is_dir() else []
  return sorted(int(name) for name in names if name.isdigit())


def find(path: str | pathlib.Path) -> pathlib.Path:
  """The checkpoint directory that a path names.

  A checkpoint itself, a training workdir (its average or merged one, or its
  newest), its `checkpoints` (the newest), or the workdir of a `run` (its final
  one).
  Anything else is BadInput.
  """
  path = pathlib.Path(path)
  if (path / "params").is_dir() and (path / "files").is_dir():
    return path
  parent = path.parent if path.name == CHECKPOINTS else path
  for workdir in (path / AVERAGE, path / MERGED, path, parent):
    if found := steps(workdir):
      return workdir / CHECKPOINTS / str(found[-1])
  for final in _finals(path):
    if (path / final / "params").is_dir():
      return path / final
  exists = "holds no checkpoint" if path.exists() else "does not exist"
  raise BadInput(
    f"{path} {exists}; give a checkpoint directory or the workdir of a run"
  )


def _finals(run: pathlib.Path) -> list[pathlib.Path]:
  """Where a run's summary says its final checkpoint is.

  The summary's path is absolute; its end (STAGE/checkpoints/STEP, or one deeper)
  still holds when a workdir has moved.
  """
  try:
    summary = json.loads((run / "summary.json").read_text())
    final = pathlib.Path(summary["final"]["checkpoint"])
  except (OSError, ValueError, KeyError, TypeError):
    return []
  ends = [run.joinpath(*final.parts[-depth:]) for depth in (3, 4)]
  return [*ends, final]


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[ocp.Checkpointer]:
  """A checkpointer; what it raises becomes BadInput that names the path."""
  try:
    with _quiet():
      yield ocp.Checkpointer(
        ocp.PyTreeCheckpointHandler(), multiprocessing_options=_alone()
      )
  except Exception as error:  # orbax raises many kinds
    reason = str(error).splitlines()[0] if str(error) else repr(error)
    raise BadInput(f"checkpoint {path} cannot be read: {reason}") from error


def _tree(checkpointer: ocp.Checkpointer, directory: pathlib.Path) -> Any:
  metadata = checkpointer.metadata(directory).item_metadata
  if metadata is None:
    raise ValueError("it has no metadata")
  return metadata.tree


def _to_numpy(_: Any) -> ocp.RestoreArgs:
  return ocp.RestoreArgs(restore_type=np.ndarray)


def read_params(path: pathlib.Path) -> Params:
  """Raw weights as numpy arrays, whatever mesh wrote them."""
  directory = (path / "params").absolute()
  with _reading(path) as checkpointer:
    args = jax.tree.map(_to_numpy, _tree(checkpointer, directory))
    params = checkpointer.restore(directory, restore_args=args)
  return {"aux": {}} | params


def read_shapes(path: pathlib.Path) -> dict[Name, jax.ShapeDtypeStruct]:
  """Shape and type of the model's tensors, sorted by name; none is read."""
  found = foreign_shapes(path / "params")
  return {name[1:]: found[name] for name in found if name[0] == "model"}


def read_tensors(
  path: pathlib.Path, names: Iterable[Name]
) -> dict[Name, np.ndarray]:
  """Some of the model's tensors; the others are not touched."""
  found = foreign_tensors(path / "params", [("model", *n) for n in names])
  return {name[1:]: array for name, array in found.items()}


def foreign_shapes(
  directory: pathlib.Path,
) -> dict[Name, jax.ShapeDtypeStruct]:
  """Shape and type of every tensor of any Orbax tree of dicts, by path."""
  with _reading(directory) as checkpointer:
    named = _named(_tree(checkpointer, directory.absolute()))
  return {
    name: jax.ShapeDtypeStruct(named[name].shape, named[name].dtype)
    for name in sorted(named)
  }


def foreign_tensors(
  directory: pathlib.Path, names: Iterable[Name]
) -> dict[Name, np.ndarray]:
  """Some tensors of any Orbax tree of dicts."""
  item = nest({name: 0 for name in names})
  args = ocp.args.PyTreeRestore(
    item, restore_args=jax.tree.map(_to_numpy, item), partial_restore=True
  )
  with _reading(directory) as checkpointer:
    return _named(checkpointer.restore(directory.absolute(), args=args))


def is_foreign(directory: pathlib.Path) -> bool:
  """Whether Orbax wrote a tree of tensors right here."""
  return (directory / "_METADATA").is_file()


def _named(tree: Any) -> dict[Name, Any]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {tuple(key.key for key in keys): leaf for keys, leaf in leaves}


def groups(shapes: Shapes) -> Iterator[list[Name]]:
  """Names in their order, so many together as are worth one reading."""
  group: list[Name] = []
  size = 0
  for name, shape in shapes.items():
    if group and size + nbytes(shape) > _TOGETHER:
      yield group
      group, size = [], 0
    group.append(name)
    size += nbytes(shape)
  if group:
    yield group


def nbytes(shape: jax.ShapeDtypeStruct) -> int:
  """Of a tensor."""
  return shape.size * shape.dtype.itemsize


def stream(path: pathlib.Path) -> Iterator[tuple[Name, np.ndarray]]:
  """The model's tensors in the order of their names, few in memory at once."""
  for names in groups(read_shapes(path)):
    tensors = read_tensors(path, names)
    for name in names:
      yield name, tensors.pop(name)


def nest(flat: Mapping[Name, Any]) -> dict[str, Any]:
  """{("a", "b"): x} -> {"a": {"b": x}}."""
  tree: dict[str, Any] = {}
  for name, leaf in flat.items():
    inner = tree
    for key in name[:-1]:
      inner = inner.setdefault(key, {})
    inner[name[-1]] = leaf
  return tree


def read_files(path: pathlib.Path) -> dict[str, bytes]:
  """The small files of a checkpoint, by name."""
  found = (path / "files").iterdir()
  return {p.name: p.read_bytes() for p in found if p.name not in _ORBAX}


def json_of(files: Files, name: str) -> dict[str, Any]:
  """What a small file says; BadInput if it is no JSON object."""
  try:
    tree = json.loads(files[name])
  except ValueError as error:
    raise BadInput(f"{name}: {error}") from None
  if not isinstance(tree, dict):
    raise BadInput(f"{name} is not a JSON object")
  return tree


def view_of(files: Files) -> Any:
  """How the stored weights are to be seen; "identity": as they are."""
  recipe = json_of(files, "recipe.json") if "recipe.json" in files else {}
  return recipe.get("view", "identity")


class ContentHash:
  """sha256 over names, types, shapes and bytes of tensors, added by name."""

  def __init__(self) -> None:
    self._digest = hashlib.sha256()

  def add_tensor(self, name: Name, leaf: Any) -> None:
    """As `add`, by the tensor's path."""
    self.add("".join(f"[{key!r}]" for key in name), leaf)

  def add(self, name: str, leaf: Any) -> None:
    """Names come as `jax.tree_util.keystr` writes them, in their order."""
    array = np.ascontiguousarray(np.asarray(leaf))
    self._digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
    # As bytes: a buffer cannot be of bfloat16.
    self._digest.update(array.reshape(-1).view(np.uint8).data)

  def hexdigest(self) -> str:
    """Of what was added so far."""
    return self._digest.hexdigest()


def content_hash(params: Params) -> str:
  """sha256 over names, types, shapes and bytes of the weights, sorted by name.

  The same weights give the same hash wherever and however they are stored;
  `aux` is not part of the model and does not count.
  """
  digest = ContentHash()
  leaves = jax.tree_util.tree_leaves_with_path(params["model"])
  named = sorted((jax.tree_util.keystr(path), leaf) for path, leaf in leaves)
  for name, leaf in named:
    digest.add(name, leaf)
  return digest.hexdigest()
