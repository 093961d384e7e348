"""tokenizer.json gives the ids of our Tokenizer for any text, or is refused."""

import io
import json
import pathlib
import struct

import pytest
import sentencepiece
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from embeddinggemma.convert import sentencepiece_model
from embeddinggemma.convert.write.tokenizer_json import (
  tokenizer_config,
  tokenizer_json,
)
from embeddinggemma.data import tokenizer as tokenizer_lib
from embeddinggemma.data.tokenizer import Tokenizer, train_tokenizer
from embeddinggemma.types import BadInput

TEXTS = [
  pathlib.Path(tokenizer_lib.__file__).read_text(),
  "東京の天気は晴れです。今日も晴れ。 Où est la gare ? naïve café. " * 3,
  "नमस्ते दुनिया نص عربي Привет, мир! 👍🏽 aaaa abab aba " * 3,
]
CONTROLS = ("<pad>", "<eos>", "<bos>", "<unk>")


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Tokenizer:
  path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
  train_tokenizer(TEXTS, path, 900)
  return Tokenizer(path)


@pytest.fixture(scope="module")
def theirs(ours) -> tokenizers.Tokenizer:
  return tokenizers.Tokenizer.from_str(tokenizer_json(ours.model).decode())


def plain(text: str) -> str:
  """Without control words, where the ids do differ."""
  while any(word in text for word in CONTROLS):
    for word in CONTROLS:
      text = text.replace(word, "")
  return text


# Characters of every plane, what the vocabulary was trained on, runs of white
# space, and the pieces as they are written.
ALPHABET = st.sampled_from(
  [
    *" \t\n\u2581<>0123456789ab",
    *set("".join(TEXTS)),
    *(" " * n for n in (2, 3, 15, 16, 17, 40)),
    *("\n" * n for n in (2, 4, 5)),
    *("\t" * n for n in (2, 4, 5)),
    *("\u2581" * n for n in (2, 3, 17)),
    *("<mask>", "<unused3>", "<start_of_turn>", "<0x41>", " \u2581 "),
    *("def f(x):\n    return", "👩‍👩‍👧", "e\u0301", "\u200d", "\ufeff", "\x00"),
  ]
)
ANY = st.characters(exclude_categories=["Cs"])
TEXT = st.lists(ALPHABET | ANY, max_size=60).map("".join).map(plain)


@settings(max_examples=400, deadline=None)
@given(TEXT)
@example("")
@example("\u2581")
@example(" \n\t hello\r\n ")
@example("   ")
@example("a" + " " * 1000 + "b")
@example("x\n\n\n\n\n\n\ty\r\n\tz")
@example("aaaaabaaaaabababab" * 50)
@example("<unused3><mask> <0x0A>")
@example("".join(map(chr, range(32, 0x3000))))
def test_any_text_has_the_same_ids(ours, theirs, text):
  text = plain(text)
  assert theirs.encode(text).ids == ours.encode(text).tolist()


def test_long_texts_and_every_piece(ours, theirs):
  pieces = [p for p in ours.pieces if p not in CONTROLS]
  long = [" ".join(TEXTS) * 5, "ab" * 20_000, "".join(pieces), *pieces]
  rows = [row.ids for row in theirs.encode_batch([plain(t) for t in long])]
  assert rows == [ours.encode(plain(text)).tolist() for text in long]


def test_decoding_gives_the_text_back(ours, theirs):
  text = "def f(x):\n    return 'ü 中文 🙂'"
  assert theirs.decode(ours.encode(text).tolist()) == text


@pytest.mark.parametrize("word", CONTROLS)
def test_control_words_are_text_to_us_alone(ours, theirs, word):
  found = ours.encode(f"a {word} b").tolist()
  control = ours.pieces.index(word)
  assert control not in found[1:-1]
  assert control in theirs.encode(f"a {word} b").ids[1:-1]
  theirs.encode_special_tokens = True  # what split_special_tokens sets
  assert theirs.encode(f"a {word} b").ids == found
  theirs.encode_special_tokens = False


@pytest.mark.parametrize("class_name", ["AutoTokenizer", "GemmaTokenizer"])
def test_transformers_reads_the_folder(ours, tmp_path, class_name):
  transformers = pytest.importorskip("transformers", minversion="5")
  (tmp_path / "tokenizer.json").write_bytes(tokenizer_json(ours.model))
  config = json.dumps(tokenizer_config(ours.model, 64))
  (tmp_path / "tokenizer_config.json").write_text(config)
  (tmp_path / "config.json").write_text('{"model_type": "gemma3_text"}')
  read = getattr(transformers, class_name).from_pretrained(tmp_path)
  assert type(read).__name__ == "GemmaTokenizer"
  assert (read.padding_side, read.model_max_length) == ("right", 64)
  texts = ["", "a <eos> b <bos>", "<mask>x<unused3>", "\u2581\u2581 y", *TEXTS]
  texts += [" x\n", "\n\n", "  "]
  for text in [*texts, "a" + " " * 40 + "b\n\n\n\n\n\tc"]:
    assert read(text)["input_ids"] == ours.encode(text).tolist()
  batch = read(texts, truncation=True, max_length=8, padding=True)["input_ids"]
  rows, _ = ours.encode_batch(texts, 8)
  assert batch == [row.tolist() + [0] * (8 - len(row)) for row in rows]


def made(**options) -> bytes:
  """A small model that differs from Gemma's kind in the options."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXTS[0].split("\n")),
    model_writer=model,
    minloglevel=2,
    **{
      "model_type": "bpe",
      "vocab_size": 500,
      "byte_fallback": True,
      "pad_id": 0,
      "eos_id": 1,
      "bos_id": 2,
      "unk_id": 3,
      "normalization_rule_name": "identity",
      "add_dummy_prefix": False,
      "remove_extra_whitespaces": False,
    }
    | options,
  )
  return model.getvalue()


def test_gemmas_kind_is_read(ours):
  assert tokenizer_json(made())
  read = sentencepiece_model.parse(ours.model)
  assert [piece.text for piece in read.pieces] == ours.pieces
  types = [read.pieces[n].type for n in (0, 3, 5, 107 + 30)]
  assert types == [3, 2, 4, 6]
  assert read.pieces[-1].score < read.pieces[-2].score < 0


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"model_type": "unigram"}, "a unigram model, not bpe"),
    ({"normalization_rule_name": "nmt_nfkc"}, "normaliser changes characters"),
    ({"add_dummy_prefix": True}, "puts a space before each text"),
    ({"remove_extra_whitespaces": True}, "it removes spaces"),
  ],
)
def test_another_kind_is_refused(options, message):
  model = made(**options)
  for make in (tokenizer_json, lambda m: tokenizer_config(m, 64)):
    with pytest.raises(BadInput, match=message):
      make(model)


@pytest.mark.parametrize(
  ("text", "score", "kind", "message"),
  [
    ("new", -1.0, 1, r"the pieces '.*' and 'new' have one score"),
    ("a\u5b57", -9999.0, 1, "is a piece and its '\u5b57' is none"),
    ("new", -9999.0, 5, "the piece 'new' is unused"),
  ],
)
def test_what_merges_cannot_say_is_refused(ours, text, score, kind, message):
  # Protobuf messages may be joined: this adds a piece to the model.
  name = text.encode()
  body = b"\x0a" + bytes([len(name)]) + name
  body += b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind])
  with pytest.raises(BadInput, match=message):
    tokenizer_json(ours.model + b"\x0a" + bytes([len(body)]) + body)
