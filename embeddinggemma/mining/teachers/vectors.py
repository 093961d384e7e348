"""A file of vectors that were made elsewhere, with the texts of its rows.

The vectors are a .npy file of floats, a row a text, which stays on disk. The
texts are a file of as many, in the same order: a .jsonl of {"text", "prompt"?,
"title"?} or a .txt with one text a line, as `embed` reads them. A row without a
prompt or title is the vector of that text under whatever prompt and title.
"""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from embeddinggemma.data import jsonl, prompts
from embeddinggemma.mining.teacher import Encode, Item, TeacherModel
from embeddinggemma.mining.teachers.kind import Kind, TeachConfig
from embeddinggemma.types import BadInput

ENDING = ".npy"
_READ = 2**16  # rows that are compared at a time

_Key = tuple[str, str | None, str | None]  # text, prompt's words, title


class _Rows(NamedTuple):
  """Where the vector of a text is."""

  file: pathlib.Path  # of the texts
  places: Mapping[_Key, int]  # the first row of each text


def opened(config: TeachConfig) -> TeacherModel:
  """The vectors of a file as a teacher.

  Raises BadInput for a file that is no matrix of floats; for texts that are
  missing, unreadable or of another number; and for one text with two vectors.
  """
  path = pathlib.Path(config.teacher)
  stored = _open(path)
  file = _texts_file(path, config.ids)
  rows = _read(file, path, stored)
  about = {"teacher": "vectors", "vectors": _hash(path), "ids": _hash(file)}

  def start(items: Sequence[Item], own: pathlib.Path) -> Encode:
    del own
    _require_all(items, rows, path)
    return lambda chunk: _vectors(stored, _places(chunk, rows), path, file)

  origin = {"kind": "vectors", "name": path.name}
  return TeacherModel(about, stored.shape[1], start, origin=lambda: origin)


def _open(path: pathlib.Path) -> Float[np.ndarray, "n T"]:
  """The file's array, on disk; BadInput unless it is a matrix of floats."""
  try:
    stored = np.load(path, mmap_mode="r", allow_pickle=False)
  except FileNotFoundError:
    raise BadInput(f"{path} does not exist; give the .npy of vectors") from None
  except (OSError, ValueError, EOFError) as error:
    said = str(error).split("\n")[0]
    raise BadInput(
      f"{path} is no .npy file of numbers ({said}); write one by"
      " np.save(FILE, vectors)"
    ) from None
  if not isinstance(stored, np.ndarray):
    raise BadInput(
      f"{path} is an .npz of several arrays; save one by np.save(FILE, vectors)"
    )
  if stored.ndim != 2 or stored.dtype.kind != "f" or not stored.size:
    raise BadInput(
      f"{path} holds {stored.dtype} of shape {stored.shape}, where floats of"
      " shape (texts, width) are needed"
    )
  return stored


def _texts_file(path: pathlib.Path, given: str) -> pathlib.Path:
  """The file of the texts: the one that is given, or the one beside."""
  if given:
    file = pathlib.Path(given)
    if not file.is_file():
      raise BadInput(f"--ids={given}: no such file; give the rows' texts")
    return file
  beside = [path.with_suffix(end) for end in (".jsonl", ".txt")]
  beside += [path.with_name(name) for name in ("ids.jsonl", "ids.txt")]
  for file in beside:
    if file.is_file():
      return file
  raise BadInput(
    f"{path}: which texts its rows are of is not known; give --ids=FILE, a"
    ' .jsonl of {"text", "prompt"?, "title"?} or a .txt, in their order'
    f" (or put {beside[0].name} beside it)"
  )


def _read(
  file: pathlib.Path, path: pathlib.Path, stored: Float[np.ndarray, "n T"]
) -> _Rows:
  """The rows of the texts of a file; BadInput where they do not match."""
  places: dict[_Key, int] = {}
  twice: list[tuple[int, int]] = []  # rows of one text
  count = 0
  for origin, line in jsonl.read_lines(file):
    key = _key(origin, line, file.suffix == ".jsonl")
    if key in places:
      twice.append((places[key], count))
    places.setdefault(key, count)
    count += 1
  if count != len(stored):
    raise BadInput(
      f"{file} has {count} texts and {path} {len(stored)} vectors; give the"
      " texts of its rows, in their order"
    )
  _require_alike(stored, twice, file)
  return _Rows(file, places)


def _key(origin: str, line: bytes, is_json: bool) -> _Key:
  """The text of a line, with the prompt and title that it names."""
  try:
    if not is_json:
      text = jsonl.without_end(line).decode("utf-8")
      return jsonl.checked("text", text), None, None
    row = jsonl.parse_row(line, ("text",), ("prompt", "title"))
    words = prompts.prompt_named(row["prompt"]) if row["prompt"] else None
  except UnicodeDecodeError as error:
    raise BadInput(f"{origin}: not UTF-8 (byte {error.start + 1})") from None
  except ValueError as error:  # BadValue of an unknown prompt is one
    raise BadInput(f"{origin}: {error}") from None
  return row["text"], words, row["title"] or None


def _require_alike(
  stored: Float[np.ndarray, "n T"],
  twice: Sequence[tuple[int, int]],
  file: pathlib.Path,
) -> None:
  """Raise BadInput if a text that comes twice has two vectors."""
  for start in range(0, len(twice), _READ):
    pairs = np.array(twice[start : start + _READ])
    same = np.isclose(stored[pairs[:, 0]], stored[pairs[:, 1]], atol=1e-4)
    other = np.flatnonzero(~same.all(axis=1))
    if len(other):
      first, again = pairs[other[0]] + 1
      raise BadInput(
        f"{file}: lines {first} and {again} are one text with two vectors; name"
        ' their prompts ({"text", "prompt"}), or leave one out'
      )


def _place(item: Item, places: Mapping[_Key, int]) -> int:
  """The row of a text, by its prompt and title if those are named; -1: none."""
  words, title = prompts.prompt_named(item.prompt), item.title or None
  keys = (
    (item.text, words, title),
    (item.text, None, title),
    (item.text, words, None),
    (item.text, None, None),
  )
  return next((places[key] for key in keys if key in places), -1)


def _places(items: Sequence[Item], rows: _Rows) -> Int[np.ndarray, "n"]:
  return np.array([_place(item, rows.places) for item in items], np.int64)


def _require_all(
  items: Sequence[Item], rows: _Rows, path: pathlib.Path
) -> None:
  """Raise BadInput that counts the texts without a vector and names one."""
  lacking = [item for item in items if _place(item, rows.places) < 0]
  if lacking:
    first = lacking[0]
    raise BadInput(
      f"{path} lacks vectors of {len(lacking)} of {len(items)} texts, the first"
      f" {first.text[:60]!r} (prompt {first.prompt}); add them to it and to"
      f" {rows.file}"
    )


def _vectors(
  stored: Float[np.ndarray, "n T"],
  places: Int[np.ndarray, "m"],
  path: pathlib.Path,
  file: pathlib.Path,
) -> Float[np.ndarray, "m T"]:
  """Rows of the file; BadInput that names the first that is no direction."""
  found = np.asarray(stored[places], np.float32)
  norms = np.linalg.norm(found.astype(np.float64), axis=1)
  bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
  if len(bad):
    row = int(places[bad].min())
    raise BadInput(
      f"{path}: row {row} (from 0) is zero or not finite; make the vector of"
      f" line {row + 1} of {file} again"
    )
  return found


def _hash(path: pathlib.Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def recognises(config: TeachConfig) -> bool:
  """Whether the teacher is a file of vectors."""
  return config.teacher.endswith(ENDING)


KIND = Kind(recognises, opened)
