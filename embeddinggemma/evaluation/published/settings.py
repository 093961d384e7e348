"""What differs between how scores were made and how published ones were."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from embeddinggemma.data import prompts
from embeddinggemma.evaluation.published import names
from embeddinggemma.evaluation.published.scores import Score, Scores
from embeddinggemma.evaluation.published.tables import Result, Suite

UNKNOWN = "not recorded"
_UNPUBLISHED = "not published"
_MAX_LENGTH = 2048  # max_seq_length of google/embeddinggemma-300m
# A precision of ours -> what the tables call it, where the grid is the same kind.
_PRECISIONS = {"float": "bfloat16", "q4_0": "int4"}


class Difference(NamedTuple):
  """A setting in which scores and published ones differ, or may differ."""

  setting: str
  here: str
  there: str
  of: Sequence[str]  # the rows or tasks that it concerns; (): all


def precision(scores: Scores) -> str:
  """The precision of scores as the tables name it; "" if not recorded."""
  return _PRECISIONS.get(scores.precision, scores.precision)


def metric(name: str) -> str:
  """A metric as it can be compared: "ndcg@10" is mteb's "ndcg_at_10"."""
  plain = name.lower().replace("@", "_at_").replace("-", "_")
  return plain.removeprefix("cosine_")


def differences(
  scores: Scores,
  suite: Suite,
  tasks: Mapping[str, Score],
  dim: int,
  beside: Mapping[str, Result],
) -> list[Difference]:
  """Every setting that differs, or of which one side is not known.

  Args:
    tasks: {task of the suite: its score}.
    dim: of the scores; 0 if it was not recorded.
    beside: {rows: the published result that they are compared with}.
  """
  return [
    *_of_suite(scores, suite),
    *_of_results(scores, dim, beside),
    *_of_prompts(suite, tasks),
    *_of_metrics(suite, tasks, dim),
    *_of_parts(suite, tasks),
    *_of_length(scores),
    *_of_search(scores),
    *_of_runner(scores, suite, tasks),
  ]


def is_of(name: str, suite: Suite) -> bool:
  """Whether a name is that of a suite; MTEB(eng) is MTEB(eng, v2)."""
  unversioned = suite.name.partition(",")[0]
  return names.plain(name) in map(names.plain, (suite.name, unversioned))


def _of_suite(scores: Scores, suite: Suite) -> Iterator[Difference]:
  if scores.suite and not is_of(scores.suite, suite):
    yield Difference("suite", scores.suite, suite.name, ())


def _of_results(
  scores: Scores, dim: int, beside: Mapping[str, Result]
) -> Iterator[Difference]:
  """Dimension and precision, by the published results that were taken."""
  here = precision(scores)
  groups: dict[tuple[str, str, str], list[str]] = {}
  for rows, result in beside.items():
    if dim != result.dimension:
      key = ("dimension", str(dim or UNKNOWN), str(result.dimension))
      groups.setdefault(key, []).append(rows)
    if here != result.precision:
      key = ("precision", scores.precision or UNKNOWN, result.precision)
      groups.setdefault(key, []).append(rows)
  for key, rows in groups.items():
    yield Difference(*key, () if len(rows) == len(beside) else rows)


def _of_prompts(
  suite: Suite, tasks: Mapping[str, Score]
) -> Iterator[Difference]:
  groups: dict[tuple[str, str, str], list[str]] = {}
  for task, score in tasks.items():
    kind = suite.tasks[task].type
    if score.prompts is None:
      key = ("prompts", UNKNOWN, "those of each task's type")
      groups.setdefault(key, []).append(task)
      continue
    for side, right in _published_prompts(suite, kind).items():
      # A task without documents has no prompt of them.
      if (here := score.prompts.get(side, right[0])) not in right:
        there = " or ".join(map(repr, right))
        key = (f"prompt of {side}", repr(here), there)
        groups.setdefault(key, []).append(task)
  for key, of in groups.items():
    yield Difference(*key, () if len(of) == len(tasks) else of)


def _published_prompts(suite: Suite, kind: str) -> dict[str, list[str]]:
  """Side -> the prompts that fit the published config, for a type of tasks."""
  queries = [prompts.PROMPTS[name] for name in suite.prompts.get(kind, [kind])]
  if kind == "Retrieval":
    return {"query": queries, "document": [prompts.DOCUMENT]}
  return {"query": queries, "document": [*queries, prompts.DOCUMENT]}


def _of_metrics(
  suite: Suite, tasks: Mapping[str, Score], dim: int
) -> Iterator[Difference]:
  groups: dict[tuple[str, str, str], list[str]] = {}
  for task, score in tasks.items():
    wanted = suite.tasks[task].metric
    if not taken(score, dim, wanted)[0]:
      continue  # the file names no metric
    if metric(taken(score, dim, wanted)[0]) != metric(wanted):
      key = ("metric", taken(score, dim, wanted)[0], wanted)
      groups.setdefault(key, []).append(task)
  for key, of in groups.items():
    yield Difference(*key, of)


def taken(score: Score, dim: int, wanted: str) -> tuple[str, float]:
  """The metric of a score that is compared with a published one, and its value.

  It is the published one if the score has that, else the score's main one.
  """
  values = score.at[dim]
  for name, value in values.items():
    if metric(name) == metric(wanted):
      return name, value
  name = score.main if score.main in values else next(iter(values))
  return name, values[name]


def _of_length(scores: Scores) -> Iterator[Difference]:
  if scores.max_length not in (None, _MAX_LENGTH):
    here, there = f"{scores.max_length} tokens", f"{_MAX_LENGTH} tokens"
    yield Difference("longest text", here, there, ())


def _of_parts(suite: Suite, tasks: Mapping[str, Score]) -> Iterator[Difference]:
  """Of how many splits and subsets a score is the mean, where it is recorded."""
  for task, score in tasks.items():
    whole = suite.parts.get(task, 1)
    if score.parts and len(score.parts) != whole:
      count = str(len(score.parts))
      yield Difference("parts of the data", count, str(whole), (task,))


def _of_search(scores: Scores) -> Iterator[Difference]:
  if scores.search not in ("", "dense"):
    yield Difference("search", scores.search, "dense", ())


def _of_runner(
  scores: Scores, suite: Suite, tasks: Mapping[str, Score]
) -> Iterator[Difference]:
  """What computed the scores, and on which revision of the data."""
  if suite.scored_with and scores.runner != suite.scored_with:
    here = scores.runner or UNKNOWN
    yield Difference("scored with", here, suite.scored_with, ())
  revisions = [score.revision for score in tasks.values() if score.revision]
  here = f"recorded for {len(revisions)} of {len(tasks)} tasks"
  yield Difference(
    "revision of the data",
    here if revisions else UNKNOWN,
    _UNPUBLISHED,
    (),
  )


def as_json(found: Iterable[Difference]) -> list[dict[str, Any]]:
  """Differences as a file has them."""
  return [{**d._asdict(), "of": list(d.of)} for d in found]
