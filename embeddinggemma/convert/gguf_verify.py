"""A written GGUF file, read back by the format's own reader.

What is checked are the faults that no runtime reports: half a window, a rotary
base or a Dense that is missing, norms without their 1, no EOS: the model would
answer, with other vectors. Expectations are spelled out here and not taken from
what wrote the file.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np

from embeddinggemma import checkpoint
from embeddinggemma.convert import gguf_tensors
from embeddinggemma.convert.exporting import Job
from embeddinggemma.model.config import LOCAL
from embeddinggemma.types import Stopped

_MEAN = 1  # of llama_pooling_type
_TOKENS = "tokenizer.ggml."


def verify(job: Job, folder: pathlib.Path) -> None:
  """Stopped unless the folder's file says what the checkpoint is."""
  [path] = folder.glob("*.gguf")
  reader = gguf.GGUFReader(path)
  fields = {
    name.removeprefix("gemma-embedding."): field
    for name, field in reader.fields.items()
  }
  wrong = {
    **_wrong_fields(job, fields),
    **_wrong_vocabulary(job, fields),
    **_wrong_tensors(job, reader, path.stat().st_size),
  }
  for what, is_wrong in wrong.items():
    if is_wrong:
      raise Stopped(f"the export does not read back: {what} differs")


def _wrong_fields(job: Job, fields: Mapping[str, Any]) -> dict[str, bool]:
  """By key: whether the file says otherwise, or nothing."""
  config = job.config
  kinds = fields["attention.sliding_window_pattern"].contents()
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
    "pooling_type": _MEAN,
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
  said = lambda key: fields[key].contents() if key in fields else None
  ours = [config.attention_kind(n) == LOCAL for n in range(config.num_layers)]
  prompts = json.loads(said("embeddinggemma.prompts") or "null")
  return {
    **{key: bool(said(key) != value) for key, value in expected.items()},
    "the kinds of layers": kinds[: len(ours)] != ours or len(set(kinds)) != 2,
    "a prompt": prompts != dict(job.prompts),
  }


def _wrong_vocabulary(job: Job, fields: Mapping[str, Any]) -> dict[str, bool]:
  rows = job.config.vocab_size
  columns = ("tokens", "scores", "token_type")
  counts = [len(fields[_TOKENS + name].data) for name in columns]
  return {"the number of tokens": counts != [rows] * len(columns)}


def _wrong_tensors(
  job: Job, reader: gguf.GGUFReader, size: int
) -> dict[str, bool]:
  """Names, types, sizes of all; the values of norms."""
  found = {tensor.name: tensor for tensor in reader.tensors}
  stored = gguf_tensors.stored(job)
  wrong = {
    "the set of tensors": {t.name for t in stored.values()} != set(found)
  }
  last = max(reader.tensors, key=lambda tensor: tensor.data_offset)
  align = lambda number: -(-number // reader.alignment) * reader.alignment
  wrong["the size of the file"] = size != align(last.data_offset + last.n_bytes)
  norms = [name for name, shape in job.shapes.items() if len(shape.shape) == 1]
  theirs = checkpoint.read_tensors(job.directory, norms)
  for name, tensor in stored.items():
    there = found.get(tensor.name)
    if there is None:
      continue
    same = (
      tuple(reversed(there.shape.tolist())) == tensor.shape
      and there.tensor_type == tensor.type
    )
    if name in theirs:
      same &= np.array_equal(there.data, theirs[name] + np.float32(1))
    elif gguf_tensors.is_silent(job, name):
      same &= not there.data.any()
    wrong[f"tensor {tensor.name!r}"] = not same
  return wrong
