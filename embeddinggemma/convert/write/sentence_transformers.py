"""Write an embedder's checkpoint as a folder for sentence-transformers.

It works with every version from 5.1, and transformers from 4.57: old type names
and spellings, which new versions read too; the full window; tensor names
without a prefix.
"""

import contextlib
import json
import pathlib
from typing import Any

import safetensors

from embeddinggemma import checkpoint, quantize
from embeddinggemma.checkpoint import Name
from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import names, safetensors_io, tensors
from embeddinggemma.convert.card import loading
from embeddinggemma.convert.read import hugging_face, sentence_transformers
from embeddinggemma.convert.read.sentence_transformers import DOWN, POOLING, UP
from embeddinggemma.convert.write import tokenizer_json
from embeddinggemma.convert.write.exporting import (
  FLOATS,
  Format,
  Job,
  OnTensor,
  Written,
  common_faults,
)
from embeddinggemma.losses import matryoshka
from embeddinggemma.model import identity, pooling
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.types import Stopped

_OLD = "sentence_transformers.models"  # names that every version knows
_VERSION = "5.1.0"  # the first version that knows the model
# Versions 6 and later refuse to load the folder, with the reason.
_REQUIREMENTS = {
  "transformers": {
    "specifier": ">=4.57",
    "reason": "older versions ignore use_bidirectional_attention: the model"
    " would be causal, and its vectors others",
  }
}
_DENSE = {("up",): UP, ("down",): DOWN}


def _faults(job: Job) -> dict[str, bool]:
  """What sentence-transformers, or transformers under it, cannot compute."""
  config = job.config
  return common_faults(config, FORMAT.name) | {
    f"model.width={config.width} of num_heads={config.num_heads}; transformers"
    " wants a width that they divide": bool(config.width % config.num_heads),
  }


def _size(job: Job) -> int:
  elements = sum(shape.size for shape in job.shapes.values())
  kind = safetensors_io.NAMES[job.dtype]
  return safetensors_io.DTYPES[kind].itemsize * elements


def _write(job: Job, folder: pathlib.Path, on_tensor: OnTensor) -> Written:
  for name, content in _files(job).items():
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
  content = checkpoint.ContentHash()
  with contextlib.ExitStack() as stack:
    writers = {
      place: stack.enter_context(
        safetensors_io.Writer(
          folder / place / safetensors_io.WEIGHTS, shapes, job.dtype
        )
      )
      for place, shapes in _theirs(job).items()
    }
    for done, (name, raw) in enumerate(checkpoint.stream(job.directory), 1):
      array = quantize.seen(name, raw, job.precision)
      content.add_tensor(name, array)
      place, their_name = _place(name)
      writers[place].add(their_name, names.export(name, array))
      on_tensor(done, len(job.shapes))
  return Written(folder, content.hexdigest())


def _place(name: Name) -> tuple[str, str]:
  """The folder of one of our tensors, and its name in the file there."""
  if name in _DENSE:
    return _DENSE[name], sentence_transformers.DENSE_WEIGHT
  return "", names.theirs(name[1:], names.GEMMA3)


def _theirs(job: Job) -> dict[str, dict[str, tensors.Shape]]:
  """Folder -> name -> shape, in the order in which tensors are written."""
  found: dict[str, dict[str, tensors.Shape]] = {}
  for name, shape in job.shapes.items():
    place, their_name = _place(name)
    size = names.exported_shape(name, shape.shape)
    found.setdefault(place, {})[their_name] = size
  return found


def _files(job: Job) -> dict[str, bytes]:
  """All files of the folder but the weights."""
  config, model = job.config, job.files[checkpoint.TOKENIZER_FILE]
  dense = lambda ins, outs: {
    "in_features": ins,
    "out_features": outs,
    "bias": False,
    "activation_function": sentence_transformers.IDENTITY,
  }
  settings = tokenizer_json.tokenizer_config(model, config.max_length)
  special = ("bos_token", "eos_token", "pad_token", "unk_token")
  trees = {
    sentence_transformers.MODULES: _modules(),
    "config.json": hugging_face.encoder_json(config, job.dtype),
    sentence_transformers.LENGTH: {
      "max_seq_length": config.max_length,
      "do_lower_case": False,
    },
    sentence_transformers.SETTINGS: {
      "model_type": "SentenceTransformer",
      "__version__": {"sentence_transformers": _VERSION},
      "prompts": dict(job.prompts),
      "default_prompt_name": None,
      "similarity_fn_name": "cosine",
      "requirements": _REQUIREMENTS,
    },
    f"{POOLING}/config.json": _pooling(config),
    f"{UP}/config.json": dense(config.width, config.up_width),
    f"{DOWN}/config.json": dense(config.up_width, config.embed_dim),
    "tokenizer_config.json": settings,
    "special_tokens_map.json": {k: settings[k] for k in special},
  }
  terms = {k: v for k, v in job.files.items() if checkpoint.is_terms(k)}
  return {
    **{name: _json(tree) for name, tree in trees.items()},
    **terms,
    checkpoint.TOKENIZER_FILE: model,
    "tokenizer.json": tokenizer_json.tokenizer_json(model),
  }


def _modules() -> list[dict[str, Any]]:
  paths = ("", POOLING, UP, DOWN, "4_Normalize")
  return [
    {"idx": n, "name": str(n), "path": path, "type": f"{_OLD}.{kind}"}
    for n, (kind, path) in enumerate(zip(sentence_transformers.KINDS, paths))
  ]


def _pooling(config: ModelConfig) -> dict[str, Any]:
  ours = pooling.theirs(FORMAT.name, config.pooling)
  modes = (
    "cls_token",
    "mean_tokens",
    "max_tokens",
    "mean_sqrt_len_tokens",
    "weightedmean_tokens",
    "lasttoken",
  )
  return {
    "word_embedding_dimension": config.width,
    **{f"pooling_mode_{mode}": mode == ours for mode in modes},
    "include_prompt": True,
  }


def _json(value: Any) -> bytes:
  return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _verify(job: Job, folder: pathlib.Path) -> None:
  """Raise Stopped unless the folder reads back as the same model.

  It is read by our own importer, and by safetensors' reader of headers.
  """
  back = sentence_transformers.read(folder)
  window = folders.read_json(folder, "config.json")["sliding_window"]
  wrong = {
    "the config": not identity.same_model(back.config, job.config),
    "the window": window != hugging_face.full_window(job.config),
    "a prompt": back.prompts != job.prompts,
    "the tokenizer": back.tokenizer != job.files[checkpoint.TOKENIZER_FILE],
  }
  for place, shapes in _theirs(job).items():
    path = folder / place / safetensors_io.WEIGHTS
    with safetensors.safe_open(str(path), "numpy") as file:
      wrong[f"{path.name} of {place or 'the encoder'}"] = file.metadata() != {
        "format": "pt"
      } or set(file.keys()) != set(shapes)
  for what, differs in wrong.items():
    if differs:
      raise Stopped(f"the export does not read back: {what} differs")


def _loading(job: Job, written: Written) -> loading.Loading:
  """How the folder is loaded."""
  del written
  dims = matryoshka.dims_of(job.config.embed_dim)
  lines = (
    "from sentence_transformers import SentenceTransformer",
    "",
    f'model = SentenceTransformer("{loading.FOLDER}")',
    f"queries = model.encode_query([{loading.QUESTION!r}])",
    f"documents = model.encode_document([{loading.ANSWER!r}])",
    "print(model.similarity(queries, documents))",
    f'short = model.encode_query(["a text"], truncate_dim={dims[-1]})',
  )
  install = f"pip install 'sentence-transformers>={_VERSION}'"
  return loading.Loading(
    "sentence-transformers",
    ("sentence-transformers",),
    ("Sentence Transformers", "PyTorch", "safetensors"),
    (
      loading.Example("sentence-transformers", install, lines),
      loading.of_ours(loading.FOLDER),
    ),
  )


FORMAT = Format(
  "sentence-transformers",
  FLOATS,
  _faults,
  lambda job: job,
  _size,
  _write,
  _verify,
  loads=True,
  loading=_loading,
)
