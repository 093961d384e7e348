"""Tasks of mteb scored one after the other; a failed one costs only its own.

mteb keeps a file for each task, model and revision. So a run that was ended
goes on with the tasks that it lacks, and within one with the subsets that it
lacks.
"""

import contextlib
import dataclasses
import errno
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console

from embeddinggemma.data import truncation
from embeddinggemma.evaluation.mteb_suite import (
  about,
  hub,
  names,
  package,
  scores,
)
from embeddinggemma.evaluation.mteb_suite.encoder import Encoder, prompts_of
from embeddinggemma.evaluation.mteb_suite.hybrid import Hybrid
from embeddinggemma.loading import Model
from embeddinggemma.progress import Progress
from embeddinggemma.types import IDENTITY, BadInput, Notice, Stopped

# In mteb's batches; a model of ours groups texts by their lengths itself.
_OPTIONS = {"batch_size": 256, "show_progress_bar": False}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_LONGEST = 300  # characters of a reason or a note
# What other packages warn their own programmers of.
_OF_CODE = (
  DeprecationWarning,
  FutureWarning,
  PendingDeprecationWarning,
  ResourceWarning,
)


class NoData(Exception):
  """The data of a task are not here, and there is no network."""


class NotOurs(Stopped):
  """mteb scored something else than the model that it was given."""


def evaluate(
  model: Model,
  tasks: Sequence[Any],
  setup: about.Setup,
  results: pathlib.Path | None,
  console: Console,
) -> dict[str, Any]:
  """Score a model on tasks of mteb, by mteb itself.

  Args:
    tasks: mteb's task objects: its own, or of subclasses with local data.
    setup: dimension, titles and search.
    results: mteb's folder of results; None: mteb's own, see MTEB_CACHE.
    console: where progress is shown.

  Returns {"model", "identity", "precision", "dim", "titles", "search", "mteb":
  {"version", "name", "revision", "results"}, "tasks": {task: see scores.row,
  with "prompts", "cached", "truncated" (None if cached) and "notes"}, "types",
  "mean_task", "mean_type" (see scores.means), "failed": {task: why}}.

  Raises:
    BadInput: mteb is missing or of another version; the setup does not fit the
      model; two tasks share a name; or there is no network, and of no task the
      data are here.
    Stopped: mteb scored something else than this model.
  """
  mteb = package.require()
  tasks, setup = names.once(tasks), setup.checked(model)
  if not tasks:
    raise BadInput("no task of mteb to score; give at least one")
  kind = Hybrid if setup.search == about.HYBRID else Encoder
  with Progress(console, "mteb", len(tasks)) as progress:
    shown = _Shown(progress, console)
    run = _Run(mteb, kind(model, setup, shown.on_texts), results, shown)
    run.score(tasks)
  truncation.report(run.cut)
  if not run.rows and all(isinstance(e, NoData) for e in run.failed.values()):
    raise BadInput(_nowhere(run.failed))
  return {
    "model": model.hash,
    IDENTITY: model.identity.as_json(),
    "precision": model.precision,
    **setup._asdict(),
    "mteb": run.named,
    "tasks": run.rows,
    **scores.means(tasks, run.rows),
    "failed": {name: reason(error) for name, error in run.failed.items()},
  }


def reason(error: Exception) -> str:
  """An error as one line; of other programs, with its type."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  said = lines[0] if lines else ""
  if not isinstance(error, BadInput | Stopped | NoData):
    said = f"{type(error).__name__}{said and ': '}{said}"
  return said[:_LONGEST]


def _nowhere(failed: dict[str, Exception]) -> str:
  """The line for a run of which no task has data, by the first of them."""
  first, *others = failed
  more = f" (nor are those of {len(others)} more tasks)" if others else ""
  return f"{first}: {failed[first]}{more}"


@dataclasses.dataclass
class _Shown:
  """The progress of a run: tasks that are done, texts of the one at work."""

  progress: Progress
  console: Console
  done: int = 0
  name: str = ""
  texts: int = 0

  def at(self, done: int, name: str) -> None:
    """A task begins, or all are done."""
    self.done, self.name, self.texts = done, name, 0
    self.progress.show(done, name)

  def on_texts(self, count: int) -> None:
    """Some of its texts were encoded."""
    self.texts += count
    self.progress.show(self.done, f"{self.name}, {self.texts:,} texts")

  def say(self, line: str) -> None:
    """A task has ended."""
    self.console.print(line, highlight=False, markup=False, soft_wrap=True)


class _Run:
  """The tasks of a run: the rows of some, and why others have none."""

  def __init__(
    self,
    mteb: Any,
    encoder: Encoder,
    results: pathlib.Path | None,
    shown: _Shown,
  ):
    if not isinstance(encoder, mteb.EncoderProtocol):
      raise BadInput(
        f"mteb {mteb.__version__} asks more of a model than this version of"
        f" embeddinggemma answers; {package.INSTALL}"
      )
    self._mteb, self._encoder, self._shown = mteb, encoder, shown
    self._cache = mteb.ResultCache(results)
    self._online = True
    self.rows: dict[str, scores.Row] = {}
    self.failed: dict[str, Exception] = {}
    self.cut = truncation.Counts()

  @property
  def named(self) -> dict[str, str]:
    """Under which names mteb keeps the results, and where."""
    meta = self._encoder.mteb_model_meta
    example = self._cache.get_task_result_path("task", meta)
    return {
      "version": self._mteb.__version__,
      "name": meta.name,
      "revision": meta.revision,
      "results": str(example.parent),
    }

  def score(self, tasks: Sequence[Any]) -> None:
    """Score the tasks in their order."""
    lacking = [task for task in tasks if not self._is_whole(task)]
    with hub.reached(lacking) as self._online:
      for number, task in enumerate(tasks):
        self._shown.at(number, task.metadata.name)
        self._try(task)
      self._shown.at(len(tasks), "")

  def _try(self, task: Any) -> None:
    """Score a task: a row, or an entry of `failed`."""
    name = task.metadata.name
    try:
      with _collected() as said, truncation.counted() as counts:
        row = self._row(task)
    except Exception as error:  # of mteb, its data, or any library below it
      full = isinstance(error, OSError) and error.errno in _FULL
      if full or isinstance(error, NotOurs):
        raise
      self.failed[name] = error
      if not isinstance(error, NoData):  # which would be said of each
        self._shown.say(f"{name}: failed: {reason(error)}")
      return
    self.cut.add(counts)
    row["truncated"] = None if row["cached"] else counts.as_json()
    row["notes"] += said
    self.rows[name] = row
    self._shown.say(
      f"{name}: {row['metric']} {scores.figure(row['main_score'])}"
    )

  def _row(self, task: Any) -> scores.Row:
    """The row of a task, scored now or read from mteb's file."""
    encoder = self._encoder
    encoder.used.clear()
    cached = self._is_whole(task)
    result = self._result(task)
    prompts = dict(encoder.used) or prompts_of(encoder, task)
    bare = [side for side, prompt in prompts.items() if prompt is None]
    notes = [f"the model has no prompt for this {side}" for side in bare]
    if result.mteb_version != self._mteb.__version__:
      notes.append(f"scored earlier, by mteb {result.mteb_version}")
    row = scores.row(task, result)
    if row["main_score"] is None:
      raise Stopped(f"{row['metric']} is not a number; look at the vectors")
    return {**row, "prompts": prompts, "cached": cached, "notes": notes}

  def _result(self, task: Any) -> Any:
    """mteb's TaskResult of a task; its data are in memory meanwhile."""
    _require_text(task)
    whole, before = self._is_whole(task), self._encoder.texts
    for part in task.tasks if task.is_aggregate and not whole else ():
      self._result(part)
    if self._known(task) is None:
      self._path(task).unlink(missing_ok=True)
    with contextlib.ExitStack() as after:
      if not (whole or task.is_aggregate or task.data_loaded):
        after.callback(_unload, task, task.__dict__.get("metadata"))
        self._load(task)
      outcome = self._mteb.evaluate(
        self._encoder,
        task,
        cache=self._cache,
        encode_kwargs=dict(_OPTIONS),
        overwrite_strategy="only-missing",
        co2_tracker=False,
        show_progress_bar=False,
      )
    scored = whole or task.is_aggregate or self._encoder.texts > before
    self._require_ours(task, outcome, scored)
    return outcome.task_results[0]

  def _load(self, task: Any) -> None:
    """Load the data of a task; NoData, or whatever hinders it."""
    if not hub.is_source(task):
      task.load_data()
      return
    path = task.metadata.dataset["path"]
    if not self._online and hub.revisions(path) - {task.metadata.revision}:
      raise NoData(
        f"no network, and the cache has its data ({path}) as of another"
        " revision, which it would take; connect once, or delete that one"
      )
    try:
      task.load_data()
    except Exception as error:
      if not self._online:
        raise _not_here(path) from error
      raise BadInput(
        f"its data ({path}) cannot be loaded: {reason(error)}"
      ) from error
    if not self._online and _lacks_parts(task):
      raise _not_here(path)

  def _path(self, task: Any) -> pathlib.Path:
    """mteb's file of the results of a task."""
    meta = self._encoder.mteb_model_meta
    return self._cache.get_task_result_path(task.metadata.name, meta)

  def _known(self, task: Any) -> Any:
    """mteb's result of the same data, perhaps not of all subsets; else None.

    mteb itself would go on from results of other data, and fail on a file that
    was cut short when a run was killed.
    """
    name = task.metadata.name
    try:
      found = self._cache.load_task_result(name, self._encoder.mteb_model_meta)
    except Exception:  # of its parser, for a damaged file
      return None
    same = found and found.dataset_revision == task.metadata.revision
    return found if same else None

  def _is_whole(self, task: Any) -> bool:
    """Whether mteb has all results of a task already."""
    found = self._known(task)
    return found is not None and not found.get_missing_evaluations(task)

  def _require_ours(self, task: Any, outcome: Any, scored: bool) -> None:
    """Raise NotOurs unless the result is of this model's vectors.

    mteb drops a model that it does not recognise, and scores an empty one.
    """
    meta = self._encoder.mteb_model_meta
    name = task.metadata.name
    if outcome.exceptions:
      raise BadInput(outcome.exceptions[0].exception)
    found = outcome.model_name, outcome.model_revision
    if found != (meta.name, meta.revision) or not scored:
      raise NotOurs(
        f"{name}: mteb scored {found[0]!r} ({found[1]}) instead of this model,"
        f" {meta.name!r} ({meta.revision})"
      )


def _not_here(path: str) -> NoData:
  return NoData(
    f"no network, and its data ({path}) are not on this machine; connect once,"
    " or set HF_HOME to the folder of a cache that has them"
  )


def _lacks_parts(task: Any) -> bool:
  """Whether data from a cache lack what mteb takes for optional.

  It would score another task then: all documents ranked instead of some, or
  questions without their instructions.
  """
  kind = task.metadata.type
  splits = [
    split
    for subset in (task.dataset or {}).values()
    for split in (subset.values() if hasattr(subset, "values") else ())
    if isinstance(split, dict) and "corpus" in split
  ]
  return any(
    ("Reranking" in kind and not split["top_ranked"])
    or (
      "Instruction" in kind and "instruction" not in split["queries"].features
    )
    for split in splits
  )


def _require_text(task: Any) -> None:
  others = sorted(set(task.metadata.modalities) - {"text"})
  if others:
    raise BadInput(f"it is about {', '.join(others)}; the model reads text")


def _unload(task: Any, metadata: Any) -> None:
  """Let go of a task's data, and keep the metadata that it had before, if any.

  mteb drops those of the object with the data, as if they came from a filter.
  """
  if task.data_loaded:
    task.unload_data()
  if metadata is not None:
    task.metadata = metadata


@contextlib.contextmanager
def _collected() -> Iterator[list[str]]:
  """The lines of what other packages warn of; our own are passed on."""
  lines: list[str] = []
  caught: list[warnings.WarningMessage] = []
  try:
    with warnings.catch_warnings(record=True) as caught:
      yield lines
  finally:
    for one in caught:
      line = str(one.message).strip().split("\n")[0][:_LONGEST]
      if issubclass(one.category, Notice):
        place = one.filename, one.lineno
        warnings.warn_explicit(one.message, one.category, *place)
      elif not issubclass(one.category, _OF_CODE) and line not in lines:
        lines.append(line)
