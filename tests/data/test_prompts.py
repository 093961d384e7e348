"""Prompts are EmbeddingGemma's, word for word."""

import pytest

from embeddinggemma.data import prompts
from embeddinggemma.types import BadInput


@pytest.mark.parametrize(
  ("name", "prefix"),
  [
    ("query", "task: search result | query: "),
    ("document", "title: none | text: "),
    ("BitextMining", "task: search result | query: "),
    ("InstructionRetrieval", "task: code retrieval | query: "),
    ("MultilabelClassification", "task: classification | query: "),
    ("Retrieval-document", "title: none | text: "),
    ("STS", "task: sentence similarity | query: "),
    ("qa", "task: question answering | query: "),
    ("fact_checking", "task: fact checking | query: "),
    ("code", "task: code retrieval | query: "),
  ],
)
def test_prompts_are_the_published_ones(name, prefix):
  assert prompts.prompted(name, "x") == prefix + "x"


def test_document_carries_its_title():
  with_title = prompts.prompted("document", "body", " Red\n planet ")
  assert with_title == "title: Red planet | text: body"
  assert prompts.document_text("qa", "body", "T") == "title: T | text: body"
  assert prompts.document_text("qa", "body") == "title: none | text: body"


def test_query_prompt_ignores_a_title():
  assert prompts.prompted("STS", "x", "T") == prompts.prompted("STS", "x")


@pytest.mark.parametrize("task", prompts.TASKS)
def test_prompt_names_agree_with_task_texts(task):
  """What evaluation asks for by name is what training put before a text."""
  document = prompts.prompted(prompts.document_prompt(task), "x", "T")
  assert document == prompts.document_text(task, "x", "T")
  assert prompts.prompted(task, "x") == prompts.query_text(task, "x")


@pytest.mark.parametrize(
  "task",
  ["sts", "nli", "paraphrase", "bitext", "classification", "clustering"],
)
def test_symmetric_tasks_have_one_prompt(task):
  same = prompts.document_text(task, "x", "ignored")
  assert same == prompts.query_text(task, "x")


def test_unknown_names_list_the_known():
  with pytest.raises(BadInput, match=r"unknown task 'x'.*code_name"):
    prompts.query_text("x", "")
  with pytest.raises(BadInput, match=r"unknown task 'x'"):
    prompts.document_text("x", "")
  with pytest.raises(BadInput, match=r"unknown prompt name 'x'.*Retrieval-q"):
    prompts.prompted("x", "")
