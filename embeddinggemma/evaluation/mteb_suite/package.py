"""The mteb package: whether it is there, and of a version that fits."""

import importlib.metadata
import logging
import os
import types

from embeddinggemma.types import BadInput

MAJOR = 2  # each major version asks something else of a model
INSTALL = "pip install 'embeddinggemma[mteb]'"
# The whole package; and its tasks without what runs a model, such as torch.
_WHOLE, _CORE = "mteb", "mteb-core"


def require() -> types.ModuleType:
  """The package mteb, which keeps its progress and its log to itself.

  What it warns of is also a Python warning.

  Raises BadInput where it is not installed, cannot be imported, or has another
  major version.
  """
  version = installed()
  if version is None:
    raise BadInput(f"--mteb needs the package mteb: {INSTALL}")
  if version.partition(".")[0] != str(MAJOR):
    raise BadInput(
      f"mteb {version} is installed, and mteb {MAJOR} fits: {INSTALL}"
    )
  # Its bars would be drawn over ours. tqdm reads this when it is imported.
  os.environ.setdefault("TQDM_DISABLE", "1")
  try:
    import mteb  # type: ignore
    import torch  # type: ignore  # noqa: F401  (mteb-core comes without)
  except ImportError as error:
    raise BadInput(
      f"mteb {version} cannot be imported ({error}); {INSTALL}"
    ) from None
  logging.getLogger("mteb").setLevel(logging.ERROR)
  return mteb


def installed() -> str | None:
  """The version of mteb, without importing it; None: there is none."""
  for name in (_WHOLE, _CORE):
    try:
      return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return None
