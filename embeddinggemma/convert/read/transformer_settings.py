"""How sentence-transformers gives texts to the encoder, and in which type.

sentence_bert_config.json holds it. A setting under which other vectors would
come out is refused by name.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import safetensors_io
from embeddinggemma.convert.read import tokenizer_settings
from embeddinggemma.convert.safetensors_io import Tensor
from embeddinggemma.types import BadInput

FILE = "sentence_bert_config.json"
_FILES = (  # the first that says anything counts
  FILE,
  *(
    f"sentence_{kind}_config.json"
    for kind in (
      "roberta",
      "distilbert",
      "camembert",
      "albert",
      "xlm-roberta",
      "xlnet",
    )
  ),
)
# Keys of a Transformer's settings -> the only values under which texts become
# vectors as they do here. `max_seq_length` is for read/lengths.py.
_TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}
_TRANSFORMER: Mapping[str, tuple[Any, ...]] = {
  "do_lower_case": (False, None),
  "transformer_task": ("feature-extraction", None),
  "modality_config": ({"text": _TEXT}, None),
  "module_output_name": ("token_embeddings", None),
  "query_length": (None,),
  "document_length": (None,),
  "query_expansion": (None,),
  "config_args": ({}, None),
  "config_kwargs": ({}, None),
}
_ANYHOW = {  # keys that change no vector; as a part of model_args, too
  "max_seq_length",
  "unpad_inputs",
  "backend",
  "attn_implementation",
  "device_map",
  "low_cpu_mem_usage",
  "trust_remote_code",  # which sentence-transformers takes away
}
_DTYPE = ("dtype", "torch_dtype")
_HALF = ("float16", "bfloat16")
_TOKENIZER_ARGS = ("tokenizer_args", "processor_kwargs")
_MODEL_ARGS = ("model_args", "model_kwargs")
# Those of the tokenizer are checked in tokenizer_settings.
_OF_TOKENIZER = (
  *_TOKENIZER_ARGS,
  "processing_kwargs",
  "tokenizer_name_or_path",
)


def read(folder: pathlib.Path) -> tuple[Mapping[str, Any], str]:
  """The settings of the Transformer, checked, and the name of their file."""
  file, tree = FILE, {}
  for name in _FILES:
    if folders.has(folder, name):
      file, tree = name, folders.read_json(folder, name)
      if tree:
        break
  where = folder / file
  known = {*_TRANSFORMER, *_ANYHOW, *_MODEL_ARGS, *_OF_TOKENIZER}
  for key, value in tree.items():
    if key not in known:
      raise BadInput(f"{where}: {key}={value!r} is not known; remove it")
    if value not in _TRANSFORMER.get(key, (value,)):
      raise BadInput(
        f"{where}: {key}={value!r} is not supported; only"
        f" {_TRANSFORMER[key][0]!r}"
      )
  for key in _MODEL_ARGS:
    _check_args(tree.get(key) or {}, key, where)
  tokenizer_settings.check_module(folder)
  limits = [tree.get(key) or {} for key in _TOKENIZER_ARGS]
  limit = {k: v for found in limits for k, v in found.items()}
  if "model_max_length" in limit:  # before what stands beside it
    tree = {**tree, "max_seq_length": limit["model_max_length"]}
  return tree, file


def _check_args(args: Any, key: str, where: pathlib.Path) -> None:
  """Raise BadInput for an argument that could change vectors."""
  allowed = {*_ANYHOW, *_DTYPE}
  unknown = sorted(set(args) - allowed) if isinstance(args, Mapping) else [args]
  if unknown:
    raise BadInput(
      f"{where}: {key} sets {unknown[0]!r}, which is not supported; remove it"
    )


def dtype_notes(
  folder: pathlib.Path,
  settings: Mapping[str, Any],
  weights: Mapping[str, Tensor],
) -> tuple[str, ...]:
  """A warning if other programs compute in half precision."""
  asked = [
    (f"{FILE}: {key}: {name}", (settings.get(key) or {}).get(name))
    for key in _MODEL_ARGS
    for name in _DTYPE
  ]
  if weights and folders.has(folder, "config.json"):
    tree = folders.read_json(folder, "config.json")
    asked += [(f"config.json: {name}", tree.get(name)) for name in _DTYPE]
  stored = safetensors_io.types(weights)
  asked.append((f"the type of {safetensors_io.WEIGHTS}", stored))
  who, kind = next(
    ((who, kind) for who, kind in asked if kind not in (None, "", "auto")),
    ("", ""),
  )
  kind = str(kind).removeprefix("torch.")
  if kind not in _HALF:
    return ()
  return (
    f"{who} is {kind}, so transformers 5 computes in {kind}, which moves vectors"
    f" by its rounding; here they are computed in float32 from the {stored} of"
    " the file",
  )
