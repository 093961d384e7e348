"""The report's mixtures and soup say what was measured."""

import pytest

from embeddinggemma.report import mixtures


def trial(number, code, score, infeasible=""):
  return {
    "number": number,
    "source": "vizier",
    "weights": {"code": code, "qa": 1 - code},
    "scores": {} if score is None else {"search": score},
    "score": score,
    "infeasible": infeasible,
  }


def test_trials_are_rows_and_the_best_stands_out():
  found = {
    "trials": [
      trial(1, 0.5, 0.41),
      trial(2, 0.25, 0.47),
      trial(3, 0.9, None, "step 3: loss is nan"),
    ],
    "picked": [{"reason": "trial 2 <vizier>: the best score"}],
    "suggestion_s": 1.5,
  }
  html = "".join(mixtures.section(found))
  assert "<th>% code</th><th>% qa</th>" in html
  assert "<td>25</td><td>75</td>" in html
  assert "<td class=best>0.470" in html
  assert "step 3: loss is nan" in html
  assert "trial 2 &lt;vizier&gt;" in html
  assert "1.5 s for a proposal" in html
  assert "best so far" in html


def test_nothing_tried_is_nothing_said():
  assert not "".join(mixtures.section({}))
  assert not "".join(mixtures.soup_section({"validation": {}}))


@pytest.mark.parametrize(
  ("soup", "said"),
  [
    (0.510, "+0.010 against the mean of its ingredients, within noise"),
    (0.560, "+0.060 against the mean of its ingredients."),
    (0.440, "-0.060 against the mean of its ingredients."),
  ],
)
def test_the_soup_is_judged_against_noise(soup, said):
  scores = {
    "prefinetune": {"search": 0.5, "mean": 0.5},
    "finetune 1": {"search": 0.49, "mean": 0.49},
    "finetune 2": {"search": 0.51, "mean": 0.51},
    "soup": {"search": soup, "mean": soup},
  }
  assert said in mixtures.verdict(scores)
  html = "".join(mixtures.soup_section({"validation": scores, "test": {}}))
  assert "validation" in html and "finetune 2" in html and "test" not in html
