"""Read the description of an embedder's checkpoint, without its tensors."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from embeddinggemma import checkpoint, quantize
from embeddinggemma import config as config_lib
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.types import BadInput

GRID = "grid"  # the key of recipe.json
_NEEDED = ("model.json", checkpoint.TOKENIZER_FILE, "prompts.json")


class Saved(NamedTuple):
  """The description of a checkpoint's model."""

  directory: pathlib.Path
  files: checkpoint.Files
  shapes: checkpoint.Shapes
  config: ModelConfig
  prompts: Mapping[str, str]  # with which it was trained; ours may differ
  # The spec that its weights were trained for or lie on; or "float".
  precision: str


def read(path: str | pathlib.Path) -> Saved:
  """The description of the model of a checkpoint or workdir.

  Raises BadInput if there is none, if it is no embedder, if its files are
  damaged, or if its weights need a view that no reader has.
  """
  directory = checkpoint.find(path)
  files = checkpoint.read_files(directory)
  for name in _NEEDED:
    if name not in files:
      raise BadInput(f"checkpoint {directory} has no {name}; it is not a model")
  config = model_of(directory, files)
  prompts = _prompts(directory, files)
  precision = _precision(directory, files)
  shapes = checkpoint.read_shapes(directory)
  if any(name[0] == "decoder" for name in shapes):
    raise BadInput(
      f"{directory} is a language model, which has no embedding head; train"
      f" one: --config=configs/prefinetune.py --config.init_from={directory}"
    )
  return Saved(directory, files, shapes, config, prompts, precision)


def model_of(directory: pathlib.Path, files: checkpoint.Files) -> ModelConfig:
  """The ModelConfig of a checkpoint's model.json; BadInput if it is none."""
  tree = _json(directory, files, "model.json")
  try:
    return config_lib.build(ModelConfig, tree)
  except BadInput as error:
    raise BadInput(f"{directory}: model.json: {error}") from None


def _json(
  directory: pathlib.Path, files: checkpoint.Files, name: str
) -> dict[str, Any]:
  try:
    return checkpoint.json_of(files, name)
  except BadInput as error:
    raise BadInput(f"checkpoint {directory}: {error}") from None


def _prompts(
  directory: pathlib.Path, files: checkpoint.Files
) -> dict[str, str]:
  stored = _json(directory, files, "prompts.json")
  for name, prompt in stored.items():
    if not isinstance(prompt, str):
      raise BadInput(
        f"checkpoint {directory}: prompts.json: {name!r} is not text"
      )
  for name in ("query", "document"):
    if name not in stored:
      raise BadInput(f"checkpoint {directory}: prompts.json lacks {name!r}")
  return stored


def _precision(directory: pathlib.Path, files: checkpoint.Files) -> str:
  try:
    view = checkpoint.view_of(files)
    precision, grid = quantize.precision_of(view), _grid(files)
  except BadInput as error:
    raise BadInput(f"checkpoint {directory}: {error}") from None
  if precision is None:
    raise BadInput(
      f"checkpoint {directory} needs the view {view!r} of its weights; give the"
      " workdir of a training that is finished, which has a plain one"
    )
  return precision if precision != quantize.FLOAT else grid


def _grid(files: checkpoint.Files) -> str:
  """The spec on whose grid imported weights were found to lie, or "float".

  Rounding such weights to it, or packing them, changes nothing.
  """
  if "recipe.json" not in files:
    return quantize.FLOAT
  grid = checkpoint.json_of(files, "recipe.json").get(GRID, quantize.FLOAT)
  if grid != quantize.FLOAT:
    quantize.spec_of(grid, "its grid")
  return grid
