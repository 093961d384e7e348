"""embeddinggemma: trains, checks and ships EmbeddingGemma-class models."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from embeddinggemma.load import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "load"]


def __getattr__(name: str) -> Any:
  """`load` and `Model` on first use, so that an import costs no JAX start."""
  if name in __all__:
    module = importlib.import_module("embeddinggemma.load")
    # The function takes the submodule's place as an attribute.
    globals().update(Model=module.Model, load=module.load)
    return globals()[name]
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
