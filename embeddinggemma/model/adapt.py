"""Tree surgery: weights of one checkpoint into the parameters of another model."""

from collections.abc import Mapping
from typing import Any

from embeddinggemma.types import BadInput, Params


def graft(fresh: Params, given: Mapping[str, Any]) -> tuple[Params, list[str]]:
  """Replaces leaves of `fresh` by those of `given`, matched by path.

  Returns the new tree and the paths that stay fresh. A path that `fresh` does
  not have, or another shape, is BadInput with its name.
  """
  new: list[str] = []
  tree = _graft(fresh, given, "", new)
  return tree, new


def _graft(fresh: Any, given: Any, path: str, new: list[str]) -> Any:
  if not isinstance(fresh, Mapping):
    if fresh.shape != given.shape:
      raise BadInput(
        f"checkpoint tensor {path!r} has shape {tuple(given.shape)}, the model"
        f" needs {tuple(fresh.shape)}; use the preset it was trained with"
      )
    return given
  unknown = sorted(set(given) - set(fresh))
  if unknown:
    raise BadInput(
      f"checkpoint tensor {_join(path, unknown[0])!r} has no place in the"
      " model; use the preset it was trained with"
    )
  tree = {}
  for name, leaf in fresh.items():
    here = _join(path, name)
    if name in given:
      tree[name] = _graft(leaf, given[name], here, new)
    else:
      tree[name] = leaf
      new.extend(_paths(leaf, here))
  return tree


def _join(path: str, name: str) -> str:
  return f"{path}/{name}" if path else name


def _paths(tree: Any, path: str) -> list[str]:
  if not isinstance(tree, Mapping):
    return [path]
  return [p for name in tree for p in _paths(tree[name], _join(path, name))]
