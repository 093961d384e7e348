"""Means of checkpoints: the soup of section 3.4, and the last steps of a run.

The paper's soup is the unweighted mean of the finetunings with each mixture;
T5Gemma 2 (arXiv 2512.14856) averages the last five checkpoints of a run.
Weights are read tensor by tensor: of the ingredients, one tensor is in memory
at a time, or a few small ones.
"""

import hashlib
import importlib.metadata
import json
import math
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from embeddinggemma import cache, checkpoint
from embeddinggemma import config as config_lib
from embeddinggemma.checkpoint import Name, Shapes
from embeddinggemma.lineage import stages
from embeddinggemma.types import IDENTITY, BadInput, Params

# Files that ingredients must agree on, besides the tensors' names and shapes.
_ALIKE = ("model.json", "tokenizer.model", "prompts.json")
_SPILL = 2**26  # bytes from which a sum is kept in a file
_BLOCK = 2**17  # elements that are added at a time, which fit the cache
_NONE = "missing"


def mean(paths: Sequence[pathlib.Path]) -> Params:
  """The unweighted mean of checkpoints' parameters; `aux` is left out.

  Raises BadInput where names, shapes or types of tensors differ.
  """
  shapes = _agreed_shapes(paths)
  return _average(paths, shapes, [1.0] * len(paths), None)[0]


def soup(
  paths: Sequence[str | pathlib.Path],
  weights: Sequence[float] | None,
  workdir: pathlib.Path,
  least: int = 2,
) -> pathlib.Path:
  """Write the mean of checkpoints as a checkpoint; returns its folder.

  Sums are float64 and the result has the ingredients' type, so that a soup of
  equal checkpoints equals them bit for bit. A soup that the workdir already
  holds is not made again.

  Args:
    paths: the ingredients.
    weights: of the ingredients; None for equal ones.
    workdir: for the new checkpoint.
    least: the fewest ingredients that are accepted.

  Raises:
    BadInput: there are too few ingredients; they differ in model, tokenizer,
      prompts, view or tensors; the weights do not fit; or the workdir holds
      something else.
  """
  if len(paths) < least:
    raise BadInput(
      f"a soup of {len(paths)} checkpoints, where at least {least} were asked"
      " for; give more of them"
    )
  shares = _shares(weights, len(paths))
  found = [checkpoint.find(path) for path in paths]
  every = _agreed_files(found)
  files = every[0]
  shapes = _agreed_shapes(found)
  with cache.locked(workdir):
    if checkpoint.steps(workdir):
      return _made_before(workdir, files, found, shares)
    checkpoint.require_room(workdir, _room(shapes))
    even = [1.0] * len(found)  # so that nothing is rounded before the sum
    factors = even if weights is None else shares
    params, hashes = _average(found, shapes, factors, workdir)
    recipe = cache.to_json(_recipe(every, hashes, shares))
    content = {**files, "recipe.json": recipe}
    return checkpoint.write(workdir, params, content)


def path(
  base: str | pathlib.Path,
  domain: str | pathlib.Path,
  count: int,
  workdir: pathlib.Path,
) -> Iterator[tuple[float, pathlib.Path]]:
  """Yield (share of `domain`, checkpoint) at even steps from base to domain.

  Each of the `count` points is a soup in a folder of its own, made on demand.
  """
  if count < 2:
    raise BadInput(f"a path of {count} points; it needs at least its two ends")
  for number in range(count):
    share = number / (count - 1)
    place = workdir / f"{number}-{share:.4f}"
    yield share, soup([base, domain], [1 - share, share], place)


def last(workdir: pathlib.Path, count: int) -> list[pathlib.Path]:
  """The last checkpoints of one run, to be averaged; BadInput: too few."""
  found = checkpoint.steps(workdir)
  if len(found) < count:
    raise BadInput(
      f"{workdir} holds {len(found)} checkpoints, {count} were asked for; keep"
      " more (keep_checkpoints) or ask for fewer"
    )
  places = [str(step) for step in found[len(found) - count :]]
  return [workdir / checkpoint.CHECKPOINTS / name for name in places]


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
  if weights is None:
    return [1 / count] * count
  if len(weights) != count:
    raise BadInput(
      f"{len(weights)} weights for {count} checkpoints; give one to each"
    )
  for weight in weights:
    if not 0 <= weight <= 1:
      raise BadInput(f"weight {weight} of a soup must lie in 0 to 1")
  total = math.fsum(weights)
  if abs(total - 1) > 1e-6:
    parts = [f"{weight / total:.4g}" for weight in weights] if total else []
    fix = f"; in these proportions: {','.join(parts)}" if parts else ""
    raise BadInput(
      f"weights {','.join(map(str, weights))} sum to {total:.6g}, not to 1{fix}"
    )
  return [weight / total for weight in weights]


def _agreed_files(paths: Sequence[pathlib.Path]) -> Sequence[checkpoint.Files]:
  """The files of each checkpoint; BadInput if one differs from the first."""
  files = [checkpoint.read_files(place) for place in paths]
  for place, content in zip(paths, files):
    for name in _ALIKE:
      if name not in content:
        raise BadInput(
          f"{place} has no {name}, so it is no whole model; give a checkpoint"
          " that training, `import` or `soup` wrote"
        )
    differs = _difference(files[0], content)
    if differs:
      raise BadInput(
        f"{paths[0]} and {place} cannot be averaged: {differs}; average models"
        " of one start and one tokenizer"
      )
  return files


def _difference(a: checkpoint.Files, b: checkpoint.Files) -> str:
  """The first key in which two checkpoints differ, with both values, or ""."""
  for name in _ALIKE:
    if a[name] == b[name]:
      continue
    if not name.endswith(".json"):
      ours, theirs = (hashlib.sha256(f[name]).hexdigest()[:12] for f in (a, b))
      return f"{name} is {ours} in one, {theirs} in the other"
    ours, theirs = (
      config_lib.flat(json.loads(a[name])),
      config_lib.flat(json.loads(b[name])),
    )
    for key in [*ours, *theirs]:
      if ours.get(key, _NONE) != theirs.get(key, _NONE):
        one, other = (
          repr(x[key]) if key in x else _NONE for x in (ours, theirs)
        )
        return f"{name}: {key} is {one} in one, {other} in the other"
  ours, theirs = map(checkpoint.view_of, (a, b))
  if ours != theirs:
    return f"view is {ours!r} in one, {theirs!r} in the other"
  return ""


def _agreed_shapes(paths: Sequence[pathlib.Path]) -> Shapes:
  """The tensors' shapes and types; BadInput names the first that differs."""
  first = checkpoint.read_shapes(paths[0])
  for place in paths[1:]:
    other = checkpoint.read_shapes(place)
    for name in sorted({*first, *other}):
      ours, theirs = first.get(name), other.get(name)
      if ours != theirs:
        raise BadInput(
          f"{paths[0]} and {place} cannot be averaged: tensor"
          f" {'/'.join(name)!r} is {_said(ours)} in one, {_said(theirs)} in the"
          " other; average models of one size and start"
        )
  return first


def _said(shape: jax.ShapeDtypeStruct | None) -> str:
  return _NONE if shape is None else f"{shape.dtype} {shape.shape}"


def _recipe(
  files: Sequence[checkpoint.Files],
  hashes: Sequence[str],
  shares: Sequence[float],
) -> dict[str, Any]:
  names = ("embeddinggemma", "numpy", "orbax-checkpoint")
  kept = all(map(checkpoint.keeps_white_space, files))
  return {
    "stage": "soup",
    "parents": {f"ingredient_{n}": hash for n, hash in enumerate(hashes, 1)},
    "weights": list(shares),
    "view": checkpoint.view_of(files[0]),
    IDENTITY: checkpoint.identity_of(files[0]),
    **_one_descent(files),
    **checkpoint.with_teachers(*map(checkpoint.teachers_of, files)),
    **stages.entry(*(stages.of(checkpoint.recipe_of(f)) for f in files)),
    **_trained_length(files),
    **(checkpoint.AS_WRITTEN if kept else {}),
    "versions": {name: importlib.metadata.version(name) for name in names},
    "command": sys.argv,
  }


def _one_descent(files: Sequence[checkpoint.Files]) -> dict[str, Any]:
  """From where all of the models descend, as far as that is one place."""
  first, *others = map(checkpoint.descent, files)
  return {
    key: value
    for key, value in first.items()
    if all(other.get(key) == value for other in others)
  }


def _trained_length(files: Sequence[checkpoint.Files]) -> dict[str, int]:
  """The longest text of any ingredient's training, if all of them say theirs."""
  lengths = [checkpoint.trained_length(own) for own in files]
  known = [length for length in lengths if length is not None]
  whole = len(known) == len(lengths)
  return {checkpoint.TRAINED_LENGTH: max(known)} if whole else {}


def alike(place: pathlib.Path) -> list[str]:
  """The ingredients of a soup that have the weights of one before them."""
  recipe = json.loads(checkpoint.read_files(place)["recipe.json"])
  hashes = list(recipe["parents"].values())
  return [
    name
    for number, name in enumerate(recipe["parents"])
    if hashes[number] in hashes[:number]
  ]


def _made_before(
  workdir: pathlib.Path,
  files: checkpoint.Files,
  paths: Sequence[pathlib.Path],
  shares: Sequence[float],
) -> pathlib.Path:
  """The soup that a workdir holds, if it is this one; else BadInput."""
  place = checkpoint.find(workdir / checkpoint.CHECKPOINTS)
  there = checkpoint.read_files(place)
  recipe = json.loads(there.get("recipe.json", b"{}"))
  if recipe.get("stage") == "soup" and not _difference(files, there):
    made = sorted(zip(recipe["parents"].values(), recipe["weights"]))
    if made == sorted(zip(map(checkpoint.hash_of, paths), shares)):
      return place
  raise BadInput(
    f"{workdir} holds a checkpoint of other weights; use another --workdir"
  )


def _room(shapes: Shapes) -> int:
  """Bytes needed on disk: by the result, or before it the largest sum."""
  largest = 8 * max(shape.size for shape in shapes.values())
  return max(sum(map(checkpoint.nbytes, shapes.values())), largest)


def _average(
  paths: Sequence[pathlib.Path],
  shapes: Shapes,
  weights: Sequence[float],
  scratch: pathlib.Path | None,
) -> tuple[Params, list[str]]:
  """sum(weight * checkpoint) / sum(weight), and each checkpoint's content hash.

  Large sums are kept in nameless files in `scratch`, or in memory if it is
  None.
  """
  hashes = [checkpoint.ContentHash() for _ in paths]
  count, total = sum(weight > 0 for weight in weights), math.fsum(weights)
  made: dict[Name, np.ndarray] = {}
  for names in checkpoint.groups(shapes):
    means = {name: _Mean(shapes[name], count, total, scratch) for name in names}
    for place, weight, content in zip(paths, weights, hashes):
      tensors = checkpoint.read_tensors(place, names)
      for name in names:
        tensor = tensors.pop(name)
        content.add_tensor(name, tensor)
        if weight and not means[name].add(tensor, weight):
          raise BadInput(
            f"{place}: tensor {'/'.join(name)!r} holds NaN or infinity; leave"
            " this checkpoint out"
          )
        del tensor  # before the next one is read
    made |= {name: means.pop(name).value for name in names}
  params = {"model": checkpoint.nest(made), "aux": {}}
  return params, [content.hexdigest() for content in hashes]


class _Mean:
  """A weighted mean of `count` arrays: summed in float64, block by block.

  A large sum is kept in a file: while a tensor is read it is in memory twice,
  encoded and decoded, and for the largest tensor a soup can afford no more.
  """

  def __init__(
    self,
    shape: jax.ShapeDtypeStruct,
    count: int,
    total: float,
    scratch: pathlib.Path | None,
  ) -> None:
    self._count, self._total, self._added = count, total, 0
    self.value = np.empty(shape.shape, shape.dtype)  # filled by the last array
    place = str(scratch) if scratch else None
    most = _SPILL if scratch else 0  # 0: never a file
    self._sum = tempfile.SpooledTemporaryFile(max_size=most, dir=place)

  def add(self, array: np.ndarray, weight: float) -> bool:
    """Add an array; returns whether the sum is finite.

    The first array is not added to zeros, which would turn -0 into 0.
    """
    flat, value = array.reshape(-1), self.value.reshape(-1)
    self._added += 1
    finite = True
    for start in range(0, flat.size, _BLOCK):
      place = slice(start, start + _BLOCK)
      term = flat[place].astype(np.float64)
      term *= weight
      self._sum.seek(8 * start)
      if self._added > 1:
        term += np.frombuffer(self._sum.read(term.nbytes), np.float64)
      finite &= bool(np.isfinite(term.sum()))
      if self._added == self._count:
        value[place] = term / self._total
      else:
        self._sum.seek(8 * start)
        self._sum.write(term.data)
    return finite
