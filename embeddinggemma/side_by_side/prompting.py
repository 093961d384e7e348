"""Which prompt another model's text has in a task.

Of a model's own prompts it is the first that has one of these names, in mteb's
order: the task's name with the side, the task's name, the task's type with the
side, the type, and the side. A side is query or document; tasks whose two sides
are alike have none. What knows EmbeddingGemma's prompts is read as our own
models are.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from embeddinggemma.data import prompts
from embeddinggemma.evaluation.kinds.task import EvalTask
from embeddinggemma.mining.teacher import Item
from embeddinggemma.types import BadValue

QUERY, DOCUMENT = "query", "document"
# What sentence-transformers also calls the side of documents.
_DOCUMENTS = (DOCUMENT, "passage", "corpus")


class Reading(NamedTuple):
  """How a model is told what its texts are for."""

  # (task, what we call a prompt) -> its words, for people.
  words: Callable[[EvalTask, str], str]
  # (task, what we call a prompt, text, title) -> what the model is asked.
  item: Callable[[EvalTask, str, str, str], Item]


def by_name() -> Reading:
  """Of what is told our name of a prompt, and knows itself what follows."""
  return Reading(
    lambda task, name: name,
    lambda task, name, text, title: Item(name, text, title),
  )


def as_ours(own: Mapping[str, str]) -> Reading:
  """Of a model of our architecture: as `eg.load` of it reads texts."""
  return Reading(
    lambda task, name: prompts.prompt_named(name, own),
    lambda task, name, text, title: _ours(
      prompts.prompt_named(name, own), text, title
    ),
  )


def in_order(own: Mapping[str, str], default: str = "") -> Reading:
  """Of any other model with these prompts, in mteb's order.

  A title goes before its text, as mteb joins them. `default` names the prompt of
  texts, other than documents, for which none fits; "": there is none.
  """
  if _knows_ours(own):
    return as_ours(own)

  def item(task: EvalTask, name: str, text: str, title: str) -> Item:
    whole = f"{title} {text}".strip() if title else text
    return Item(words(task, name), whole, "")

  words = functools.partial(_words, own, default)
  return Reading(words, item)


def _ours(words: str, text: str, title: str) -> Item:
  """A text under words of ours, which are the item's prompt if they go apart."""
  if words == prompts.DOCUMENT:
    return Item("", prompts.with_prompt(words, text, title), "")
  return Item(words, text, "")


def _words(
  own: Mapping[str, str], default: str, task: EvalTask, name: str
) -> str:
  """The words of a model before the texts of a task; "" for none."""
  # sentence-transformers adds these two, without words, to those that there are.
  added = {side for side in (QUERY, DOCUMENT) if not own.get(side)}
  names = (n for n in _names(task, name) if n in own and n not in added)
  usual = "" if _side(name) == DOCUMENT else own.get(default, "")
  return next((own[n] for n in names), usual)


def _knows_ours(own: Mapping[str, str]) -> bool:
  """Whether a model's prompts for search are those of EmbeddingGemma."""
  return all(
    own.get(side) == prompts.PROMPTS[side] for side in (QUERY, DOCUMENT)
  )


def _names(task: EvalTask, name: str) -> Iterator[str]:
  """Names of prompts that fit, the best first."""
  side = _side(name)
  sides = {QUERY: (QUERY,), DOCUMENT: _DOCUMENTS}.get(side, ())
  for called in (task.name.rsplit("/", 1)[-1], *_types(task, name, side)):
    if side:
      yield f"{called}-{side}"
    yield called
  yield from sides
  yield name  # a task's own settings may name a prompt of the model


def _side(name: str) -> str:
  """The side of a prompt of ours; "" where both sides have it."""
  if name in prompts.TASKS:
    searches = prompts.TASKS[name].document == prompts.DOCUMENT
    return QUERY if searches else ""
  if prompts.PROMPTS.get(name) == prompts.DOCUMENT:
    return DOCUMENT
  return QUERY if name.endswith(QUERY) else ""


def _types(task: EvalTask, name: str, side: str) -> list[str]:
  """What mteb calls the type of a task, as the prompts of models do."""
  types = [known for known in prompts.PROMPTS if known[:1].isupper()]
  types = [known for known in types if "-" not in known]
  kind = task.kind.replace(" ", "").casefold()
  own = [known for known in types if known.casefold().startswith(kind)]
  if own:
    return own[:1]
  if side:
    return ["Retrieval"]
  try:
    words = prompts.prompt_named(name)
  except BadValue:  # a prompt of the model's own
    return []
  return [known for known in types if prompts.PROMPTS[known] == words]
