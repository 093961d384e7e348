"""Find out which model a path holds, and read it; FAMILIES is the table."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from embeddinggemma import checkpoint, quantize, saved
from embeddinggemma.checkpoint import Lazy, Name
from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import safetensors_io
from embeddinggemma.convert.read import (
  adapters,
  gemma_orbax,
  gguf,
  sentence_transformers,
  tokenizer_files,
  transformers,
)
from embeddinggemma.convert.read.transformers import BOTH, DECODER, ENCODER
from embeddinggemma.convert.tensors import Imported
from embeddinggemma.types import BadInput

PARTS = (BOTH, ENCODER, DECODER)


class Family(NamedTuple):
  """A kind of folder or file that holds public weights."""

  name: str  # in a message of what a path is
  # path -> the path to read if it holds such weights, else None.
  finds: Callable[[pathlib.Path], pathlib.Path | None]
  # (the path to read, the part) -> the checked model. BadInput: see `read`.
  read: Callable[[pathlib.Path, str], Imported]
  parts: bool = False  # whether an encoder or a decoder may be taken alone
  loads: bool = False  # whether `load` reads it without an import
  # Its name in the message of what can be imported; None: `name`; "": it is not
  # named there.
  listed: str | None = None


def _transformers(
  name: str, read: Callable[[pathlib.Path, str], Imported], parts: bool = False
) -> Family:
  """The family of folders whose config.json has this model_type."""
  finds = lambda path: path if transformers.model_type(path) == name else None
  return Family(name, finds, read, parts)


def _not_yet(name: str, what: str) -> Family:
  """A family that is recognised by the start of its model_type, and refused."""

  def refuse(folder: pathlib.Path, part: str) -> Imported:
    del part
    raise BadInput(f"{folder} is {what}; this version does not have it")

  begins = lambda path: transformers.model_type(path).startswith(name)
  finds = lambda path: path if begins(path) else None
  return Family(name, finds, refuse, parts=True, listed="")


def _alone(folder: pathlib.Path, part: str) -> Imported:
  """The refusal of an adapter whose base was not given."""
  del part
  raise adapters.needs_base(folder)


# Of several that find something, the one that stands last reads it.
FAMILIES: tuple[Family, ...] = (
  _transformers("gemma3_text", transformers.read_gemma3),
  _transformers("gemma3", transformers.read_gemma3),
  *(
    _transformers(name, transformers.read_encoder_decoder, parts=True)
    for name in transformers.ENCODER_DECODERS
  ),
  Family(
    "an adapter",
    lambda path: path if adapters.is_alone(path) else None,
    _alone,
    loads=True,
    listed="a PEFT adapter with --base=DIR",
  ),
  Family(
    sentence_transformers.FAMILY,
    lambda path: path if sentence_transformers.is_folder(path) else None,
    lambda path, part: sentence_transformers.read(path),
    loads=True,
    listed="an EmbeddingGemma folder of sentence-transformers",
  ),
  _not_yet(
    "embedding_gemma2",
    "EmbeddingGemma 2, whose layers have per-layer embeddings, norms of values"
    " and two sizes of heads",
  ),
  Family(
    gemma_orbax.FAMILY,
    lambda path: path if gemma_orbax.is_folder(path) else None,
    lambda path, part: gemma_orbax.read(path),
    listed="Orbax in the layout of google-deepmind/gemma",
  ),
  Family(
    "a GGUF file",
    gguf.chosen,
    lambda path, part: gguf.read(path),
    loads=True,
  ),
)


def read(
  folder: pathlib.Path, part: str = BOTH, base: pathlib.Path | None = None
) -> Imported:
  """Read the model of a path: everything is checked, tensors stay on disk.

  Args:
    folder: a folder of sentence-transformers, of transformers, or of Orbax in
      the layout of google-deepmind/gemma; or a GGUF file, or a folder that
      holds one; or the folder of an adapter.
    part: of an encoder-decoder: encoder, decoder or both.
    base: what an adapter without weights is merged into: such a folder or
      file, or a checkpoint.

  Raises:
    BadInput: the folder is of no known family; a file or tensor is missing,
      unexpected or wrong; a setting means another computation than this
      project's; or a base is given to a folder that is no adapter.
  """
  if part not in PARTS:
    raise BadInput(f"--part={part} is unknown; use one of {', '.join(PARTS)}")
  if base is not None:
    model = _onto(folder, _base(base))
    merged = f"the adapter is merged into the weights of {base}"
    if named := model.source["trained_on"]:
      merged += f"; it says that it was trained on {named!r}"
    source = {**model.source, "base": str(base)}
    return model._replace(notes=(*model.notes, merged), source=source)
  family, place = _found(folder)
  if part != BOTH and not family.parts:
    known = [f.name for f in FAMILIES if f.parts and f.listed != ""]
    raise BadInput(
      f"--part={part} is for {' and '.join(known)}; {folder} is {family.name}"
    )
  return family.read(place, part)


def _onto(folder: pathlib.Path, base: Imported) -> Imported:
  """The model of an adapter's folder and its base."""
  if sentence_transformers.is_folder(folder):
    return sentence_transformers.read(folder, base)
  if not adapters.is_alone(folder):
    what = "has weights of its own" if folder.is_dir() else "is a file"
    raise BadInput(f"{folder} {what}, which --base would replace; leave --base")
  if base.family in transformers.ENCODER_DECODERS:
    raise BadInput(
      f"--base is {base.family}; an adapter of an encoder-decoder is not"
      " supported: merge it with PEFT's merge_and_unload"
    )
  base = base._replace(read={})
  if any(folders.has(folder, name) for name in folders.TOKENIZERS):
    ends = base.is_embedder
    own = tokenizer_files.read(folder, base.config.vocab_size, ends)
    base = base._replace(
      tokenizer=own.model,
      aside=own.aside,
      read={
        name: what
        for name, what in tokenizer_files.roles(own.source).items()
        if folders.has(folder, name)
      },
      warned=(*base.warned, *own.warned),
    )
  return adapters.merged(base, folder)


def _base(path: pathlib.Path) -> Imported:
  """The model of a folder, file or checkpoint that an adapter changes."""
  if path.is_dir() and (checkpoint.steps(path) or (path / "params").is_dir()):
    return _of_checkpoint(path)
  if not path.exists():
    raise BadInput(f"--base={path} does not exist; give a folder or checkpoint")
  return read(path)


def _of_checkpoint(path: pathlib.Path) -> Imported:
  """An embedder's checkpoint; each tensor is read when it is asked for."""
  found = saved.read(path)

  def lazily(name: Name) -> Callable[[], np.ndarray]:
    raw = lambda: checkpoint.read_tensors(found.directory, [name])[name]
    return lambda: np.asarray(quantize.seen(name, raw(), found.precision))

  return Imported(
    found.config,
    {
      name: Lazy(shape.shape, shape.dtype, lazily(name))
      for name, shape in found.shapes.items()
    },
    found.files[checkpoint.TOKENIZER_FILE],
    found.prompts,
    sentence_transformers.FAMILY,
    licence=found.files.get("LICENSE", b"").decode("utf-8", "replace"),
  )


def is_public(path: pathlib.Path) -> bool:
  """Whether a path holds an embedder in a format that `load` reads directly."""
  return any(family.loads and family.finds(path) for family in FAMILIES)


def _found(folder: pathlib.Path) -> tuple[Family, pathlib.Path]:
  """The family of a path, and the path that the family reads."""
  for family in reversed(FAMILIES):
    if place := family.finds(folder):
      return family, place
  kind = transformers.model_type(folder)
  pickles = [p for p in sorted(folder.iterdir()) if safetensors_io.is_pickle(p)]
  if pickles and not kind:
    raise safetensors_io.refusal(pickles[0])
  found = f"model_type {kind!r}" if kind else "no config.json or modules.json"
  names = [f.name if f.listed is None else f.listed for f in FAMILIES]
  raise BadInput(
    f"{folder} has {found}; what can be imported:"
    f" {', '.join(name for name in names if name)}"
  )
