"""Find, read and write checkpoints.

DIR/checkpoints/<step>/ holds `params` (raw weights), `opt_state`, `data` (the
position in the stream) and `files` (model.json, recipe.json, tokenizer.model,
prompts.json, LICENSE: all that any verb needs). Orbax writes a step under a
temporary name and renames it, so a directory named by a number is complete.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from embeddinggemma.lineage import stages
from embeddinggemma.types import IDENTITY, BadInput, Params

CHECKPOINTS = "checkpoints"
# Workdirs inside a training's: the mean of its last checkpoints, and its
# last one with low-rank factors merged.
AVERAGE, MERGED = "average", "merged"
_ORBAX = ("commit_success.txt", "_CHECKPOINT_METADATA")  # files that Orbax adds
TOKENIZER_FILE = "tokenizer.model"
_TERMS = re.compile(
  r"(LICEN[CS]E|NOTICE|USE_POLICY|TERMS|GEMMA_TERMS)[\w.-]*", re.IGNORECASE
)
_ORIGIN = ("from", "family", "repository", "general")
# An entry of recipe.json, of an export's mark and of what is read of one: the
# cuts that made a model out of a larger one, the oldest first. Each is {"from":
# hash of the larger one's weights, "layers": those kept, "of_layers",
# "pieces", "of_pieces"}.
CUTS = "cuts"
ITEMS = ("params", "opt_state", "data", "files")
_GIVE = "give a checkpoint directory or the workdir of a run"
_CHUNK, _FILE = 2**22, 2**26  # bytes of `write`: of a chunk, of a file
_TOGETHER = 2**24  # bytes of the tensors that are read at once

# An entry of recipe.json since outer white space of texts is kept; models of
# earlier versions, which lack it, were trained on stripped texts.
AS_WRITTEN = {"white_space": "kept"}

# Of a soup, the longest text of its ingredients' training; a training's own is
# in its config.
TRAINED_LENGTH = "trained_length"
TEACHERS = "teachers"  # key of recipe.json, and of a teacher's origin

Files = Mapping[str, bytes]
Name = tuple[str, ...]  # the path of a tensor of the model
Shapes = Mapping[Name, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class Lazy:
  """A tensor that is read when `write` comes to it."""

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  @property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    """Number of bytes."""
    return self.size * self.dtype.itemsize


class _LazyHandler(ocp.type_handlers.NumpyHandler):
  """Writes `Lazy` tensors as numpy arrays, reading one after the other."""

  async def _background_serialize(
    self, values: Any, infos: Any, args: Any = None
  ) -> None:
    for value, info, arg in zip(values, infos, args, strict=True):
      await super()._background_serialize([value.read()], [info], [arg])


class FilesHandler(ocp.CheckpointHandler):
  """Small files inside a step, so that they are committed with the weights."""

  def save(self, directory: Any, args: "FilesSave") -> None:
    """Write the files, in the first process only."""
    if jax.process_index() == 0:
      for name, content in args.files.items():
        (pathlib.Path(directory) / name).write_bytes(content)

  def restore(self, directory: Any, args: Any = None) -> Files:
    """All files by name."""
    del args
    return {p.name: p.read_bytes() for p in pathlib.Path(directory).iterdir()}


@ocp.args.register_with_handler(FilesHandler, for_save=True)
@dataclasses.dataclass
class FilesSave(ocp.args.CheckpointArgs):
  """The argument of `FilesHandler.save`."""

  files: Files


@ocp.args.register_with_handler(FilesHandler, for_restore=True)
@dataclasses.dataclass
class _FilesRestore(ocp.args.CheckpointArgs):
  pass


@contextlib.contextmanager
def quiet() -> Any:
  """Silence absl's logger, on which Orbax narrates; errors are raised too."""
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.CRITICAL)
  try:
    yield
  finally:
    logger.setLevel(level)


def _alone() -> ocp.options.MultiprocessingOptions:
  """Orbax options for work of this process alone."""
  own = jax.process_index()
  return ocp.options.MultiprocessingOptions(
    primary_host=own, active_processes={own}
  )


class Manager(ocp.CheckpointManager):
  """Orbax's manager without its own check for preemption.

  Its saving threads ask JAX about an older step, while JAX's sync point is one
  more than the largest step asked about last.
  """

  def reached_preemption(self, step: int) -> bool:
    """Always False: the caller of `save` handles preemption."""
    del step
    return False


def require_room(folder: pathlib.Path, size: int) -> None:
  """Raise OSError (ENOSPC) if `size` bytes do not fit on the disk.

  Orbax writes in threads, and would fail halfway with a page of tracebacks.
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
  """Write a checkpoint of parameters alone, from one process.

  Returns its directory; an existing step is kept. It needs little memory beside
  arrays on the host: they are not copied first, and small chunks go to the disk
  as they are encoded. Of `Lazy` leaves, one is in memory at a time.
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
    "files": FilesSave(files),
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
  with quiet():
    arrays = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    handlers = {"params": arrays, "files": FilesHandler()}
    with Manager(
      root, options=options, item_names=ITEMS, item_handlers=handlers
    ) as manager:
      manager.save(step, args=ocp.args.Composite(**items))
  return workdir / CHECKPOINTS / str(step)


def steps(workdir: pathlib.Path) -> list[int]:
  """The complete checkpoints of a workdir, oldest first."""
  root = workdir / CHECKPOINTS
  names = [p.name for p in root.iterdir()] if root.is_dir() else []
  return sorted(int(name) for name in names if name.isdigit())


def find(path: str | pathlib.Path) -> pathlib.Path:
  """The checkpoint directory that a path names.

  The path may be a checkpoint; a training workdir (its averaged or merged
  checkpoint, else its newest one); its `checkpoints` (the newest); or the
  workdir of a `run` (the final one). Raises BadInput for anything else.
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
  if path.suffix == ".gguf" and path.is_file():
    raise BadInput(
      f"{path} is to be imported first: embeddinggemma import --from={path}"
      f" --workdir={path.with_suffix('')}"
    )
  if path.exists():
    raise BadInput(f"{path} holds no checkpoint; {_GIVE}")
  if path.parts[:1] == ("~",):
    home = os.path.expanduser(path)
    raise BadInput(f"{path} does not exist: ~ is no home here; write {home}")
  fetched = f", or fetch it: import --from={path}" if _is_name(path) else ""
  raise BadInput(f"{path} does not exist; {_GIVE}{fetched}")


def _is_name(path: pathlib.Path) -> bool:
  """Whether a path may be meant as a repository's name, OWNER/NAME."""
  named = len(path.parts) == 2 and not path.is_absolute()
  return named and path.parts[0] != ".." and not path.parent.exists()


def _finals(run: pathlib.Path) -> list[pathlib.Path]:
  """Places where a run's final checkpoint may be, by its summary.

  The path in the summary is absolute; if the workdir has moved, the end of the
  path (STAGE/checkpoints/STEP, or one deeper) is still right.
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
  """A checkpointer whose errors become BadInput naming the path."""
  try:
    with quiet():
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
  """Shapes and types of the model's tensors, sorted by name; reads no data."""
  found = foreign_shapes(path / "params")
  return {name[1:]: found[name] for name in found if name[0] == "model"}


def read_tensors(
  path: pathlib.Path, names: Iterable[Name]
) -> dict[Name, np.ndarray]:
  """Some of the model's tensors; no others are read."""
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
  """Whether Orbax wrote a tree of tensors into this very directory."""
  return (directory / "_METADATA").is_file()


def _named(tree: Any) -> dict[Name, Any]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {tuple(key.key for key in keys): leaf for keys, leaf in leaves}


def groups(shapes: Shapes) -> Iterator[list[Name]]:
  """Names in order, in groups of tensors that are worth reading together."""
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
  """Number of bytes of a tensor of this shape."""
  return shape.size * shape.dtype.itemsize


def stream(path: pathlib.Path) -> Iterator[tuple[Name, np.ndarray]]:
  """Yield the model's tensors in order of name, with few in memory at once."""
  for names in groups(read_shapes(path)):
    tensors = read_tensors(path, names)
    for name in names:
      yield name, tensors.pop(name)


def nest(flat: Mapping[Name, Any]) -> dict[str, Any]:
  """A nested dict from paths: {("a", "b"): x} -> {"a": {"b": x}}."""
  tree: dict[str, Any] = {}
  for name, leaf in flat.items():
    inner = tree
    for key in name[:-1]:
      inner = inner.setdefault(key, {})
    inner[name[-1]] = leaf
  return tree


def read_files(path: pathlib.Path) -> dict[str, bytes]:
  """The small files of a checkpoint, by name; BadInput if it has none."""
  try:
    found = (path / "files").iterdir()
    return {p.name: p.read_bytes() for p in found if p.name not in _ORBAX}
  except OSError as error:
    reason = f"files: {error.strerror}"
    raise BadInput(f"checkpoint {path} cannot be read: {reason}") from None


def json_of(files: Files, name: str) -> dict[str, Any]:
  """The content of a JSON file of a checkpoint; BadInput if it is no object."""
  try:
    tree = json.loads(files[name])
  except ValueError as error:
    raise BadInput(f"{name}: {error}") from None
  if not isinstance(tree, dict):
    raise BadInput(f"{name} is not a JSON object")
  return tree


def view_of(files: Files) -> Any:
  """The name of the view through which the weights are to be used.

  "identity" means as they are.
  """
  return recipe_of(files).get("view", "identity")


def keeps_white_space(files: Files) -> bool:
  """Whether the checkpoint's writer kept outer white space of texts."""
  return AS_WRITTEN.items() <= recipe_of(files).items()


def identity_of(files: Files) -> Any:
  """The identity in recipe.json, unchecked; {} in older ones."""
  return recipe_of(files).get(IDENTITY, {})


def recipe_of(files: Files) -> dict[str, Any]:
  """The content of recipe.json; {} if there is none."""
  return json_of(files, "recipe.json") if "recipe.json" in files else {}


def trained_length(files: Files) -> int | None:
  """Tokens of the longest text that the last training read; None: not said."""
  recipe = recipe_of(files)
  config = recipe.get("config")
  of_stage = config.get("max_length") if isinstance(config, dict) else None
  length = recipe.get(TRAINED_LENGTH, of_stage)
  return length if isinstance(length, int) and length > 0 else None


def origin(files: Files) -> dict[str, Any]:
  """From where weights were imported, these or those that they descend from.

  {} if they are not known to descend from any: {"from", "family", "repository"
  on the Hub, "general": metadata of a GGUF file}.
  """
  recipe = recipe_of(files)
  found = recipe.get("origin") or recipe.get("source") or {}
  return {key: found[key] for key in _ORIGIN if found.get(key)}


def teachers_of(files: Files) -> list[dict[str, Any]]:
  """The teachers whose vectors the weights, or their parents, were trained on.

  Each has what its teacher.json says of its origin: name, licence, terms.
  """
  found = recipe_of(files).get(TEACHERS)
  return [t for t in found if isinstance(t, dict)] if found else []


def with_teachers(*several: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
  """The entry of recipe.json for teachers of several models; {} for none.

  Each is there once, followed by those that taught it.
  """
  found: list[dict[str, Any]] = []
  for teacher in (dict(t) for teachers in several for t in teachers):
    own = teacher.pop(TEACHERS, [])
    found += [t for t in (teacher, *own) if t and t not in found]
  return {TEACHERS: found} if found else {}


def cuts(files: Files) -> list[dict[str, Any]]:
  """The cuts that made this model or one that it descends from; see CUTS."""
  recipe = recipe_of(files)
  return recipe.get(CUTS) or recipe.get("source", {}).get(CUTS) or []


def descent(files: Files) -> dict[str, Any]:
  """What recipe.json keeps of a parent's: origin, cuts, teachers and stages."""
  found = {
    "origin": origin(files),
    CUTS: cuts(files),
    TEACHERS: teachers_of(files),
    stages.TRAINED: stages.of(recipe_of(files)),
  }
  return {key: value for key, value in found.items() if value}


class ContentHash:
  """SHA-256 over names, types, shapes and bytes of tensors added in order."""

  def __init__(self) -> None:
    self._digest = hashlib.sha256()

  def add_tensor(self, name: Name, leaf: Any) -> None:
    """Add a tensor by its path."""
    self.add("".join(f"[{key!r}]" for key in name), leaf)

  def add(self, name: str, leaf: Any) -> None:
    """Add a tensor by its name as `jax.tree_util.keystr` writes it."""
    array = np.ascontiguousarray(np.asarray(leaf))
    self._digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
    # As bytes: a buffer cannot be of bfloat16.
    self._digest.update(array.reshape(-1).view(np.uint8).data)

  def hexdigest(self) -> str:
    """The hash of the tensors added so far."""
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


def hash_of(path: pathlib.Path) -> str:
  """The `content_hash` of a checkpoint's weights, read tensor by tensor."""
  digest = ContentHash()
  for name, tensor in stream(path):
    digest.add_tensor(name, tensor)
  return digest.hexdigest()


def is_terms(name: str) -> bool:
  """Whether a file of this name holds terms of use, such as a licence."""
  return _TERMS.fullmatch(name) is not None
