"""A decoder that comes from GGUF says what llama.cpp says of its weights.

Those of a rounded file are given to llama.cpp as floats: see floats.py.
"""

import importlib.util
import json

import numpy as np
import pytest

from embeddinggemma.data import samples

TEXTS, _ = samples.sides()
TOGETHER = 5  # texts of one request: each answer is the whole vocabulary
CORRELATION = 0.999


@pytest.fixture(scope="module")
def theirs(decoder, program, tmp_path_factory):
  """llama.cpp's ids and logits, (n, V), of the texts."""
  if not importlib.util.find_spec("xllamacpp"):
    pytest.skip("xllamacpp is not installed")
  work = tmp_path_factory.mktemp("llama.cpp")
  program("tests/weights/floats.py", decoder, work / "floats.gguf")
  ids, logits = [], []
  for start in range(0, len(TEXTS), TOGETHER):
    ask = {"texts": TEXTS[start : start + TOGETHER], "logits": True}
    (work / "ask").write_text(json.dumps(ask))
    asked = (work / "floats.gguf", work / "ask", work / "reply")
    program("tests/convert/llama_cpp_logits.py", *asked)
    for row in json.loads((work / "reply").read_text()):
      ids.append(row["ids"])
      known = np.full(1 + max(n for n, _ in row["logits"]), np.nan)
      for n, value in row["logits"]:
        known[n] = value
      logits.append(known)
  (work / "floats.gguf").unlink()
  return ids, np.stack(logits)


@pytest.fixture(scope="module")
def ours(decoder, call, decode, tmp_path_factory):
  """Ids and logits of the imported checkpoint."""
  workdir = tmp_path_factory.mktemp("decoder") / "imported"
  call("import", f"--from={decoder}", f"--workdir={workdir}")
  return decode(workdir, TEXTS)


def test_the_tokens_are_llama_cpps(ours, theirs):
  """After BOS."""
  rows = [row[row >= 0].tolist() for row in ours[0]]
  assert [row[1:] for row in rows] == theirs[0]


def test_the_logits_are_llama_cpps(ours, theirs, figure):
  mine, wanted = ours[1], theirs[1]
  assert mine.shape == wanted.shape and np.isfinite(wanted).all()
  correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(mine, wanted)]
  same = np.argmax(mine, axis=1) == np.argmax(wanted, axis=1)
  figure("decoder, least correlation of logits", f"{min(correlations):.6f}")
  figure("  texts with the same top token", f"{same.sum()} of {len(TEXTS)}")
  assert min(correlations) > CORRELATION
  assert same.all(), [text for text, ok in zip(TEXTS, same) if not ok]
