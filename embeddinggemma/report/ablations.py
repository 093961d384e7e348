"""Report section on ablations: scores with and without a part of the recipe."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from embeddinggemma.report import mixtures, page

# Name of a comparison -> (models with the part, models without it).
COMPARED = {
  "soup, against the mean of its ingredients": ("soup", "finetune"),
  "soup, against pre-finetuning": ("soup", "prefinetune"),
  "distillation, in pre-finetuning": (
    "prefinetune",
    "prefinetune without distillation",
  ),
  "distillation, in all": ("soup", "soup without distillation"),
  "hard negatives": ("soup", "soup without hard negatives"),
}
MEAN = "mean"

BySeed = Sequence[Mapping[str, float]]  # for each seed {task type: score}


def section(found: Mapping[str, Any]) -> Iterable[str]:
  """The section as parts of HTML.

  Args:
    found: {"seeds": [...], "scores": {side: {model: [{task type or "mean":
      score} for each seed]}}}.
  """
  scores = found.get("scores") or {}
  if not scores:
    return
  count = len(found["seeds"])
  yield "<h2>What each part is worth</h2>"
  yield (
    f"<p>Mean over task types with, less without: the median of {count} seeds,"
    " the least and the most. Seeds are compared pair by pair.</p>"
  )
  rows = list(compared(scores))
  yield page.table(
    ("", *scores), [[name, *map(_cell, of)] for name, of in rows]
  )
  yield page.note(
    "Within noise: the seeds disagree on the sign, or the median is less than"
    " one of the two differs between seeds."
  )
  for side, models in scores.items():
    types = list(next(iter(models.values()))[0])
    medians = [
      [name, *(statistics.median(s[t] for s in by_seed) for t in types)]
      for name, by_seed in models.items()
    ]
    yield f"<h3>{page.escape(side)}: medians</h3>"
    shown = [[row[0], *map(page.figure, row[1:])] for row in medians]
    yield page.table(("model", *types), shown, page.best(medians))
  yield page.note(mixtures.PAPER_SOUP)


def compared(
  scores: Mapping[str, Mapping[str, BySeed]],
) -> Iterable[tuple[str, list[dict[str, Any]]]]:
  """Yield (comparison, result of `difference` for each side of the data).

  Comparisons whose models are missing are left out.
  """
  for what, (one, other) in COMPARED.items():
    sides = [
      (_means(models, one), _means(models, other)) for models in scores.values()
    ]
    if all(ours and theirs for ours, theirs in sides):
      yield what, [difference(*pair) for pair in sides]


def difference(
  ours: Sequence[float], theirs: Sequence[float]
) -> dict[str, Any]:
  """Statistics of the differences between two scores, pair by pair of seeds.

  Returns {"median", "least", "most", "noise"}, where "noise" is whether the
  differences are too small or too few to mean anything.
  """
  each = [a - b for a, b in zip(ours, theirs, strict=True)]
  median = statistics.median(each)
  spread = max(max(x) - min(x) for x in (ours, theirs))
  one_sign = min(each) > 0 or max(each) < 0
  return {
    "median": median,
    "least": min(each),
    "most": max(each),
    "noise": not one_sign or abs(median) < spread or len(each) < 2,
  }


def _means(models: Mapping[str, BySeed], name: str) -> list[float]:
  """A model's mean over task types for each seed.

  For "finetune" it is the mean over all finetunings.
  """
  if name == "finetune":
    parts = [
      by for n, by in models.items() if n.removeprefix("finetune ").isdigit()
    ]
  else:
    parts = [models[name]] if name in models else []
  return [statistics.fmean(s[MEAN] for s in seed) for seed in zip(*parts)]


def _cell(found: Mapping[str, Any]) -> page.Noted:
  within = ", within noise" if found["noise"] else ""
  return page.Noted(
    f"{found['median']:+.3f}{within}",
    f"{found['least']:+.3f} to {found['most']:+.3f}",
  )
