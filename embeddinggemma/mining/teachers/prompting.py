"""Which of a model's own prompts goes before a text."""

from collections.abc import Callable, Mapping

from embeddinggemma.data import prompts
from embeddinggemma.mining.teacher import Item

# (a model's own prompts by name, a text) -> what goes before it, and the text.
Chosen = Callable[[Mapping[str, str], Item], tuple[str, str]]


def by_name(own: Mapping[str, str], item: Item) -> tuple[str, str]:
  """The prompt that the item names, as `eg.load` of the model has it."""
  words = prompts.prompt_named(item.prompt, own)
  return "", prompts.with_prompt(words, item.text, item.title)


def given(own: Mapping[str, str], item: Item) -> tuple[str, str]:
  """The item's prompt as words, not as the name of any; it has no title."""
  del own
  return item.prompt, item.text


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
