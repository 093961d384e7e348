"""Which start wins, and that its first steps are not lost (section 4.3)."""

import pathlib

import pytest

from embeddinggemma import checkpoint
from embeddinggemma.config import build, sibling
from embeddinggemma.recipes.whole import initialise
from embeddinggemma.training import stages
from embeddinggemma.training import workdir as workdir_lib
from embeddinggemma.training.stages.pairs import PairConfig
from embeddinggemma.types import BadInput


def row(init: str, validation: float | None, seed: int = 0) -> dict:
  return {"init": init, "seed": seed, "validation": validation, "test": 0.0}


def test_the_median_on_validation_decides():
  rows = [
    *(row("lsa", score, n) for n, score in enumerate((0.5, 0.5, 0.9))),
    *(row("random", score, n) for n, score in enumerate((0.6, 0.6, 0.1))),
  ]
  assert initialise.medians(rows) == {"lsa": 0.5, "random": 0.6}
  assert initialise.choose(rows, ("lsa", "random")) == "random"


def test_without_validation_the_last_candidate_is_taken():
  rows = [row("lsa", None), row("encoder-decoder", None)]
  inits = ("lsa", "encoder-decoder")
  assert initialise.choose(rows, inits) == "encoder-decoder"


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"inits": ["lsi"]}, "unknown 'lsi'; did you mean 'lsa'?"),
    ({"inits": []}, "initialise.inits is empty"),
    ({"seeds": []}, "initialise.seeds is empty"),
    ({"steps": 0}, "initialise.steps=0 must be at least 1"),
  ],
)
def test_a_bad_comparison_is_named(changes, message):
  tree = {"inits": ["lsa"], "seeds": [0], "steps": 2, "tasks": []} | changes
  with pytest.raises(BadInput) as error:
    build(initialise.InitialiseConfig, tree)
  assert message in str(error.value)


def test_starts_differ_in_nothing_else():
  path = str(pathlib.Path("configs/x.py").absolute())
  tree = sibling(path, "prefinetune").get_config("tiny").to_dict()
  config = stages.build(tree)
  assert isinstance(config, PairConfig)
  parents = {"decoder-only": pathlib.Path("a")}
  found = {
    name: initialise.start_from(config, name, parents)
    for name in ("random", "lsa", "decoder-only")
  }
  assert found["random"] == config
  assert (found["lsa"].init, found["lsa"].init_from) == ("lsa", "")
  assert found["decoder-only"].init_from == "a"


def test_a_candidate_goes_on_in_another_workdir(tmp_path):
  trial, workdir = tmp_path / "trial", tmp_path / "prefinetune"
  workdir.mkdir()
  checkpoint.write(trial, {"model": {}, "aux": {}}, {"note": b"x"}, step=5)
  (trial / "metrics.jsonl").write_text("{}\n")
  (trial / workdir_lib.SCORES_FILE).write_text("{}")
  (trial / "tensorboard").mkdir()
  (trial / "tensorboard" / "events").write_text("1")
  # What a kill left of an earlier copy.
  (workdir / "checkpoints.partial" / "5").mkdir(parents=True)
  (workdir / "tensorboard").mkdir()
  workdir_lib.go_on(trial, workdir)
  assert checkpoint.steps(workdir) == [5]
  names = {path.name for path in workdir.iterdir()}
  assert names == {"checkpoints", "metrics.jsonl", "tensorboard"}
  assert (workdir / "tensorboard" / "events").read_text() == "1"
  # A workdir that has trained is left alone.
  (trial / "metrics.jsonl").write_text("changed")
  workdir_lib.go_on(trial, workdir)
  assert (workdir / "metrics.jsonl").read_text() == "{}\n"
