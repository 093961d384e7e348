"""A service is asked: within its limits, again where that helps, checked.

Every answer is on disk before the next request, so what was paid for stays,
whatever ends the run.
"""

import base64
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from embeddinggemma.mining.services import faults, forecast, keys
from embeddinggemma.mining.services.answers import Answers, Sent
from embeddinggemma.mining.services.config import ServiceConfig
from embeddinggemma.mining.services.forecast import Say
from embeddinggemma.types import BadInput

_MOST_TOKENS = 100_000  # of a request; OpenAI's limit is three times that
_EVERY = 30.0  # seconds after which it says how far it is
_BACKOFF = 60.0  # seconds: the longest wait that is ours
# Cosine of two vectors of one text from one model, which may round otherwise in
# another batch; of two models it is far below.
_SAME = 0.99
# Statuses whose reason may be the number of texts of a request.
_OF_SIZE = (400, 413, 422)


class Reply(NamedTuple):
  """What a service answers, not checked yet."""

  vectors: Sequence[Any]  # a list of numbers each, or base64 of float32
  answered_by: str = ""  # what the service calls the model


class Service(NamedTuple):
  """A model behind an API."""

  name: str  # for messages
  about: dict[str, Any]  # all that decides its vectors besides what is sent
  # (key, texts, their kind) -> their vectors, in order; raises `faults`.
  ask: Callable[[str, Sequence[str], str], Reply]
  variable: str  # of the environment, that holds the key; "": none
  most: int  # texts that a request may have


class Asker:
  """Gets answers that are lacking, request by request.

  Args of the constructor: the service and its config; `answers`, which
  grow; `say`, called with a line for people where it waits.
  """

  def __init__(
    self, service: Service, config: ServiceConfig, answers: Answers, say: Say
  ):
    self._service, self._config = service, config
    self._answers, self._say = answers, say
    self._key = keys.key_of(service.variable)
    self._next = 0.0  # when the limits allow the next request
    self._reached = False  # whether an answer of any kind has come
    self._told = time.monotonic()  # when it last said how far it is

  def fill(self, sent: Sequence[Sent]) -> None:
    """Ask for all that has no answer yet.

    Raises BadInput, in one line with what the service says, where it refuses,
    does not answer or answers nonsense. What it answered before stays.
    """
    lacking = [one for one in dict.fromkeys(sent) if one not in self._answers]
    for batch in self._batches(lacking):
      self._keep(batch, self._reply(batch))
      if time.monotonic() - self._told > _EVERY:
        self._told = time.monotonic()
        self._say(
          f"{self._service.name}: {len(self._answers):,} answers so far"
        )

  def verify(self, sent: Sent) -> None:
    """Ask again for a text that has an answer.

    Raises BadInput if the vector is another one, so that another model answers
    now than then, and as `fill` does.
    """
    reply = self._reply([sent])
    given = next(iter(reply.vectors), None)
    try:
      now = vector_of(given, self._answers.width)
    except faults.Nonsense as fault:
      raise self._failed(f"the vector of {sent.text[:60]!r} {fault}") from None
    before = self._answers.of([sent])[0]
    norms = np.linalg.norm(now) * np.linalg.norm(before)
    cosine = float(now @ before / norms)
    if cosine < _SAME:
      raise BadInput(
        f"{self._service.name}: {sent.text[:60]!r} has another vector than on"
        f" {self._answers.dates[-1]} (cosine {cosine:.3f}), so another model"
        f" answers; delete {self._answers.folder} to ask it for all texts"
      )

  def _batches(self, sent: Sequence[Sent]) -> Iterator[list[Sent]]:
    """Texts of one kind that go together.

    The very first goes alone: a service that does not fit costs no more.
    """
    size = min(self._config.batch, self._service.most)
    for kind in sorted({one.kind for one in sent}):
      batch: list[Sent] = []
      tokens = 0
      for one in (one for one in sent if one.kind == kind):
        count = forecast.tokens_of(one)
        most = size if len(self._answers) else 1
        if batch and (len(batch) >= most or tokens + count > _MOST_TOKENS):
          yield batch
          batch, tokens = [], 0
        batch.append(one)
        tokens += count
      yield batch

  def _reply(self, batch: Sequence[Sent]) -> Reply:
    """The answer to a request, which is tried again where that may help."""
    texts, config = [one.text for one in batch], self._config
    for tried in range(1, config.tries + 1):
      self._pace(sum(map(forecast.tokens_of, batch)))
      try:
        reply = self._service.ask(self._key, texts, batch[0].kind)
        self._reached = True
        return reply
      except faults.Nonsense as fault:
        raise self._failed(str(fault)) from None
      except faults.Unreachable as fault:
        said, wait = str(fault), None
        if not self._reached:
          raise self._failed(f"{said}; is it there?") from None
      except faults.Refused as fault:
        said, wait, self._reached = str(fault), fault.wait, True
        if not fault.passes:
          more = f" (of {len(batch)} texts at once, service.batch)"
          of_size = fault.status in _OF_SIZE and len(batch) > 1
          raise self._failed(said + (more if of_size else "")) from None
      if tried == config.tries:
        self._reached = False  # it may be gone: it is waited for no more
        raise self._failed(f"{said}, {tried} times")
      self._wait(said, wait, tried)
    raise AssertionError("the last try returns or raises")

  def _wait(self, said: str, asked: float | None, tried: int) -> None:
    """Wait as the service asks, or else longer each time."""
    config = self._config
    if asked is not None and asked > config.longest_wait:
      raise self._failed(
        f"{said}; it asks to wait {asked:,.0f} s, more than"
        f" service.longest_wait={config.longest_wait:g}"
      )
    own = min(2.0 ** (tried - 1), _BACKOFF) * random.uniform(1.0, 1.25)
    seconds = asked or own  # asked to come back at once, it waits a little
    self._say(
      f"{self._service.name}: {self._shown(said)}; try {tried + 1} of"
      f" {config.tries} in {seconds:.0f} s"
    )
    time.sleep(seconds)

  def _pace(self, tokens: int) -> None:
    """Wait until the limits allow a request, and take its share of them."""
    config = self._config
    time.sleep(max(0.0, self._next - time.monotonic()))
    seconds = max(
      60.0 * amount / limit if limit else 0.0
      for amount, limit in (
        (1, config.requests_per_minute),
        (tokens, config.tokens_per_minute),
      )
    )
    self._next = time.monotonic() + seconds

  def _keep(self, batch: Sequence[Sent], reply: Reply) -> None:
    """Put the good vectors of a reply onto the disk; BadInput for a bad one."""
    config = self._config
    before, now = self._answers.answered_by, reply.answered_by
    if before and now and before != now:
      raise self._failed(
        f"the model that answers is {now!r}, and was {before!r} before, whose"
        " vectors these do not match; name another output"
      )
    if len(reply.vectors) != len(batch):
      raise self._failed(f"{len(reply.vectors)} vectors for {len(batch)} texts")
    width = self._answers.width or config.dimensions
    good: list[tuple[Sent, np.ndarray]] = []
    first = ""
    for one, given in zip(batch, reply.vectors):
      try:
        vector = vector_of(given, width)
      except faults.Nonsense as fault:
        first = first or f"the vector of {one.text[:60]!r} {fault}"
        continue
      width = width or len(vector)
      good.append((one, vector))
    if good:
      kept, vectors = zip(*good)
      self._answers.add(kept, np.stack(vectors), now)
    if first:
      asked = config.dimensions and not self._answers.width
      fix = "; does the model give them? service.dimensions=0 asks for its own"
      raise self._failed(first + (fix if asked else ""))

  def _failed(self, said: str) -> BadInput:
    """The error of a request, with what is kept and how to go on."""
    count = len(self._answers)
    kept = f"; the {count:,} answers so far are kept" if count else ""
    return BadInput(f"{self._service.name}: {self._shown(said)}{kept}")

  def _shown(self, said: str) -> str:
    return keys.without(self._key, said)


def vector_of(given: Any, width: int) -> Float[np.ndarray, "T"]:
  """A vector as a service gives it, as numbers or base64 of float32.

  Raises Nonsense, in words that follow "the vector of TEXT", unless it is
  finite, not zero and of this width (0: of any).
  """
  try:
    if isinstance(given, str):
      found = np.frombuffer(base64.b64decode(given, validate=True), "<f4")
    else:
      found = np.asarray(given)
  except (ValueError, TypeError):
    raise faults.Nonsense("is no list of numbers") from None
  if found.dtype.kind not in "fiu" or found.ndim != 1 or not found.size:
    many = found.ndim == 2 and found.dtype.kind in "fiu"
    what = "a matrix: one for every token?" if many else "no list of numbers"
    raise faults.Nonsense(f"is {what}")
  if width and len(found) != width:
    raise faults.Nonsense(f"has {len(found)} dimensions, not {width}")
  with np.errstate(over="ignore"):
    found = found.astype(np.float32)
  if not np.isfinite(found).all():
    raise faults.Nonsense("is not finite")
  if not found.any():
    raise faults.Nonsense("is zero")
  return found
