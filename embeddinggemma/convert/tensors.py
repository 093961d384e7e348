"""Match the tensors of another format to this project's by name and shape."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from embeddinggemma import checkpoint, quantize
from embeddinggemma.checkpoint import Lazy, Name
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.types import BadInput, Key, Params

Shape = tuple[int, ...]
Shapes = Mapping[Name, Shape]
WHOLE_FOLDER = "."  # key of Imported.read: every file of the folder is read


class Source(NamedTuple):
  """A tensor of another format from which one of ours is made."""

  name: str
  shape: Shape  # in the other format
  take: Callable[[np.ndarray], np.ndarray]  # theirs -> ours


class Imported(NamedTuple):
  """A model of another format that is checked; its tensors are not read yet."""

  config: ModelConfig  # the encoder's, where there are two sides
  tensors: Mapping[Name, Lazy]
  tokenizer: bytes
  prompts: Mapping[str, str]
  family: str
  more: Mapping[str, Any] = {}  # further fields of an encoder-decoder's config
  left_out: int = 0  # tensors of parts that are not imported
  # Lines for the user: what was done; what was not read of a file, and why no
  # vector changes; what makes other programs give other vectors, or may.
  notes: tuple[str, ...] = ()
  aside: tuple[str, ...] = ()
  warned: tuple[str, ...] = ()
  # File, relative to the folder, -> what was read from it.
  read: Mapping[str, str] = {}
  source: Mapping[str, Any] = {}  # further facts on where it is from
  licence: str = ""  # what the file of weights says of it

  @property
  def is_embedder(self) -> bool:
    """Whether it has an embedding head; a language model has none."""
    return ("down",) in self.tensors


def shapes_of(init: Callable[[Key], Params]) -> dict[Name, Shape]:
  """Name -> shape of the tensors that `init` would make."""
  tree = jax.eval_shape(init, jax.random.key(0))["model"]
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {tuple(k.key for k in path): leaf.shape for path, leaf in leaves}


def all_finite(tensor: Any) -> bool:
  """Whether all values are finite.

  The sum tells, without a second array: it is finite only then.
  """
  total = np.sum(np.asarray(tensor), dtype=np.float64)
  return bool(np.isfinite(total))


def matrix(name: str, shape: Shape, inputs: int = 1) -> Source:
  """The Source of a linear map in torch's layout, (outputs, inputs).

  `inputs` is how many leading axes of ours are inputs.
  """
  theirs = (math.prod(shape[inputs:]), math.prod(shape[:inputs]))
  return Source(name, theirs, lambda array: array.T.reshape(shape))


def to_matrix(array: np.ndarray, inputs: int = 1) -> np.ndarray:
  """A tensor in torch's layout, (outputs, inputs); the inverse of `matrix`."""
  return array.reshape(math.prod(array.shape[:inputs]), -1).T


def check(
  sources: Iterable[Source],
  found: Mapping[str, Shape],
  where: Any,
  left_out: Callable[[str], bool] = lambda name: False,
  config: str = "the config",
) -> int:
  """Check that the tensors found are those wanted.

  Returns how many are left out. Raises BadInput, with the first name, for a
  tensor that is missing, has another shape, or that neither a source nor
  `left_out` accounts for. `where` is the file or folder, for the message, and
  `config` who says which shapes there should be.
  """
  names = set()
  for source in sources:
    names.add(source.name)
    if source.name not in found:
      raise BadInput(
        f"{where}: tensor {source.name!r} is missing; the weights are not"
        " whole, or of another model than the config"
      )
    if found[source.name] != source.shape:
      raise BadInput(
        f"{where}: tensor {source.name!r} has shape {found[source.name]},"
        f" {config} asks for {source.shape}"
      )
  rest = sorted(set(found) - names)
  unexpected = [name for name in rest if not left_out(name)]
  if unexpected:
    more = f" and {len(unexpected) - 1} more" if len(unexpected) > 1 else ""
    raise BadInput(
      f"{where}: unexpected tensor {unexpected[0]!r}{more}; a model without"
      " it would be another"
    )
  return len(rest)


def lazy(
  sources: Mapping[Name, Source],
  shapes: Shapes,
  read: Callable[[str], np.ndarray],
) -> dict[Name, Lazy]:
  """Our tensors, each read and converted when it is asked for."""

  def reader(source: Source) -> Callable[[], np.ndarray]:
    return lambda: np.ascontiguousarray(source.take(read(source.name)))

  return {
    name: Lazy(shapes[name], np.dtype(np.float32), reader(source))
    for name, source in sources.items()
  }


def params(model: Imported, precision: str = quantize.FLOAT) -> Params:
  """All of a model's parameters, seen in a precision, on the device."""
  read = ((name, lazy.read()) for name, lazy in model.tensors.items())
  return placed(read, precision)


def placed(
  named: Iterable[tuple[Name, np.ndarray]], precision: str = quantize.FLOAT
) -> Params:
  """Tensors seen in a precision, put on the device one after the other.

  So no tensor is held twice for long.
  """
  held = {
    name: jax.device_put(quantize.seen(name, tensor, precision))
    for name, tensor in named
  }
  return {"model": checkpoint.nest(held), "aux": {}}
