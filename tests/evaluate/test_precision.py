"""The report on weights of fewer bits, and on what each stage gave."""

from embeddinggemma.report import by_stage, precision


def row(weights: str, name: str, mean: float, size: int = 10**6) -> dict:
  scores = {"code <own>": mean + 0.1, "mean": mean}
  return {
    "weights": weights,
    "precision": name,
    "bytes": size,
    "scores": scores,
  }


ROWS = [
  row(precision.PLAIN, "float", 0.5, 8 * 10**6),
  row(precision.ROUNDED, "int4", 0.4),
  row(precision.TRAINED, "int4", 0.475),
  row(precision.ROUNDED, "int8", 0.5),
  row(precision.TRAINED, "int8", 0.5),
]


def test_the_page_says_what_training_gives_back() -> None:
  html = "".join(precision.section({"test": ROWS}))
  assert "rounding loses 0.1000, training for it gives back 75% of that" in html
  said = (
    "int8: rounding loses 0.0000, within noise; trained for it, the model is"
  )
  assert f"{said} +0.0000 from float" in html
  assert "<td>8.0</td>" in html and "<td>1.0</td>" in html
  assert html.count("class=best") == 2, "of each score, and not of the bytes"
  assert "code &lt;own&gt;" in html and "<svg" in html
  assert "".join(precision.section({})) == ""


def test_stages_are_in_their_order_and_trained_precisions_last() -> None:
  souped = {"test": {"untrained": {"mean": 0.1}, "soup": {"mean": 0.5}}}
  html = "".join(by_stage.section(souped, {"test": ROWS}))
  places = [html.index(f">{name}<") for name in ("untrained", "soup")]
  places += [html.index(f">qat {name}<") for name in ("int4", "int8")]
  assert places == sorted(places)
  assert "".join(by_stage.section({}, {})) == ""
