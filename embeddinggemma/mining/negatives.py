"""Mine hard negatives for a corpus, and read pairs with the mined ones.

Every task has a folder of its own (per_task.py). What comes out are ordinary
pairs, whose negatives are texts with titles.
"""

import collections
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embeddinggemma import cache
from embeddinggemma.data import beir, prompts, sources
from embeddinggemma.mining import per_task, teacher
from embeddinggemma.mining.candidates import MiningConfig, Sides
from embeddinggemma.types import BadInput, Pair

# A near text is mostly of the query's own class, so it is no negative.
CLASSES = ("classification", "clustering")
MIN_POSITIVES = 20  # different ones of a task; a batch holds so few anyway
MOST_SHARING = 10  # pairs a positive, on average; above, it is a label

_ABOUT = "negatives.json"

Progress = Callable[[int, int], None]  # (done, of)


def mine_all(
  pairs: Sequence[Pair],
  vectors: teacher.Vectors | None,
  config: MiningConfig,
  directory: Path,
  progress: Progress | None = None,
) -> dict[str, Any]:
  """Mine DIRECTORY/TASK for every task whose pairs can be mined.

  Tasks that are done already are not done again.

  Args:
    pairs: the pairs of all tasks.
    vectors: those of `teacher.items_of(pairs)`, by the model that searches;
      BM25 needs none.
    config: what is searched, dropped and taken.
    directory: one folder per task, and negatives.json.
    progress: called with (pairs done, pairs), of the mined tasks.

  Returns:
    The content of negatives.json: `hash`, `pairs`, `negatives` and `without`
    (queries without any, by reason) of the mined tasks; `tasks`, the content of
    each mining.json; `skipped`, why a task is not mined.
  """
  tasks = dict(sorted(sources.by_task(pairs).items()))
  skipped = {task: why_not(members) for task, members in tasks.items()}
  skipped = {task: reason for task, reason in skipped.items() if reason}
  mined = {task: tasks[task] for task in tasks if task not in skipped}
  total, done = sum(map(len, mined.values())), 0
  # Until all are of this config there is nothing to read.
  (directory / _ABOUT).unlink(missing_ok=True)
  found = {}
  for task, members in mined.items():
    step = progress and _shifted(progress, done, total)
    sides = None if vectors is None else _sides(vectors, members)
    found[task] = per_task.mine(
      members, sides, config, directory / task, progress=step
    )
    done += len(members)
  without: collections.Counter[str] = collections.Counter()
  for about in found.values():
    without.update(about["without"])
  hashes = [(task, about["hash"]) for task, about in found.items()]
  result = {
    "hash": hashlib.sha256(repr(hashes).encode()).hexdigest(),
    "pairs": total,
    "negatives": sum(about["negatives"] for about in found.values()),
    "without": dict(sorted(without.items())),
    "tasks": found,
    "skipped": skipped,
  }
  directory.mkdir(parents=True, exist_ok=True)
  cache.write_json(directory / _ABOUT, result)
  return result


def why_not(pairs: Sequence[Pair]) -> str:
  """Why one task's pairs are not mined; "" if they are."""
  kind = prompts.task_named(pairs[0].task).type
  if kind in CLASSES:
    return f"near texts of {kind} are mostly of the same class"
  positives = len({beir.normalised(pair.positive) for pair in pairs})
  if positives < MIN_POSITIVES:
    return f"{positives} different positives are fewer than {MIN_POSITIVES}"
  if len(pairs) > MOST_SHARING * positives:
    return f"{positives} positives of {len(pairs)} pairs are class labels"
  return ""


def with_negatives(
  pairs: Sequence[Pair], directory: Path, count: int
) -> list[Pair]:
  """The pairs with at most `count` negatives: their own, then mined ones.

  A negative is never a known positive of the query, in any task, and none comes
  twice. A mined one has the title that it has as a positive. Raises BadInput if
  the folder was not mined, or was from other pairs.
  """
  if count < 1:
    raise BadInput(f"{count} negatives a pair; give 1 or more")
  about = opened(directory)
  answers = collections.defaultdict(set)
  for pair in pairs:
    answers[beir.normalised(pair.query)].add(beir.normalised(pair.positive))
  out: dict[str, Iterator[Pair]] = {}
  for task, members in sources.by_task(pairs).items():
    mined = np.full((len(members), 0), -1)
    if task not in about["skipped"]:
      mined = _mined(directory, about, task, members).negatives
    out[task] = iter(
      [
        _with(pair, [members[i] for i in row if i >= 0], answers, count)
        for pair, row in zip(members, mined.tolist(), strict=True)
      ]
    )
  return [next(out[pair.task]) for pair in pairs]


def explain_row(pairs: Sequence[Pair], directory: Path, row: int) -> list[str]:
  """Lines that say what became of each candidate of the query pairs[row]."""
  if not 0 <= row < len(pairs):
    raise BadInput(f"no row {row}; the pairs have rows 0 to {len(pairs) - 1}")
  about, task = opened(directory), pairs[row].task
  if task in about["skipped"]:
    return [f"{task} is not mined: {about['skipped'][task]}"]
  members = [pair for pair in pairs if pair.task == task]
  place = sum(pair.task == task for pair in pairs[:row])
  mined = _mined(directory, about, task, members)
  return [
    f"{pairs[row].origin}, row {place} of {task}:",
    *per_task.explain(mined, place, members),
  ]


def summary(about: Mapping[str, Any]) -> list[str]:
  """Lines for people on what `mine_all` returns: counts and reasons by task."""
  lines = []
  for task, of_task in about["tasks"].items():
    without = sum(of_task["without"].values())
    lines.append(
      f"{task}: {of_task['negatives']} negatives for {of_task['pairs']} pairs,"
      f" {without} without one"
    )
    for reason, number in of_task["candidates"].items():
      if number:
        lines.append(f"  {number:9,}  {reason}")
  lines += [
    f"{task}: not mined, {why}" for task, why in about["skipped"].items()
  ]
  return lines


def _shifted(progress: Progress, before: int, total: int) -> Progress:
  """A part's progress as progress of the whole, after `before` of `total`."""
  return lambda done, _: progress(before + done, total)


def _sides(vectors: teacher.Vectors, pairs: Sequence[Pair]) -> Sides:
  """The vectors of the pairs' queries and positives."""
  bare = [pair._replace(negatives=(), negative_titles=()) for pair in pairs]
  keys = teacher.keys_of(teacher.items_of(bare))
  return Sides(vectors.rows(keys[0::2]), vectors.rows(keys[1::2]))


def _with(
  pair: Pair,
  mined: Sequence[Pair],
  answers: Mapping[str, set[str]],
  count: int,
) -> Pair:
  given = dict.fromkeys(pair.negatives, "")
  given.update(zip(pair.negatives, pair.negative_titles))
  titled = [*given.items(), *((other.positive, other.title) for other in mined)]
  seen = set(answers[beir.normalised(pair.query)])
  kept = []
  for text, title in titled:
    known = beir.normalised(text)
    if known not in seen and len(kept) < count:
      kept.append((text, title))
      seen.add(known)
  texts, titles = zip(*kept) if kept else ((), ())
  titles = titles if any(titles) else ()
  return pair._replace(negatives=texts, negative_titles=titles)


def opened(directory: Path) -> dict[str, Any]:
  """The content of negatives.json; BadInput if the folder was not mined."""
  about = cache.read_json(directory / _ABOUT)
  if not about:
    raise BadInput(f"{directory}: holds no {_ABOUT}; run `mine` first")
  return about


def _mined(
  directory: Path, about: Mapping[str, Any], task: str, pairs: Sequence[Pair]
) -> per_task.Mined:
  """A task's mined negatives; BadInput if they are from other pairs."""
  if task not in about["tasks"]:
    raise BadInput(f"{directory}: was mined without {task}; run `mine` again")
  mined = per_task.open_mined(directory / task)
  if mined.about["texts"] != per_task.texts_hash(pairs):
    raise BadInput(
      f"{directory / task}: was mined from other pairs; run `mine` again"
    )
  return mined
