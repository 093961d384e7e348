"""EmbeddingGemma's prompts: which words a task puts before a text.

The names are those of the published config_sentence_transformers.json, plus
the three usage strings of the model card (question answering, fact checking,
code retrieval). The paper trains with prompts per task (section 2.1).
"""

from collections.abc import Mapping
from typing import NamedTuple

from embeddinggemma.config import suggest
from embeddinggemma.types import BadInput, BadValue

DOCUMENT = "title: none | text: "


class Task(NamedTuple):
  """The prompts of a task, and its type; scores are averaged over types."""

  query: str
  document: str
  type: str


def _query(words: str) -> str:
  return f"task: {words} | query: "


PROMPTS: Mapping[str, str] = {
  "query": _query("search result"),
  "document": DOCUMENT,
  "BitextMining": _query("search result"),
  "Clustering": _query("clustering"),
  "Classification": _query("classification"),
  "InstructionRetrieval": _query("code retrieval"),
  "MultilabelClassification": _query("classification"),
  "PairClassification": _query("sentence similarity"),
  "Reranking": _query("search result"),
  "Retrieval": _query("search result"),
  "Retrieval-query": _query("search result"),
  "Retrieval-document": DOCUMENT,
  "STS": _query("sentence similarity"),
  "Summarization": _query("summarization"),
  "QuestionAnswering": _query("question answering"),
  "FactChecking": _query("fact checking"),
  "CodeRetrieval": _query("code retrieval"),
}


def _search(words: str) -> Task:
  return Task(_query(words), DOCUMENT, words)


def _symmetric(words: str) -> Task:
  return Task(_query(words), _query(words), words)


TASKS: Mapping[str, Task] = {
  "code": _search("code retrieval"),
  "code_name": _search("code retrieval"),
  "comment": _search("code retrieval"),
  "documentation": _search("search result"),
  "heading": _search("search result"),
  "span": _search("search result"),
  "retrieval": _search("search result"),
  "qa": _search("question answering"),
  "qa_xling": _search("question answering"),
  "fact_checking": _search("fact checking"),
  "summarization": _search("summarization"),
  "classification": _symmetric("classification"),
  "clustering": _symmetric("clustering"),
  "sts": _symmetric("sentence similarity"),
  "nli": _symmetric("sentence similarity"),
  "paraphrase": _symmetric("sentence similarity"),
  "bitext": _symmetric("sentence similarity"),
}


def task_named(name: str) -> Task:
  """The task of this name; BadInput lists the known ones."""
  if name not in TASKS:
    raise BadInput(f"unknown task {name!r}; known: {', '.join(TASKS)}")
  return TASKS[name]


def query_text(task: str, text: str) -> str:
  """The text with the task's query prompt before it (model card)."""
  return task_named(task).query + text


def document_text(task: str, text: str, title: str = "") -> str:
  """The text with the task's document prompt, title included (model card).

  Symmetric tasks put the query's prompt on both sides and have no title.
  """
  return with_prompt(task_named(task).document, text, title)


def document_prompt(task: str) -> str:
  """The prompt name for a task's documents, as `prompted` understands it."""
  symmetric = task_named(task).document != DOCUMENT
  return task if symmetric else "document"


def prompt_named(name: str, own: Mapping[str, str] = PROMPTS) -> str:
  """The prompt with this name, as sentence-transformers users know names.

  Args:
    name: of a prompt; the name of a task means its query prompt.
    own: a model's own prompts, which take precedence.

  Raises:
    BadValue: the name is unknown; the message suggests one.
  """
  tasks = {task: prompts.query for task, prompts in TASKS.items()}
  known = {**tasks, **PROMPTS, **own}
  if name not in known:
    raise BadValue(f"unknown prompt name {name!r}{suggest(name, list(known))}")
  return known[name]


def prompted(prompt_name: str, text: str, title: str = "") -> str:
  """The text with the named prompt; only a document prompt uses the title."""
  return with_prompt(prompt_named(prompt_name), text, title)


def with_prompt(prompt: str, text: str, title: str = "") -> str:
  """The text with a prompt before it and, in a document prompt, its title.

  The title replaces the `none` of the document prompt, on one line with single
  spaces; other prompts ignore it.
  """
  if prompt != DOCUMENT:
    return prompt + text
  return f"title: {' '.join(title.split()) or 'none'} | text: {text}"
