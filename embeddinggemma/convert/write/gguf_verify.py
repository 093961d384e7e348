"""Read a written GGUF file back with the format's own reader, and check it.

The checks are for faults that no runtime reports: a halved window, a missing
rotary base or Dense, norms without their 1, no EOS, integers in another order.
The model would run, with other vectors. Expected keys, tokens and values are
spelled out here and not taken from the code that wrote the file.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import gguf
import ml_dtypes
import numpy as np

from embeddinggemma import checkpoint, quantize
from embeddinggemma.checkpoint import Name
from embeddinggemma.convert import names
from embeddinggemma.convert.write import gguf_tensors
from embeddinggemma.convert.write.exporting import Job
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.model import pooling
from embeddinggemma.model.config import LOCAL
from embeddinggemma.types import Stopped

Said = Callable[[str], Any]  # key -> what the file says, or None
_TOKENS = "tokenizer.ggml."
_SPACE = "\u2581"  # as SentencePiece writes it
_ROWS = 4096  # of a tensor that are compared at a time


def verify(job: Job, folder: pathlib.Path) -> None:
  """Raise Stopped unless the folder's file agrees with the checkpoint."""
  [path] = folder.glob("*.gguf")
  reader = gguf.GGUFReader(path)
  fields = {
    name.removeprefix("gemma-embedding."): field
    for name, field in reader.fields.items()
  }
  said = lambda key: fields[key].contents() if key in fields else None
  wrong = {
    **_wrong_fields(job, said),
    **_wrong_vocabulary(job, said),
    **_wrong_tensors(job, reader, path.stat().st_size),
  }
  for what, is_wrong in wrong.items():
    if is_wrong:
      raise Stopped(f"the export does not read back: {what} differs")


def _wrong_fields(job: Job, said: Said) -> dict[str, bool]:
  """Key -> whether its value in the file is missing or wrong."""
  config = job.config
  kinds = said("attention.sliding_window_pattern") or []
  factor = config.global_rope_factor
  expected = {
    "general.architecture": "gemma-embedding",
    "context_length": config.max_length,
    "embedding_length": config.width,
    "feed_forward_length": config.mlp_width,
    "attention.head_count": config.num_heads,
    "attention.head_count_kv": config.num_kv_heads,
    "attention.key_length": config.head_dim,
    "attention.value_length": config.head_dim,
    "attention.layer_norm_rms_epsilon": np.float32(config.norm_eps),
    "attention.sliding_window": max(2, config.window - config.window % 2),
    "rope.freq_base": np.float32(config.global_rope_base),
    "rope.freq_base_swa": np.float32(config.local_rope_base),
    "rope.scaling.factor": None if factor == 1 else np.float32(factor),
    "pooling_type": gguf.PoolingType[pooling.theirs("gguf", config.pooling)],
    "dense_2_feat_in": config.width,
    "dense_2_feat_out": config.up_width,
    "dense_3_feat_in": config.up_width,
    "dense_3_feat_out": config.width,
    "block_count": len(kinds),
    f"{_TOKENS}model": "llama",
    f"{_TOKENS}padding_token_id": 0,
    f"{_TOKENS}eos_token_id": 1,
    f"{_TOKENS}bos_token_id": 2,
    f"{_TOKENS}unknown_token_id": 3,
    f"{_TOKENS}add_bos_token": True,
    f"{_TOKENS}add_eos_token": True,
    f"{_TOKENS}add_space_prefix": False,
  }
  ours = [config.attention_kind(n) == LOCAL for n in range(config.num_layers)]
  prompts = json.loads(said("embeddinggemma.prompts") or "null")
  return {
    **{key: bool(said(key) != value) for key, value in expected.items()},
    "the kinds of layers": kinds[: len(ours)] != ours or len(set(kinds)) != 2,
    "a prompt": prompts != dict(job.prompts),
  }


def _wrong_vocabulary(job: Job, said: Said) -> dict[str, bool]:
  """Description -> whether pieces differ, or a score or type is missing."""
  texts, *more = (
    said(_TOKENS + column) or []
    for column in ("tokens", "scores", "token_type")
  )
  pieces = Tokenizer(job.files[checkpoint.TOKENIZER_FILE]).pieces
  tokens = [text.replace(" ", _SPACE) for text in texts]
  return {
    "a token": tokens[: len(pieces)] != pieces,
    "the number of tokens": {len(tokens), *map(len, more)}
    != {job.config.vocab_size},
  }


def _wrong_tensors(
  job: Job, reader: gguf.GGUFReader, size: int
) -> dict[str, bool]:
  """Description -> whether tensors' names, types, sizes or values are wrong."""
  found = {tensor.name: tensor for tensor in reader.tensors}
  stored = gguf_tensors.stored(job)
  wrong = {
    "the set of tensors": {t.name for t in stored.values()} != set(found)
  }
  last = max(reader.tensors, key=lambda tensor: tensor.data_offset)
  align = lambda number: -(-number // reader.alignment) * reader.alignment
  wrong["the size of the file"] = size != align(last.data_offset + last.n_bytes)
  for name, tensor in stored.items():
    there = found.get(tensor.name)
    if there is None:
      continue
    wrong[f"tensor {tensor.name!r}"] = (
      tuple(reversed(there.shape.tolist())) != tensor.shape
      or there.tensor_type != tensor.type
      or (gguf_tensors.is_silent(job, name) and bool(there.data.any()))
    )
  if not any(wrong.values()):
    for name, raw in checkpoint.stream(job.directory):
      label = stored[name].name
      wrong[f"tensor {label!r}"] = not _has(found[label], job, name, raw)
  return wrong


def _has(
  tensor: gguf.ReaderTensor, job: Job, name: Name, raw: np.ndarray
) -> bool:
  """Whether a tensor in the file has the values of the model's view."""
  if raw.ndim == 1:
    return np.array_equal(tensor.data, raw + np.float32(1))
  want = names.export(name, quantize.seen(name, raw, job.precision))
  for start in range(0, len(want), _ROWS):
    few = slice(start, start + _ROWS)
    there = gguf.dequantize(tensor.data[few], tensor.tensor_type)
    here = np.asarray(want[few], np.float32)
    if tensor.tensor_type == gguf.GGMLQuantizationType.BF16:
      here = here.astype(ml_dtypes.bfloat16).astype(np.float32)
    if not np.array_equal(there, here):
      return False
  return True
