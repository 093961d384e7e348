"""What a service will be asked and what that costs, said before it is asked."""

import math
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from embeddinggemma.mining.services.answers import Answers, Sent
from embeddinggemma.mining.services.config import ServiceConfig
from embeddinggemma.types import BadInput, Stopped

Say = Callable[[str], None]

_BYTES = 4  # of UTF-8 a token, as a rule of thumb


class Forecast(NamedTuple):
  """How much of some texts still has to be asked."""

  texts: int  # distinct ones, as they are sent
  answered: int
  tokens: int  # of those that are not, estimated
  longest: int  # tokens of the longest of them
  requests: int

  @property
  def pending(self) -> int:
    """Texts without an answer."""
    return self.texts - self.answered


def tokens_of(sent: Sent) -> int:
  """About how many tokens a text has: its bytes of UTF-8 / 4."""
  return max(1, math.ceil(len(sent.text.encode()) / _BYTES))


def forecast(
  sent: Sequence[Sent], answers: Answers, config: ServiceConfig
) -> Forecast:
  """The forecast of texts, of which some may be answered already."""
  distinct = dict.fromkeys(sent)
  pending = [one for one in distinct if one not in answers]
  counts = [tokens_of(one) for one in pending]
  return Forecast(
    len(distinct),
    len(distinct) - len(pending),
    sum(counts),
    max(counts, default=0),
    math.ceil(len(pending) / config.batch),
  )


def line(name: str, found: Forecast, config: ServiceConfig) -> str:
  """The forecast as one line for people."""
  if not found.pending:
    return f"{name}: all {found.texts:,} texts are answered already"
  before = f", beside {found.answered:,} answered" if found.answered else ""
  price = config.price_per_million
  cost = "at no price that is known (service.price_per_million)"
  if price:
    dollars = found.tokens * price / 1e6
    amount = f"about ${dollars:.2f}" if dollars >= 0.01 else "less than $0.01"
    cost = f"{amount} at ${price:g} a million tokens"
  return (
    f"{name}: texts to ask: {found.pending:,}{before}; tokens: about"
    f" {found.tokens:,} (bytes of UTF-8 / {_BYTES}), the longest text"
    f" {found.longest:,}; requests: at least {found.requests:,}; {cost}"
    f"{_least(found, config)}"
  )


def _least(found: Forecast, config: ServiceConfig) -> str:
  """The least time that the limits leave, for the line; "" without limits."""
  minutes = max(
    amount / limit if limit else 0.0
    for amount, limit in (
      (found.requests, config.requests_per_minute),
      (found.tokens, config.tokens_per_minute),
    )
  )
  return (
    f"; at least {math.ceil(minutes):,} min by its limits" if minutes else ""
  )


def confirm(said: str, found: Forecast, config: ServiceConfig) -> None:
  """Ask on the terminal whether to go on, where there is much to ask.

  Raises:
    BadInput: there is no terminal to ask on, and no --yes.
    Stopped: the answer is no.
  """
  if config.yes or found.tokens < config.ask_above:
    return
  if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
    raise BadInput(
      f"{said}; nothing was asked yet: add --yes to go on without a question"
      " (in a recipe --config.teach.service.yes=True)"
    )
  print("go on? [y/N] ", end="", file=sys.stderr, flush=True)
  if sys.stdin.readline().strip().lower() not in ("y", "yes"):
    raise Stopped("nothing was asked, since you did not say yes")
