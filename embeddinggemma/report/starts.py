"""Report section comparing initialisations of the encoder."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from embeddinggemma.evaluation.suite import SIDES
from embeddinggemma.report import page, plots
from embeddinggemma.report.mixtures import NOISE

# From the least that is known to the most; the last is the paper's choice.
STARTS = ("random", "lsa", "decoder-only", "encoder-decoder")

PAPER = (
  "In the paper, where training starts from decides most: the mean over MTEB "
  "multilingual tasks is 60.4 from the adapted encoder-decoder, 59.7 from the "
  "decoder alone and 45.2 from random weights."
)
MEANING = (
  "lsa: the token table by latent semantic analysis of the training texts; "
  "decoder-only: the decoder after pretraining; encoder-decoder: the encoder "
  "of the encoder-decoder adapted from it."
)


def section(found: Mapping[str, Any]) -> Iterable[str]:
  """The section as parts of HTML.

  Args:
    found: {"metric", "task", "steps", "of", "chosen", "rows": [{"init", "seed",
      "validation", "test"}]}, a row for each run; a missing score is None.
  """
  rows = found.get("rows") or []
  if not rows:
    return
  scores = {side: _by_init(rows, side) for side in SIDES}
  seeds = len({row["seed"] for row in rows})
  yield "<h2>Where training starts from</h2>"
  yield (
    f"<p>{page.escape(found['metric'])} on {page.escape(found['task'])} after"
    f" {found['steps']} of {found['of']} steps of contrastive training, the"
    f" same for all. {_counted(seeds)}</p>"
  )
  yield _table(scores, str(found.get("chosen") or ""), seeds)
  verdict = _verdict(scores["validation"])
  if verdict:
    yield f"<p>{page.escape(verdict)}</p>"
  if any(values for by in scores.values() for values in by.values()):
    yield plots.dots("starts", scores, str(found["metric"]))
  yield page.note(MEANING)
  yield page.note(PAPER)


def _counted(seeds: int) -> str:
  if seeds == 1:
    return "One seed each."
  return (
    f"Medians of {seeds} seeds, with the least and the most; in the drawing a"
    " dot is a seed and a bar the median."
  )


def _by_init(
  rows: Sequence[Mapping[str, Any]], side: str
) -> dict[str, list[float]]:
  """Known scores of each init, in the order of STARTS."""
  names = dict.fromkeys([*STARTS, *(row["init"] for row in rows)])
  present = {row["init"] for row in rows}
  return {
    name: [
      row[side]
      for row in rows
      if row["init"] == name and page.is_number(row.get(side))
    ]
    for name in names
    if name in present
  }


def _table(
  scores: Mapping[str, Mapping[str, Sequence[float]]], chosen: str, seeds: int
) -> str:
  medians, cells = [], []
  for name in scores[SIDES[0]]:
    values = [scores[side][name] for side in SIDES]
    middle = [statistics.median(v) if v else None for v in values]
    medians.append([name, *middle])
    first = page.Noted(name, "chosen on validation" if name == chosen else "")
    small = [_spread(v) if seeds > 1 else "" for v in values]
    cells.append([first, *map(page.Noted, map(page.figure, middle), small)])
  return page.table(("start", *SIDES), cells, page.best(medians))


def _spread(values: Sequence[float]) -> str:
  if len(values) < 2:
    return "one seed" if values else ""
  return f"{page.figure(min(values))} to {page.figure(max(values))}"


def _verdict(scores: Mapping[str, Sequence[float]]) -> str:
  """Whether the best initialisation leads the second by more than noise."""
  known = {name: values for name, values in scores.items() if values}
  medians = {name: statistics.median(values) for name, values in known.items()}
  if len(medians) < 2:
    return ""
  first, second = sorted(medians, key=lambda name: -medians[name])[:2]
  # Compared as they are shown, so that text and figures agree.
  lead = round(medians[first] - medians[second], 3)
  leads = f"{first} leads {second} by {lead:.3f} on validation"
  if all(len(values) == 1 for values in known.values()):
    within = "Within noise: " if lead < NOISE else ""
    return f"{within}{leads}; one seed cannot tell differences under {NOISE}."
  noise = round(max(max(v) - min(v) for v in known.values()), 3)
  if lead <= noise:
    return (
      f"Within noise: {leads}, and the same start differs by up to {noise:.3f}"
      " between seeds."
    )
  return f"{leads}, more than any start differs between seeds ({noise:.3f})."
