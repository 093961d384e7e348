"""Report section with the overview: quality after each stage of the recipe."""

from collections.abc import Iterable, Mapping, Sequence

from embeddinggemma.report import page, plots, precision

PAPER = (
  "The paper prints no figure after pre-finetuning. On MTEB multilingual its"
  " finetunings reach 60.1 to 60.4, their soup 61.15, and after training for"
  " int4 60.62 are left."
)


def section(
  scores: Mapping[str, Mapping[str, Mapping[str, float]]],
  quantised: Mapping[str, Sequence[precision.Row]],
) -> Iterable[str]:
  """The section as parts of HTML.

  Args:
    scores: {side: {model: {"mean": score}}}, models in the order of stages.
    quantised: {side: rows of `precision`}, of which the trained ones count as
      stages too.
  """
  series = {
    side: {model: [by["mean"]] for model, by in models.items()}
    | {
      f"qat {row['precision']}": [row["scores"]["mean"]]
      for row in quantised.get(side, ())
      if row["weights"] == precision.TRAINED
    }
    for side, models in scores.items()
  }
  if not any(series.values()):
    return
  yield "<h2>Quality after each stage</h2>"
  yield plots.dots("stages", series, "mean over task types")
  yield page.note(PAPER)
