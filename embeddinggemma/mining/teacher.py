"""A teacher's vectors of texts, written once to a folder (paper section 2.2).

They are sorted by the hash of prompt, title and text, so that training finds a
text's vector by its content. A teacher is TF-IDF with truncated SVD, which
needs no download; a checkpoint of this project; or a sentence-transformers
model.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from embeddinggemma import cache
from embeddinggemma.data import prompts, truncation
from embeddinggemma.mining import arrays
from embeddinggemma.model.identity import Identity
from embeddinggemma.types import (
  IDENTITY,
  BadInput,
  Pair,
  SingleText,
  TextEncoder,
)

FORMAT = 1
CHUNK = 4096  # texts: what a kill can lose
DTYPES = ("float16", "float32")

_ABOUT = "teacher.json"


class Item(NamedTuple):
  """A text as the student reads it."""

  prompt: str
  text: str
  title: str


Encode = Callable[[Sequence[Item]], Float[np.ndarray, "n _T"]]


@dataclasses.dataclass(frozen=True)
class TeacherModel:
  """A teacher that `teach` can ask for vectors."""

  about: Mapping[str, Any]  # all on which its vectors depend, as JSON
  width: int
  # (all texts, a file that is its own until the end) -> what encodes a chunk
  start: Callable[[Sequence[Item], Path], Encode]
  # Texts -> how many are cut; None: the teacher does not say, or cuts none.
  counts: Callable[[Sequence[Item]], truncation.Counts] | None = None


def items_of(pairs: Iterable[Pair | SingleText]) -> list[Item]:
  """The texts of pairs: each one's query, positive and negatives, in order.

  Of a single text it is that one.
  """
  items: list[Item] = []
  for pair in pairs:
    if isinstance(pair, SingleText):
      items.append(Item(pair.prompt, pair.text, pair.title))
      continue
    document = prompts.document_prompt(pair.task)
    items.append(Item(pair.task, pair.query, ""))
    titled = itertools.zip_longest(
      pair.negatives, pair.negative_titles, fillvalue=""
    )
    reads_titles = document == "document"  # symmetric tasks do not
    items += [
      Item(document, text, title if reads_titles else "")
      for text, title in [(pair.positive, pair.title), *titled]
    ]
  return items


def keys_of(items: Sequence[Item]) -> Shaped[np.ndarray, "n"]:
  """The 128-bit hashes (dtype S16) of texts with their prompts and titles."""
  texts = (prompts.prompted(*item) for item in items)
  hashes = [hashlib.blake2b(x.encode(), digest_size=16) for x in texts]
  return np.array([h.digest() for h in hashes], "S16")


def teach(
  items: Sequence[Item],
  model: TeacherModel,
  directory: Path,
  *,
  dtype: str,
  progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
  """Write the teacher's unit vectors of the texts, each text once.

  A folder that has them already is left as it is; a killed call continues, to
  the same bytes; vectors of other texts or another teacher are replaced.

  Args:
    items: the texts; equal ones are encoded once.
    model: the teacher.
    directory: gets the vectors, their keys and teacher.json.
    dtype: that the vectors are stored in.
    progress: called with (texts done, texts).

  Returns:
    The content of teacher.json; its `hash` is that of the vectors and keys, and
    `truncated` counts the texts that the teacher cut, with a warning.

  Raises:
    BadInput: a vector has the wrong width, is zero or not finite; there is no
      text; or the dtype is unknown.
  """
  if dtype not in DTYPES:
    raise BadInput(f"unknown dtype {dtype!r}; use {' or '.join(DTYPES)}")
  keys, first = np.unique(keys_of(items), return_index=True)
  if not len(keys):
    raise BadInput(f"{directory}: there are no texts to teach")
  inputs = {
    "format": FORMAT,
    "teacher": dict(model.about),
    "width": model.width,
    "dtype": dtype,
    "texts": hashlib.sha256(keys.tobytes()).hexdigest(),
  }
  shape = (len(keys), model.width)
  layout = {"keys": ((len(keys),), "S16"), "vectors": (shape, dtype)}
  filling = arrays.Filling(directory, _ABOUT, inputs, layout)
  if filling.about:
    return filling.about
  texts = [items[i] for i in first]
  if not filling.done:
    filling.arrays["keys"][:] = keys
  if filling.done < len(texts):
    encode = model.start(texts, directory / f"fit-{filling.key}.npy")
    for start in range(filling.done, len(texts), CHUNK):
      chunk = texts[start : start + CHUNK]
      with truncation.counted():
        vectors = _checked(encode(chunk), chunk, model)
      filling.add({"vectors": vectors})
      if progress:
        progress(filling.done, len(texts))
  for fit in directory.glob("fit-*"):
    fit.unlink()
  about: dict[str, Any] = {"count": len(texts)}
  if model.counts is not None:
    # Of all texts, also those of a call that was killed.
    counts = model.counts(texts)
    truncation.report(counts)
    about["truncated"] = counts.as_json()
  return filling.finish(about)


def all_alike(vectors: Shaped[np.ndarray, "n T"]) -> bool:
  """Whether several texts have one vector, from which nothing can be learned."""
  first = np.asarray(vectors[:1], np.float32)
  return len(vectors) > 1 and all(
    np.allclose(
      np.asarray(vectors[n : n + CHUNK], np.float32), first, atol=1e-6
    )
    for n in range(0, len(vectors), CHUNK)
  )


def _checked(
  vectors: Float[np.ndarray, "n _T"], items: Sequence[Item], model: TeacherModel
) -> Float[np.ndarray, "n T"]:
  """The vectors at unit length; BadInput for a wrong width, 0 or not finite."""
  name = model.about["teacher"]
  if vectors.shape != (len(items), model.width):
    raise BadInput(
      f"teacher {name} gives vectors of width {vectors.shape[-1]}, not"
      f" {model.width} as it says"
    )
  vectors = np.asarray(vectors, np.float32)
  norms = np.linalg.norm(vectors, axis=1, keepdims=True)
  bad = ~(np.isfinite(norms) & (norms > 0))[:, 0]
  if bad.any():
    text = items[int(np.argmax(bad))].text[:60]
    raise BadInput(
      f"teacher {name} gives {int(bad.sum())} vectors that are zero or not"
      f" finite, the first for {text!r}; use another teacher or drop the text"
    )
  return vectors / norms


def from_encoder(
  encode: TextEncoder, model: Identity, width: int
) -> TeacherModel:
  """A model of this project as a teacher; `width` is its dimension."""

  def vectors(items: Sequence[Item]) -> Float[np.ndarray, "n _T"]:
    # A call has one prompt; what a chunk holds does not depend on kills.
    out = np.zeros((len(items), width), np.float32)
    for prompt in sorted({item.prompt for item in items}):
      rows = [i for i, item in enumerate(items) if item.prompt == prompt]
      texts = [items[i].text for i in rows]
      found = encode(texts, prompt, [items[i].title for i in rows])
      if found.shape[1] != width:
        return found
      out[rows] = found
    return out

  about = {
    "teacher": "checkpoint",
    "model": model.weights,
    IDENTITY: model.as_json(),
  }
  return TeacherModel(about, width, lambda items, own: vectors)


def sentence_transformer(name: str) -> TeacherModel:
  """A sentence-transformers model as a teacher, with its own prompts.

  It is read from disk only. Raises BadInput if the package is not installed or
  the model is not there.
  """
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
    raise BadInput(
      f"{name}: no sentence-transformers model on this machine ({reason})"
    ) from None
  own = {k: text for k, text in model.prompts.items() if text is not None}

  def vectors(items: Sequence[Item]) -> Float[np.ndarray, "n _T"]:
    # The prompt goes apart: some models leave it out when they pool.
    places: dict[str, list[int]] = {}
    inputs = [_prompted(own, item) for item in items]
    for place, (prompt, _) in enumerate(inputs):
      places.setdefault(prompt, []).append(place)
    found = {}
    for prompt, members in places.items():
      texts = [inputs[i][1] for i in members]
      rows = model.encode(texts, prompt=prompt, show_progress_bar=False)
      found |= zip(members, np.asarray(rows, np.float32))
    return np.stack([found[place] for place in range(len(items))])

  digest = hashlib.sha256()
  for key, tensor in sorted(model.state_dict().items()):
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
    about, width, lambda items, file: vectors, _counts(model, own)
  )


def _counts(
  model: Any, own: Mapping[str, str]
) -> Callable[[Sequence[Item]], truncation.Counts] | None:
  """What counts the texts that a sentence-transformers model cuts.

  It cuts without a word. None where it has no limit, or a tokenizer that is not
  transformers' own.
  """
  most = getattr(model, "max_seq_length", None)
  tokenizer: Any = getattr(model, "tokenizer", None)
  if most is None or not hasattr(tokenizer, "num_special_tokens_to_add"):
    return None

  def counts(items: Sequence[Item]) -> truncation.Counts:
    found = truncation.Counts()
    for start in range(0, len(items), CHUNK):
      chunk = items[start : start + CHUNK]
      texts = ["".join(_prompted(own, item)) for item in chunk]
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


def _prompted(own: Mapping[str, str], item: Item) -> tuple[str, str]:
  """The model's own prompt for the item's task, if any, and the item's text."""
  ours = prompts.prompt_named(item.prompt)
  usual = ("document", "passage") if ours == prompts.DOCUMENT else ("query",)
  alike = [name for name, words in prompts.PROMPTS.items() if words == ours]
  # Names that a model has no words for are there too, with none.
  found = [own.get(name, "") for name in (item.prompt, *alike, *usual)]
  prompt = next(filter(None, found), "")
  if not (item.title and ours == prompts.DOCUMENT):
    return prompt, item.text
  if prompt == prompts.DOCUMENT:
    return "", prompts.with_prompt(prompt, item.text, item.title)
  return prompt, f"{item.title}\n{item.text}"


@dataclasses.dataclass(frozen=True)
class Vectors:
  """An opened folder of vectors, which stay on disk until they are read."""

  directory: Path
  about: Mapping[str, Any]
  keys: Shaped[np.ndarray, "n"]  # sorted
  vectors: Float[np.ndarray, "n T"]

  @property
  def width(self) -> int:
    """T, the dimension of the teacher's vectors."""
    return self.vectors.shape[1]

  def rows(self, keys: Shaped[np.ndarray, "k"]) -> Float[np.ndarray, "k T"]:
    """Texts' vectors in float32, by key; BadInput if one is absent."""
    return np.asarray(self.vectors[self.places(keys)], np.float32)

  def places(self, keys: Shaped[np.ndarray, "k"]) -> Int[np.ndarray, "k"]:
    """Texts' rows in `vectors`, by key; BadInput if one is absent."""
    places = np.searchsorted(self.keys, keys)
    places = np.minimum(places, len(self.keys) - 1)
    absent = int((self.keys[places] != keys).sum())
    if absent:
      raise BadInput(
        f"{self.directory} lacks {absent} of {len(keys)} texts; run `teach` on"
        " this data"
      )
    return places


def open_vectors(directory: Path) -> Vectors:
  """Open what `teach` wrote; BadInput if it is missing or incomplete."""
  try:
    about = cache.read_json(directory / _ABOUT)
    keys = np.load(directory / "keys.npy", allow_pickle=False)
    vectors = np.load(
      directory / "vectors.npy", mmap_mode="r", allow_pickle=False
    )
    if vectors.shape != (len(keys), about["width"]):
      raise ValueError(f"{len(keys)} texts, vectors of {vectors.shape}")
  except (OSError, EOFError, ValueError, KeyError) as error:
    raise BadInput(
      f"{directory}: holds no teacher's vectors ({error})"
    ) from None
  return Vectors(directory, about, keys, vectors)
