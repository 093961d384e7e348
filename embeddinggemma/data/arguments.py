"""What Python users pass to the public functions, checked before any work.

Whatever cannot be read raises BadType or BadValue, which are BadInput. Their
one line names the argument, the position in it, the type that is there, and
what to do.
"""

import operator
import os
import pathlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from embeddinggemma import cache
from embeddinggemma.config import suggest
from embeddinggemma.types import BadType, BadValue

Word = TypeVar("Word", bound=str)

# Norms whose squares float32 holds with room to spare.
_SMALL, _LARGE = 1e-15, 1e15
_MISSING = ("NAType", "NaTType")  # of pandas


def texts(name: str, value: Any) -> list[str]:
  """One text, or any iterable of texts, as a list of plain str.

  Lists, tuples, generators, NumPy arrays and columns of pandas, polars, pyarrow
  and `datasets` are read alike. `name` is the argument's.

  Raises:
    BadType: it, or an item, is no text.
    BadValue: a text holds half a surrogate pair, which is no character.
  """
  if isinstance(value, str):
    items, place = [value], lambda _: name
  else:
    items, place = _items(name, value, "texts"), lambda n: f"{name}[{n}]"
  if set(map(type, items)) - {str}:
    items = _plain(items, place)
  for number, item in enumerate(items):
    if not item.isascii():
      _require_characters(place(number), item)
  return items


def text(name: str, value: Any) -> str:
  """A single text, as plain str; BadType or BadValue for anything else."""
  if not isinstance(value, str):
    raise BadType(f"{name} is {_not_text(value, 'give str')}")
  return texts(name, value)[0]


def titles(value: Any, sentences: Any, count: int) -> list[str]:
  """A title for each of `count` texts, "" for none; () and None: no titles.

  A single text may have its title as a str.
  """
  if value is None or (isinstance(value, tuple | list) and not value):
    return [""] * count
  if isinstance(value, str) and not isinstance(sentences, str):
    raise BadType(
      'titles is a single text; give a list with one for each of the texts, ""'
      " for none"
    )
  found = texts("titles", value)
  if len(found) not in ({0, count} if count else {0}):
    raise BadValue(
      f'{len(found)} titles for {count} texts; give one to each, "" for none'
    )
  return found or [""] * count


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
  """A whole number in a range, which may be NumPy's; bool and float are none.

  Raises BadType or BadValue.
  """
  try:
    if isinstance(value, bool | np.bool_):
      raise TypeError
    number = operator.index(value)
  except TypeError:
    raise BadType(
      f"{name} is not a whole number but {_kind(value)}; give an int"
    ) from None
  if most is not None and not least <= number <= most:
    raise BadValue(f"{name}={number} must be from {least} to {most}")
  if number < least:
    raise BadValue(f"{name}={number} must be at least {least}")
  return number


def switch(name: str, value: Any) -> bool:
  """True or False, also NumPy's; BadType for anything else, such as "no"."""
  if not isinstance(value, bool | np.bool_):
    raise BadType(f"{name} is not True or False but {_kind(value)}")
  return bool(value)


def choice(name: str, value: Any, known: Collection[Word]) -> Word:
  """One of the known words; BadType or BadValue, with the nearest, else."""
  word = text(name, value)
  if word not in known:
    raise BadValue(f"{name}={word!r} is unknown{suggest(word, list(known))}")
  return next(one for one in known if one == word)


def path(name: str, value: Any) -> str:
  """A path as str; BadType or BadValue for what names no file or folder."""
  found = os.fspath(value) if isinstance(value, os.PathLike) else value
  if not isinstance(found, str):
    raise BadType(f"{name} is not a path but {_kind(value)}; give str or Path")
  shown = found if len(found) < 100 else f"{found[:100]}..."
  try:
    os.lstat(found)
  except (FileNotFoundError, NotADirectoryError):
    if not found:
      raise BadValue(f"{name}={shown!r} names nothing; give a path") from None
  except OSError as error:
    raise BadValue(
      f"{name}={shown!r}: {error.strerror}; choose another path"
    ) from None
  except ValueError:  # a zero byte, or half a surrogate pair
    raise BadValue(f"{name}={shown!r} names nothing; give a path") from None
  return found


def output(name: str, value: Any, folder: bool) -> pathlib.Path:
  """A path that is to be written; BadValue, before any work, where it cannot.

  `folder`: whether the path is a folder itself; else only what it stands in
  must take files.
  """
  place = pathlib.Path(path(name, value))
  try:
    cache.require_place(place, folder)
  except OSError as error:
    raise BadValue(
      f"{name}={str(place)!r} cannot be written ({error.strerror}); choose"
      " another path"
    ) from None
  return place


def paths(name: str, value: Any) -> list[str]:
  """Several paths; BadType also for a single one, whose letters are none."""
  if isinstance(value, str | os.PathLike):
    raise BadType(f"{name} is a single path; give a list of them")
  return [
    path(f"{name}[{number}]", item)
    for number, item in enumerate(_items(name, value, "paths"))
  ]


def numbers(name: str, value: Any) -> list[float]:
  """Several finite numbers; BadType or BadValue with the position."""
  found = []
  for number, item in enumerate(_items(name, value, "numbers")):
    place, bad = f"{name}[{number}]", isinstance(item, bool | np.bool_ | str)
    try:
      found.append(float("nan" if bad else item))
    except (TypeError, ValueError):
      bad = True
    if bad:
      raise BadType(f"{place} is not a number but {_kind(item)}")
    if not np.isfinite(found[-1]):
      raise BadValue(f"{place}={item} is not a finite number")
  return found


def values(name: str, value: Any) -> Mapping[str, Any]:
  """Values by dotted keys; BadType for anything else, such as groups of them."""
  if not isinstance(value, Mapping):
    raise BadType(f"{name} is not a dict but {_kind(value)}")
  for key, item in value.items():
    text(f"a key of {name}", key)
    if isinstance(item, Mapping):
      inner = f"{key}.{next(iter(item), 'KEY')}"
      raise BadType(
        f"{name}[{key!r}] is a {type(item).__name__}; give each of its values"
        f" a key of its own, as {inner!r}"
      )
  return value


def instance(name: str, value: Any, cls: type, fix: str) -> None:
  """Raise BadType, with what gives one, unless it is an instance of `cls`."""
  if not isinstance(value, cls):
    raise BadType(f"{name} is not a {cls.__name__} but {_kind(value)}; {fix}")


def unit(name: str, value: Any) -> Float[np.ndarray, "n M"]:
  """One vector or several as rows of unit norm, in float32 or float64.

  Raises:
    BadType: these are no numbers.
    BadValue: it is neither a vector nor a matrix, or a row is zero or not
      finite: it has no direction, and any score of it would be made up.
  """
  rows = _matrix(name, value)
  with np.errstate(all="ignore"):
    norms = np.sqrt(np.einsum("nm,nm->n", rows, rows))
    odd = np.flatnonzero(~((norms > _SMALL) & (norms < _LARGE)))
    if len(odd):  # squares of such numbers may be 0 or infinite
      peaks = np.abs(rows[odd]).max(axis=1, initial=0)
      _require_directions(name, odd, peaks)
      rows = rows.copy()
      rows[odd] /= peaks[:, None]
      norms[odd] = np.linalg.norm(rows[odd], axis=1)
  return rows / norms[:, None]


def _matrix(name: str, value: Any) -> Float[np.ndarray, "n M"]:
  if np.ma.is_masked(value):
    raise BadType(
      f"{name} has masked numbers; give it.filled(...) or leave out"
    )
  try:
    array = np.asarray(value)
    if array.dtype == object:  # a column of pandas whose items are vectors
      array = np.stack([np.asarray(item) for item in array])
    if array.dtype.kind in "bcmMOSTU":
      raise TypeError
    if array.dtype not in (np.float32, np.float64):
      wide = array.dtype.kind in "iu" or array.dtype.itemsize > 8
      array = array.astype(np.float64 if wide else np.float32)
  except (TypeError, ValueError, RuntimeError) as error:
    reason = f" ({error})" if str(error) else ""
    raise BadType(
      f"{name} is not one vector or a matrix of numbers but"
      f" {_kind(value)}{reason}"
    ) from None
  if array.ndim not in (1, 2) or array.shape == (0,):
    raise BadValue(
      f"{name} has shape {array.shape}; give one vector or a matrix of rows"
    )
  return np.atleast_2d(array)


def _require_directions(name: str, rows: np.ndarray, peaks: np.ndarray) -> None:
  """Raise BadValue for rows whose largest number is 0 or not finite."""
  bad = rows[~(np.isfinite(peaks) & (peaks > 0))]
  if len(bad):
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    raise BadValue(
      f"{name}: vector {bad[0]}{more} is zero or not finite, so it has no"
      " direction to compare; leave it out"
    )


def _items(name: str, value: Any, what: str) -> list[Any]:
  """The items of an iterable; BadType for one whose items are something else.

  Those are the keys of a dict, the columns of a table, the numbers of bytes.
  `what` there should be is for messages: "texts", "paths", "numbers".
  """
  if isinstance(value, Mapping):
    one = next((key for key, v in value.items() if _is_column(v)), None)
    fix = "list(it.values())" if one is None else f"a column, as it[{one!r}]"
    raise BadType(
      f"{name} is a {type(value).__name__}, of which only keys would be read;"
      f" give {fix}"
    )
  if hasattr(value, "columns"):
    raise BadType(
      f"{name} is a {type(value).__name__}, a table; give one of its columns"
    )
  if hasattr(value, "to_pylist"):  # pyarrow, whose items are scalars of its own
    return value.to_pylist()
  readable = isinstance(value, Iterable)
  if not readable or isinstance(value, bytes | bytearray | memoryview):
    if what != "texts":
      raise BadType(f"{name} is not a list of {what} but {_kind(value)}")
    raise BadType(f"{name} is {_not_text(value, 'give a text or several')}")
  try:
    return list(value)
  except TypeError as error:  # an array without a dimension
    if getattr(value, "ndim", None) != 0:
      raise
    raise BadType(f"{name}: {error}; give a list") from None


def _is_column(value: Any) -> bool:
  """Whether a value of a dict has texts of its own, as a column has."""
  return isinstance(value, Iterable) and not isinstance(value, str | bytes)


def _plain(items: list[Any], place: Any) -> list[str]:
  """Subclasses of str, as NumPy's, as str; BadType at the first other item."""
  bad = [n for n, item in enumerate(items) if not isinstance(item, str)]
  if bad:
    more = f"; {len(bad)} of {len(items)} are no texts" if bad[1:] else ""
    value = items[bad[0]]
    missing = value is None or type(value).__name__ in _MISSING
    missing = missing or _is_nan(value)
    fix = 'leave it out, or give ""' if missing else "give str"
    raise BadType(f"{place(bad[0])} is {_not_text(value, fix)}{more}")
  return [str.__str__(item) for item in items]


def _require_characters(place: str, item: str) -> None:
  try:
    item.encode("utf-8")
  except UnicodeEncodeError as error:
    raise BadValue(
      f"{place} holds half a surrogate pair at character {error.start};"
      " decode its source as UTF-8"
    ) from None


def _not_text(value: Any, fix: str) -> str:
  """The rest of "X is ...", with what to do."""
  if isinstance(value, bytes | bytearray | memoryview):
    fix = "decode it"
  return f"not text but {_kind(value)}; {fix}"


def _is_nan(value: Any) -> bool:
  return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _kind(value: Any) -> str:
  """The type of a value, and the value if it is a small one."""
  kind = type(value).__name__
  if isinstance(value, bool | int | float | np.number | np.bool_):
    return f"{kind} ({value})"
  if isinstance(value, str):
    return f"{kind} ({value[:40]!r})"
  return kind
