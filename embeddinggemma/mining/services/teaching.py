"""A model behind an API as a teacher."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from embeddinggemma.mining.services import forecast as forecasts
from embeddinggemma.mining.services.answers import Answers, Sent
from embeddinggemma.mining.services.asking import Asker, Service
from embeddinggemma.mining.services.config import ServiceConfig
from embeddinggemma.mining.services.forecast import Say
from embeddinggemma.mining.teacher import Encode, Item, TeacherModel
from embeddinggemma.terminal.console import Terminal

ANSWERS = ".answers"  # ends the name of the folder beside that of the vectors


def teacher_model(
  service: Service,
  config: ServiceConfig,
  sent_of: Callable[[Item], Sent],
  about: Mapping[str, Any],
  origin: Mapping[str, Any],
) -> TeacherModel:
  """A teacher that asks a service, once for every text.

  Args:
    service: the model that is asked.
    config: within which limits, and what is asked of a person first.
    sent_of: what is sent for a text.
    about: what the vectors depend on besides the service.
    origin: who the teacher is, without the dates of its answers.
  """
  work = _Work(service, config, sent_of)
  return TeacherModel(
    {**about, **service.about},
    config.dimensions or None,
    work.start,
    origin=lambda: {**origin, **work.answered},
    prepare=work.prepare,
    verify=work.verify,
    pace=_pace(config),
  )


def _pace(config: ServiceConfig) -> float:
  """Seconds a token by the limits; 0 without any."""
  limit = config.tokens_per_minute
  return 60.0 / limit if limit else 0.0


class _Work:
  """The answers of a service, once the folder for them is known."""

  def __init__(
    self,
    service: Service,
    config: ServiceConfig,
    sent_of: Callable[[Item], Sent],
  ):
    self._service, self._config, self._sent_of = service, config, sent_of
    self._answers: Answers | None = None
    self._asker: Asker | None = None
    self._say: Say = Terminal(stderr=True).print

  @property
  def answered(self) -> dict[str, Any]:
    """When the service answered, and as which model; {} before it did."""
    if self._answers is None or not self._answers.width:
      return {}
    by = self._answers.answered_by
    named = {"answered_by": by} if by else {}
    return {**named, "dates": self._answers.dates}

  def prepare(
    self, items: Sequence[Item], directory: pathlib.Path, say: Say
  ) -> None:
    """Say what will be asked and what it costs; ask whether to go on."""
    self._say = say
    answers = self._open(directory)
    sent = [self._sent_of(item) for item in items]
    found = forecasts.forecast(sent, answers, self._config)
    said = forecasts.line(self._service.name, found, self._config)
    say(said)
    if found.pending:
      self._asking(answers)
      forecasts.confirm(said, found, self._config)

  def verify(self, items: Sequence[Item], directory: pathlib.Path) -> None:
    """Ask again for one of the texts that have an answer, if any has."""
    answers = self._open(directory)
    kept = (sent for sent in map(self._sent_of, items) if sent in answers)
    if (one := next(kept, None)) is not None:
      self._asking(answers).verify(one)

  def start(self, items: Sequence[Item], own: pathlib.Path) -> Encode:
    """What encodes a chunk; answers lie beside the folder of the vectors."""
    del items
    return functools.partial(self._encode, self._open(own.parent))

  def _encode(
    self, answers: Answers, items: Sequence[Item]
  ) -> Float[np.ndarray, "n _T"]:
    sent = [self._sent_of(item) for item in items]
    if any(one not in answers for one in sent):
      self._asking(answers).fill(sent)
    return answers.of(sent)

  def _open(self, directory: pathlib.Path) -> Answers:
    whole = directory.absolute()
    folder = whole.with_name(f"{whole.name}{ANSWERS}")
    if self._answers is None or self._answers.folder != folder:
      self._answers = Answers(folder, self._service.about)
      self._asker = None
    return self._answers

  def _asking(self, answers: Answers) -> Asker:
    """What asks, with one clock for all chunks; BadInput without a key."""
    if self._asker is None:
      self._asker = Asker(self._service, self._config, answers, self._say)
    return self._asker
