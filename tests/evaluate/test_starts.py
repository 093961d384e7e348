"""What training starts from is compared honestly: medians, ranges, noise."""

import re

import pytest

from embeddinggemma.report import starts

INITIALISATION = {
  "metric": "nDCG@10",
  "task": "code",
  "steps": 20,
  "of": 80,
  "chosen": "lsa",
  "rows": [
    {"init": init, "seed": seed, "validation": score, "test": score - 0.0625}
    for init, scores in {
      "encoder-decoder": (0.5, 0.53125, 0.5625),
      "lsa": (0.46875, 0.4375, 0.453125),
      "random": (0.125, 0.25, 0.1875),
    }.items()
    for seed, score in enumerate(scores)
  ],
}


def _text(part):
  return re.sub(r"<svg.*?</svg>", "", "".join(part), flags=re.DOTALL)


def _initialisation(**scores):
  """A summary's part from {init: (validation of each seed, ...)}."""
  rows = [
    {"init": name, "seed": seed, "validation": value, "test": value}
    for name, values in scores.items()
    for seed, value in enumerate(values)
  ]
  return {**INITIALISATION, "chosen": None, "rows": rows}


def _text(part):
  return re.sub(r"<svg.*?</svg>", "", "".join(part), flags=re.DOTALL)


def test_starts_are_medians_with_ranges_in_order():
  text = _text(starts.section(INITIALISATION))
  assert "nDCG@10 on code after 20 of 80 steps" in text
  assert "the same for all. Medians of 3 seeds" in text
  rows = re.findall(r"<tr><td>.*?</tr>", text)
  assert [re.split("<|>", row)[4] for row in rows] == [
    "random",
    "lsa",
    "encoder-decoder",
  ]
  assert rows[1] == (
    "<tr><td>lsa<small>chosen on validation</small></td>"
    "<td>0.453<small>0.438 to 0.469</small></td>"
    "<td>0.391<small>0.375 to 0.406</small></td></tr>"
  )
  assert rows[2].count("class=best") == text.count("class=best") == 2
  # .078 ahead, and a range of .125
  assert (
    "Within noise: encoder-decoder leads lsa by 0.078 on validation, and the"
    " same start differs by up to 0.125 between seeds."
  ) in text


@pytest.mark.parametrize(
  ("scores", "verdict"),
  [
    (
      {"a": (0.5, 0.51), "b": (0.4, 0.405)},
      "<p>a leads b by 0.102 on validation, more than any start differs",
    ),
    ({"a": (0.4, 0.4), "b": (0.5, 0.4)}, "<p>Within noise: b leads a by 0.050"),
    # A lead as large as the range is none; of an even count, the middle's mean.
    ({"a": (0.4, 0.5), "b": (0.5, 0.6)}, "<p>Within noise: b leads a by 0.100"),
    (
      {"a": (0.5,), "b": (0.485,)},
      "<p>Within noise: a leads b by 0.015 on validation; one seed cannot tell"
      " differences under 0.02.",
    ),
    (
      {"a": (0.5,), "b": (0.48,), "c": (0.1,)},
      "<p>a leads b by 0.020 on validation; one seed cannot tell",
    ),
    # Known scores decide, whatever is missing.
    (
      {"a": (0.5, None), "b": (None, None), "c": (0.1, 0.2)},
      "<p>a leads c by 0.350 on validation, more than any start differs",
    ),
  ],
)
def test_a_lead_is_compared_with_the_seeds(scores, verdict):
  assert verdict in _text(starts.section(_initialisation(**scores)))


def test_missing_scores_leave_dashes_and_no_verdict():
  part = _initialisation(random=(None, None), lsa=(0.5, None))
  text = _text(starts.section(part))
  assert "<td>random</td><td>-</td><td>-</td>" in text
  assert "<td>0.500<small>one seed</small></td>" in text
  assert "leads" not in text
  assert "<svg" not in "".join(starts.section(_initialisation(lsa=(None,))))
  assert list(starts.section({})) == []
