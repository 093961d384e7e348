"""What checks annotations at run time in tests: conftest.py names it."""

from collections.abc import Callable
from typing import Any

import beartype

# An int is a float, as type checkers have it.
_checked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def checked(function: Callable[..., Any]) -> Any:
  """Checks what a function takes and returns.

  Public functions check what they take themselves, with messages of their own;
  of these only what they return.
  """
  module = getattr(function, "__module__", "")
  name = getattr(function, "__qualname__", "")
  if module == "embeddinggemma" or (
    module == "embeddinggemma.loading" and name.startswith("Model.")
  ):
    own = getattr(function, "__annotations__", {})
    function.__annotations__ = {k: v for k, v in own.items() if k == "return"}
  return _checked(function)
