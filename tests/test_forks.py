"""Processes that come from one that has used JAX."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# argv: a model's folder. Prints what each child says or gives.
FORKED = """
import multiprocessing, os, sys
import numpy as np
import embeddinggemma as eg

def said(work):
  try:
    return str(np.shape(work()))
  except eg.BadInput as error:
    return f"BadInput: {error}"

def child(path, model):
  first = said(lambda: eg.load(path))
  if model is None:
    return first
  return "|".join([
    said(lambda: model.encode(["a"])),
    first,
    said(lambda: model.token_counts(["a"])),
  ])

if __name__ == "__main__":
  path = sys.argv[1]
  fork = multiprocessing.get_context("fork")
  with fork.Pool(1) as pool:  # before the parent uses JAX: a child of its own
    print(pool.apply_async(child, (path, None)).get(120))
  model = eg.load(path)
  want = model.encode(["a"])
  with fork.Pool(1) as pool:
    print(pool.apply_async(child, (path, model)).get(30))
  with multiprocessing.get_context("spawn").Pool(1) as pool:
    got = pool.apply_async(model.encode, (["a"],)).get(120)
  print(np.abs(got - want).max() < 1e-6)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_says_that_it_cannot_and_a_spawned_one_can(
  trained, tmp_path
):
  script = tmp_path / "forked.py"
  script.write_text(FORKED)
  done = subprocess.run(
    [sys.executable, str(script), str(trained)],
    capture_output=True,
    text=True,
    timeout=300,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
  )
  assert done.returncode == 0, done.stderr
  alone, forked, spawned = done.stdout.splitlines()
  assert alone == "()"
  encoded, loaded, counted = forked.split("|")
  for line in encoded, loaded:
    assert line.startswith("BadInput: this process was forked from one that")
    assert '"spawn"' in line
  assert counted == "(1,)"
  assert spawned == "True"
