"""One rule for the longest text, which says which file decided.

The values are those of sentence-transformers 6.2; where it is installed, the
last test asks it.
"""

import json
import re
import shutil

import pytest

import embeddinggemma as eg
from embeddinggemma.convert.read import families
from embeddinggemma.types import BadInput

BERT, TOKENIZER = "sentence_bert_config.json", "tokenizer_config.json"
GONE = "gone"  # the key is not there


def put(folder, name, **changes):
  """Keys of a JSON file; GONE takes one out."""
  path = folder / name
  tree = json.loads(path.read_text()) | changes
  tree = {key: value for key, value in tree.items() if value != GONE}
  path.write_text(json.dumps(tree))


def lengths(folder, bert, tokenizer, positions):
  put(folder, BERT, max_seq_length=bert)
  put(folder, TOKENIZER, model_max_length=tokenizer)
  put(folder, "config.json", max_position_embeddings=positions)
  return folder


@pytest.fixture
def folder(exported, tmp_path):
  return shutil.copytree(exported, tmp_path / "folder")


# (sentence_bert_config, tokenizer_config, positions) -> tokens, the file
RULE = [
  ((64, 128, 1024), 64, BERT),
  ((128, 64, 1024), 128, BERT),
  ((GONE, 128, 1024), 128, TOKENIZER),
  ((None, 128, 1024), 128, TOKENIZER),
  ((None, 4096, 1024), 1024, "config.json"),
  ((None, GONE, 1024), 1024, "config.json"),
  ((None, None, 1024), 1024, "config.json"),
  ((None, 1e30, 1024), 1024, "config.json"),
  ((None, int(1e30), 1024), 1024, "config.json"),
  ((4096, 128, 1024), 4096, BERT),
  ((1024, 1024, 1024), 1024, BERT),
]


@pytest.mark.parametrize(("given", "tokens", "file"), RULE, ids=str)
def test_the_rule_and_who_decided(folder, given, tokens, file):
  """What the other files say is in the same row, if they differ."""
  found = families.read(lengths(folder, *given))
  assert found.config.max_length == tokens
  assert f"texts of at most {tokens:,} tokens" in found.read[file]
  others = [n for n in given if isinstance(n, int) and n not in (tokens, 1e30)]
  assert all(f"says {n:,}" in found.read[file] for n in others)
  beyond = [line for line in found.warned if "max_seq_length" in line]
  assert bool(beyond) == (tokens > given[2])
  assert all("1024 positions" in line for line in beyond)


@pytest.mark.parametrize("key", ["tokenizer_args", "processor_kwargs"])
def test_arguments_of_the_tokenizer_come_first(folder, key):
  lengths(folder, 64, 128, 1024)
  put(folder, BERT, **{key: {"model_max_length": 32}})
  assert families.read(folder).config.max_length == 32


def test_max_len_is_the_old_name(folder):
  lengths(folder, GONE, GONE, 1024)
  put(folder, TOKENIZER, max_len=96)
  found = families.read(folder)
  assert found.config.max_length == 96 and "max_len" in found.read[TOKENIZER]


def test_no_limit_beside_the_weights_is_said(folder):
  found = families.read(lengths(folder, int(1e30), GONE, 1024))
  assert found.config.max_length == 1024
  assert any("max_seq_length=1" in line for line in found.warned)


@pytest.mark.parametrize(
  ("bert", "tokenizer", "message"),
  [
    ("64", 128, f"{BERT}: max_seq_length='64' is not a whole number"),
    (64.0, 128, f"{BERT}: max_seq_length=64.0 is not a whole number"),
    (True, 128, f"{BERT}: max_seq_length=True is not a whole number"),
    ([64], 128, rf"{BERT}: max_seq_length=\[64\] is not a whole number"),
    (0, 128, f"{BERT}: max_seq_length=0 leaves no room"),
    (-1, 128, f"{BERT}: max_seq_length=-1 leaves no room"),
    (3, 128, f"{BERT}: max_seq_length=3 leaves no room"),
    (10**7, 128, f"{BERT}: max_seq_length=10000000 tokens are more than any"),
    (None, "128", f"{TOKENIZER}: model_max_length='128' is not a whole"),
    (None, 128.5, f"{TOKENIZER}: model_max_length=128.5 is not a whole"),
    (None, False, f"{TOKENIZER}: model_max_length=False is not a whole"),
    (None, 0, f"{TOKENIZER}: model_max_length=0 leaves no room"),
  ],
)
def test_what_is_no_length_is_refused(folder, bert, tokenizer, message):
  """By import and by `load`, with the file and the key."""
  lengths(folder, bert, tokenizer, 1024)
  for read in (families.read, eg.load):
    with pytest.raises(BadInput) as error:
      read(folder)
    assert re.search(message, str(error.value))


def test_sentence_transformers_has_the_same_rule(folder):
  pytest.importorskip("torch")
  pytest.importorskip("transformers", minversion="5")
  st = pytest.importorskip("sentence_transformers", minversion="6")
  for given, tokens, _ in RULE:
    lengths(folder, *given)
    theirs = st.SentenceTransformer(str(folder), device="cpu")
    assert theirs.max_seq_length == tokens, given
