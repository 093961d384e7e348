"""Evaluation folders from the modules that training does not see.

Code retrieval is measured twice: on the texts as they are, and with the
function's own name masked in both, because in one query of six the name gives
the answer away. Only functions are used, since the body of a class contains its
methods.
"""

import json
import pathlib
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import NamedTuple

from embeddinggemma.data import beir, jsonl
from embeddinggemma.data.beir import normalised
from embeddinggemma.data.stdlib import code_pairs
from embeddinggemma.data.stdlib.python_source import Module, digest
from embeddinggemma.types import Pair

MIN_LABEL_TEXTS, MAX_LABEL_TEXTS = 12, 40
# Similarity scores, of 5, for two sentences of one docstring, of neighbouring
# docstrings of a module, and of different modules.
SAME, NEIGHBOUR, OTHER = 4.0, 2.0, 0.0


class HeldOut(NamedTuple):
  """The evaluations of one side of the split."""

  retrieval: dict[str, list[Pair]]  # by folder name
  sts: list[tuple[str, str, float]]  # sentence, sentence, similarity 0 to 5
  classification: list[tuple[str, str]]  # text, label

  def texts(self) -> set[str]:
    """All texts, normalised: none of them may occur in training."""
    pairs = [p for found in self.retrieval.values() for p in found]
    return {
      normalised(text)
      for row in (*((p.query, p.positive) for p in pairs), *self.sts)
      for text in row[:2]
    } | {normalised(text) for text, _ in self.classification}

  def counts(self) -> dict[str, int]:
    """The number of rows of each folder."""
    found = {name: len(pairs) for name, pairs in self.retrieval.items()}
    others = {"sts": self.sts, "classification": self.classification}
    return found | {name: len(rows) for name, rows in others.items()}


def apart(texts: Iterable[str], seen: Container[str]) -> bool:
  """Whether none of the texts is among the normalised `seen` ones."""
  return not any(normalised(text) in seen for text in texts)


def held_out(
  modules: Sequence[Module], seen: Container[str], max_queries: int
) -> HeldOut:
  """Build a side's evaluations from its modules, without the `seen` texts.

  Code retrieval, the main measure, has up to `max_queries` queries, other
  retrieval tasks half as many. `seen` holds normalised texts.
  """
  both = [x for m in modules for x in code_pairs.code_views(m)]
  both = _chosen(both, seen, max_queries)
  rest = [(p,) for m in modules for p in code_pairs.documentation(m)]
  rest = _chosen(rest, seen, max_queries // 2)
  similar = [
    row
    for row in _similarities(modules)
    if apart(row[:2], seen) and normalised(row[0]) != normalised(row[1])
  ]
  return HeldOut(
    retrieval={
      "code": [full for full, _ in both],
      "code_masked": [masked for _, masked in both],
      "documentation": [pair for (pair,) in rest],
    },
    sts=sorted(similar, key=lambda row: digest(*row[:2]))[: max_queries // 2],
    classification=_labelled(modules, seen),
  )


def write(directory: pathlib.Path, found: HeldOut) -> None:
  """Writes the folders that have rows, each with the task.json of its task."""
  for name, pairs in found.retrieval.items():
    if pairs:
      data = beir.as_retrieval(pairs, len(pairs))
      beir.write_retrieval(directory / name, pairs[0].task, data)
  if found.sts:
    keys = ("sentence1", "sentence2", "score")
    rows = [dict(zip(keys, row, strict=True)) for row in found.sts]
    _write(directory / "sts", "sts", {"test.jsonl": rows})
  if found.classification:
    parts = ("train.jsonl", "test.jsonl")
    files: dict[str, list] = {name: [] for name in parts}
    for text, label in found.classification:
      files[parts[digest(text) % 2]].append({"text": text, "label": label})
    _write(directory / "classification", "classification", files)


def _write(folder: pathlib.Path, task: str, files: dict[str, list]) -> None:
  for name, rows in files.items():
    jsonl.write_jsonl(folder / name, rows)
  jsonl.write_text(folder / "task.json", json.dumps({"task": task}) + "\n")


def _chosen(
  views: Sequence[tuple[Pair, ...]], seen: Container[str], count: int
) -> list[tuple[Pair, ...]]:
  """The first `count` views, in hash order, none of whose texts is `seen`."""
  kept = [v for v in views if apart((t for p in v for t in p[:2]), seen)]
  return sorted(kept, key=lambda v: digest(v[0].query, v[0].positive))[:count]


def _similarities(
  modules: Sequence[Module],
) -> Iterator[tuple[str, str, float]]:
  """Sentence pairs of three grades of similarity, a third each."""
  found = [
    (pair, module.name) for module in modules for pair in code_pairs.sts(module)
  ]
  for number, (pair, module) in enumerate(found):
    near, near_module = found[(number + 1) % len(found)]
    far, far_module = found[digest(pair.query) % len(found)]
    grade = digest(pair.positive) % 3
    if grade == 0:
      yield pair.query, pair.positive, SAME
    elif grade == 1 and near_module == module:
      yield pair.query, near.query, NEIGHBOUR
    elif far_module != module:
      yield pair.query, far.query, OTHER


def _labelled(
  modules: Sequence[Module], seen: Container[str]
) -> list[tuple[str, str]]:
  """Docstrings labelled by topic, for the topics that have enough of them.

  Empty if fewer than two topics have.
  """
  texts: dict[str, list[str]] = defaultdict(list)
  for text, label in code_pairs.labelled(modules):
    if apart((text,), seen):
      texts[label].append(text)
  labels = sorted(x for x in texts if len(texts[x]) >= MIN_LABEL_TEXTS)
  return [
    (text, label)
    for label in (labels if len(labels) > 1 else ())
    for text in sorted(texts[label], key=digest)[:MAX_LABEL_TEXTS]
  ]
