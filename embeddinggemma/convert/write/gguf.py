"""Write an embedder's checkpoint as one GGUF file for llama.cpp.

The architecture is `gemma-embedding`: llama.cpp tokenises text with the file's
own tokenizer, adds BOS and EOS, attends bidirectionally, pools by the mean, and
applies both Dense layers. It does not normalise the vectors.
"""

import collections
import contextlib
import json
import pathlib
from typing import Any, NamedTuple

import gguf
import numpy as np

from embeddinggemma import checkpoint, quantize
from embeddinggemma.convert import origin, sentencepiece_model
from embeddinggemma.convert.card import claim, loading
from embeddinggemma.convert.read import hugging_face
from embeddinggemma.convert.read.gguf_file import CUTS, PROMPTS
from embeddinggemma.convert.write import gguf_tensors
from embeddinggemma.convert.write.exporting import (
  FLOATS,
  Dtype,
  Format,
  Job,
  OnTensor,
  Written,
  common_faults,
)
from embeddinggemma.convert.write.gguf_head import settle
from embeddinggemma.convert.write.gguf_tensors import ARCHITECTURE, DOWN, UP
from embeddinggemma.convert.write.gguf_verify import verify
from embeddinggemma.data.sentencepiece_file import UNUSED, USER_DEFINED
from embeddinggemma.data.tokenizer import BOS, EOS, PAD, UNK
from embeddinggemma.model import pooling
from embeddinggemma.model.config import LOCAL

_FILE_TYPES = {
  "float32": gguf.LlamaFileType.ALL_F32,
  "bfloat16": gguf.LlamaFileType.MOSTLY_BF16,
  "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
  "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
  "mixed": gguf.LlamaFileType.MOSTLY_Q4_0,
}
# Before it, five layers of six were local, whatever a file says.
_NEEDS = "llama.cpp b11063 (September 2026) or later"
_LAST = -1000.0  # the score of what no merge makes


class Token(NamedTuple):
  """A row of the vocabulary, as llama.cpp searches a text for it."""

  text: str
  score: float
  type: int


def _faults(job: Job) -> dict[str, bool]:
  """What llama.cpp would refuse, abort at or compute otherwise."""
  config, tokens = job.config, _tokens(job)
  texts = collections.Counter(token.text for token in tokens)
  text, count = texts.most_common(1)[0]
  return common_faults(config, FORMAT.name) | {
    f"model.embed_dim={config.embed_dim} of model.width={config.width};"
    " llama.cpp wants them alike": config.embed_dim != config.width,
    f"a tokenizer of {len(tokens)} pieces with a table of {config.vocab_size}"
    " rows; they are not of one model": len(tokens) > config.vocab_size,
    f"a tokenizer that has {text!r} twice": count > 1,
  }


def _size(job: Job) -> int:
  return sum(tensor.nbytes for tensor in gguf_tensors.stored(job).values())


def _write(job: Job, folder: pathlib.Path, on_tensor: OnTensor) -> Written:
  for name, content in job.files.items():
    if checkpoint.is_terms(name):
      (folder / name).write_bytes(content)
  path = folder / f"model-{job.dtype}.gguf"
  writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[ARCHITECTURE])
  with contextlib.closing(writer):
    _add_origin(writer, job)
    _add_model(writer, job)
    _add_tokenizer(writer, job)
    digest = _write_tensors(writer, job, on_tensor)
  about: dict[str, Any] = {"file": path.name}
  local = [kind == LOCAL for kind in gguf_tensors.layer_kinds(job.config)]
  if local != [bool((n + 1) % 6) for n in range(len(local))]:
    about["needs"] = _NEEDS
  if job.unpacked:
    about["unpacked"] = ["/".join(name) for name in job.unpacked]
  return Written(path, digest, about)


def _add_origin(writer: gguf.GGUFWriter, job: Job) -> None:
  """Write the keys of name, licence and descent, as far as these are known."""
  writer.add_name(job.title)
  licence = claim.of(job.files, job.stated).keys
  base = origin.base(job.files)
  writer.add_license(licence["license"])
  if "license_name" in licence:
    writer.add_license_name(licence["license_name"])
  if "license_link" in licence:
    writer.add_license_link(licence["license_link"])
  if base.name:
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, base.name)
  if base.repository:
    owner = base.repository.split("/")[0]
    writer.add_base_model_organization(0, owner)
    writer.add_base_model_repo_url(0, origin.url(base.repository))
  writer.add_tags(["sentence-similarity", "feature-extraction"])
  if cuts := checkpoint.cuts(job.files):
    writer.add_string(CUTS, json.dumps(cuts))


def _add_model(writer: gguf.GGUFWriter, job: Job) -> None:
  """Write the keys of sizes, positions, attention, pooling and head."""
  config, kinds = job.config, gguf_tensors.layer_kinds(job.config)
  writer.add_type("model")
  writer.add_file_type(_FILE_TYPES[job.dtype])
  writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
  writer.add_context_length(config.max_length)
  writer.add_embedding_length(config.width)
  writer.add_block_count(len(kinds))
  writer.add_feed_forward_length(config.mlp_width)
  writer.add_head_count(config.num_heads)
  writer.add_head_count_kv(config.num_kv_heads)
  writer.add_key_length(config.head_dim)
  writer.add_value_length(config.head_dim)
  writer.add_layer_norm_rms_eps(config.norm_eps)
  writer.add_sliding_window(hugging_face.full_window(config))
  writer.add_sliding_window_pattern([kind == LOCAL for kind in kinds])
  writer.add_rope_freq_base(config.global_rope_base)
  writer.add_rope_freq_base_swa(config.local_rope_base)
  if config.global_rope_factor != 1:
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(config.global_rope_factor)
  theirs = pooling.theirs(FORMAT.name, config.pooling)
  writer.add_pooling_type(gguf.PoolingType[theirs])
  writer.add_dense_features_dims(UP, config.width, config.up_width)
  writer.add_dense_features_dims(DOWN, config.up_width, config.embed_dim)
  writer.add_string(PROMPTS, json.dumps(dict(job.prompts), ensure_ascii=False))


def _tokens(job: Job) -> list[Token]:
  """One token per row of the table; rows without a piece get unique names.

  User-defined pieces are searched for in the text before spaces become U+2581.
  """
  model = job.files[checkpoint.TOKENIZER_FILE]
  found = [
    Token(piece.text.replace("\u2581", " "), _LAST, piece.type)
    if piece.type == USER_DEFINED
    else Token(*piece)
    for piece in sentencepiece_model.gemma_pieces(model, "gguf")
  ]
  rows = range(len(found), job.config.vocab_size)
  return found + [Token(f"[PAD{n}]", 10 * _LAST, UNUSED) for n in rows]


def _add_tokenizer(writer: gguf.GGUFWriter, job: Job) -> None:
  """Write the vocabulary, and which tokens surround a text."""
  texts, scores, types = zip(*_tokens(job))
  writer.add_tokenizer_model("llama")
  writer.add_tokenizer_pre("default")
  writer.add_token_list([text.encode() for text in texts])
  writer.add_token_scores(scores)
  writer.add_token_types(types)
  writer.add_bos_token_id(BOS)
  writer.add_eos_token_id(EOS)
  writer.add_unk_token_id(UNK)
  writer.add_pad_token_id(PAD)
  writer.add_add_bos_token(True)
  writer.add_add_eos_token(True)
  writer.add_add_space_prefix(False)


def _write_tensors(
  writer: gguf.GGUFWriter, job: Job, on_tensor: OnTensor
) -> str:
  """Write the tensors, one in memory at a time; returns the weights' hash."""
  tensors = gguf_tensors.stored(job)
  for tensor in tensors.values():
    writer.add_tensor_info(
      tensor.name,
      tensor.shape,
      np.dtype(np.float32),
      tensor.nbytes,
      tensor.type,
    )
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_ti_data_to_file()
  digest = checkpoint.ContentHash()
  for done, (name, raw) in enumerate(checkpoint.stream(job.directory), 1):
    digest.add_tensor(name, quantize.seen(name, raw, job.trained))
    _write_data(writer, gguf_tensors.data(job, name, raw))
    on_tensor(done, len(job.shapes))
  for tensor in list(tensors.values())[len(job.shapes) :]:
    _write_data(writer, np.zeros(tensor.nbytes, np.uint8))
  return digest.hexdigest()


def _write_data(writer: gguf.GGUFWriter, data: np.ndarray) -> None:
  """Write a tensor's data, with an error if the disk is full.

  gguf's own write_tensor_data calls NumPy's tofile, which then loses the last
  bytes of its buffer silently.
  """
  assert writer.fout is not None  # opened with the header
  [file] = writer.fout
  writer.write_padding(file, file.tell())
  file.write(data.reshape(-1).view(np.uint8).data)
  writer.write_padding(file, data.nbytes)


def _loading(job: Job, written: Written) -> loading.Loading:
  """How the file is loaded; its vectors are of unit length by default."""
  name, prompts = written.artefact.name, job.prompts
  texts = [
    prompts["query"] + loading.QUESTION,
    prompts["document"] + loading.ANSWER,
  ]
  lines = (
    "import numpy as np",
    "import xllamacpp",
    "",
    "params = xllamacpp.CommonParams()",
    f"params.model.path, params.embedding = {name!r}, True",
    f"params.n_ctx = params.n_batch = params.n_ubatch = {job.config.max_length}",
    "server = xllamacpp.Server(params)",
    f"texts = {texts!r}  # a prompt before each",
    'found = server.handle_embeddings({"input": texts})',
    'vectors = np.array([row["embedding"] for row in found["data"]])',
    "print(vectors[0] @ vectors[1])",
  )
  return loading.Loading(
    "llama.cpp",
    ("gguf", "llama.cpp"),
    ("GGUF",),
    (
      loading.Example("llama.cpp", "pip install xllamacpp", lines),
      loading.of_ours(name),
    ),
  )


FORMAT = Format(
  "gguf",
  FLOATS
  | {
    "bfloat16": Dtype(0.9999),
    "q8_0": Dtype(0.9999, "int8_block", ("int8_block", "int8")),
    "q4_0": Dtype(0.9999, "q4_0", ("q4_0", "int4")),
    "mixed": Dtype(0.9999, "mixed", ("mixed",)),
  },
  _faults,
  settle,
  _size,
  _write,
  verify,
  loads=False,
  loading=_loading,
  arithmetic=gguf_tensors.arithmetic,
  holds=gguf_tensors.in_file,
)
