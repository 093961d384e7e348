"""A suite on disk: a folder of BEIR tasks, and what it is made of.

FOLDER/needle/256/ and FOLDER/passage/256/ hold the same documents and different
queries, each as `evaluate --data`, and any other reader of BEIR, has it.
FOLDER/suite.json says where in its document each query's answer stands.
"""

import dataclasses
import pathlib
import shutil
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from embeddinggemma import cache
from embeddinggemma.data import beir
from embeddinggemma.evaluation import tasks
from embeddinggemma.evaluation.kinds.task import EvalTask
from embeddinggemma.evaluation.long_context import (
  documents,
  facts,
  questions,
  texts,
)
from embeddinggemma.evaluation.long_context.documents import NEEDLE, PASSAGE
from embeddinggemma.evaluation.long_context.spec import (
  ABOUT_FILE,
  KIND,
  Spec,
  about_of,
)
from embeddinggemma.retrieval.measure import Measure
from embeddinggemma.types import BadInput

VERSION = 1  # increase it when a change here makes another suite of one text
PROMPTS = {NEEDLE: "qa", PASSAGE: "retrieval"}  # tasks whose prompts are used
LONGEST_PASSAGE, SHORTEST_PASSAGE = 96, 32  # tokens of one, at most
ABOUT = ("lengths", "documents", "seed", "text", "texts", "uses")
_AROUND = 4  # tokens of the blank lines around a part
_SPARE = 2  # times as much text is read as documents take
_ASKED = 16 * LONGEST_PASSAGE  # and so many tokens for each question more


class Suite(NamedTuple):
  """A suite that was made."""

  tasks: Mapping[tuple[str, int], EvalTask]  # by name and length
  # Task -> where in its document the answer to each query stands.
  places: Mapping[str, Sequence[str]]
  tokens: Mapping[int, float]  # length -> the mean of its documents
  about: Mapping[str, Any]  # ABOUT of suite.json


def _key(
  spec: Spec,
  source: pathlib.Path | None,
  excluded: Sequence[pathlib.Path],
  measure: Measure,
) -> dict[str, Any]:
  """All that a suite depends on, texts by the sizes and times of their files."""
  places, _ = texts.files(source, excluded)
  stats = {name: place.stat() for name, place in places.items()}
  return {
    "version": VERSION,
    "spec": dataclasses.asdict(spec),
    "text": [[n, s.st_size, s.st_mtime_ns] for n, s in sorted(stats.items())],
    "tokenizer": measure.tokenizer,
    "prompt": measure.read("", ""),
  }


def once(
  spec: Spec,
  source: pathlib.Path | None,
  excluded: Sequence[pathlib.Path],
  measure: Measure,
  folder: pathlib.Path,
) -> tuple[dict[str, Any], bool]:
  """What suite.json says, and whether the folder had this suite already.

  Takes what `make` takes. A suite of other text or sizes is replaced when the
  new one is complete. Raises BadInput for a folder that is something else.
  """
  partial = folder.with_name(f"{folder.name}.partial")
  excluded = [folder, partial, *excluded]
  wanted = cache.key_of(_key(spec, source, excluded, measure))
  there = about_of(folder)
  if there.get("key") == wanted:
    return there, True
  if folder.exists() and not there:
    raise BadInput(
      f"{folder} is where the suite would be, and is something else; use another"
      " --output"
    )
  shutil.rmtree(partial, ignore_errors=True)
  try:
    about = {**make(spec, source, excluded, measure, partial), "key": wanted}
    cache.write_json(partial / ABOUT_FILE, about)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return about, False


def make(
  spec: Spec,
  source: pathlib.Path | None,
  excluded: Sequence[pathlib.Path],
  measure: Measure,
  folder: pathlib.Path,
) -> dict[str, Any]:
  """Write the tasks of a suite; returns what suite.json is to say of them.

  Args:
    spec: lengths, documents and seed.
    source: a folder or file of text; None: Python's standard library.
    excluded: paths that are no text of it.
    measure: of the model; see `retrieval.measure`.
    folder: where it is written.

  Raises BadInput for lengths that are too short, and for too little text.
  """
  rng = np.random.default_rng(spec.seed)
  known = facts.make(spec.documents, rng)
  limit = passage_limit(spec, known, measure)
  longest = spec.lengths[-1]
  wanted = spec.documents * (_SPARE * longest + _ASKED)
  read = texts.read(
    source, excluded, measure._replace(limit=measure.bare + limit), wanted, rng
  )
  asked = questions.ask(read.passages, spec.documents, rng)
  uses = documents.require_text(
    read.where, asked, read.passages, spec.documents, longest
  )
  drafts = list(documents.draft(known, asked, read.passages, longest))
  asks = {
    NEEDLE: [fact.question for fact in known],
    PASSAGE: [one.question for one in asked],
  }
  sizes = {}
  for length in spec.lengths:
    grown = [documents.grown(draft, length, measure) for draft in drafts]
    counts = measure.lengths(grown, "")
    sizes[str(length)] = {
      "least": min(counts),
      "mean": statistics.fmean(counts),
      "most": max(counts),
    }
    for task, queries in asks.items():
      data = _retrieval(task, queries, grown)
      beir.write_retrieval(folder / task / str(length), PROMPTS[task], data)
  return {
    "suite": KIND,
    "version": VERSION,
    **dataclasses.asdict(spec),
    "text": read.where,
    "texts": len({passage.source for passage in read.passages}),
    "left_out": _counted(read.left_out),
    "uses": round(uses, 2),
    "tokenizer": measure.tokenizer,
    "tokens": sizes,
    "positions": documents.positions(spec.documents),
  }


def passage_limit(
  spec: Spec, known: Sequence[facts.Fact], measure: Measure
) -> int:
  """Tokens of a passage such that the shortest document has room for running text.

  Raises BadInput for a model without a tokenizer, and for a length in which
  prompt, fact and passage have no room.
  """
  if not measure.tokenizer:
    raise BadInput(
      "the model has no tokenizer to measure documents with; make the suite with"
      " another model, and give its folder as --data"
    )
  counts = measure.count([fact.statement for fact in known])
  fact = max(counts) - 2 + _AROUND  # without BOS and EOS
  shortest = spec.lengths[0]
  limit = (shortest - measure.bare - fact) // 2
  if limit < SHORTEST_PASSAGE:
    least = measure.bare + fact + 2 * SHORTEST_PASSAGE
    raise BadInput(
      f"--lengths={shortest}: the document prompt with BOS and EOS"
      f" ({measure.bare} tokens), a fact ({fact}), a passage and as much running"
      f" text take at least {least} tokens; give that or more"
    )
  return min(limit, LONGEST_PASSAGE)


def _retrieval(
  task: str, queries: Sequence[str], grown: Sequence[str]
) -> beir.Retrieval:
  """Query n is answered by document n."""
  width = len(str(len(grown)))
  name = lambda kind, number: f"{kind}-{number:0{width}d}"
  return beir.Retrieval(
    {name("document", n): ("", text) for n, text in enumerate(grown, 1)},
    {name(task, n): text for n, text in enumerate(queries, 1)},
    {name(task, n): {name("document", n): 1} for n in range(1, len(grown) + 1)},
  )


def _counted(left_out: Mapping[str, str]) -> dict[str, int]:
  """Reason -> how many files were left out for it."""
  reasons = list(left_out.values())
  return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}


def read(folder: pathlib.Path) -> Suite:
  """The suite of a folder; BadInput if it is damaged or of another version."""
  damaged = BadInput(
    f"{folder}: the suite is damaged; delete it and make it again"
  )
  about = about_of(folder)
  if about.get("version", VERSION) != VERSION:
    raise BadInput(
      f"{folder} is a suite of version {about['version']}, this program's is"
      f" {VERSION}; delete it and make it again"
    )
  named = {task.name: task for task in tasks.read_suite(folder)}
  try:
    found = Suite(
      {
        (task, length): named[f"{task}/{length}"]
        for task in documents.TASKS
        for length in about["lengths"]
      },
      {task: about["positions"][task] for task in documents.TASKS},
      {n: about["tokens"][str(n)]["mean"] for n in about["lengths"]},
      {name: about[name] for name in ABOUT},
    )
    for (task, _), one in found.tasks.items():
      places = found.places[task]
      if len(places) != len(one.queries) or {*places} ^ {*documents.POSITIONS}:
        raise damaged
  except (KeyError, TypeError):
    raise damaged from None
  return found
