"""The model that a student is cut out of: a checkpoint, or public weights."""

import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from embeddinggemma import checkpoint, saved
from embeddinggemma.checkpoint import Lazy, Name
from embeddinggemma.convert import verbs
from embeddinggemma.convert.read import families
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.terminal.warn import warn
from embeddinggemma.types import BadInput, Notice


class Parent(NamedTuple):
  """An embedder; its tensors are raw, and not read yet."""

  config: ModelConfig
  tensors: Mapping[Name, Lazy]  # sorted by name
  tokenizer: Tokenizer
  prompts: Mapping[str, str]
  files: checkpoint.Files  # the small files of its checkpoint

  def hash(self) -> str:
    """The content hash of its weights, which are read tensor by tensor."""
    digest = checkpoint.ContentHash()
    for name, tensor in self.tensors.items():
      digest.add_tensor(name, tensor.read())
    return digest.hexdigest()


def read(path: str) -> Parent:
  """The model of a path that `load` takes, as a checkpoint would hold it.

  What makes other programs give other vectors is a warning (types.Notice).
  Raises BadInput if there is no embedder, or its parts do not fit.
  """
  if families.is_public(pathlib.Path(path)):
    return _public(path)
  found = saved.read(path)
  tokenizer = Tokenizer(found.files[checkpoint.TOKENIZER_FILE], path)
  tokenizer.require_fits(found.config.vocab_size, path)
  tensors = {
    name: Lazy(
      shape.shape, np.dtype(shape.dtype), _reader(found.directory, name)
    )
    for name, shape in found.shapes.items()
  }
  return Parent(found.config, tensors, tokenizer, found.prompts, found.files)


def _reader(directory: pathlib.Path, name: Name) -> Callable[[], np.ndarray]:
  return lambda: checkpoint.read_tensors(directory, [name])[name]


def _public(path: str) -> Parent:
  """The model of a folder or file, as its import would be."""
  found = verbs.readied(path)
  model = found.model
  if not model.is_embedder:
    raise BadInput(
      f"{path} is a language model, which has no embedding head; import it and"
      " train one: --config=configs/prefinetune.py"
    )
  for line in (*model.warned, *found.left.warned):
    warn(f"{path}: {line}", Notice)
  return Parent(
    model.config,
    {name: model.tensors[name] for name in sorted(model.tensors)},
    Tokenizer(model.tokenizer, path),
    model.prompts,
    found.files,
  )
