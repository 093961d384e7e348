"""Score models on the same tasks, one after the other, with the same judge.

What fails, a model or one of its tasks, is told beside the scores of the others.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console

from embeddinggemma import progress as progress_lib
from embeddinggemma.data import truncation
from embeddinggemma.evaluation import quality, suite
from embeddinggemma.evaluation.kinds.task import EvalTask
from embeddinggemma.side_by_side import throughs
from embeddinggemma.side_by_side.contender import Contender, Opener, Setting
from embeddinggemma.side_by_side.names import Asked
from embeddinggemma.side_by_side.prompting import DOCUMENT, QUERY
from embeddinggemma.types import BadInput, Stopped, TextEncoder

WHOLE = ""  # the name of a task that stands for the whole model


def evaluate(
  asked: Sequence[Asked],
  setting: Setting,
  console: Console,
  save: Callable[[Mapping[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
  """Scores of models on the tasks of a setting, at each of their dimensions.

  Args:
    asked: the models.
    setting: what they have in common.
    console: where progress is shown.
    save: called with the result after each model; it grows.

  Returns {"models": {label: what is known of it: "given", "through", "dims",
  "precision", "prompts" as {task: {"query" or "document": the words before it, of
  documents where they have others than queries}}, "truncated" as
  {task: {"cut", "of", "longest", "max_length"}}, ...}, "quality": {label, or
  name of a search by words: {task: {dim: {metric: value}}}}, "main": {task: the
  metric that counts}, "summary": {label: means over the tasks that all models
  have}, "common": those tasks, "failed": {label: {task, or WHOLE: why}},
  "notes": {task: lines}}.

  Raises:
    BadInput: a model cannot be what was asked; nothing has been scored.
    BadInput, Stopped: the only model of all cannot be opened.
  """
  openers = dict(_labelled(asked, setting))
  result: dict[str, Any] = {
    "models": {},
    "quality": {
      system: suite.values(found)
      for system, found in suite.by_words(setting.tasks).items()
    },
    "notes": quality.notes(setting.tasks),
    "failed": {},
  }
  given = dict(zip(openers, (one.model for one in asked), strict=True))
  for label, opener in openers.items():
    try:
      found = _of(label, opener, setting, console)
    except (BadInput, Stopped) as error:
      if len(openers) == 1:
        raise
      found = {"failed": {WHOLE: str(error)}}
    failed, scores = found.pop("failed"), found.pop("scores", {})
    result["models"][label] = {"given": given[label], **found}
    result["quality"][label] = scores
    if failed:
      result["failed"][label] = failed
    result.update(_summary(result, setting.tasks))
    save(result)
  return result


def _labelled(
  asked: Sequence[Asked], setting: Setting
) -> Iterator[tuple[str, Opener]]:
  """Each model's label, which no other has, and what opens it."""
  taken: set[str] = set()
  for one in asked:
    wanted = throughs.label_of(one)
    tried = (f"{wanted} #{n}" if n > 1 else wanted for n in range(1, 10**6))
    label = next(label for label in tried if label not in taken)
    taken.add(label)
    yield label, throughs.through_of(one).prepared(one, setting)


def _of(
  label: str, opener: Opener, setting: Setting, console: Console
) -> dict[str, Any]:
  """What is known of a model, with its "scores" and "failed" tasks."""
  with contextlib.ExitStack() as stack:
    model = stack.enter_context(opener())
    progress = progress_lib.Progress(console, label, len(setting.tasks))
    stack.enter_context(progress)
    scores: dict[str, Any] = {}
    failed: dict[str, str] = {}
    prompts: dict[str, dict[str, str]] = {}
    cut: dict[str, truncation.Counts] = {}
    for done, task in enumerate(setting.tasks, 1):
      used = prompts.setdefault(task.name, {})
      try:
        with truncation.counted() as counts:
          scores[task.name] = _scores(model, task, used)
        cut[task.name] = counts
      except (BadInput, Stopped) as error:
        failed[task.name] = str(error)
      progress.show(done, task.name)
    about = dict(model.about())
  _say_cut(label, list(cut.values()), setting)
  counts = {name: one.as_json() for name, one in cut.items()}
  return {
    "through": model.through,
    "dims": list(model.dims),
    "precision": model.precision,
    **about,
    "prompts": prompts,
    "truncated": counts if model.counts else None,
    "scores": scores,
    "failed": failed,
  }


def _scores(
  model: Contender, task: EvalTask, used: dict[str, str]
) -> dict[str, dict[str, float]]:
  """Dimension -> metric -> value of a task; `used` gets the prompts."""
  encode = _noting(model, task, used)
  found = suite.evaluate(suite.remember(encode), [task], model.dims)
  return found["tasks"][task.name]


def _noting(
  model: Contender, task: EvalTask, used: dict[str, str]
) -> TextEncoder:
  """The model's encoder, which notes the words that stand before texts."""
  encode = model.encoder(task)

  def noting(
    texts: Sequence[str], prompt_name: str, titles: Sequence[str] = ()
  ) -> Float[np.ndarray, "n M"]:
    side = QUERY if prompt_name == task.task else DOCUMENT
    used[side] = model.words(task, prompt_name)
    return encode(texts, prompt_name, titles)

  return noting


def _say_cut(
  label: str, counts: Sequence[truncation.Counts], setting: Setting
) -> None:
  """Say how many texts a model has cut, and how many titles it left out."""
  total = truncation.Counts()
  for one in counts:
    total.add(one)
  if total.cut:
    setting.say(f"{label}: {total}")
  if total.untitled:
    setting.say(
      f"{label}: {total.untitled} titles are left out: its prompt has no place"
      " for them"
    )


def _summary(
  result: Mapping[str, Any], tasks: Sequence[EvalTask]
) -> dict[str, Any]:
  """Means of each model over the tasks that all models have scores of.

  A model without any score is left out of both. Beside them, each task's main
  metric.
  """
  scored = {
    label: result["quality"][label]
    for label in result["models"]
    if result["quality"][label]
  }
  common = [
    task
    for task in tasks
    if scored and all(task.name in by_task for by_task in scored.values())
  ]
  summary = {}
  for label, by_task in scored.items():
    own = {task.name: by_task[task.name] for task in common}
    found = suite.summarise(common, own)
    summary[label] = {k: found[k] for k in ("types", "mean_task", "mean_type")}
  main: dict[str, str] = {}
  for by_task in result["quality"].values():
    main |= suite.summarise(tasks, by_task)["main"]
  return {
    "main": main,
    "summary": summary,
    "common": [task.name for task in common],
  }
