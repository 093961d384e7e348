"""What can be wrong with a service's answer, and what it says of it."""

import email.utils
import json
import re
import time
from collections.abc import Mapping
from typing import Any

_LONGEST = 300  # characters of a service's words that are shown
_TAGS = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.DOTALL | re.I)
# How Gemini says how long to wait: in RetryInfo, and in words.
_DELAYS = (
  re.compile(r"retryDelay\W+(\d+(?:\.\d+)?)s"),
  re.compile(r"(?:retry|try again) (?:in|after) (\d+(?:\.\d+)?) ?s", re.I),
)
_AGAIN = (408, 429, *range(500, 600))


class Refused(Exception):
  """The service answers with an HTTP status that is none of success.

  `wait` is for how many seconds it asks; None if it does not say.
  """

  def __init__(self, status: int, words: str, wait: float | None = None):
    super().__init__(f"status {status}: {words}")
    self.status, self.wait = status, wait

  @property
  def passes(self) -> bool:
    """Whether the same request may succeed later."""
    return self.status in _AGAIN


class Unreachable(Exception):
  """No answer came: the connection failed, or took too long."""


class Nonsense(Exception):
  """An answer of success that holds no vectors of the texts that were asked."""


def refused(status: int, body: bytes, headers: Mapping[str, str]) -> Refused:
  """The fault of a status, with the words of the answer's body."""
  text = body.decode("utf-8", "replace")
  return Refused(status, words_of(text), wait_of(headers, text))


def words_of(text: str) -> str:
  """What a service says in a body, in one line: its message, or its text."""
  try:
    said = _message(json.loads(text))
  except (ValueError, RecursionError):
    said = _TAGS.sub(" ", text)
  line = " ".join((said or text).split())
  return f"{line[:_LONGEST]}..." if len(line) > _LONGEST else line or "no words"


def _message(value: Any) -> str:
  """The message of an error in JSON, however deep it lies; "" for none."""
  if isinstance(value, str):
    return value
  if isinstance(value, list):
    return next(filter(None, map(_message, value)), "")
  if isinstance(value, dict):
    names = ("error", "message", "detail", "msg", "errors", "error_description")
    return next(filter(None, (_message(value.get(n)) for n in names)), "")
  return ""


def wait_of(headers: Mapping[str, str], text: str = "") -> float | None:
  """For how many seconds a service asks to wait; None if it does not say.

  That is Retry-After, in seconds or as a date (RFC 9110), or else what the body
  says as Gemini does.
  """
  lower = {name.lower(): value for name, value in headers.items()}
  given = (lower.get("retry-after") or "").strip()
  if re.fullmatch(r"\d+(\.\d+)?", given):
    return float(given)
  if given:
    try:
      when = email.utils.parsedate_to_datetime(given)
    except ValueError:
      return None
    return max(0.0, when.timestamp() - time.time())
  found = next(filter(None, (d.search(text) for d in _DELAYS)), None)
  return float(found[1]) if found else None
