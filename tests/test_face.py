"""What `import embeddinggemma as eg` offers, used as a Python user would."""

import inspect
import subprocess
import sys

import numpy as np
import pytest

import embeddinggemma as eg
from embeddinggemma.types import BadInput


def test_the_names_are_few_and_documented():
  assert sorted(eg.__all__) == eg.__all__
  for name in eg.__all__:
    assert inspect.getdoc(getattr(eg, name)), name


def test_an_import_costs_nothing_heavy():
  heavy = {"jax", "numpy", "rich", "absl"}
  code = f"import sys, embeddinggemma; print({heavy} & set(sys.modules))"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True)
  assert done.stdout == b"set()\n"


def test_a_stage_is_trained_from_a_config(data_folder, tmp_path):
  overrides = {"steps": 2, "model.num_layers": 1}
  config = eg.stage(
    f"configs/prefinetune.py:tiny,data={data_folder}", overrides
  )
  trained = eg.train(config, tmp_path)
  model = eg.load(tmp_path / trained["checkpoint"])
  assert model.hash == trained["hash"]
  with pytest.raises(BadInput, match="did you mean 'steps'"):
    eg.stage("configs/prefinetune.py:tiny", {"step": 2})


def test_a_model_is_scored_and_searched_with(trained, data_folder, tmp_path):
  model = eg.load(trained)
  scores = eg.evaluate(model, trained / "inputs" / "corpus" / "test")
  keys = {"quality", "intervals", "summary", "prompts", "protocols"}
  keys |= {"truncated", "parts", "notes", "failed"}
  assert set(scores) == keys
  about = eg.index(model, data_folder, tmp_path / "index", dim=16)
  assert about["new"] == about["chunks"] > 0
  assert about["truncated"] == 0
  assert about["cut"]["max_length"] == model.config.max_length
  best, *_ = eg.search(model, tmp_path / "index", "where is the river", k=3)
  assert best.path == "small/pairs.jsonl"


def test_a_soup_of_equals_is_the_same_model(trained, tmp_path):
  place = eg.soup([trained, trained], tmp_path / "soup", weights=[0.5, 0.5])
  one, other = eg.load(trained), eg.load(place)
  text = ["where is the river"]
  assert np.array_equal(one.encode(text, "query"), other.encode(text, "query"))


def test_an_export_has_a_certificate(trained, tmp_path):
  found = eg.export(trained, "sentence-transformers", tmp_path / "out")
  assert found["verdict"] in ("passed", "unchecked")
  assert (tmp_path / "out" / "modules.json").is_file()
