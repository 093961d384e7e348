"""What each part is worth, and when that is nothing."""

import pytest

from embeddinggemma.report import ablations


def by_seed(*means: float) -> list[dict[str, float]]:
  return [{"code": mean, "mean": mean} for mean in means]


@pytest.mark.parametrize(
  ("ours", "theirs", "noise"),
  [
    ((0.60, 0.61, 0.60), (0.50, 0.51, 0.51), False),
    ((0.51, 0.52, 0.53), (0.50, 0.51, 0.52), True),  # as seeds differ
    ((0.60, 0.40, 0.60), (0.50, 0.50, 0.50), True),  # two signs
    ((0.60,), (0.50,), True),  # one seed tells nothing
  ],
)
def test_noise_is_what_seeds_differ_by(ours, theirs, noise):
  assert ablations.difference(ours, theirs)["noise"] is noise


def test_differences_are_of_a_seed():
  """The median of differences, not the difference of medians."""
  found = ablations.difference((0.1, 0.5, 0.9), (0.5, 0.6, 0.1))
  assert found["median"] == pytest.approx(-0.1)
  assert found["least"] == pytest.approx(-0.4)
  assert found["most"] == pytest.approx(0.8)


def test_the_soup_is_compared_with_the_mean_of_its_ingredients():
  models = {
    "prefinetune": by_seed(0.2, 0.2),
    "finetune 1": by_seed(0.3, 0.3),
    "finetune 2": by_seed(0.5, 0.5),
    "finetune 1 without hard negatives": by_seed(0.9, 0.9),
    "soup": by_seed(0.6, 0.6),
  }
  found = dict(ablations.compared({"test": models}))
  what = "soup, against the mean of its ingredients"
  assert found[what][0]["median"] == pytest.approx(0.2)
  assert found["soup, against pre-finetuning"][0]["median"] == pytest.approx(
    0.4
  )
  assert "hard negatives" not in found  # no soup without them


def test_the_section_says_it_all():
  models = {"soup": by_seed(0.6, 0.61), "prefinetune": by_seed(0.5, 0.505)}
  html = "".join(
    ablations.section({"seeds": [0, 1], "scores": {"<test>": models}})
  )
  assert "+0.102" in html and "+0.100 to +0.105" in html
  assert "&lt;test&gt;" in html
  assert "within noise" not in html.split("p class")[0]
  assert not list(ablations.section({}))
