"""Which of a model's own prompts goes before a text."""

from collections.abc import Mapping

from embeddinggemma.data import prompts
from embeddinggemma.mining.teacher import Item


def prompted(own: Mapping[str, str], item: Item) -> tuple[str, str]:
  """The model's own prompt for the item's task, if any, and the item's text.

  Args:
    own: the model's prompts by name; those of our tasks, or "query" and
      "document" or "passage".
    item: the text; its title goes before it, on a line of its own or as our own
      document prompt has it.
  """
  ours = prompts.prompt_named(item.prompt)
  usual = ("document", "passage") if ours == prompts.DOCUMENT else ("query",)
  alike = [name for name, words in prompts.PROMPTS.items() if words == ours]
  # Names that a model has no words for are there too, with none.
  found = [own.get(name, "") for name in (item.prompt, *alike, *usual)]
  prompt = next(filter(None, found), "")
  if not (item.title and ours == prompts.DOCUMENT):
    return prompt, item.text
  if prompt == prompts.DOCUMENT:
    return "", prompts.with_prompt(prompt, item.text, item.title)
  return prompt, f"{item.title}\n{item.text}"
