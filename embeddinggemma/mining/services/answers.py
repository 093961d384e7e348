"""Vectors that a service gave, on disk before the next request.

A folder holds, for each model that was asked, ID.json (who answered, and when),
ID.vectors (float32, a row a text) and ID.keys (the row's 16 bytes of hash). Rows
are only appended, vectors first, so that a kill loses the request in flight and
no more: what of a row is not whole is cut off when the folder is opened again.
"""

import datetime
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from embeddinggemma import cache

_KEY = 16  # bytes


class Sent(NamedTuple):
  """What is sent for a text: the text, and of which kind the task is.

  `kind` is a word of the service's own, such as a task type; "": it has none.
  """

  kind: str
  text: str


class Answers:
  """The answers of one model of one service.

  Args of the constructor, and attributes: `folder` may hold those of other models too, and is
  made when the first answer comes; `service` is all that decides its vectors,
  as JSON; `about` is what is recorded of the answers.
  """

  def __init__(self, folder: pathlib.Path, service: Mapping[str, Any]):
    self.folder = folder
    name = cache.key_of(service)[:16]
    self._about_file = folder / f"{name}.json"
    self._keys = folder / f"{name}.keys"
    self._vectors = folder / f"{name}.vectors"
    self._service = dict(service)
    self.about = cache.read_json(self._about_file)
    self._rows: dict[bytes, int] = {}
    if self.width:
      self._open()

  @property
  def width(self) -> int:
    """The dimension of the vectors; 0 before the first answer."""
    return self.about.get("width", 0)

  @property
  def dates(self) -> list[str]:
    """The days of the first and of the last answer."""
    return self.about.get("dates", [])

  @property
  def answered_by(self) -> str:
    """What the service calls the model that answered; "" if it does not say."""
    return self.about.get("answered_by", "")

  def __len__(self) -> int:
    return len(self._rows)

  def __contains__(self, sent: Sent) -> bool:
    return _key(sent) in self._rows

  def add(
    self,
    sent: Sequence[Sent],
    vectors: Float[np.ndarray, "n T"],
    answered_by: str = "",
  ) -> None:
    """Keep vectors, of the width of those before; they are on disk on return."""
    self._note(vectors.shape[1], answered_by)
    _append(self._vectors, np.asarray(vectors, "<f4").tobytes())
    keys = [_key(one) for one in sent]
    _append(self._keys, b"".join(keys))
    start = self._vectors.stat().st_size // (4 * self.width) - len(sent)
    self._rows |= {key: start + row for row, key in enumerate(keys)}

  def of(self, sent: Sequence[Sent]) -> Float[np.ndarray, "n T"]:
    """The vectors of what was sent, all of which have an answer."""
    stored = np.memmap(self._vectors, "<f4", "r").reshape(-1, self.width)
    return np.array(stored[[self._rows[_key(one)] for one in sent]])

  def _open(self) -> None:
    """Read the keys; cut off rows of which a kill left only a part."""
    size = lambda path: path.stat().st_size if path.is_file() else 0
    row = 4 * self.width
    whole = min(size(self._keys) // _KEY, size(self._vectors) // row)
    for path, each in ((self._keys, _KEY), (self._vectors, row)):
      if path.is_file():
        os.truncate(path, whole * each)
    keys = self._keys.read_bytes() if whole else b""
    self._rows = {keys[_KEY * n : _KEY * (n + 1)]: n for n in range(whole)}

  def _note(self, width: int, answered_by: str) -> None:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    about = {
      "service": self._service,
      "width": width,
      "answered_by": answered_by or self.answered_by,
      "dates": sorted({*self.dates[:1], today}),
    }
    if about != self.about:
      self._about_file.parent.mkdir(parents=True, exist_ok=True)
      cache.write_json(self._about_file, about)
      self.about = about


def _key(sent: Sent) -> bytes:
  """The hash by which an answer is found again."""
  whole = "\0".join(sent).encode()
  return hashlib.blake2b(whole, digest_size=_KEY).digest()


def _append(path: pathlib.Path, content: bytes) -> None:
  with path.open("ab") as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
