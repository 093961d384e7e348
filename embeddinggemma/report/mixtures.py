"""Report sections on mixtures: the trials, and the soup and its ingredients."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from embeddinggemma.evaluation.suite import SIDES
from embeddinggemma.report import page, plots

SOUP = "soup"
NOISE = 0.02  # differences below it mean nothing for single seeds

PAPER_SEARCH = (
  "The paper seeds its search with a grid search's mixture and 10 Dirichlet "
  "samples, and says that the mixtures found by Bayesian optimisation beat the "
  "seeds and specialise in different domains; it prints no scores of them."
)
PAPER_SOUP = (
  "In the paper, the soup of three finetunings has 61.2 on MTEB multilingual, "
  "its ingredients 60.4, 60.4 and 60.1; it is at least as good as each of them "
  "in every task type."
)


def section(found: Mapping[str, Any]) -> Iterable[str]:
  """The section on the trials of the mixture search, as parts of HTML.

  Args:
    found: {"trials": [{"number", "source", "weights", "scores", "score",
      "infeasible"}], "picked": [{"reason"}], "suggestion_s"}.
  """
  trials = found.get("trials") or []
  if not trials:
    return
  yield "<h2>Mixtures of tasks</h2>"
  yield (
    "<p>A trial finetunes briefly with these shares of the batches, and is"
    " scored on validation: the mean over task types.</p>"
  )
  tasks = list(trials[0]["weights"])
  types = sorted({name for trial in trials for name in trial["scores"]})
  rows = [
    [
      f"{trial['number']} ({trial['source']})",
      *(f"{100 * trial['weights'][task]:.0f}" for task in tasks),
      *(page.figure(trial["scores"].get(name)) for name in types),
      page.figure(trial["score"]) if trial["scores"] else trial["infeasible"],
    ]
    for trial in trials
  ]
  scores = [[None, trial["score"]] for trial in trials]
  last = 1 + len(tasks) + len(types)
  marked = {(row, last) for row, _ in page.best(scores)}
  header = ("trial", *(f"% {task}" for task in tasks), *types, "mean")
  yield page.table(header, rows, marked)
  for item in found.get("picked") or []:
    yield f"<p>Picked {page.escape(item['reason'])}.</p>"
  yield from _best_so_far(trials)
  if found.get("suggestion_s"):
    yield (
      f"<p>Vizier took {page.duration(found['suggestion_s'])} for a proposal,"
      " the median.</p>"
    )
  yield page.note(PAPER_SEARCH)


def _best_so_far(trials: Sequence[Mapping[str, Any]]) -> Iterable[str]:
  scored = [t for t in trials if page.is_number(t["score"])]
  if len(scored) < 2:
    return
  numbers = [trial["number"] for trial in scored]
  scores = [trial["score"] for trial in scored]
  best = list(itertools.accumulate(scores, max))
  series = {"trial": (numbers, scores), "best so far": (numbers, best)}
  yield plots.lines("mixtures", series, "trial", "validation, mean over types")


def soup_section(found: Mapping[str, Any]) -> Iterable[str]:
  """The section on the soup, as parts of HTML.

  Args:
    found: {side: {model: {task type or "mean": score}}}. The row of the soup is
      called SOUP, the names of its ingredients begin with "finetune".
  """
  if not any(found.get(side) for side in SIDES):
    return
  yield "<h2>The soup and its ingredients</h2>"
  for side in SIDES:
    scores = found.get(side) or {}
    if not scores:
      continue
    names = list(next(iter(scores.values())))
    rows = [[model, *by.values()] for model, by in scores.items()]
    yield f"<h3>{side}</h3>"
    shown = [[row[0], *map(page.figure, row[1:])] for row in rows]
    yield page.table(("model", *names), shown, page.best(rows))
    yield f"<p>{page.escape(verdict(scores))}</p>"
  yield page.note(PAPER_SOUP)


def verdict(scores: Mapping[str, Mapping[str, float]]) -> str:
  """A sentence comparing the soup with its ingredients and pre-finetuning."""
  means = {model: by["mean"] for model, by in scores.items()}
  parts = [x for name, x in means.items() if name.startswith("finetune")]
  others = {"pre-finetuning": means.get("prefinetune", means[SOUP])}
  if parts:
    others["the mean of its ingredients"] = sum(parts) / len(parts)
  said = []
  for name, value in others.items():
    # Compared as they are shown, so that text and figures agree.
    lead = round(means[SOUP], 3) - round(value, 3)
    within = ", within noise" if abs(lead) < NOISE else ""
    said.append(f"{lead:+.3f} against {name}{within}")
  return f"The soup: {'; '.join(said)}. One seed cannot tell less than {NOISE}."
