"""An embedder's checkpoint out, as a folder for sentence-transformers.

It is written for every version from 5.1 and transformers from 4.57 on: old
type names and spellings, which new versions read too, the full window, names
of tensors without a prefix.
"""

import contextlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import safetensors

from embeddinggemma import checkpoint, quantize
from embeddinggemma import config as config_lib
from embeddinggemma.checkpoint import Name
from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import (
  hugging_face,
  names,
  safetensors_io,
  sentence_transformers,
  tensors,
  tokenizer_json,
)
from embeddinggemma.convert.output import MARK, whole
from embeddinggemma.convert.sentence_transformers import DOWN, POOLING, UP
from embeddinggemma.model import embedder
from embeddinggemma.model.config import LOCAL, ModelConfig
from embeddinggemma.types import BadInput, Stopped

FORMAT = "sentence-transformers"
DTYPES = tuple(safetensors_io.NAMES)
_OLD = "sentence_transformers.models"  # names that every version knows
_VERSION = "5.1.0"  # the first version that knows the model
_DENSE = {("up",): UP, ("down",): DOWN}


class Checkpoint(NamedTuple):
  """What an export needs of a checkpoint, but its tensors."""

  directory: pathlib.Path
  config: ModelConfig
  prompts: Mapping[str, str]
  files: checkpoint.Files
  shapes: checkpoint.Shapes
  precision: str  # that the weights are seen in


def export(
  path: str,
  output: pathlib.Path,
  dtype: str,
  examine: Callable[[pathlib.Path], Any] = lambda folder: None,
  on_tensor: Callable[[int, int], Any] = lambda done, total: None,
) -> str:
  """Writes the folder, which appears whole; returns the weights' hash.

  A model that was trained for a precision is written as it is seen: its values
  on the grid, each as a float.

  Args:
    path: a checkpoint or a workdir.
    dtype: of the stored weights, float32 or bfloat16.
    examine: looks at the written folder before it takes its name.
    on_tensor: is told how many tensors are written, of how many.

  Raises:
    BadInput: the path is no embedder, or the output is something else's.
    Stopped: the format cannot hold the model.
  """
  if dtype not in DTYPES:
    raise BadInput(f"--dtype={dtype} is unknown; use {' or '.join(DTYPES)}")
  given = opened(path)
  _check_holds(given.config, given.directory)
  if given.precision != quantize.FLOAT and dtype != "float32":
    raise BadInput(
      f"--dtype={dtype} would move weights off the {given.precision} grid that"
      f" {given.directory} was trained for; use float32"
    )
  with whole(output) as folder:
    size = 4 if dtype == "float32" else 2
    room = size * sum(shape.size for shape in given.shapes.values())
    checkpoint.require_room(folder, room)
    digest = _write(given, folder, dtype, on_tensor)
    _check_written(given, folder)
    examine(folder)
  return digest


def opened(path: str) -> Checkpoint:
  """An embedder's checkpoint; BadInput if it is not one."""
  directory = checkpoint.find(path)
  files = checkpoint.read_files(directory)
  for name in ("model.json", "prompts.json", folders.TOKENIZER_FILE):
    if name not in files:
      raise BadInput(f"checkpoint {directory} has no {name}; it is not a model")
  try:
    config = config_lib.build(ModelConfig, json.loads(files["model.json"]))
    prompts = json.loads(files["prompts.json"])
    precision = quantize.precision_of(checkpoint.view_of(files))
  except (BadInput, ValueError) as error:
    raise BadInput(f"checkpoint {directory}: {error}") from None
  if precision is None:
    raise Stopped(
      f"{directory} is seen through the view {checkpoint.view_of(files)!r},"
      f" which {FORMAT} does not hold"
    )
  shapes = checkpoint.read_shapes(directory)
  if any(name[0] == "decoder" for name in shapes):
    raise BadInput(
      f"{directory} is a language model; {FORMAT} holds an embedder: train one"
      f" with --config.init_from={directory}"
    )
  wanted = tensors.shapes_of(embedder.init(config))
  for name in sorted({*wanted, *shapes}):
    ours = shapes[name].shape if name in shapes else "missing"
    if wanted.get(name, "unknown") != ours:
      raise BadInput(
        f"checkpoint {directory}: tensor {'/'.join(name)!r} is {ours}, its"
        f" model.json asks for {wanted.get(name, 'none')}"
      )
  return Checkpoint(directory, config, prompts, files, shapes, precision)


def _check_holds(config: ModelConfig, where: pathlib.Path) -> None:
  """Stopped names what another runtime would compute otherwise."""
  local = LOCAL in hugging_face.layer_kinds(config)
  faults = {
    f"pooling={config.pooling!r}; it pools by the mean": (
      config.pooling != "mean"
    ),
    f"window_rule={config.window_rule!r}; its window is symmetric": (
      local and config.window_rule != "symmetric"
    ),
    "window=1, of which it takes half": local and config.window < 2,
    "qk_norm=false; its attention norms queries and keys": not config.qk_norm,
    f"attention_softcap={config.attention_softcap}; it has none": bool(
      config.attention_softcap
    ),
    f"logit_softcap={config.logit_softcap}; it has none": bool(
      config.logit_softcap
    ),
    f"width={config.width} of num_heads={config.num_heads}; transformers"
    " wants a width that they divide": bool(config.width % config.num_heads),
  }
  for fault, found in faults.items():
    if found:
      raise Stopped(f"{where}: {FORMAT} cannot hold model.{fault}")


def _write(
  given: Checkpoint,
  folder: pathlib.Path,
  dtype: str,
  on_tensor: Callable[[int, int], Any],
) -> str:
  for name, content in _files(given, dtype).items():
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
  content = checkpoint.ContentHash()
  with contextlib.ExitStack() as stack:
    writers = {
      place: stack.enter_context(
        safetensors_io.Writer(
          folder / place / safetensors_io.WEIGHTS, shapes, dtype
        )
      )
      for place, shapes in _theirs(given).items()
    }
    stream = checkpoint.stream(given.directory)
    for done, (name, array) in enumerate(stream, 1):
      content.add_tensor(name, array)
      place, their_name = _place(name)
      seen = quantize.seen(name, array, given.precision)
      writers[place].add(their_name, names.export(name, seen))
      on_tensor(done, len(given.shapes))
  digest = content.hexdigest()
  about = {
    "format": FORMAT,
    "dtype": dtype,
    "weights": digest,
    "precision": given.precision,
  }
  (folder / MARK).write_bytes(_json(about))
  return digest


def _place(name: Name) -> tuple[str, str]:
  """The folder of a tensor of ours, and its name in the file there."""
  if name in _DENSE:
    return _DENSE[name], sentence_transformers.DENSE_WEIGHT
  return "", names.theirs(name[1:], names.GEMMA3)


def _theirs(given: Checkpoint) -> dict[str, dict[str, tensors.Shape]]:
  """Folder -> name -> shape, in the order in which tensors come."""
  found: dict[str, dict[str, tensors.Shape]] = {}
  for name, shape in given.shapes.items():
    place, their_name = _place(name)
    size = names.exported_shape(name, shape.shape)
    found.setdefault(place, {})[their_name] = size
  return found


def _files(given: Checkpoint, dtype: str) -> dict[str, bytes]:
  """All of the folder but the weights."""
  config, model = given.config, given.files[folders.TOKENIZER_FILE]
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
    "config.json": hugging_face.encoder_json(config, dtype),
    sentence_transformers.LENGTH: {
      "max_seq_length": config.max_length,
      "do_lower_case": False,
    },
    sentence_transformers.SETTINGS: {
      "model_type": "SentenceTransformer",
      "__version__": {"sentence_transformers": _VERSION},
      "prompts": dict(given.prompts),
      "default_prompt_name": None,
      "similarity_fn_name": "cosine",
    },
    f"{POOLING}/config.json": _pooling(config.width),
    f"{UP}/config.json": dense(config.width, config.up_width),
    f"{DOWN}/config.json": dense(config.up_width, config.embed_dim),
    "tokenizer_config.json": settings,
    "special_tokens_map.json": {k: settings[k] for k in special},
  }
  terms = {k: v for k, v in given.files.items() if folders.is_terms(k)}
  return {
    **{name: _json(tree) for name, tree in trees.items()},
    **terms,
    folders.TOKENIZER_FILE: model,
    "tokenizer.json": tokenizer_json.tokenizer_json(model),
  }


def _modules() -> list[dict[str, Any]]:
  paths = ("", POOLING, UP, DOWN, "4_Normalize")
  return [
    {"idx": n, "name": str(n), "path": path, "type": f"{_OLD}.{kind}"}
    for n, (kind, path) in enumerate(zip(sentence_transformers.KINDS, paths))
  ]


def _pooling(width: int) -> dict[str, Any]:
  modes = (
    "cls_token",
    "mean_tokens",
    "max_tokens",
    "mean_sqrt_len_tokens",
    "weightedmean_tokens",
    "lasttoken",
  )
  return {
    "word_embedding_dimension": width,
    **{f"pooling_mode_{mode}": mode == "mean_tokens" for mode in modes},
    "include_prompt": True,
  }


def _json(value: Any) -> bytes:
  return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _check_written(given: Checkpoint, folder: pathlib.Path) -> None:
  """Stopped unless the folder reads back as the model that went in.

  By our own importer, and by the format's own reader of the weights' headers.
  """
  back = sentence_transformers.read(folder)
  window = folders.read_json(folder, "config.json")["sliding_window"]
  wrong = {
    "the config": not hugging_face.same_model(back.config, given.config),
    "the window": window != hugging_face.full_window(given.config),
    "a prompt": back.prompts != given.prompts,
    "the tokenizer": back.tokenizer != given.files[folders.TOKENIZER_FILE],
  }
  for place, shapes in _theirs(given).items():
    path = folder / place / safetensors_io.WEIGHTS
    with safetensors.safe_open(str(path), "numpy") as file:
      wrong[f"{path.name} of {place or 'the encoder'}"] = file.metadata() != {
        "format": "pt"
      } or set(file.keys()) != set(shapes)
  for what, differs in wrong.items():
    if differs:
      raise Stopped(f"the export does not read back: {what} differs")
