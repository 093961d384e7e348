"""Which terms a config asks for, and what it may not ask for."""

import dataclasses
import pathlib

import jax
import pytest

from embeddinggemma import sharding
from embeddinggemma.config import LossConfig, sibling
from embeddinggemma.losses import terms
from embeddinggemma.training import stages, workdir
from embeddinggemma.training.stages import pairs
from embeddinggemma.types import BadInput

LOSS = LossConfig(0.05, True, 1.0, ())
LATER = ("contrastive", "distill_dims", "false_negatives_by", "score_matching")


@pytest.fixture(scope="module")
def config():
  """The config of a small training."""
  folder = pathlib.Path(__file__).parents[2] / "configs" / "any"
  tree = sibling(str(folder), "prefinetune").get_config("tiny").to_dict()
  return stages.build(tree)


def other(config, **loss):
  return dataclasses.replace(
    config, loss=dataclasses.replace(config.loss, **loss)
  )


def test_every_weight_is_one_of_a_term(config):
  mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
  changed = other(config, contrastive=0.5, distill=2.0, score_matching=3.0)
  found = {name: x for name, (x, _) in pairs.terms(changed, mesh).items()}
  assert found == {
    "contrastive": 0.5,
    "spread_out": config.loss.spread_out,
    "distill": 2.0,
    "score_matching": 3.0,
  }


@pytest.mark.parametrize(
  ("loss", "message"),
  [
    (
      {"contrastive": 0.0},
      r"nothing teaches: loss\.contrastive, loss\.distill",
    ),
    ({"contrastive": 0.0, "spread_out": 0.0}, "nothing teaches"),
    ({"contrastive": -1.0}, r"loss\.contrastive=-1.0 must be at least 0"),
    ({"score_matching": -1.0}, r"loss\.score_matching=-1.0 must be at least"),
    ({"score_temperature": 0.0}, "score_temperature=0.0 must be above 0"),
    ({"false_negatives_by": "teacher"}, "set loss.false_negative_margin=0.1"),
    (
      {"false_negatives_by": "me", "false_negative_margin": 0.1},
      "'me' is unknown; use one of student, teacher",
    ),
    ({"distill_dims": (16,)}, "but loss.distill is 0; set its weight"),
    (
      {"distill_dims": (16,), "distill": 1.0, "teacher_width": 24},
      "loss.teacher_width=24 projects the student's",
    ),
    (
      {"distill_dims": (16, 33), "distill": 1.0},
      "distill_dims holds 33; dimensions lie between 1 and model.embed_dim=32",
    ),
  ],
)
def test_what_has_no_effect_is_refused(config, loss, message):
  with pytest.raises(BadInput, match=message):
    other(config, **loss)


def test_what_needs_a_teacher_says_so(config):
  assert not LOSS.asks_teacher
  asking = dataclasses.replace(LOSS, distill=2.0, score_matching=1.0)
  assert asking.asks_teacher == "loss.distill=2.0, loss.score_matching=1.0"
  judged = dataclasses.replace(
    LOSS, false_negatives_by="teacher", false_negative_margin=0.1
  )
  assert judged.asks_teacher == "loss.false_negatives_by=teacher"
  assert not judged.without_teacher().asks_teacher
  for loss in (asking, judged):
    with pytest.raises(BadInput, match=f"{loss.asks_teacher} needs a teacher"):
      pairs.check_teacher(dataclasses.replace(config, loss=loss))


def test_a_regulariser_alone_teaches_nothing():
  assert "spread_out" in terms.REGULARISERS
  with pytest.raises(BadInput, match="nothing teaches"):
    terms.check(dataclasses.replace(LOSS, contrastive=0.0))
  terms.check(dataclasses.replace(LOSS, contrastive=0.0, score_matching=1.0))


def test_keys_that_came_later_change_no_earlier_run(config):
  """A training that was done without them is not done again."""
  tree = workdir.relevant(config)
  assert not tree["loss"].keys() & {*LATER, "score_temperature"}
  assert "texts_weight" not in tree["data"]
  changed = workdir.relevant(other(config, score_matching=1.0))
  assert changed["loss"]["score_matching"] == 1.0
