"""Scores for a model card: files that `evaluate` wrote, or a run's own.

What a file lacks, such as intervals in those of earlier versions, is left open.
"""

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from embeddinggemma import cache, checkpoint, quantize
from embeddinggemma.convert.write.exporting import Job
from embeddinggemma.data import jsonl
from embeddinggemma.lineage import public
from embeddinggemma.types import BadInput

MODEL = "model"  # the system whose scores are the model's own
_EXPECTED = "expected a JSON that `evaluate` wrote"
_MEANS = {"mean_task": "mean over tasks", "mean_type": "mean over task types"}
_DEPTH = 5  # folders above a checkpoint in which a run's summary may be


class Value(NamedTuple):
  """A score, and the ends of its 95% interval if they are known."""

  score: float
  low: float | None = None
  high: float | None = None


class Score(NamedTuple):
  """The main score of a task, or a mean."""

  task: str
  metric: str
  at: Mapping[int, Value]  # by dimension; 0: the whole vector, of unknown size
  # Side -> name or words of its prompt, "" for none; None: not recorded.
  prompts: Mapping[str, str] | None = None
  kind: str = ""  # of the task
  dataset: str = ""
  revision: str = ""  # of the data
  is_mean: bool = False


class Scores(NamedTuple):
  """Scores of one evaluation."""

  title: str
  scores: tuple[Score, ...]
  weights: str = ""  # hash of what was scored
  precision: str = ""
  mteb: str = ""  # its version, if it scored
  notes: tuple[str, ...] = ()


def read(path: str) -> Scores:
  """The scores in a file; BadInput for one that has none."""
  place = pathlib.Path(path)
  try:
    tree = jsonl.parse_json(place.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    return of_json(tree)
  except OSError as error:
    said = error.strerror
    raise BadInput(f"--scores={path} cannot be read: {said}") from None
  except ValueError as error:
    raise BadInput(f"--scores={path}: {error}; {_EXPECTED}") from None


def of_json(tree: Any) -> Scores:
  """The scores in what `evaluate` wrote; ValueError if there are none."""
  if not isinstance(tree, Mapping):
    raise ValueError(f"not an object but {type(tree).__name__}")
  if "quality" in tree:
    found = _own(tree)
  elif "mteb" in tree and "tasks" in tree:
    found = _of_mteb(tree)
  else:
    raise ValueError("it has neither 'quality' nor the tasks of mteb")
  if not found.scores:
    raise ValueError("it has no scores of a model")
  return found


def require_of(found: Sequence[tuple[str, Scores]], job: Job) -> None:
  """Raise BadInput unless the weights that were scored are the job's.

  `found` has scores by the name of their file. The weights are read, once for
  each precision in which they were scored.
  """
  hashes: dict[str, str] = {}
  for path, scores in found:
    if not scores.weights:
      raise BadInput(
        f"--scores={path} does not say which weights were scored; evaluate again"
      )
    for precision in dict.fromkeys((scores.precision, job.trained)):
      if precision and precision not in hashes:
        quantize.known(precision)
        hashes[precision] = _hash(job, precision)
    if scores.weights not in hashes.values():
      ours = hashes[job.trained][:12]
      raise BadInput(
        f"--scores={path} has scores of the weights {scores.weights[:12]}, and"
        f" those of {job.directory} are {ours}; evaluate this model"
      )


def of_run(job: Job, digest: str) -> Scores | None:
  """The scores in the summary of the run whose result is exported.

  `digest` is the hash of the written weights.
  """
  for place in list(job.directory.parents)[:_DEPTH]:
    try:
      tree = cache.read_json(place / "summary.json")
    except (OSError, ValueError):
      continue
    final = _object(_object(tree).get("final"))
    known = final.get("hash")
    if not known:
      continue
    # What was trained for a grid is recorded by the hash of its raw weights.
    if known == digest or known == checkpoint.hash_of(job.directory):
      return of_summary(tree)
    return None
  return None


def of_summary(tree: Mapping[str, Any]) -> Scores | None:
  """The scores of a run's result, as its summary.json has them; None: none."""
  after = _object(_object(tree.get("forgetting")).get("after"))
  tables = _object(tree.get("quality"))
  scores: list[Score] = []
  for suite, found in after.items():
    for task, about in _object(_object(found).get("tasks")).items():
      about = _object(about)
      if _is_number(about.get("score")):
        at = {0: Value(float(about["score"]))}
        name = f"{suite}: {task}"
        scores.append(Score(name, str(about.get("metric", "")), at))
  for suite, systems in tables.items():
    own = _object(_object(systems).get(MODEL))
    found = _tasks(own, {}, {}, {})
    scores += [one._replace(task=f"{suite}: {one.task}") for one in found]
  metrics = _object(_object(tree.get("final")).get("metrics"))
  means = [
    Score(str(name), "", {0: Value(float(value))}, is_mean=True)
    for name, value in metrics.items()
    if _is_number(value)
  ]
  found = (*scores, *means)
  return Scores("the run that made it", found) if found else None


def _own(tree: Mapping[str, Any]) -> Scores:
  """The scores of this program's own runner."""
  summary, ends = _object(tree.get("summary")), _object(tree.get("intervals"))
  tasks = _tasks(
    _object(_object(tree["quality"]).get(MODEL)),
    _object(summary.get("main")),
    _object(ends.get(MODEL)),
    _object(tree.get("prompts")),
  )
  of_means = _object(summary.get("intervals"))
  means = [
    Score(title, "", at, is_mean=True)
    for key, title in _MEANS.items()
    if (at := _at(_object(summary.get(key)), _object(of_means.get(key))))
  ]
  data = str(tree.get("data") or "")
  name = pathlib.PurePath(public.place(data)).name
  return Scores(
    f"`evaluate` of this program{f' on {name}' if name else ''}",
    (*tasks, *(means if len(tasks) > 1 else ())),
    str(tree.get("model") or ""),
    str(tree.get("precision") or ""),
    notes=tuple(_notes(tree)),
  )


def _tasks(
  own: Mapping[str, Any],
  main: Mapping[str, Any],
  ends: Mapping[str, Any],
  prompts: Mapping[str, Any],
) -> list[Score]:
  """The main score of each task, from {task: {dim: {metric: value}}}."""
  found = []
  for task, by_dim in own.items():
    dims = {dim: _object(values) for dim, values in _object(by_dim).items()}
    first = next(iter(dims.values()), {})
    metric = str(main.get(task) or next(iter(first), ""))
    values = {dim: known.get(metric) for dim, known in dims.items()}
    if at := _at(values, _object(ends.get(task))):
      told = _prompts(prompts.get(task))
      found.append(Score(str(task), metric, at, told))
  return found


def _of_mteb(tree: Mapping[str, Any]) -> Scores:
  """The scores of mteb's own classes."""
  dim = tree.get("dim")
  dim = dim if type(dim) is int else 0
  tasks = []
  for name, about in _object(tree["tasks"]).items():
    about = _object(about)
    if _is_number(about.get("main_score")):
      text = lambda key, of=about: str(of.get(key) or "")
      score = Score(
        str(name),
        text("metric"),
        {dim: Value(float(about["main_score"]))},
        _prompts(about.get("prompts")),
        text("type"),
        text("dataset"),
        text("dataset_revision"),
      )
      tasks.append(score)
  means = [
    Score(title, "", {dim: Value(float(tree[key]))}, is_mean=True)
    for key, title in _MEANS.items()
    if _is_number(tree.get(key)) and len(tasks) > 1
  ]
  version = str(_object(tree["mteb"]).get("version") or "")
  suite = str(tree.get("suite") or "")
  search = str(tree.get("search") or "dense")
  failed = sorted(map(str, _object(tree.get("failed"))))
  notes = [f"not scored, since it failed: {name}" for name in failed]
  if search != "dense":
    notes.append(f"search: {search}, with the words of texts as well")
  return Scores(
    f"mteb {version}{f', {suite}' if suite else ''}",
    (*tasks, *means),
    str(tree.get("model") or ""),
    str(tree.get("precision") or ""),
    version,
    (*notes, *_notes(tree)),
  )


def _notes(tree: Mapping[str, Any]) -> Iterable[str]:
  """What scores say less than they seem to, and texts that were cut."""
  for task, lines in _object(tree.get("notes")).items():
    if isinstance(lines, list) and lines:
      yield f"{task}: {'; '.join(map(str, lines))}"
  for task, sides in _object(tree.get("truncated")).items():
    for side, counts in _object(sides).items():
      counts = _object(counts)
      if counts.get("cut"):
        yield (
          f"{task}: {counts['cut']} of {counts.get('of')} {side} were cut after"
          f" {counts.get('max_length')} tokens"
        )


def _at(values: Mapping[str, Any], ends: Mapping[str, Any]) -> dict[int, Value]:
  """The scores by dimension, with the ends of their intervals."""
  found = {}
  for dim, value in values.items():
    if _is_number(value):
      low, high = _pair(ends.get(dim))
      size = int(dim) if str(dim).isdecimal() else 0
      found[size] = Value(float(value), low, high)
  return found


def _pair(ends: Any) -> tuple[float | None, float | None]:
  is_pair = isinstance(ends, list) and len(ends) == 2
  if is_pair and all(map(_is_number, ends)):
    return float(ends[0]), float(ends[1])
  return None, None


def _prompts(told: Any) -> dict[str, str] | None:
  if not isinstance(told, Mapping):
    return None
  return {str(side): str(words or "") for side, words in told.items()}


def _object(value: Any) -> Mapping[str, Any]:
  """An object of JSON; {} for anything else, which is damaged."""
  return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  return is_number and math.isfinite(value)


def _hash(job: Job, precision: str) -> str:
  """The hash of a checkpoint's weights, seen in a precision."""
  content = checkpoint.ContentHash()
  for name, raw in checkpoint.stream(job.directory):
    content.add_tensor(name, quantize.seen(name, raw, precision))
  return content.hexdigest()
