"""SentencePiece model files: the fields that decide which ids a text gets.

The package's processor does not tell which pieces are user-defined, nor how the
model treats text. Its protobuf module does, but transformers has one of the
same name, and protobuf refuses to load both in a process. So the messages are
declared here (sentencepiece_model.proto), in a pool of their own.
"""

import hashlib
import json
from typing import Any

import numpy as np
from google.protobuf import (
  descriptor_pb2,
  descriptor_pool,
  message_factory,
)
from jaxtyping import Int

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE, WORD, CHAR = range(1, 5)

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "embeddinggemma.sentencepiece"
# message -> field -> (number, type, default); a type that is no number names a
# message, and the field is repeated if its default is a list.
_MESSAGES: dict[str, dict[str, tuple[int, Any, Any]]] = {
  "Piece": {
    "piece": (1, _Field.TYPE_BYTES, ""),
    "score": (2, _Field.TYPE_FLOAT, "0"),
    "type": (3, _Field.TYPE_INT32, str(NORMAL)),
  },
  "Trainer": {
    "model_type": (3, _Field.TYPE_INT32, str(UNIGRAM)),
    "vocab_size": (4, _Field.TYPE_INT32, "8000"),
    "treat_whitespace_as_suffix": (24, _Field.TYPE_BOOL, "false"),
    "byte_fallback": (35, _Field.TYPE_BOOL, "false"),
    "unk_id": (40, _Field.TYPE_INT32, "0"),
    "bos_id": (41, _Field.TYPE_INT32, "1"),
    "eos_id": (42, _Field.TYPE_INT32, "2"),
    "pad_id": (43, _Field.TYPE_INT32, "-1"),
    "unk_piece": (45, _Field.TYPE_BYTES, "<unk>"),
    "bos_piece": (46, _Field.TYPE_BYTES, "<s>"),
    "eos_piece": (47, _Field.TYPE_BYTES, "</s>"),
    "pad_piece": (48, _Field.TYPE_BYTES, "<pad>"),
  },
  "Normalizer": {
    "name": (1, _Field.TYPE_BYTES, ""),
    "precompiled_charsmap": (2, _Field.TYPE_BYTES, ""),
    "add_dummy_prefix": (3, _Field.TYPE_BOOL, "true"),
    "remove_extra_whitespaces": (4, _Field.TYPE_BOOL, "true"),
    "escape_whitespaces": (5, _Field.TYPE_BOOL, "true"),
  },
  "Model": {
    "pieces": (1, "Piece", []),
    "trainer_spec": (2, "Trainer", None),
    "normalizer_spec": (3, "Normalizer", None),
  },
}


def _message_class(name: str) -> Any:
  """The class of a message of _MESSAGES."""
  file = descriptor_pb2.FileDescriptorProto(
    name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto2"
  )
  for message, fields in _MESSAGES.items():
    described = file.message_type.add(name=message)
    for field, (number, kind, default) in fields.items():
      repeated = isinstance(default, list)
      label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
      made = described.field.add(name=field, number=number, label=label)
      if isinstance(kind, str):
        made.type = _Field.TYPE_MESSAGE
        made.type_name = f".{_PACKAGE}.{kind}"
      else:
        made.type, made.default_value = kind, default
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return message_factory.GetMessageClass(
    pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")
  )


Model = _message_class("Model")


def identity(model: bytes) -> str:
  """SHA-256 of what decides the ids of texts, for a valid model file.

  Two files have the same one if they have the same pieces, types, order of
  merges and treatment of text, however they were written. Of BPE only the order
  of scores counts, of pieces that a merge makes; a piece of one character, or
  one that is matched whole, has a score that no text depends on.
  """
  read = Model.FromString(model)
  trainer, normalizer = read.trainer_spec, read.normalizer_spec
  texts = [piece.piece for piece in read.pieces]
  types = np.array([piece.type for piece in read.pieces], np.uint8)
  scores = np.array([piece.score for piece in read.pieces], np.float32)
  if trainer.model_type == BPE:
    long = np.array(
      [len(text.decode("utf-8", "replace")) > 1 for text in texts]
    )
    scores = _ranks(scores, long & np.isin(types, (NORMAL, UNUSED)))
  flags = {
    "model_type": trainer.model_type,
    "byte_fallback": trainer.byte_fallback,
    "charsmap": hashlib.sha256(normalizer.precompiled_charsmap).hexdigest(),
    "dummy_prefix": normalizer.add_dummy_prefix,
    "dummy_suffix": normalizer.add_dummy_prefix
    and trainer.treat_whitespace_as_suffix,
    "remove_extra_whitespaces": normalizer.remove_extra_whitespaces,
    "escape_whitespaces": normalizer.escape_whitespaces,
    "pieces": len(texts),
  }
  lengths = np.array([len(text) for text in texts], "<u4")
  found = hashlib.sha256(json.dumps(flags).encode())
  for part in (lengths, types, scores):
    found.update(part.astype(part.dtype.newbyteorder("<")).tobytes())
  found.update(b"".join(texts))
  return found.hexdigest()


def _ranks(scores: np.ndarray, counted: np.ndarray) -> Int[np.ndarray, "_"]:
  """The rank of each counted score, the highest 1; equal ones share it."""
  ranks = np.zeros(len(scores), np.int32)
  _, order = np.unique(-scores[counted], return_inverse=True)
  ranks[counted] = order + 1
  return ranks
