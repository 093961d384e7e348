"""SentencePiece in the manner of Gemma: train a vocabulary, or read one.

Gemma's vocabulary (paper, section 2.1) begins with pad, eos, bos and unk, falls
back to bytes, splits digits and keeps white space, whose runs are pieces of
their own. Spare pieces `<unusedN>` serve as UL2's sentinels.
"""

import collections
import functools
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from jaxtyping import Bool, Int

from embeddinggemma.data import sentencepiece_file
from embeddinggemma.types import BadInput

PAD, EOS, BOS, UNK = 0, 1, 2, 3
NUM_SPARE = 100
MAX_SAMPLE_CHARACTERS = 12_000_000  # of text that a vocabulary is trained on
NO_LIMIT = 2**62  # tokens of a text that is not to be cut
_SPACE = "\u2581"  # how SentencePiece writes a space
_SYMBOLS = (
  "<mask>",
  *(f"<unused{n}>" for n in range(NUM_SPARE)),
  "<start_of_turn>",
  "<end_of_turn>",
  *("\n" * n for n in range(1, 5)),
  *("\t" * n for n in range(1, 5)),
  *(_SPACE * n for n in range(2, 17)),
)
_SMALLEST = 4 + 256 + len(_SYMBOLS)
_SPARE = re.compile(r"<unused\d+>")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_MANY = 32  # texts for which the start of threads pays


def train_tokenizer(texts: Iterable[str], path: Path, vocab_size: int) -> None:
  """Train a BPE vocabulary on the texts and write it to `path`.

  The same texts give the same bytes. If the text supports fewer pieces, the
  vocabulary is smaller; if it has more distinct characters than fit, the rare
  ones are encoded as bytes. Raises BadInput if the text supports no piece, or
  if `vocab_size` is too small for the 256 bytes and the special pieces.
  """
  if vocab_size <= _SMALLEST:
    raise BadInput(
      f"vocab_size={vocab_size} is too small; bytes and special pieces alone"
      f" take {_SMALLEST}"
    )
  sample = _sample(texts)
  if not sample:
    raise BadInput("no text to train a tokenizer on; give pairs with text")
  model = _trained(sample, vocab_size)
  Tokenizer(model)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(model)


class Tokenizer:
  """A SentencePiece model with Gemma's special ids."""

  def __init__(self, model: bytes | Path, owner: str = "") -> None:
    """Read a SentencePiece model from a file or from bytes.

    `owner` names the source of the bytes in messages. Raises BadInput if the
    model is not SentencePiece, or lacks Gemma's ids or byte fallback.
    """
    own = f"{owner}: the tokenizer".removeprefix(": ")
    name = own if isinstance(model, bytes) else str(model)
    self.model = model if isinstance(model, bytes) else _read(model)
    self._processor = sentencepiece.SentencePieceProcessor()
    try:
      self._processor.LoadFromSerializedProto(self.model)
    except RuntimeError:
      raise BadInput(
        f"{name} is not a SentencePiece model; give a tokenizer.model"
      ) from None
    _check(self._processor, name)

  @property
  def vocab_size(self) -> int:
    """The number of pieces; a table may have more rows."""
    return self._processor.vocab_size()

  def require_fits(self, rows: int, owner: str) -> None:
    """Raise BadInput for more pieces than the table of a model has rows."""
    if self.vocab_size > rows:
      raise BadInput(
        f"{owner}: the tokenizer has {self.vocab_size} pieces, the table"
        f" {rows} rows; they are not of one model"
      )

  @functools.cached_property
  def pieces(self) -> list[str]:
    """Every piece, in the order of ids."""
    return self._processor.id_to_piece(list(range(self.vocab_size)))

  @functools.cached_property
  def is_byte(self) -> Bool[np.ndarray, "V"]:
    """Of each id, whether it stands for a single byte.

    A text has such ids where the vocabulary has no piece for a character.
    """
    return np.array(self._processor.is_byte(list(range(self.vocab_size))))

  @functools.cached_property
  def spare_ids(self) -> list[int]:
    """The ids of `<unusedN>` pieces: free for sentinels and new prompts."""
    return [n for n, piece in enumerate(self.pieces) if _SPARE.match(piece)]

  @functools.cached_property
  def hash(self) -> str:
    """SHA-256 of the model's bytes."""
    return hashlib.sha256(self.model).hexdigest()

  @functools.cached_property
  def identity(self) -> str:
    """SHA-256 of what decides ids: equal however the model was written."""
    return sentencepiece_file.identity(self.model)

  def encode(self, text: str) -> Int[np.ndarray, "_"]:
    """BOS, the pieces of the text as it is, EOS.

    Outer white space counts, as in every other runtime of these models; what
    looks like a control token ("<eos>") is characters.
    """
    ids = self._processor.encode(text)
    return np.array([BOS, *ids, EOS], np.int32)

  def encode_batch(
    self, texts: Sequence[str], max_length: int
  ) -> tuple[list[Int[np.ndarray, "_"]], int]:
    """Encode texts to at most `max_length` ids each, EOS always the last.

    Also returns the number of texts that were cut.
    """
    if max_length < 3:
      raise BadInput(f"max_length={max_length} leaves no room; use 3 or more")
    found = self._processor.encode(list(texts), num_threads=-1)
    rows = [np.array([BOS, *r[: max_length - 2], EOS], np.int32) for r in found]
    return rows, sum(len(r) > max_length - 2 for r in found)

  def counts(self, texts: Sequence[str]) -> list[int]:
    """The number of ids of each text, BOS and EOS included."""
    threads = -1 if len(texts) >= _MANY else 1
    return [
      len(row) + 2
      for row in self._processor.encode(list(texts), num_threads=threads)
    ]

  def ends(self, text: str) -> list[int]:
    """Where in the text each of its pieces ends, in characters.

    All bytes of a character without a piece end with it. Of a vocabulary that
    normalises text, the places are approximate.
    """
    pieces = self._processor.encode(text, out_type=str)
    found, at = [], 0
    for piece in pieces:
      byte = _BYTE.fullmatch(piece)
      continues = byte and int(byte[1], 16) & 0xC0 == 0x80
      at += not continues if byte else len(piece)
      found.append(at)
    if at != len(text):
      share = len(text) / max(len(pieces), 1)
      found = [round(share * n) for n in range(1, len(pieces) + 1)]
    return found

  def decode(self, ids: Sequence[int] | Int[np.ndarray, "_"]) -> str:
    """The text of the ids, without BOS, EOS and padding."""
    silent = (PAD, EOS, BOS)
    return self._processor.decode([int(i) for i in ids if int(i) not in silent])


def _read(path: Path) -> bytes:
  try:
    return path.read_bytes()
  except OSError as error:
    raise BadInput(f"cannot read tokenizer {path}: {error.strerror}") from None


def _check(processor: sentencepiece.SentencePieceProcessor, name: str) -> None:
  """Raise BadInput unless ids and byte fallback are those of Gemma."""
  found = {
    "pad": processor.pad_id(),
    "eos": processor.eos_id(),
    "bos": processor.bos_id(),
    "unk": processor.unk_id(),
  }
  wanted = {"pad": PAD, "eos": EOS, "bos": BOS, "unk": UNK}
  if found != wanted:
    ids = ", ".join(f"{key} {value}" for key, value in found.items())
    raise BadInput(
      f"{name} has the ids {ids}; Gemma's are pad 0, eos 1, bos 2, unk 3"
    )
  if not processor.is_byte(processor.piece_to_id("<0x00>")):
    raise BadInput(f"{name} has no byte fallback; train it with byte_fallback")


def _sample(texts: Iterable[str]) -> list[str]:
  """Lines from all over the texts, up to MAX_SAMPLE_CHARACTERS."""
  lines = [line for text in texts for line in text.split("\n") if line.strip()]
  stride = 1 + sum(map(len, lines)) // MAX_SAMPLE_CHARACTERS
  return lines[::stride]


def _trained(lines: Sequence[str], vocab_size: int) -> bytes:
  """The serialised model; smaller when the text supports fewer pieces."""
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines),
      model_writer=model,
      model_type="bpe",
      vocab_size=vocab_size,
      pad_id=PAD,
      eos_id=EOS,
      bos_id=BOS,
      unk_id=UNK,
      pad_piece="<pad>",
      eos_piece="<eos>",
      bos_piece="<bos>",
      byte_fallback=True,
      split_digits=True,
      normalization_rule_name="identity",
      add_dummy_prefix=False,
      remove_extra_whitespaces=False,
      user_defined_symbols=list(_SYMBOLS),
      max_sentence_length=1_000_000,
      num_threads=1,
      minloglevel=2,
    )
  except RuntimeError as error:
    if "required_chars" in str(error):
      return _trained(_without_rare(lines, vocab_size), vocab_size)
    supported = re.search(r"<= (\d+)", str(error))
    if supported is None or int(supported[1]) >= vocab_size:
      raise BadInput(f"cannot train a tokenizer: {error}") from None
    return _trained(lines, int(supported[1]))
  return model.getvalue()


def _without_rare(lines: Sequence[str], vocab_size: int) -> list[str]:
  """Split the lines at rare characters, which will be encoded as bytes.

  Half of the free pieces go to single characters, the rest to their
  combinations. SentencePiece's character_coverage cannot go as low as CJK text
  needs.
  """
  found: collections.Counter[str] = collections.Counter()
  for line in lines:
    found.update(line)
  ordered = sorted(found, key=lambda c: (-found[c], c))
  kept = (vocab_size - _SMALLEST) // 2
  split = {ord(character): "\n" for character in ordered[kept:]}
  if not split:
    raise BadInput(f"vocab_size={vocab_size} does not hold the characters")
  parts = [part for x in lines for part in x.translate(split).split("\n")]
  return [part for part in parts if part.strip()]
