"""The lines that a card gives for each program load the export and agree."""

import contextlib
import importlib.util
import io
import re
import subprocess
import sys

import numpy as np
import pytest

import embeddinggemma as eg
from embeddinggemma.cli import main
from embeddinggemma.convert.card import loading
from embeddinggemma.convert.certify import runtimes

FORMS = {"sentence-transformers": "sentence_transformers", "gguf": "xllamacpp"}


@pytest.fixture(scope="module", params=FORMS)
def folder(request, model, tmp_path_factory):
  """An export of each format; its certificate is for other tests."""
  place = tmp_path_factory.mktemp("card") / "out"
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(runtimes, "find", lambda name: None)
    argv = ["export", f"--model={model}", f"--format={request.param}"]
    assert main.call([*argv, f"--output={place}"]) == 0
  return request.param, place


def examples(place):
  """Title of a section -> the Python of its block."""
  text = (place / "README.md").read_text()
  found = re.findall(
    r"^### In (\S+)\n.*?^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE
  )
  return {title: code.replace(loading.FOLDER, ".") for title, code in found}


def last_number(text):
  return float(re.findall(r"-?\d+\.\d+", text)[-1])


@pytest.fixture(scope="module")
def cosine(model):
  """Of the two texts of every example."""
  found = eg.load(model)
  query = found.encode_query([loading.QUESTION])
  return float((query @ found.encode_document([loading.ANSWER]).T).item())


def test_ours(folder, cosine, monkeypatch):
  _, place = folder
  monkeypatch.chdir(place)
  said = io.StringIO()
  with contextlib.redirect_stdout(said):
    exec(examples(place)["embeddinggemma"], {})
  assert last_number(said.getvalue()) == pytest.approx(cosine, abs=1e-3)


def test_theirs(folder, cosine):
  """In a process of its own, as a reader of the card runs it."""
  form, place = folder
  if not importlib.util.find_spec(FORMS[form]):
    pytest.skip(f"{FORMS[form]} is not installed")
  names = {"gguf": "llama.cpp"}
  code = examples(place)[names.get(form, form)]
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=place, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert np.isclose(last_number(done.stdout), cosine, atol=2e-3)
