"""What a card says for mteb is what mteb makes of it."""

# ruff: noqa: E402  (what may be missing comes first)

import json
import re

import pytest
import yaml

pytest.importorskip("mteb")
hub = pytest.importorskip("huggingface_hub")

from mteb.languages.iso_mappings import (
  _hf_langs_to_iso_lang_scripts as languages_of,
)
from mteb.models import ModelMeta
from mteb.models.model_meta import OPEN_LICENSES

from embeddinggemma.cli import main
from embeddinggemma.convert.card import mteb as section
from embeddinggemma.convert.certify import runtimes


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
  monkeypatch.setattr(runtimes, "find", lambda name: None)


def meta_of(text):
  """mteb's object of the block in a card."""
  [code] = re.findall(r"^```python\n(from mteb.*?)^```", text, re.M | re.S)
  found = {}
  exec(code, found)
  assert isinstance(found["model"], ModelMeta)
  return found["model"]


def said_open(text):
  """Dimension -> whether the card says that it is met."""
  rows = re.findall(r"^\| ([\w ]+) \| (yes|no) \|", text, re.MULTILINE)
  return {name: answer == "yes" for name, answer in rows}


STATED = """
name: me/bank
languages: [de, deu]
citation: "@article{x, title={A \\"name\\"}}"
code: https://host/code
data: https://host/data
"""


@pytest.mark.parametrize("form", ["sentence-transformers", "gguf"])
@pytest.mark.parametrize(
  ("licence", "stated", "count"),
  [("mit", STATED, 6), ("gemma", STATED, 5), ("mit", "", 3), ("", "", 2)],
)
def test_openness_is_what_mteb_counts(
  tmp_path, write_checkpoint, config, form, licence, stated, count
):
  told = {"sources": [{"name": "a", "licence": "mit"}], "tasks": {"qa": 1}}
  recipe = {"stage": "finetune", "data": told}
  files = {
    "recipe.json": json.dumps(recipe).encode(),
    "LICENSE": f"license: {licence}\n".encode() if licence else b"words",
  }
  model = write_checkpoint(tmp_path / "my: 'bank'", config, files)
  argv = ["export", f"--model={model}", f"--format={form}"]
  if stated:
    (tmp_path / "card.yaml").write_text(stated)
    argv.append(f"--card={tmp_path / 'card.yaml'}")
  assert main.call([*argv, f"--output={tmp_path / 'out'}"]) == 0
  text = (tmp_path / "out" / "README.md").read_text()
  meta = meta_of(text)
  assert meta.openness == said_open(text)
  assert meta.openness_score == count
  assert f"openness, {count} of 6:" in text
  assert meta.name == ("me/bank" if stated else "OWNER/my-bank")
  assert meta.max_tokens == config.max_length
  header = yaml.safe_load(text.split("---\n")[1])
  if stated:
    assert languages_of(header["language"]) == ["deu-Latn"]
  card = hub.ModelCard.load(tmp_path / "out" / "README.md").data
  assert card.license == (licence or "other")


def test_the_licences_are_mteb_s():
  assert section._OPEN == OPEN_LICENSES
