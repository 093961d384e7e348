"""A teacher's vectors of texts, written once to a folder (paper section 2.2).

They are sorted by the hash of prompt, title and text, so that training finds a
text's vector by its content. The kinds of teachers are in `teachers/`.
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
from embeddinggemma.types import BadInput, Pair, SingleText

FORMAT = 1
CHUNK = 4096  # texts: what a kill can lose
DTYPES = ("float16", "float32")

_ABOUT = "teacher.json"
_ARRAYS = ("keys", "vectors")


class Item(NamedTuple):
  """A text as the student reads it."""

  prompt: str
  text: str
  title: str


Encode = Callable[[Sequence[Item]], Float[np.ndarray, "n _T"]]
# What is known of who a teacher is: {"kind", "name", "licence", "terms", ...}.
Origin = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class TeacherModel:
  """A teacher that `teach` can ask for vectors."""

  about: Mapping[str, Any]  # all on which its vectors depend, as JSON
  width: int | None  # None: it is that of its first vector
  # (all texts, a file that is its own until the end) -> what encodes a chunk
  start: Callable[[Sequence[Item], Path], Encode]
  # Texts -> how many are cut; None: the teacher does not say, or cuts none.
  counts: Callable[[Sequence[Item]], truncation.Counts] | None = None
  # Asked when the vectors are there. It decides none of them.
  origin: Callable[[], Origin] = dict
  # (all texts, the folder, what prints a line): what is to be said, asked of a
  # person or refused before the first text is encoded.
  prepare: (
    Callable[[Sequence[Item], Path, Callable[[str], None]], None] | None
  ) = None
  # Seconds a token, of a teacher that may not be tried to find out, because it
  # is paid for; None: it may.
  pace: float | None = None
  # (texts, the folder) -> nothing, or BadInput if what is kept there of an
  # earlier call was given by another model than the one that answers now.
  verify: Callable[[Sequence[Item], Path], None] | None = None
  # Its own, by name.
  prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
  precision: str = ""  # the type of its numbers, for people; "": not known


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
  begin: Callable[[Sequence[Item]], None] | None = None,
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
    begin: called with the texts before one is encoded, unless all are done.

  Returns:
    The content of teacher.json; its `hash` is that of the vectors and keys,
    `truncated` counts the texts that the teacher cut, with a warning, and
    `origin` says who the teacher is.

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
  if about := arrays.complete(directory, _ABOUT, inputs, _ARRAYS):
    return _named(directory, about, model)
  texts = [items[i] for i in first]
  if begin:
    begin(texts)
  start = lambda: model.start(
    texts, directory / f"fit-{cache.key_of(inputs)}.npy"
  )
  encode = None
  width = model.width
  if width is None:
    directory.mkdir(parents=True, exist_ok=True)
    encode = start()
    width = encode(texts[:1]).shape[1]
  shape = (len(keys), width)
  layout = {"keys": ((len(keys),), "S16"), "vectors": (shape, dtype)}
  filling = arrays.Filling(directory, _ABOUT, inputs, layout)
  if not filling.done:
    filling.arrays["keys"][:] = keys
  if filling.done < len(texts):
    encode = encode or start()
    for place in range(filling.done, len(texts), CHUNK):
      chunk = texts[place : place + CHUNK]
      with truncation.counted():
        vectors = _checked(encode(chunk), chunk, model, width)
      filling.add({"vectors": vectors})
      if progress:
        progress(filling.done, len(texts))
  for fit in directory.glob("fit-*"):
    fit.unlink()
  return filling.finish(_about(model, texts, width))


def _about(
  model: TeacherModel, texts: Sequence[Item], width: int
) -> dict[str, Any]:
  """What teacher.json says of the vectors besides what they depend on."""
  about: dict[str, Any] = {"count": len(texts), "width": width}
  if model.counts is not None:
    # Of all texts, also those of a call that was killed.
    counts = model.counts(texts)
    truncation.report(counts)
    about["truncated"] = counts.as_json()
  origin = dict(model.origin())
  return {**about, **({"origin": origin} if origin else {})}


def _named(
  directory: Path, about: dict[str, Any], model: TeacherModel
) -> dict[str, Any]:
  """The content of teacher.json, where its origin is what is known by now."""
  before = about.get("origin", {})
  origin = {**before, **model.origin()}
  if origin != before:
    about = {**about, "origin": origin}
    cache.write_json(directory / _ABOUT, about)
  return about


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
  vectors: Float[np.ndarray, "n _T"],
  items: Sequence[Item],
  model: TeacherModel,
  width: int,
) -> Float[np.ndarray, "n T"]:
  """The vectors at unit length; BadInput for a wrong width, 0 or not finite."""
  name = model.about["teacher"]
  if vectors.shape != (len(items), width):
    raise BadInput(
      f"teacher {name} gives vectors of width {vectors.shape[-1]}, not"
      f" {width} as it says"
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
