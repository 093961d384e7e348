"""A GGUF file of an EmbeddingGemma as a teacher, run by llama.cpp.

It runs in a process of its own, as for a certificate. Token ids go there, made
by the file's tokenizer as we read it, under the file's own prompts and cut where
the model is: so the vectors are those of the same model in JAX, but for what
llama.cpp rounds.
"""

import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from embeddinggemma.convert import origin
from embeddinggemma.convert.certify import golden, runtimes
from embeddinggemma.convert.read import gguf, gguf_file
from embeddinggemma.convert.tensors import Imported
from embeddinggemma.data import truncation
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.mining.teacher import CHUNK, Item, TeacherModel
from embeddinggemma.mining.teachers.kind import Kind, TeachConfig
from embeddinggemma.mining.teachers.prompting import Chosen, by_name
from embeddinggemma.model import identity
from embeddinggemma.types import IDENTITY, BadInput

THROUGH = "xllamacpp"  # the package, the only one that takes the options
_ASKED = 1024  # texts for which the file is loaded once
_TOGETHER = 4  # texts of a micro-batch, at most
_TOKENS = 256  # of a micro-batch, unless a text is longer


def opened(config: TeachConfig, chosen: Chosen = by_name) -> TeacherModel:
  """The model of a GGUF file as a teacher.

  `chosen` says which of the file's prompts a text has. Raises BadInput if there
  is no file, if it is no EmbeddingGemma, or if llama.cpp is not installed.
  """
  path = pathlib.Path(config.teacher)
  if not path.is_file():
    raise BadInput(f"{path} does not exist; give a .gguf file")
  keys = gguf_file.read_header(path).keys
  architecture = keys.get("general.architecture")
  if architecture != gguf.EMBEDDER:
    if not keys.get(f"{architecture}.pooling_type"):
      raise BadInput(
        f"{path} is a model of architecture {architecture!r} that makes no"
        " embeddings; give one of an embedder"
      )
    raise BadInput(
      f"{path} is a model of architecture {architecture!r}, and only"
      f" {gguf.EMBEDDER!r} is run here; start llama-server --embeddings -m"
      f" {path.name}, and name http://127.0.0.1:8080/v1/embeddings"
    )
  if _runtime() is None:
    raise BadInput(
      f"{path} is run by llama.cpp: pip install"
      f" 'embeddinggemma[gguf]'; or import --from={path}, and give the folder"
      " that this makes"
    )
  model = gguf.read(path)
  tokenizer = Tokenizer(model.tokenizer, str(path))
  with path.open("rb") as file:
    weights = hashlib.file_digest(file, "sha256").hexdigest()
  about = {
    "teacher": "llama.cpp",
    "file": weights,
    IDENTITY: identity.parts(model.config, tokenizer.identity, model.prompts),
  }
  threads = config.threads or os.cpu_count() or 1

  def texts_of(items: Sequence[Item]) -> list[str]:
    return ["".join(chosen(model.prompts, item)) for item in items]

  def encode(items: Sequence[Item]) -> Float[np.ndarray, "n _T"]:
    return _encode(path, model, tokenizer, threads, texts_of(items))

  return TeacherModel(
    about,
    model.config.embed_dim,
    lambda items, own: encode,
    functools.partial(_counts, model, tokenizer, texts_of),
    functools.partial(_origin, path, model, weights),
    prompts=model.prompts,
    precision=_types(model),
  )


def _runtime() -> runtimes.Runtime | None:
  """llama.cpp through Python, if it is installed."""
  known = runtimes.RUNTIMES["gguf"]
  return next((r for r in known if r.through == THROUGH and r.command()), None)


def _encode(
  path: pathlib.Path,
  model: Imported,
  tokenizer: Tokenizer,
  threads: int,
  texts: Sequence[str],
) -> Float[np.ndarray, "n _T"]:
  """llama.cpp's vectors of texts; BadInput, in its own words, for none."""
  runtime = _runtime()
  assert runtime is not None, "opened() asks for it"
  longest = model.config.max_length
  ids, _ = tokenizer.encode_batch(texts, longest)
  found = []
  for start in range(0, len(ids), _ASKED):
    some = [golden.Item(None, row) for row in ids[start : start + _ASKED]]
    most = max(len(item.ids) for item in some)
    options = {
      "threads": threads,
      "together": _TOGETHER,
      "tokens": max(most, _TOKENS),
    }
    try:
      found.append(runtime.ask(path, some, most, options).vectors)
    except runtimes.Refused as refused:
      raise BadInput(f"{path}: llama.cpp refuses it: {refused}") from None
  return np.concatenate(found)


def _counts(
  model: Imported,
  tokenizer: Tokenizer,
  texts_of: Callable[[Sequence[Item]], list[str]],
  items: Sequence[Item],
) -> truncation.Counts:
  """How many of the texts are cut, counted chunk by chunk."""
  counts = truncation.Counts()
  for start in range(0, len(items), CHUNK):
    texts = texts_of(items[start : start + CHUNK])
    lengths = np.array(tokenizer.counts(texts), np.int64)
    counts.add(truncation.of_lengths(lengths, model.config.max_length))
  return counts


def _types(model: Imported) -> str:
  """The types of the file's tensors, for people: those with most first."""
  counts = model.source.get("tensor_types", {})
  return ", ".join(sorted(counts, key=lambda name: -counts[name]))


def _origin(
  path: pathlib.Path, model: Imported, weights: str
) -> dict[str, Any]:
  """What the file says of its name and licence."""
  general = model.source.get("general", {})
  terms = {origin.METADATA: f"{model.licence}\n".encode()}
  return {
    "kind": "llama.cpp",
    "name": str(general.get("name") or path.stem),
    "weights": weights,
    "licence": origin.licence_name(terms) if model.licence else "",
    "types": model.source.get("tensor_types", {}),
  }


def _recognises(config: TeachConfig) -> bool:
  """Whether the teacher is a GGUF file, by its name or its first bytes."""
  path = pathlib.Path(config.teacher)
  return path.suffix == ".gguf" or gguf_file.is_file(path)


KIND = Kind(_recognises, opened)
