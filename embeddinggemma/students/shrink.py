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
from embeddinggemma.convert.write import output
from embeddinggemma.data import prompts
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.model import identity
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.students import parent as parents
from embeddinggemma.students import vocabulary
from embeddinggemma.students.parent import Parent
from embeddinggemma.types import IDENTITY, BadInput

_LAYER = "layer_"
_TABLE: Name = ("encoder", "embedding")
_VERSIONS = ("embeddinggemma", "numpy", "orbax-checkpoint", "sentencepiece")


class Shrunk(NamedTuple):
  """What was cut out of a model."""

  place: pathlib.Path  # the checkpoint
  layers: Sequence[int]  # of the parent
  kinds: Sequence[str]  # LOCAL or GLOBAL, of each of them
  parameters: int
  before: int  # parameters of the parent
  pruned: vocabulary.Pruned | None

  def as_json(self) -> dict[str, Any]:
    """What `shrink --json` prints."""
    return {
      "checkpoint": str(self.place),
      "layers": list(self.layers),
      "kinds": list(self.kinds),
      "parameters": self.parameters,
      "parent_parameters": self.before,
      "vocabulary": self.pruned.figures if self.pruned else {},
    }


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
  if layers != (ordered := sorted(set(layers))):
    each = ",".join(map(str, ordered))
    raise BadInput(
      f"--layers={text}: name each layer once, in their order: {each}"
    )
  return layers


def shrink(
  path: str,
  workdir: pathlib.Path,
  layers: str | None = None,
  size: int | None = None,
  texts: Sequence[str] = (),
  labels: Sequence[str] = (),
) -> Shrunk:
  """Write a model with some layers and pieces of another as a checkpoint.

  It appears when it is whole; if anything fails, the workdir is as it was.

  Args:
    path: an embedder, as `load` takes it.
    workdir: where the checkpoint is written.
    layers: see `chosen_layers`; None: all.
    size: pieces of the vocabulary at most; None: all.
    texts: whose pieces are kept.
    labels: see `vocabulary.prune`.

  Raises:
    BadInput: nothing is to be cut, a layer or the vocabulary cannot be, or the
      workdir has a checkpoint.
  """
  return cut(planned(path, workdir, layers, size), workdir, texts, labels)


class Plan(NamedTuple):
  """What is to be cut out of which model; it can be."""

  parent: Parent
  layers: Sequence[int]
  size: int | None  # pieces of the vocabulary at most; None: all


def planned(
  path: str, workdir: pathlib.Path, layers: str | None, size: int | None
) -> Plan:
  """The plan of what `shrink` is given, checked as far as no text is needed."""
  found = parents.read(path)
  count = found.config.num_layers
  kept = list(range(count))
  if layers is not None:
    kept = chosen_layers(layers, count)
  if size is None and len(kept) == count:
    all_ = "" if layers is None else f"--layers={layers} keeps all {count}: "
    raise BadInput(f"{all_}nothing to cut; give --layers or --vocabulary")
  if size is not None:
    vocabulary.require_size(found.tokenizer, size)
  output.require_fresh(workdir)
  return Plan(found, kept, size)


def cut(
  plan: Plan,
  workdir: pathlib.Path,
  texts: Sequence[str],
  labels: Sequence[str],
) -> Shrunk:
  """Write the model of a plan; see `shrink`."""
  found, kept, size = plan
  with output.fresh(workdir):
    pruned = None
    if size is not None:
      words = [*found.prompts.values(), *prompts.PROMPTS.values()]
      pruned = vocabulary.prune(found.tokenizer, texts, size, words, labels)
    tensors = _tensors(found, kept, pruned)
    params = {"model": checkpoint.nest(tensors), "aux": {}}
    files = _files(found, kept, pruned)
    place = output.first_checkpoint(workdir, params, files)
  size_of = lambda tensors: sum(tensor.size for tensor in tensors.values())
  return Shrunk(
    place,
    kept,
    [found.config.attention_kind(n) for n in kept],
    size_of(tensors),
    size_of(found.tensors),
    pruned,
  )


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
  found: Parent, layers: Sequence[int], pruned: vocabulary.Pruned | None
) -> dict[Name, Lazy]:
  """The kept tensors by their new names, each read when it is written."""
  places = {f"{_LAYER}{n}": f"{_LAYER}{i}" for i, n in enumerate(layers)}
  new: dict[Name, Lazy] = {}
  for name, tensor in found.tensors.items():
    side, inner = name[0], name[1] if len(name) > 1 else ""
    if inner.startswith(_LAYER) and inner not in places:
      continue
    target = (side, places.get(inner, inner), *name[2:]) if inner else name
    if pruned and name == _TABLE:
      tensor = _rows(tensor, pruned.ids)
    new[target] = tensor
  return new


def _rows(tensor: Lazy, ids: np.ndarray) -> Lazy:
  """The rows of a tensor that have these ids."""
  return Lazy(
    (len(ids), *tensor.shape[1:]),
    tensor.dtype,
    lambda: np.ascontiguousarray(tensor.read()[ids]),
  )


def _files(
  found: Parent, layers: Sequence[int], pruned: vocabulary.Pruned | None
) -> dict[str, bytes]:
  """The small files of the smaller model; recipe.json names the parent."""
  before = checkpoint.recipe_of(found.files)
  config = _config(found.config, layers, pruned)
  model = pruned.model if pruned else found.tokenizer.model
  digest = found.hash()
  cut = {
    "from": digest,
    "layers": list(layers),
    "of_layers": found.config.num_layers,
    "pieces": config.vocab_size,
    "of_pieces": found.config.vocab_size,
  }
  inherited = (*checkpoint.AS_WRITTEN, saved.GRID)
  recipe = {
    **{key: before[key] for key in inherited if key in before},
    **checkpoint.descent(found.files),
    checkpoint.CUTS: [*checkpoint.cuts(found.files), cut],
    "stage": "shrink",
    "parents": {"base": digest},
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
