"""embeddinggemma: trains, checks and ships EmbeddingGemma-class models."""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from embeddinggemma.load import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "load"]


class _Package(ModuleType):
  """`load` and `Model` on first use, so that an import costs no JAX start.

  `load` stays the function: importing the submodule of that name would
  otherwise put the module in its place.
  """

  @property
  def load(self) -> Any:
    return importlib.import_module("embeddinggemma.load").load

  @load.setter
  def load(self, module: Any) -> None:
    del module

  @property
  def Model(self) -> Any:
    return importlib.import_module("embeddinggemma.load").Model


sys.modules[__name__].__class__ = _Package
