"""A model of the package sentence-transformers as a teacher."""

import functools
import hashlib
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import origin
from embeddinggemma.convert.read import sentence_transformers as reading
from embeddinggemma.data import truncation
from embeddinggemma.mining.teacher import CHUNK, Item, TeacherModel
from embeddinggemma.mining.teachers.kind import CHOICES, Kind
from embeddinggemma.mining.teachers.prompting import Chosen, prompted
from embeddinggemma.types import IDENTITY, BadInput


def opened(name: str, chosen: Chosen = prompted) -> TeacherModel:
  """A sentence-transformers model as a teacher, with its own prompts.

  It is read from disk only. `chosen` says which prompt a text has. Raises
  BadInput if the package is not installed, if the model is not there, or if it
  is an EmbeddingGemma that is read without EOS.
  """
  folder = pathlib.Path(name)
  if reading.is_folder(folder):
    reading.check_ends(folder)
  try:
    import sentence_transformers  # pyrefly: ignore[missing-import]
  except ImportError:
    raise BadInput(
      f"teacher {name} needs sentence-transformers; pip install it, or use the"
      " tfidf teacher"
    ) from None
  try:
    model = sentence_transformers.SentenceTransformer(
      name, trust_remote_code=False, local_files_only=True
    )
  except (OSError, ValueError) as error:
    reason = str(error).split("\n")[0]
    if folder.is_dir():
      raise BadInput(
        f"{name}: sentence-transformers cannot open it ({reason})"
      ) from None
    raise BadInput(
      f"{name}: no sentence-transformers model on this machine ({reason}); a"
      f" teacher is {CHOICES}"
    ) from None
  own = {k: text for k, text in model.prompts.items() if text is not None}

  def vectors(items: Sequence[Item]) -> Float[np.ndarray, "n _T"]:
    # The prompt goes apart: some models leave it out when they pool.
    places: dict[str, list[int]] = {}
    inputs = [chosen(own, item) for item in items]
    for place, (prompt, _) in enumerate(inputs):
      places.setdefault(prompt, []).append(place)
    found = {}
    for prompt, members in places.items():
      texts = [inputs[i][1] for i in members]
      rows = model.encode(texts, prompt=prompt, show_progress_bar=False)
      found |= zip(members, np.asarray(rows, np.float32))
    return np.stack([found[place] for place in range(len(items))])

  digest, types = hashlib.sha256(), set()
  for key, tensor in sorted(model.state_dict().items()):
    types.add(str(getattr(tensor, "dtype", "")).removeprefix("torch."))
    digest.update(key.encode())
    digest.update(tensor.detach().cpu().float().numpy().tobytes())
  about = {
    "teacher": "sentence-transformers",
    "modules": str(model),
    "prompts": own,
    "weights": digest.hexdigest(),
    IDENTITY: {
      "tokenizer": _tokenizer_hash(model.tokenizer),
      "max_length": model.max_seq_length,
    },
  }
  # Its method for the width has another name in each version.
  width = vectors([Item("document", "width", "")]).shape[1]
  return TeacherModel(
    about,
    width,
    lambda items, file: vectors,
    _counts(model, own, chosen),
    functools.partial(_origin, name, digest.hexdigest()),
    prompts=own,
    precision=", ".join(sorted(filter(None, types))),
  )


def _counts(
  model: Any, own: Mapping[str, str], chosen: Chosen
) -> Callable[[Sequence[Item]], truncation.Counts] | None:
  """What counts the texts that a sentence-transformers model cuts.

  It cuts without a word. None where it has no limit, or a tokenizer that is not
  transformers' own.
  """
  most = getattr(model, "max_seq_length", None)
  tokenizer: Any = getattr(model, "tokenizer", None)
  known = hasattr(tokenizer, "num_special_tokens_to_add") and callable(
    tokenizer
  )
  if most is None or not math.isfinite(most) or not known:
    return None

  def counts(items: Sequence[Item]) -> truncation.Counts:
    found = truncation.Counts()
    for start in range(0, len(items), CHUNK):
      chunk = items[start : start + CHUNK]
      texts = ["".join(chosen(own, item)) for item in chunk]
      read = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
      lengths = np.array([len(ids) for ids in read])
      found.add(truncation.of_lengths(lengths, most))
    return found

  return counts


def _tokenizer_hash(tokenizer: Any) -> str:
  """SHA-256 of a tokenizer of transformers, as its library writes it; or ""."""
  backend = getattr(tokenizer, "backend_tokenizer", None)
  text = backend.to_str() if backend else ""
  return hashlib.sha256(text.encode()).hexdigest() if text else ""


def _origin(name: str, weights: str) -> dict[str, Any]:
  """What the model's folder says of its name and licence."""
  folder = pathlib.Path(name)
  known = {"kind": "sentence-transformers", "weights": weights}
  if not folder.is_dir():
    return {**known, "name": name}
  found = origin.repository(f"{folder.absolute().as_posix()}/")
  licence = origin.licence_name(folders.terms(folder))
  return {**known, "name": found or folder.name, "licence": licence}


KIND = Kind(lambda config: True, lambda config: opened(config.teacher))
