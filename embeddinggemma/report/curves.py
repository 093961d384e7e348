"""Report section with training curves, stage by stage."""

from collections.abc import Iterable, Mapping

from embeddinggemma.losses.objectives import WITHOUT_NEGATIVES
from embeddinggemma.losses.terms import TERMS
from embeddinggemma.report import learning, page, plots, series
from embeddinggemma.report.series import MOST_TASKS, Rows

SMOOTHED = 30  # points from which a line gets a running mean beside it
_SUM = "The running mean of each, without its weight in the sum."
_PREFIXES = (
  "The running mean of each, on that many first numbers of a vector; their sum"
  " is the term."
)
LAST = (("grad_norm", "Gradient norm"), ("tokens_per_s", "Tokens per second"))

# Stage -> what its language model predicts.
PREDICTED = {"pretrain": "next tokens", "adapt": "target tokens"}

PAPER = {
  "pretrain": (
    "The paper starts from a 300M Gemma 3 decoder that is not public."
  ),
  "adapt": (
    "T5Gemma 2 adapts with UL2, five denoisers mixed at 1:1:1:1:4, and "
    "averages the last five checkpoints."
  ),
  "prefinetune": (
    "The paper pre-finetunes without hard negatives on an even mixture of "
    "question answering, sentence similarity, code retrieval and web search."
  ),
  "grad_norm": (
    "The paper pre-finetunes with a larger batch “to stabilize the "
    "gradient”; it prints neither norms nor batch sizes."
  ),
  "tokens_per_s": (
    "The paper trained on about 2.1 trillion tokens in all: 314 billion in "
    "pre-finetuning and 20 billion in finetuning."
  ),
}


def section(curves: Mapping[str, Rows]) -> Iterable[str]:
  """The section as parts of HTML: each stage's loss, the last stage's speed.

  Args:
    curves: {stage: rows of its metrics.jsonl}.
  """
  parts = [
    part for stage, rows in curves.items() for part in _loss(stage, rows)
  ]
  for stage, rows in list(curves.items())[-1:]:
    parts += _last(stage, rows)
  if parts:
    yield "<h2>Training</h2>"
    yield from parts


def _loss(stage: str, rows: Rows) -> Iterable[str]:
  by_task = series.by_task(rows, "loss")
  if not by_task:
    return
  shown = by_task
  if len(by_task) == 1 or len(by_task) > MOST_TASKS:
    points = series.points(rows, "loss")
    shown = {"loss": points}
    if len(by_task) == 1 and len(points) >= SMOOTHED:
      shown["running mean"] = series.running_mean(points)
  if len(by_task) > 1:
    shown = series.smoothed(shown)
  yield f"<h3>Loss: {page.escape(stage)}</h3>"
  yield plots.lines(f"loss {stage}", series.thinned(shown), "step", "loss")
  if len(by_task) > 1:
    lines = "One line a task"
    if len(by_task) > MOST_TASKS:
      lines = f"{len(by_task)} tasks in one line"
    yield page.note(
      f"{lines}: the running mean over a tenth of its batches, at least three,"
      " for batches of different tasks differ in loss."
    )
  yield from _parts(stage, rows)
  yield from _without_negatives(rows)
  if stage in PREDICTED:
    yield from _predicted(stage, rows)
  else:
    yield from learning.section(stage, rows)
  if stage in PAPER:
    yield page.note(PAPER[stage])


def _parts(stage: str, rows: Rows) -> Iterable[str]:
  """The terms of the loss, where there are several, and the parts of each."""
  there = {key: None for row in rows for key in row}
  known = [name for name in TERMS if name in there]
  groups = {"term": known if len(known) > 1 else []}
  for name in known:
    groups[name] = [key for key in there if key.startswith(f"{name}/")]
  for group, names in groups.items():
    found = {name.split("/")[-1]: series.points(rows, name) for name in names}
    shown = series.smoothed(found)
    if shown:
      title = "by term" if group == "term" else f"{group} by dimension"
      yield f"<h3>Loss {page.escape(title)}: {page.escape(stage)}</h3>"
      drawn = series.thinned(shown)
      yield plots.lines(f"{title} {stage}", drawn, "step", "loss")
      yield page.note(_SUM if group == "term" else _PREFIXES)


def _without_negatives(rows: Rows) -> Iterable[str]:
  """How many pairs had nothing to be compared with, if any had not."""
  points = series.points(rows, WITHOUT_NEGATIVES)
  share = sum(y for _, y in points) / max(len(points), 1)
  if share:
    empty = sum(y == 1 for _, y in points)
    yield page.note(
      f"{share:.1%} of the pairs had no negative in their batch, and taught"
      f" nothing by comparison; in {empty} of {len(points)} batches no pair had"
      " any. Loss and accuracy are means over the others."
    )


def _predicted(stage: str, rows: Rows) -> Iterable[str]:
  points = series.points(rows, "accuracy")
  if points:
    tail = [y for _, y in points[-max(1, len(points) // 10) :]]
    yield (
      f"<p>Over the last tenth of the steps {sum(tail) / len(tail):.1%} of the"
      f" {PREDICTED[stage]} were predicted right.</p>"
    )


def _last(stage: str, rows: Rows) -> Iterable[str]:
  for key, title in LAST:
    points = series.points(rows, key)
    if points:
      yield f"<h3>{title}: {page.escape(stage)}</h3>"
      drawn = series.thinned({title: points})
      yield plots.lines(key, drawn, "step", title.lower())
      yield page.note(PAPER[key])
