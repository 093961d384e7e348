"""Cut a small model out of a large one: fewer layers, fewer pieces.

Both are tree surgery: what is kept is bit for bit the parent's. What comes out
is an ordinary checkpoint, and a start for training, not yet a good model.
"""

import dataclasses
import importlib.metadata
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from embeddinggemma import cache, checkpoint, saved
from embeddinggemma.checkpoint import Lazy, Name
from embeddinggemma.convert.read.hugging_face import repeating
from embeddinggemma.data import prompts
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.model import identity
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.saved import Saved
from embeddinggemma.students import vocabulary
from embeddinggemma.types import IDENTITY, BadInput

_LAYER = "layer_"
_TABLE: Name = ("encoder", "embedding")
_VERSIONS = ("embeddinggemma", "numpy", "orbax-checkpoint", "sentencepiece")


class Shrunk(NamedTuple):
  """What was cut out of a model."""

  place: pathlib.Path  # the checkpoint
  layers: Sequence[int]  # of the parent
  parameters: int
  before: int  # parameters of the parent
  pruned: vocabulary.Pruned | None


def chosen_layers(text: str, count: int) -> list[int]:
  """The layers that `--layers` names: "6" for the first six, or a list.

  Raises BadInput for a list that is empty, out of order or out of range.
  """
  try:
    given = [int(part) for part in text.split(",")]
  except ValueError:
    raise BadInput(
      f"--layers={text}: give a number of layers, such as 6, or a list, such as"
      " 0,1,2,5"
    ) from None
  layers = list(range(given[0])) if len(given) == 1 else given
  wrong = [n for n in layers if not 0 <= n < count]
  if wrong or not layers:
    most = f"a number from 1 to {count}"
    raise BadInput(
      f"--layers={text}: the model has the layers 0 to {count - 1}; give {most},"
      " or a list of these"
    )
  if layers != sorted(set(layers)):
    raise BadInput(f"--layers={text}: name each layer once, in their order")
  return layers


def shrink(
  path: str,
  workdir: pathlib.Path,
  layers: str | None = None,
  size: int | None = None,
  texts: Sequence[str] = (),
) -> Shrunk:
  """Write a model with some layers and pieces of another as a checkpoint.

  Args:
    path: the checkpoint or workdir of an embedder.
    workdir: where the checkpoint is written.
    layers: see `chosen_layers`; None: all.
    size: pieces of the vocabulary at most; None: all.
    texts: whose pieces are kept.

  Raises:
    BadInput: nothing is to be cut, a layer or the vocabulary cannot be, or the
      workdir has a checkpoint.
  """
  found = saved.read(path)
  count = found.config.num_layers
  kept = chosen_layers(layers, count) if layers else list(range(count))
  if size is None and len(kept) == count:
    raise BadInput("nothing to cut; give --layers or --vocabulary")
  tokenizer = Tokenizer(found.files[checkpoint.TOKENIZER_FILE], path)
  with cache.locked(workdir):
    if checkpoint.steps(workdir):
      raise BadInput(
        f"{workdir} holds a checkpoint already; use another --workdir"
      )
    pruned = None
    if size is not None:
      words = [*found.prompts.values(), *prompts.PROMPTS.values()]
      pruned = vocabulary.prune(tokenizer, texts, size, words)
    config = _config(found.config, kept, pruned)
    model = pruned.model if pruned else tokenizer.model
    tensors = _tensors(found, kept, pruned)
    params = {"model": checkpoint.nest(tensors), "aux": {}}
    files = _files(found, config, model, kept, pruned)
    place = checkpoint.write(workdir, params, files)
  size_of = lambda shapes: sum(shape.size for shape in shapes.values())
  return Shrunk(place, kept, size_of(tensors), size_of(found.shapes), pruned)


def _config(
  config: ModelConfig,
  layers: Sequence[int],
  pruned: vocabulary.Pruned | None,
) -> ModelConfig:
  """The config of the smaller model; each layer keeps its kind."""
  return dataclasses.replace(
    config,
    num_layers=len(layers),
    pattern=repeating([config.attention_kind(n) for n in layers]),
    vocab_size=len(pruned.ids) if pruned else config.vocab_size,
  )


def _tensors(
  found: Saved, layers: Sequence[int], pruned: vocabulary.Pruned | None
) -> dict[Name, Lazy]:
  """The kept tensors by their new names, each read when it is written."""
  places = {f"{_LAYER}{n}": f"{_LAYER}{i}" for i, n in enumerate(layers)}
  new: dict[Name, Lazy] = {}
  for name, shape in found.shapes.items():
    side, inner = name[0], name[1] if len(name) > 1 else ""
    if inner.startswith(_LAYER) and inner not in places:
      continue
    ids = pruned.ids if pruned and name == _TABLE else None
    target = (side, places.get(inner, inner), *name[2:]) if inner else name
    new[target] = _taken(found.directory, name, shape, ids)
  return new


def _taken(
  directory: pathlib.Path, name: Name, shape: Any, ids: np.ndarray | None
) -> Lazy:
  """A tensor of a checkpoint, or the rows of it that have these ids."""

  def read() -> np.ndarray:
    tensor = checkpoint.read_tensors(directory, [name])[name]
    return tensor if ids is None else np.ascontiguousarray(tensor[ids])

  rows = shape.shape if ids is None else (len(ids), *shape.shape[1:])
  return Lazy(rows, np.dtype(shape.dtype), read)


def _files(
  found: Saved,
  config: ModelConfig,
  model: bytes,
  layers: Sequence[int],
  pruned: vocabulary.Pruned | None,
) -> dict[str, bytes]:
  """The small files of the smaller model; recipe.json names the parent."""
  parent = checkpoint.recipe_of(found.files)
  inherited = (
    *checkpoint.AS_WRITTEN,
    saved.GRID,
    "origin",
    checkpoint.TEACHERS,
  )
  recipe = {
    **{key: parent[key] for key in inherited if key in parent},
    "stage": "shrink",
    "parents": {"base": checkpoint.hash_of(found.directory)},
    "layers": list(layers),
    "vocabulary": pruned.figures if pruned else {},
    "view": checkpoint.view_of(found.files),
    IDENTITY: identity.parts(config, Tokenizer(model).identity, found.prompts),
    "versions": {n: importlib.metadata.version(n) for n in _VERSIONS},
    "command": sys.argv,
  }
  return {
    **found.files,
    "model.json": cache.to_json(dataclasses.asdict(config)),
    "recipe.json": cache.to_json(recipe),
    checkpoint.TOKENIZER_FILE: model,
  }
