"""The recipe again without its parts: tests/test_recipe.py runs it whole."""

import shutil

from embeddinggemma.evaluation import suite
from embeddinggemma.recipes.whole import ablation


def test_a_side_without_tasks_is_left_out(trained, tmp_path):
  """Few pairs hold none out for the test: there is nothing to score on."""
  workdir = tmp_path / "trained"
  shutil.copytree(trained, workdir)
  tasks = {"test": suite.held_out(trained / "inputs" / "corpus", "test")}
  found = ablation._scores(workdir, {**tasks, "none": []})
  assert list(found) == ["test"]
  assert 0 <= found["test"]["mean"] <= 1
  assert ablation._scores(workdir, {}) == found  # what was written
