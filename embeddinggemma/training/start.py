"""Where a stage of training starts, and whether it can: before any work."""

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
from embeddinggemma.data import denoisers, mixture
from embeddinggemma.model import adapt
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.training import inputs, stages, step, workdir
from embeddinggemma.training.config import (
  AdaptConfig,
  LanguageConfig,
  PairConfig,
  QatConfig,
  TrainConfig,
)
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.types import BadInput, Params

# What decides, beside shapes, what tensors compute: where there are any; in an
# encoder, which a decoder may become with another mask; in an embedder.
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
  """Fails on what no data can mend: the mesh, the groups, the start.

  Before any work, since the rest of a run may take minutes to get there.
  """
  mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp)
  stages.groups(config, mesh.size)
  compiler_options(config, mesh)
  stage = stages.make(config, mesh)
  shapes = step.abstract_state(stage, config.seed, mesh).params
  _check_frozen(config, shapes)
  jax.eval_shape(stage.view, shapes)  # fails on sizes that it cannot show
  _check_start(config, shapes)
  if isinstance(config, PairConfig):
    weights = config.data.weights
    mixture.shares(
      dict.fromkeys(weights, 1), weights, config.data.size_exponent
    )
  if isinstance(config, LanguageConfig):
    inputs.check_text(config)
  tokenizer = inputs.given_tokenizer(config)
  if isinstance(config, AdaptConfig) and tokenizer:
    denoisers.sentinels_of(tokenizer)


def _check_start(config: TrainConfig, shapes: Params) -> None:
  check_folders(config)
  if config.init_from:
    try:
      parent = checkpoint.find(config.init_from)
      _adopt(config, shapes, parent, _read_shapes)
    except BadInput as error:
      words, key = str(error), "init_from"
      name = key if config.init_from in words else f"{key}={config.init_from}"
      raise BadInput(f"{name}: {words}") from None


def check_folders(config: TrainConfig) -> None:
  """BadInput where a key names the address of a bucket, not a folder."""
  for key in ("init_from", "decoder_from", "teacher"):
    cache.as_folder(getattr(config, key, ""), key)
  cache.as_folder(config.data.path, "data.path")


def _check_frozen(config: TrainConfig, shapes: Params) -> None:
  leaves = jax.tree_util.tree_leaves_with_path(shapes)
  names = [sharding.path_name(path) for path, _ in leaves]
  for pattern in config.frozen:
    if not any(re.search(pattern, name) for name in names):
      raise BadInput(
        f"frozen: {pattern!r} matches no parameter; such are"
        f" {', '.join(names[:3])}"
      )
  if all(any(re.search(p, name) for p in config.frozen) for name in names):
    raise BadInput("frozen: every parameter is; leave something to train")


def params(
  config: TrainConfig, made: Inputs
) -> tuple[Params, list[str], list[str]]:
  """Parameters with those of `init_from` or the LSA table grafted.

  Also the paths of tensors that are fresh, and of the parent's that have no
  place in this stage's model.
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
  """The same with what `read` makes of a checkpoint: tensors, or shapes."""
  if source is None:
    return fresh, [], []
  files = checkpoint.read_files(source)
  _require_view(config, source, files)
  given, decoder = read(source), None
  _require_function("model", config.model, source, files, given)
  if isinstance(config, AdaptConfig) and config.decoder_from:
    other = checkpoint.find(config.decoder_from)
    files, decoder = checkpoint.read_files(other), read(other)
    _require_function("decoder", config.decoder, other, files, decoder)
  moved = stages.adopt(config, given, decoder)
  grafted, new = adapt.graft(fresh, moved)
  return grafted, new, adapt.dropped(given, moved)


def _require_view(
  config: TrainConfig, source: pathlib.Path, files: checkpoint.Files
) -> None:
  """Refuses weights that are to be seen through a view, but for the same one.

  Raw weights of quantisation-aware training are good on their grid alone.
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
  if view != stages.view_of(config):
    raise BadInput(
      f"checkpoint {source} was trained to be seen in {precision}; start from"
      " its own parent, or go on with stage qat and"
      f" --config.quantize.spec={precision}"
    )
  if isinstance(config, QatConfig) and config.teaches_itself:
    raise BadInput(
      f"checkpoint {source} is quantised, so no teacher of itself; give"
      " --config.teacher=DIR, vectors of its float parent that `teach` wrote,"
      " or --config.loss.distill=0"
    )


def _require_function(
  key: str,
  model: ModelConfig,
  source: pathlib.Path,
  files: checkpoint.Files,
  given: Params,
) -> None:
  """Refuses weights that would compute something else here.

  More layers would be random ones in the middle of what was trained; another
  base of rotary positions, another model of the same shapes.
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
  """Those of the config for the devices of a mesh; BadInput for unknown ones."""
  device = mesh.devices.flat[0]
  return generations.compiler_options(
    config.compiler_options, device.platform, device.device_kind
  )
