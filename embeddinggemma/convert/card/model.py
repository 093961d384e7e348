"""Sections on the model itself: what it is, how it is loaded, its prompts."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping

from embeddinggemma import checkpoint, quantize
from embeddinggemma.convert import origin
from embeddinggemma.convert.card.facts import Facts
from embeddinggemma.convert.card.markup import (
  block,
  code,
  plain,
  sections,
  table,
)
from embeddinggemma.losses import matryoshka

_PROMPTS = "## Prompts"
_MOST_PROMPTS = 200


def what(facts: Facts) -> str:
  """Its class, descent and sizes."""
  job, config = facts.job, facts.job.config
  whole, *shorter = map(str, matryoshka.dims_of(config.embed_dim))
  dims = whole
  if shorter:
    dims += f"; also {', '.join(shorter)}: a vector's first, at unit norm again"
  grid = ""
  if job.precision != quantize.FLOAT:
    since = "rounded to it" if job.rounded else "trained for it"
    grid = f", on the {job.precision} grid ({since})"
  rows = [
    ("parameters", f"{facts.parameters:,}"),
    ("dimensions", dims),
    ("longest text", f"{config.max_length} tokens, prompt included"),
    ("weights", f"{job.dtype}{grid}, `{facts.written.digest[:40]}`"),
    (
      "layers, width, vocabulary",
      f"{config.num_layers}, {config.width}, {config.vocab_size:,}",
    ),
    ("vectors", "of unit length; compared by cosine"),
  ]
  programs = " and ".join(example.title for example in facts.loading.examples)
  return sections(
    (
      "A text embedding model of the EmbeddingGemma class, for"
      f" {programs}.{_descent(facts)}",
      table(("", ""), rows),
    )
  )


def _descent(facts: Facts) -> str:
  base = facts.base
  said = ""
  if base.name:
    where = (
      f" ([{plain(base.repository)}]({origin.url(base.repository)}))"
      if base.repository
      else ""
    )
    said = f" Its weights descend from {plain(base.name)}{where}."
  if cut := origin.cut_out_of(checkpoint.cuts(facts.job.files), base.name):
    said += f" It was cut out of a larger model: {plain(cut)}."
  return said


def use(facts: Facts) -> str:
  """Lines for each program that loads it."""
  found = ["## Use"]
  for example in facts.loading.examples:
    found.append(f"### In {example.title}")
    found.append(block([example.install], "bash"))
    found.append(block(example.lines, "python"))
  return sections(found)


def prompts(facts: Facts) -> str:
  """The prompts, and whether they are those of the training."""
  given = facts.job.prompts
  if not any(given.values()):
    return f"{_PROMPTS}\n\nThe model has none: texts are read as they are."
  rows = [(code(name), code(words)) for name, words in given.items()]
  return sections(
    (
      _PROMPTS,
      "A prompt stands before each text. Queries and documents have different"
      " ones, other tasks their own. Without them, or with others, vectors are"
      " other vectors, and nothing tells so. Where a program does not add them,"
      " they are to be written into the text.",
      table(("name", "prompt"), rows, _MOST_PROMPTS),
      "\n".join(_changed(facts)),
    )
  )


def prompts_in(text: str) -> dict[str, str]:
  """The prompts that a card names; {} of one that is not ours, or has none."""
  found: dict[str, str] = {}
  section = text.partition(f"\n{_PROMPTS}\n")[2].partition("\n## ")[0]
  for line in section.splitlines():
    cells = re.fullmatch(r"\| `+ ?(\".*\") ?`+ \| `+ ?(\".*\") ?`+ \|", line)
    if cells:
      with contextlib.suppress(ValueError):
        name, words = (
          json.loads(x.replace("\\|", "|")) for x in cells.groups()
        )
        found[name] = words
  return found


def _changed(facts: Facts) -> Iterator[str]:
  """Lines on prompts that differ from those of the training."""
  recorded = checkpoint.identity_of(facts.job.files)
  before = recorded.get("prompts") if isinstance(recorded, Mapping) else None
  if not isinstance(before, Mapping):
    return
  now = facts.job.prompts
  for name in sorted({*before, *now}):
    if before.get(name) != now.get(name):
      yield (
        f"- Changed since the training: {code(name)}, then"
        f" {_quoted(before.get(name))}, now {_quoted(now.get(name))}."
      )


def _quoted(words: object) -> str:
  return "none" if words is None else code(str(words))
