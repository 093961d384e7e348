"""The tokenizer: Gemma's ids, no text lost, the same bytes every time."""

import io
import pathlib

import pytest
import sentencepiece

from embeddinggemma.data import sentencepiece_file
from embeddinggemma.data import tokenizer as tokenizer_lib
from embeddinggemma.data.tokenizer import Tokenizer, train_tokenizer
from embeddinggemma.types import BadInput

TEXTS = [
  pathlib.Path(tokenizer_lib.__file__).read_text(),
  "def parse_date(x):",
  "0 1 2 3 4 5 6 7 8 9 " * 3,
]
SIZE = 800


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
  path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
  train_tokenizer(TEXTS, path, SIZE)
  return Tokenizer(path)


def _plain_model(**options) -> bytes:
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXTS[0].split("\n")),
    model_writer=model,
    vocab_size=500,
    model_type="bpe",
    minloglevel=2,
    **options,
  )
  return model.getvalue()


def test_special_pieces_have_gemmas_ids(tokenizer):
  assert tokenizer.vocab_size == SIZE == len(tokenizer.pieces)
  assert tokenizer.pieces[:5] == ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
  assert tokenizer.pieces[105:108] == ["<start_of_turn>", "<end_of_turn>", "\n"]
  assert tokenizer.spare_ids == list(range(5, 105))


def test_a_text_stands_between_bos_and_eos(tokenizer):
  ids = tokenizer.encode("def parse_date(x):")
  assert ids.dtype == "int32"
  assert (ids[0], ids[-1]) == (2, 1)
  assert list(tokenizer.encode("")) == [2, 1]


@pytest.mark.parametrize(
  "text", ["hello\n", "hello ", "  hello", " ", "\n\n", "\tx", "\r\n x \t"]
)
def test_outer_white_space_counts(tokenizer, text):
  ids = tokenizer.encode(text)
  assert list(ids) != list(tokenizer.encode(text.strip()))
  assert tokenizer.decode(ids) == text
  (of_batch,), _ = tokenizer.encode_batch([text], 64)
  assert list(of_batch) == list(ids)


@pytest.mark.parametrize(
  "text",
  [
    "def f(x):\n    if x:\n\n\n\n\n\n\treturn 'ü' + \"中文 🙂\"",
    "a" + " " * 40 + "b",
    "<bos> and <eos> are text",
    "\u2581 is not a space",
  ],
)
def test_decode_gives_the_text_back(tokenizer, text):
  # SentencePiece writes spaces as U+2581, so that one character is a space.
  expected = text.replace("\u2581", " ")
  assert tokenizer.decode(tokenizer.encode(text)) == expected


def test_white_space_is_in_runs_and_digits_alone(tokenizer):
  pieces = [tokenizer.pieces[i] for i in tokenizer.encode("x\n\n        2024")]
  assert pieces == ["<bos>", "x", "\n\n", "\u2581" * 8, *"2024", "<eos>"]


def test_control_pieces_in_a_text_are_only_text(tokenizer):
  ids = tokenizer.encode("a<bos>b<eos>")[1:-1]
  assert not set(ids) & {0, 1, 2}


def test_a_batch_is_cut_before_eos(tokenizer):
  texts = ["def", "def " * 100, ""]
  rows, truncated = tokenizer.encode_batch(texts, 8)
  assert truncated == 1
  assert [row[-1] for row in rows] == [1, 1, 1]
  assert len(rows[1]) == 8
  assert (
    list(rows[0][:-1]) == list(tokenizer.encode(texts[0]))[: len(rows[0]) - 1]
  )
  assert list(rows[1][:-1]) == list(tokenizer.encode(texts[1]))[:7]
  with pytest.raises(BadInput, match="max_length=2"):
    tokenizer.encode_batch(texts, 2)


def test_the_same_texts_give_the_same_bytes(tokenizer, tmp_path):
  train_tokenizer(iter(TEXTS), tmp_path / "again.model", SIZE)
  again = Tokenizer(tmp_path / "again.model")
  assert again.model == tokenizer.model
  assert again.hash == tokenizer.hash
  assert Tokenizer(tokenizer.model).pieces == tokenizer.pieces


def test_little_text_gives_a_smaller_vocabulary(tmp_path):
  train_tokenizer(["parse dates, parse times"], tmp_path / "small.model", 8192)
  small = Tokenizer(tmp_path / "small.model")
  assert 386 < small.vocab_size < 8192
  assert small.decode(small.encode("parse 中")) == "parse 中"


def test_more_characters_than_pieces_fall_back_to_bytes(tmp_path):
  rare = [chr(code) for code in range(0x4E00, 0x4E00 + 2000)]
  texts = [f"common words {character}" for character in rare]
  train_tokenizer(texts, tmp_path / "a.model", 600)
  train_tokenizer(texts, tmp_path / "b.model", 600)
  made = Tokenizer(tmp_path / "a.model")
  assert made.vocab_size <= 600
  assert made.decode(made.encode(rare[-1])) == rare[-1]
  assert made.model == Tokenizer(tmp_path / "b.model").model


def test_the_sample_is_capped_and_spread(monkeypatch):
  monkeypatch.setattr(tokenizer_lib, "MAX_SAMPLE_CHARACTERS", 100)
  sample = tokenizer_lib._sample([f"line {n:03}\n" for n in range(100)])
  assert 40 < sum(map(len, sample)) <= 100
  assert sample[0] == "line 000" and sample[-1] > "line 080"


@pytest.mark.parametrize(
  ("texts", "size", "message"),
  [
    ([], SIZE, "no text"),
    (["  ", "\n"], SIZE, "no text"),
    (TEXTS, 300, "vocab_size=300 is too small"),
  ],
)
def test_what_cannot_be_trained(tmp_path, texts, size, message):
  with pytest.raises(BadInput, match=message):
    train_tokenizer(texts, tmp_path / "x.model", size)


def test_what_is_not_gemmas_kind(tmp_path):
  gemma = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
  with pytest.raises(BadInput, match=r"pad -1, eos 2, bos 1, unk 0; Gemma's"):
    Tokenizer(_plain_model())
  with pytest.raises(BadInput, match="no byte fallback"):
    Tokenizer(_plain_model(**gemma))
  with pytest.raises(BadInput, match="not a SentencePiece model"):
    Tokenizer(b"nothing")
  with pytest.raises(BadInput, match=r"missing\.model"):
    Tokenizer(tmp_path / "missing.model")


def _changed(model: bytes, change) -> Tokenizer:
  """The tokenizer after a change of the fields of its file."""
  read = sentencepiece_file.Model.FromString(model)
  change(read)
  return Tokenizer(read.SerializeToString())


def _long(model: bytes) -> list[int]:
  """The ids of pieces that a merge makes, in its order."""
  pieces = sentencepiece_file.Model.FromString(model).pieces
  ids = [n for n, p in enumerate(pieces) if p.type == 1 and len(p.piece) > 3]
  return sorted(ids, key=lambda n: -pieces[n].score)


def _scaled(read) -> None:
  for piece in read.pieces:
    piece.score = 2 * piece.score - 7


def _swapped(read) -> None:
  first, *_, last = _long(read.SerializeToString())
  a, b = read.pieces[first], read.pieces[last]
  a.score, b.score = b.score, a.score


@pytest.mark.parametrize(
  "change",
  [
    lambda read: None,
    _scaled,
    lambda read: setattr(read.pieces[4], "score", -3.0),
    lambda read: setattr(read.trainer_spec, "treat_whitespace_as_suffix", True),
    lambda read: setattr(read.normalizer_spec, "name", b"another"),
  ],
)
def test_models_of_the_same_ids_have_one_identity(tokenizer, change):
  other = _changed(tokenizer.model, change)
  assert other.model != tokenizer.model
  assert other.identity == tokenizer.identity


@pytest.mark.parametrize(
  "change",
  [
    _swapped,
    lambda read: read.pieces.add(piece=b"parse_date", score=-9999, type=1),
    lambda read: setattr(read.pieces[4], "type", 1),
    lambda read: setattr(read.pieces[4], "piece", b"<mask2>"),
    lambda read: setattr(read.normalizer_spec, "add_dummy_prefix", True),
    lambda read: setattr(read.trainer_spec, "model_type", 1),
  ],
)
def test_models_of_other_ids_have_another(tokenizer, change):
  assert _changed(tokenizer.model, change).identity != tokenizer.identity
