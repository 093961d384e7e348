"""What a label says of a pair: a positive, a negative, or neither."""

import decimal
import math
import re
from typing import Any, Literal, NamedTuple

from embeddinggemma.types import BadInput

Verdict = Literal["positive", "negative", "neither"]

_SNLI: dict[int, Verdict] = {0: "positive", 1: "neither", 2: "negative"}
_YES = {"1", "true", "yes", "entailment", "entails", "duplicate", "equivalent"}
_YES |= {"paraphrase", "relevant", "positive", "similar", "match"}
_NO = {"0", "false", "no", "contradiction", "negative", "irrelevant"}
_NO |= {"dissimilar", "different", "distinct"}
_NEITHER = {"-1", "-", "neutral"}  # "-": SNLI's annotators did not agree
_NOT = re.compile(r"(not?|non)[_\s-]")
_RULE = re.compile(r"(.+?)(>=|=)([^<>=]+)")


class Rule(NamedTuple):
  """What makes a label that of a positive: >= a number, or = a value."""

  sign: str
  bound: str


def parse(text: str) -> tuple[str, Rule | None]:
  """The column and the rule of "score>=0.8", "label=entailment" or "label".

  Raises BadInput for a bound of >= that is no number.
  """
  match = _RULE.fullmatch(text)
  if not match:
    return text, None
  name, sign, bound = (part.strip() for part in match.groups())
  if sign == ">=" and number(bound) is None:
    raise BadInput(
      f"--fields: {bound!r} in label:{text} is no number; write label:{name}>=1"
    )
  return name, Rule(sign, bound)


def column(text: str) -> str:
  """The column of what `parse` takes, whatever its rule."""
  match = _RULE.fullmatch(text)
  return match[1].strip() if match else text


def example(value: Any) -> str:
  """A rule that a label of this value could have, for a message."""
  figure = number(value)
  if figure is not None:
    return f">={0.8 if 0 < figure < 1 else max(int(figure), 1)}"
  text = str(value).strip() if value is not None else ""
  return f"={text}" if text and "," not in text else "=VALUE"


def said(rule: Rule | None, three: bool) -> str:
  """Which labels are those of positives, in words."""
  if rule is not None:
    return f"{rule.sign}{rule.bound} is a positive"
  if three:
    return "0 or entailment is a positive, 1 or neutral neither"
  return "1 is a positive, 0 none"


def verdict(value: Any, rule: Rule | None, three: bool) -> Verdict:
  """What a label says.

  Args:
    value: the label; true, 1, "duplicate" and "entailment" are positives;
      false, 0, "not_duplicate" and "contradiction" are not; "neutral" and -1
      are neither.
    rule: if given, it alone decides between positive and negative.
    three: whether numbers are SNLI's: 0 entailment, 1 neutral, 2 contradiction.

  Raises ValueError for any other label.
  """
  if is_empty(value):
    raise ValueError("it is empty")
  if not isinstance(value, str | bool | int | float | decimal.Decimal):
    raise ValueError(f"it is {type(value).__name__}")
  figure = number(value)
  if rule is not None:
    return _by_rule(value, figure, rule)
  if three and figure in _SNLI:
    return _SNLI[int(figure)]
  if figure in (0, 1):
    return "positive" if figure else "negative"
  text = str(-1 if figure == -1 else value).strip().casefold()
  if text in _YES:
    return "positive"
  if text in _NEITHER:
    return "neither"
  if text in _NO or _NOT.match(text):
    return "negative"
  raise ValueError(f"{value!r} is neither 0 nor 1 nor a label that is known")


def _by_rule(value: Any, figure: float | None, rule: Rule) -> Verdict:
  if rule.sign == ">=":
    if figure is None:
      raise ValueError(f"{value!r} is no number")
    return "positive" if figure >= float(rule.bound) else "negative"
  bound = number(rule.bound)
  same = str(value).strip().casefold() == rule.bound.casefold()
  if figure is not None and bound is not None:
    same = figure == bound
  return "positive" if same else "negative"


def is_empty(value: Any) -> bool:
  """Whether there is no label: null, NaN or white space."""
  nothing = value is None or (isinstance(value, float) and math.isnan(value))
  return nothing or (isinstance(value, str) and not value.strip())


def number(value: Any) -> float | None:
  """The finite number that a value is or spells, or None."""
  try:
    found = float(value)
  except (TypeError, ValueError):
    return None
  return found if abs(found) < float("inf") else None
