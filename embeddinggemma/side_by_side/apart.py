"""A model that is opened and asked in a process of its own.

What a library does to its process, such as to end it for want of memory, then
ends no evaluation, and its threads and its memory go with it.
"""

import contextlib
import multiprocessing
import os
import pathlib
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from embeddinggemma.mining.teacher import Item, TeacherModel
from embeddinggemma.types import BadInput, Stopped

# Nothing is fetched; threads that wait for each other sleep.
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive"}
_SECONDS = 3.0  # that a process has to end by itself
_OPEN, _ENCODE, _COUNT = "open", "encode", "count"  # requests


class _Said(NamedTuple):
  """What the other process found when it opened the model."""

  about: Mapping[str, Any]
  width: int | None
  counts: bool
  origin: Mapping[str, Any]
  prompts: Mapping[str, str]
  precision: str


@contextlib.contextmanager
def opened(
  open_model: Callable[[], TeacherModel],
) -> Iterator[tuple[TeacherModel, str]]:
  """The model that `open_model` gives, in a process that ends with the block.

  Beside it stands what was printed there while it was opened.

  `open_model` is sent there, so it is a function of a module, perhaps with
  arguments (functools.partial). It has neither `prepare` nor `verify`.

  Raises BadInput as `open_model` does, and Stopped, here and where the model is
  asked, with the first line of any other exception, and if the process dies. It
  is started again for what is asked after that.
  """
  with tempfile.TemporaryDirectory() as folder:
    other = _Other(open_model, pathlib.Path(folder) / "said")
    try:
      found: _Said = other.ask(_OPEN)
      count = lambda items: other.ask(_COUNT, items)
      model = TeacherModel(
        found.about,
        found.width,
        lambda items, own: lambda chunk: other.ask(_ENCODE, chunk),
        count if found.counts else None,
        lambda: found.origin,
        prompts=found.prompts,
        precision=found.precision,
      )
      yield model, other.said
    finally:
      other.end()


class _Other:
  """The other process, seen from here."""

  def __init__(
    self, open_model: Callable[[], TeacherModel], said: pathlib.Path
  ):
    self._open_model, self._said = open_model, said
    self._start()

  def _start(self) -> None:
    context = multiprocessing.get_context("spawn")
    self._here, there = context.Pipe()
    # As a daemon it ends with this process, however that ends.
    self._process = context.Process(
      target=_serve,
      args=(there, self._open_model, str(self._said)),
      daemon=True,
    )
    self._process.start()
    there.close()

  def ask(self, what: str, items: Sequence[Item] = ()) -> Any:
    """The answer to a request; raises what `opened` says."""
    if not self._process.is_alive():
      self.end()
      self._start()
    try:
      self._here.send((what, list(items)))
      fault, answer = self._here.recv()
    except (EOFError, OSError):
      raise Stopped(f"its process {self._ended()}") from None
    if fault is not None:
      raise fault(answer)
    return answer

  @property
  def said(self) -> str:
    """All that it has printed."""
    try:
      return self._said.read_text("utf-8", "replace")
    except OSError:  # it did not come so far
      return ""

  def end(self) -> None:
    """End the process: let it go, or else by force."""
    self._here.close()
    self._process.join(_SECONDS)
    if self._process.is_alive():
      self._process.kill()
      self._process.join()
    self._process.close()

  def _ended(self) -> str:
    """How it ended, in words, with the last line that it said."""
    self._process.join(_SECONDS)
    code = self._process.exitcode
    how = f"ended with code {code}"
    if code is not None and code < 0:
      how = f"was ended by {signal.Signals(-code).name}"
    lines = [line.strip() for line in self.said.splitlines() if line.strip()]
    return f"{how}: {lines[-1][:200]}" if lines else how


def _serve(
  connection: Connection, open_model: Callable[[], TeacherModel], said: str
) -> None:
  """Open the model and answer requests until nobody asks."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process has it too
  os.environ.update(_ENVIRONMENT)
  file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
  for stream in (1, 2):
    os.dup2(file, stream)
  model: TeacherModel | None = None
  while True:
    try:
      what, items = connection.recv()
    except EOFError:
      return
    try:
      if model is None:
        model = open_model()
      answer = None, _answer(model, what, items)
    except (BadInput, Stopped) as error:
      answer = type(error), str(error)
    except Exception as error:
      line = (str(error).splitlines() or [""])[0]
      answer = Stopped, f"{type(error).__name__}: {line[:300]}"
    try:
      connection.send(answer)
    except OSError:
      return


def _answer(model: TeacherModel, what: str, items: Sequence[Item]) -> Any:
  """The answer to a request: a _Said, truncation counts, or vectors."""
  if what == _OPEN:
    return _Said(
      model.about,
      model.width,
      model.counts is not None,
      dict(model.origin()),
      dict(model.prompts),
      model.precision,
    )
  if what == _COUNT:
    assert model.counts is not None, "asked of a model that counts"
    return model.counts(items)
  return np.asarray(model.start(items, pathlib.Path())(items), np.float32)
