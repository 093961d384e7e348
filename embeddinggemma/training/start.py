"""Where a stage of training starts, and checks of it before any work."""

import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax

from embeddinggemma import (
  cache,
  checkpoint,
  generations,
  quantize,
  saved,
  sharding,
)
from embeddinggemma.model import adapt
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.training import prepare, stages, step, workdir
from embeddinggemma.training.config import TrainConfig
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.types import BadInput, Params

# Fields of ModelConfig that, besides shapes, decide the function of tensors: of
# all models; of an encoder, which a decoder may become by another mask; and of
# an embedder with a head.
_FUNCTION = {
  "": (
    "num_layers",
    "pattern",
    "window",
    "local_rope_base",
    "global_rope_base",
    "global_rope_factor",
    "norm_eps",
    "qk_norm",
    "attention_softcap",
  ),
  "encoder": ("window_rule",),
  "up": ("pooling",),
}


def check(config: TrainConfig) -> None:
  """Raise BadInput for faults of the mesh, the groups or the start.

  It comes before any work, since the rest of a run may take minutes.
  """
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  stages.groups(config, mesh.size)
  compiler_options(config, mesh)
  stage = stages.make(config, mesh)
  shapes = step.abstract_state(stage, config.seed, mesh).params
  _check_frozen(config, shapes)
  jax.eval_shape(stage.view, shapes)  # fails on sizes that it cannot show
  check_start(config)
  kind = stages.kind_of(config)
  kind.check(config, prepare.given_tokenizer(config))


def check_start(config: TrainConfig) -> None:
  """Raise BadInput if the config's start cannot be read or does not fit."""
  check_folders(config)
  shapes = jax.eval_shape(lambda: stages.init(config)(jax.random.key(0)))
  if config.init_from:
    try:
      parent = checkpoint.find(config.init_from)
      _adopt(config, shapes, parent, _read_shapes)
    except BadInput as error:
      words, key = str(error), "init_from"
      name = key if config.init_from in words else f"{key}={config.init_from}"
      raise BadInput(f"{name}: {words}") from None


def check_folders(config: TrainConfig) -> None:
  """Raise BadInput if a key holds the address of a bucket and not a folder."""
  for key in stages.kind_of(config).folders:
    cache.as_folder(getattr(config, key), key)
  cache.as_folder(config.data.path, "data.path")


def _check_frozen(config: TrainConfig, shapes: Params) -> None:
  leaves = jax.tree_util.tree_leaves_with_path(shapes)
  names = [sharding.path_name(path) for path, _ in leaves]
  for pattern in config.frozen:
    if not any(re.search(pattern, name) for name in names):
      raise BadInput(
        f"frozen: {pattern!r} matches no parameter; leave it out, or match a"
        f" path such as {', '.join(names[:3])}"
      )
  if all(any(re.search(p, name) for p in config.frozen) for name in names):
    raise BadInput("frozen: every parameter is; leave something to train")


def params(
  config: TrainConfig, made: Inputs
) -> tuple[Params, list[str], list[str]]:
  """Initial parameters, with those of `init_from` or the LSA table in place.

  Also returns the paths of tensors that are fresh, and of the parent's tensors
  that have no place in this stage's model.
  """
  fresh = stages.init(config)(jax.random.key(config.seed))
  return _adopt(
    config, fresh, workdir.source(config, made), checkpoint.read_params
  )


def _adopt(
  config: TrainConfig,
  fresh: Params,
  source: pathlib.Path | None,
  read: Callable[[pathlib.Path], Params],
) -> tuple[Params, list[str], list[str]]:
  """Replace fresh parameters by those of a checkpoint, as `params` does.

  `read` returns the parameters of a checkpoint, or only their shapes, for a
  check that reads no weights.
  """
  if source is None:
    return fresh, [], []
  files = checkpoint.read_files(source)
  _require_view(config, source, files)
  kind, given, second = stages.kind_of(config), read(source), None
  _require_function("model", config.model, source, files, given)
  for key, path in kind.parents(config).items():
    if path:
      other = checkpoint.find(path)
      files, second = checkpoint.read_files(other), read(other)
      model = getattr(config, key)
      _require_function(key, model, other, files, second)
  moved = kind.adopt(config, given, second)
  grafted, new = adapt.graft(fresh, moved)
  return grafted, new, adapt.dropped(given, moved)


def _require_view(
  config: TrainConfig, source: pathlib.Path, files: checkpoint.Files
) -> None:
  """Raise BadInput for weights that need another view than this stage's.

  The raw weights of quantisation-aware training are good only on their grid.
  """
  view = checkpoint.view_of(files)
  precision = quantize.precision_of(view)
  if precision == quantize.FLOAT:
    return
  if precision is None:
    raise BadInput(
      f"checkpoint {source} needs the view {view!r} of its weights; start from"
      " the final one of its training"
    )
  kind = stages.kind_of(config)
  if view != kind.view(config):
    raise BadInput(
      f"checkpoint {source} was trained to be seen in {precision}; start from"
      " its own parent, or go on with stage qat and"
      f" --config.quantize.spec={precision}"
    )
  kind.check_parent(config, source)


def _require_function(
  key: str,
  model: ModelConfig,
  source: pathlib.Path,
  files: checkpoint.Files,
  given: Params,
) -> None:
  """Raise BadInput for weights that would compute something else here.

  Additional layers would be random ones among trained ones, and another base of
  the rotary positions would be a different model of the same shapes.
  """
  if "model.json" not in files:
    return
  theirs = saved.model_of(source, files)
  parts = ("", *given["model"])
  for name in (n for part in parts for n in _FUNCTION.get(part, ())):
    own, parents = getattr(model, name), getattr(theirs, name)
    if own != parents:
      raise BadInput(
        f"{key}.{name}={own}, where the checkpoint {source} was trained with"
        f" {parents}; set it to that"
      )


def _read_shapes(path: pathlib.Path) -> Params:
  return {"model": checkpoint.nest(checkpoint.read_shapes(path)), "aux": {}}


def compiler_options(
  config: TrainConfig, mesh: jax.sharding.Mesh
) -> dict[str, Any]:
  """The compiler options for the mesh's devices; BadInput if unknown."""
  device = mesh.devices.flat[0]
  return generations.compiler_options(
    config.compiler_options, device.platform, device.device_kind
  )
