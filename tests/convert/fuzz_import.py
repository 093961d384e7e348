"""Random edits of one field or file of a folder of sentence-transformers.

Each leads to sentence-transformers' vectors, or to a message that names the file
or the field; `test_fuzz_import.py` says so of some, and by hand

    python tests/convert/fuzz_import.py --base=FOLDER --count=300 --seed=0

of any number, with a table of what came of them. A seed's edits are always the
same. What sentence-transformers refuses may be refused or read.
"""

import argparse
import collections
import contextlib
import io
import json
import logging
import os
import pathlib
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors.numpy

ATOL = 1e-4
DELETE = object()
CONFIG = "config.json"
LENGTH = "sentence_bert_config.json"
SETTINGS = "config_sentence_transformers.json"
TOKENIZER = "tokenizer_config.json"
WEIGHTS = "model.safetensors"
Q = "layers.1.self_attn.q_proj.weight"


class Edit(NamedTuple):
  """A change of a folder, and the words of which a message has one."""

  what: str
  names: tuple[str, ...]
  apply: Callable[[pathlib.Path], None]


ANY = (None, DELETE, 0, 1, -1, 3, 2.5, 1e30, True, False, "", "x", "64", [], {})
# File -> key (or path of keys) -> values that are tried beside ANY.
FIELDS: dict[str, dict[str, tuple[Any, ...]]] = {
  CONFIG: {
    "model_type": ("gemma3", "gemma2"),
    "architectures": (["Gemma3ForCausalLM"], ["Other"]),
    "vocab_size": (511, 513),
    "hidden_size": (16, 64),
    "intermediate_size": (24,),
    "num_hidden_layers": (2, 4),
    "num_attention_heads": (2, 8),
    "num_key_value_heads": (4,),
    "head_dim": (16, 4),
    "query_pre_attn_scalar": (4, 64),
    "sliding_window": (4, 7, 16, 64),
    "max_position_embeddings": (16, 32, 128, 1024),
    "layer_types": (
      ["full_attention"] * 3,
      ["sliding_attention"] * 3,
      ["x"] * 3,
    ),
    "_sliding_window_pattern": (2, 6),
    "sliding_window_pattern": (2, 6),
    "use_bidirectional_attention": (),
    "is_causal": (),
    "rms_norm_eps": (0.1, 1e-5),
    "rope_theta": (500.0,),
    "rope_local_base_freq": (500.0,),
    "rope_scaling": ({"rope_type": "linear", "factor": 4.0}, {"type": "yarn"}),
    "rope_parameters": (
      {"full_attention": {"rope_type": "default", "rope_theta": 50.0}},
      {"full_attention": {"rope_type": "linear", "factor": 4.0}},
      {"sliding_attention": {"rope_type": "linear", "factor": 4.0}},
      {"rope_type": "default", "rope_theta": 50.0},
      {"full_attention": {"rope_theta": 50.0}, "sliding_attention": None},
    ),
    "hidden_activation": ("silu", "gelu", "gelu_pytorch_tanh"),
    "attention_bias": (),
    "attention_dropout": (0.5,),
    "attn_logit_softcapping": (5.0, 50.0),
    "final_logit_softcapping": (5.0,),
    "tie_word_embeddings": (),
    "initializer_range": (0.5,),
    "quantization_config": ({"quant_method": "bitsandbytes"},),
    "auto_map": ({"AutoModel": "modeling.Model"},),
    "dtype": ("float16", "bfloat16", "float32"),
    "torch_dtype": ("float16", "bfloat16"),
    "pad_token_id": (5,),
    "bos_token_id": (5,),
    "eos_token_id": (5,),
    "use_cache": (),
    "transformers_version": ("4.0.0",),
    "vision_config": ({"hidden_size": 8},),
  },
  LENGTH: {
    "max_seq_length": (4, 16, 32, 64, 128, 4096),
    "do_lower_case": (),
    "transformer_task": ("fill-mask", "text-generation"),
    "modality_config": (
      {
        "text": {
          "method": "forward",
          "method_output_name": ["hidden_states", 0],
        }
      },
      {"message": {"method": "forward", "method_output_name": "x"}},
    ),
    "module_output_name": ("sentence_embedding",),
    "processing_kwargs": ({"text": {"max_length": 8}}, {"text": {}}),
    "unpad_inputs": (),
    "query_length": (8,),
    "document_length": (8,),
    "query_expansion": ({"strategy": "fixed", "length": 8},),
    "tokenizer_name_or_path": ("elsewhere",),
    "model_args": (
      {"torch_dtype": "float16"},
      {"attn_implementation": "eager"},
    ),
    "model_kwargs": ({"dtype": "bfloat16"}, {"output_hidden_states": True}),
    "tokenizer_args": ({"model_max_length": 8}, {"add_eos_token": False}),
    "processor_kwargs": ({"model_max_length": 8}, {"truncation_side": "left"}),
    "config_args": ({"rms_norm_eps": 0.1}, {"num_hidden_layers": 2}),
    "config_kwargs": ({"sliding_window": 4},),
    "something": ("new",),
  },
  SETTINGS: {
    "prompts": (
      {"query": "find: ", "document": "text: "},
      {"query": "", "document": ""},
      {"query": "find: "},
      {"query": None, "document": None},
    ),
    "default_prompt_name": ("query", "document"),
    "similarity_fn_name": ("dot", "euclidean"),
    "truncate_dim": (16,),
    "model_type": ("SparseEncoder", "CrossEncoder", "SentenceTransformer"),
    "__version__": ({"sentence_transformers": "9.0.0"},),
  },
  "1_Pooling/config.json": {
    "pooling_mode": (
      "cls",
      "max",
      "lasttoken",
      "weightedmean",
      ["mean", "max"],
    ),
    "pooling_mode_cls_token": (),
    "pooling_mode_mean_tokens": (),
    "pooling_mode_max_tokens": (),
    "include_prompt": (),
    "embedding_dimension": (16,),
    "word_embedding_dimension": (16,),
  },
  "2_Dense/config.json": {
    "in_features": (16,),
    "out_features": (16,),
    "bias": (),
    "activation_function": (
      "torch.nn.modules.activation.Tanh",
      "torch.nn.modules.linear.Identity",
      "torch.nn.Identity",
    ),
    "use_residual": (),
    "module_input_name": ("token_embeddings", "sentence_embedding"),
    "module_output_name": ("other", "sentence_embedding"),
  },
  "4_Normalize/config.json": {
    "module_input_name": ("other", "sentence_embedding"),
    "module_output_name": ("other", "sentence_embedding"),
  },
  TOKENIZER: {
    "model_max_length": (4, 16, 32, 128, 4096),
    "max_len": (16,),
    "add_bos_token": (),
    "add_eos_token": (),
    "truncation_side": ("left", "right"),
    "padding_side": ("left", "right"),
    "tokenizer_class": ("GemmaTokenizerFast", "PreTrainedTokenizerFast"),
    "split_special_tokens": (),
    "clean_up_tokenization_spaces": (),
    "do_lower_case": (),
    "eos_token": ("<pad>", "</s>"),
    "bos_token": ("<pad>",),
  },
}
FIELDS["3_Dense/config.json"] = FIELDS["2_Dense/config.json"]


def write(path: pathlib.Path, key: str, value: Any) -> None:
  """Sets a key of a JSON file, or takes it out."""
  tree = json.loads(path.read_text()) if path.is_file() else {}
  tree.pop(key, None)
  if value is not DELETE:
    tree[key] = value
  path.parent.mkdir(exist_ok=True)
  path.write_text(json.dumps(tree))


def field(rng: random.Random) -> Edit:
  """One key of one JSON file gets another value."""
  file = rng.choice(list(FIELDS))
  key = rng.choice(list(FIELDS[file]))
  own = FIELDS[file][key]
  value = rng.choice(own if own and rng.random() < 0.7 else ANY)
  said = "taken out" if value is DELETE else f"= {value!r}"
  return Edit(
    f"{file}: {key} {said}",
    (key, file, f"{file.partition('/')[0]}: "),
    lambda folder: write(folder / file, key, value),
  )


def arrays(change: Callable[[dict], dict], place: str = ""):
  """A change of the tensors of a file."""

  def apply(folder: pathlib.Path) -> None:
    path = folder / place / WEIGHTS
    found = change(safetensors.numpy.load_file(path))
    safetensors.numpy.save_file(found, path)

  return apply


def typed(name: str, place: str = "", one: bool = False):
  """The tensors of a file, or one of them, in another type."""
  kind = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
  first = lambda found: next(iter(found)) if one else None

  def change(found: dict) -> dict:
    chosen = first(found)
    return {
      k: v.astype(kind) if chosen in (None, k) else v for k, v in found.items()
    }

  return arrays(change, place)


def prefixed(prefix: str):
  return arrays(lambda found: {prefix + k: v for k, v in found.items()})


def sharded(keep: bool):
  """In two files with an index; the whole one stays, with other values."""

  def apply(folder: pathlib.Path) -> None:
    found = safetensors.numpy.load_file(folder / WEIGHTS)
    files = {
      n: f"model-0000{i % 2 + 1}-of-00002.safetensors"
      for i, n in enumerate(found)
    }
    for file in set(files.values()):
      part = {
        n: a * (0.5 if keep else 1)
        for n, a in found.items()
        if files[n] == file
      }
      safetensors.numpy.save_file(part, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": files}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    if not keep:
      (folder / WEIGHTS).unlink()

  return apply


def modules(change: Callable[[list], Any]):
  def apply(folder: pathlib.Path) -> None:
    path = folder / "modules.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))

  return apply


def moved(folder: pathlib.Path) -> None:
  """The Transformer into a folder of its own."""
  (folder / "0_Transformer").mkdir()
  for path in list(folder.iterdir()):
    if path.is_file() and path.name not in ("modules.json", SETTINGS):
      path.rename(folder / "0_Transformer" / path.name)
  modules(lambda rows: [{**rows[0], "path": "0_Transformer"}, *rows[1:]])(
    folder
  )


def added(name: str, content: bytes | str):
  def apply(folder: pathlib.Path) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)

  return apply


def removed(name: str):
  return lambda folder: (folder / name).unlink(missing_ok=True)


def row(kind: str, path: str, at: int):
  new = {
    "idx": 9,
    "name": "9",
    "path": path,
    "type": f"sentence_transformers.models.{kind}",
  }
  return modules(lambda rows: [*rows[:at], new, *rows[at:]])


def ids(change: Callable[[dict], None]):
  """A change of tokenizer.json."""

  def apply(folder: pathlib.Path) -> None:
    path = folder / "tokenizer.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))

  return apply


CUT = {
  "direction": "Right",
  "max_length": 8,
  "strategy": "LongestFirst",
  "stride": 0,
}
FILES: dict[str, tuple[tuple[str, ...], Callable[[pathlib.Path], None]]] = {
  **{
    f"weights in {kind}": ((kind, WEIGHTS), typed(kind))
    for kind in ("float16", "bfloat16", "float64", "int8")
  },
  "one tensor in float16": (("float16", WEIGHTS), typed("float16", one=True)),
  "2_Dense in float16": (("float16", "2_Dense"), typed("float16", "2_Dense")),
  "3_Dense in float64": (("F64", "3_Dense"), typed("float64", "3_Dense")),
  **{
    f"tensors named {p}*": ((p, "tensor"), prefixed(p))
    for p in (
      "model.",
      "_orig_mod.",
      "language_model.",
      "base_model.model.",
      "x.",
      "module.",
    )
  },
  "shards": ((WEIGHTS,), sharded(False)),
  "shards and the whole": ((WEIGHTS,), sharded(True)),
  "an extra tensor": (
    ("extra",),
    arrays(lambda f: f | {"extra.weight": np.ones(3, np.float32)}),
  ),
  "a head": (
    ("lm_head",),
    arrays(lambda f: f | {"lm_head.weight": np.ones((512, 32), np.float32)}),
  ),
  "a tensor less": (
    (Q,),
    arrays(lambda f: {k: v for k, v in f.items() if k != Q}),
  ),
  "a tensor of another shape": ((Q,), arrays(lambda f: f | {Q: f[Q][:8]})),
  "a tensor of NaN": (
    ("layer_1", Q, "finite", "NaN"),
    arrays(lambda f: f | {Q: f[Q] * np.nan}),
  ),
  "a Dense with a bias": (
    ("linear.bias",),
    arrays(
      lambda f: (
        f | {"linear.bias": np.ones(len(f["linear.weight"]), np.float32)}
      ),
      "2_Dense",
    ),
  ),
  "a Dense transposed": (
    ("linear.weight",),
    arrays(
      lambda f: {"linear.weight": np.ascontiguousarray(f["linear.weight"].T)},
      "2_Dense",
    ),
  ),
  "no Normalize": (("Normalize", "modules.json"), modules(lambda r: r[:-1])),
  "one Dense": (("Dense",), modules(lambda r: [*r[:2], *r[3:]])),
  "no Dense": (("Dense",), modules(lambda r: [*r[:2], *r[4:]])),
  "three Dense": (("Dense",), row("Dense", "3_Dense", 4)),
  "the first Dense twice": (
    ("Dense", "in_features"),
    modules(lambda r: [*r[:3], {**r[3], "path": r[2]["path"]}, r[4]]),
  ),
  "Dense the other way": (
    ("in_features", "modules.json"),
    modules(lambda r: [*r[:2], r[3], r[2], r[4]]),
  ),
  "two modules of one name": (
    ("modules.json",),
    modules(lambda r: [*r[:3], {**r[3], "name": r[2]["name"]}, r[4]]),
  ),
  "modules out of order by idx": (
    ("modules.json",),
    modules(lambda r: [{**x, "idx": 4 - n} for n, x in enumerate(r)]),
  ),
  "modules without idx": (
    ("modules.json",),
    modules(lambda r: [{k: v for k, v in x.items() if k != "idx"} for x in r]),
  ),
  "modules with kwargs": (
    ("modules.json",),
    modules(lambda r: [{**r[0], "kwargs": ["task"]}, *r[1:]]),
  ),
  "an unknown module": (
    ("Custom",),
    modules(
      lambda r: [
        *r,
        {"idx": 5, "name": "5", "path": "", "type": "custom.Custom"},
      ]
    ),
  ),
  **{
    f"a module {kind}": ((kind,), row(kind, f"9_{kind}", 4))
    for kind in ("Dropout", "LayerNorm", "WordWeights", "Router", "CNN")
  },
  "a second Normalize": (("Normalize",), row("Normalize", "4_Normalize", 2)),
  "modules is an object": (("modules.json",), modules(lambda r: {"a": r})),
  "modules is empty": (("modules.json",), modules(lambda r: [])),
  "the Transformer in a folder": (("0_Transformer",), moved),
  "a path out of the folder": (
    ("..",),
    modules(lambda r: [*r[:2], {**r[2], "path": "../2_Dense"}, *r[3:]]),
  ),
  **{
    f"{name} gone": ((name.split("/")[-1],), removed(name))
    for name in (
      CONFIG,
      LENGTH,
      SETTINGS,
      TOKENIZER,
      WEIGHTS,
      "modules.json",
      "1_Pooling/config.json",
      "2_Dense/config.json",
      f"3_Dense/{WEIGHTS}",
    )
  },
  "another name of the lengths' file": (
    (LENGTH, "sentence_roberta"),
    lambda f: (
      removed(LENGTH)(f),
      added("sentence_roberta_config.json", '{"max_seq_length": 16}')(f),
    ),
  ),
  **{
    f"{name} added": ((name.split("/")[0], name), added(name, content))
    for name, content in {
      "pytorch_model.bin": b"\x80",
      "2_Dense/pytorch_model.bin": b"\x80",
      "onnx/model.onnx": b"x",
      "openvino/openvino_model.xml": b"x",
      "optimizer.pt": b"x",
      "training_args.bin": b"x",
      "trainer_state.json": "{}",
      "checkpoint-5/model.safetensors": b"x",
      "consolidated.safetensors": b"x",
      "model.gguf": b"GGUF",
      "other.safetensors": b"x",
      "generation_config.json": "{}",
      "chat_template.jinja": "x",
      "modeling_custom.py": "raise ValueError",
      "notes.txt": "x",
      "5_Dense/config.json": "{}",
      "router_config.json": "{}",
      "adapter_model.safetensors": b"x",
      "quantize_config.json": "{}",
      "adapter_config.json": "{}",
      "sentence_xlnet_config.json": '{"max_seq_length": 8}',
      "preprocessor_config.json": "{}",
    }.items()
  },
  "empty weights": ((WEIGHTS,), added(WEIGHTS, b"")),
  "cut weights": (
    (WEIGHTS,),
    lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]),
  ),
  "broken JSON": ((CONFIG,), added(CONFIG, "{")),
}
IDS: dict[str, tuple[tuple[str, ...], Callable[[pathlib.Path], None]]] = {
  "no post-processor": (
    ("tokenizer.json", "EOS"),
    ids(lambda t: t.update(post_processor=None)),
  ),
  "truncation": (("truncation",), ids(lambda t: t.update(truncation=CUT))),
  "truncation from the left": (
    ("truncation",),
    ids(lambda t: t.update(truncation={**CUT, "direction": "Left"})),
  ),
  "padding": (
    ("padding",),
    ids(
      lambda t: t.update(
        padding={
          "strategy": {"Fixed": 16},
          "direction": "Left",
          "pad_to_multiple_of": None,
          "pad_id": 0,
          "pad_type_id": 0,
          "pad_token": "<pad>",
        }
      )
    ),
  ),
  "lower case": (
    ("tokenizer.json", "normalizer"),
    ids(lambda t: t.update(normalizer={"type": "Lowercase"})),
  ),
  "a merge less": (
    ("tokenizer.json",),
    ids(lambda t: t["model"]["merges"].pop(0)),
  ),
  "two pieces swapped": (
    ("tokenizer.json",),
    ids(
      lambda t: t["model"]["vocab"].update(
        {
          a: b
          for a, b in zip(
            list(t["model"]["vocab"])[400:402],
            reversed(list(t["model"]["vocab"].values())[400:402]),
          )
        }
      )
    ),
  ),
  "no byte fallback": (
    ("tokenizer.json",),
    ids(lambda t: t["model"].update(byte_fallback=False)),
  ),
  "another tokenizer.model": (
    ("tokenizer.model",),
    lambda f: (f / "tokenizer.model").write_bytes(b"no model"),
  ),
  "tokenizer.model gone": (("tokenizer.model",), removed("tokenizer.model")),
  "tokenizer.json gone": (("tokenizer.json",), removed("tokenizer.json")),
}


def file(rng: random.Random) -> Edit:
  """One file of weights, modules or others is changed, added or removed."""
  name = rng.choice(list(FILES))
  names, apply = FILES[name]
  return Edit(name, names, apply)


ADAPTER = "adapter_config.json"
ADAPTED = ("layers.0.self_attn.q_proj", "layers.1.self_attn.o_proj")
# Key of an adapter's settings -> values that are tried beside ANY.
LORA: dict[str, tuple[Any, ...]] = {
  "r": (8,),
  "lora_alpha": (1, 16),
  "target_modules": (["q_proj"], ["q_proj", "o_proj", "k_proj"], r".*\.0\..*"),
  "exclude_modules": (["q_proj"], ["k_proj"]),
  "use_rslora": (),
  "use_dora": (),
  "rank_pattern": ({"q_proj": 2}, {"k_proj": 2}),
  "alpha_pattern": ({"q_proj": 2}, {"k_proj": 2}),
  "layers_to_transform": ([0], [1]),
  "layers_pattern": ("layers",),
  "modules_to_save": (["norm"], ["q_proj"]),
  "init_lora_weights": ("gaussian", "olora", "pissa", "loftq"),
  "bias": ("all", "lora_only"),
  "fan_in_fan_out": (),
  "lora_dropout": (0.5,),
  "lora_bias": (),
  "peft_type": ("IA3", "LOHA", "PREFIX_TUNING"),
  "task_type": ("CAUSAL_LM",),
  "base_model_name_or_path": (),
  "use_qalora": (),
  "layer_replication": ([[0, 2]],),
  "trainable_token_indices": ([1, 2],),
  "target_parameters": (["norm.weight"],),
}


def lora(folder: pathlib.Path) -> None:
  """Puts a random adapter of two matrices beside the weights."""
  rng = np.random.default_rng(0)
  base = safetensors.numpy.load_file(folder / WEIGHTS)
  found = {}
  for name in ADAPTED:
    out, into = base[f"{name}.weight"].shape
    draw = lambda *shape: rng.standard_normal(shape, np.float32) / 2
    found[f"base_model.model.{name}.lora_A.weight"] = draw(4, into)
    found[f"base_model.model.{name}.lora_B.weight"] = draw(out, 4)
  safetensors.numpy.save_file(found, folder / "adapter_model.safetensors")
  tree = {
    "peft_type": "LORA",
    "task_type": "FEATURE_EXTRACTION",
    "base_model_name_or_path": str(folder),
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["0.self_attn.q_proj", "1.self_attn.o_proj"],
  }
  (folder / ADAPTER).write_text(json.dumps(tree))


def adapter(rng: random.Random) -> Edit:
  """One key of the settings of an adapter beside the weights."""
  key = rng.choice(list(LORA))
  own = LORA[key]
  value = rng.choice(own if own and rng.random() < 0.7 else ANY)
  said = "taken out" if value is DELETE else f"= {value!r}"

  def apply(folder: pathlib.Path) -> None:
    lora(folder)
    write(folder / ADAPTER, key, value)

  return Edit(f"{ADAPTER}: {key} {said}", (key, "adapter_"), apply)


def tokenizer(rng: random.Random) -> Edit:
  """One thing of the tokenizer's files."""
  name = rng.choice(list(IDS))
  names, apply = IDS[name]
  return Edit(f"tokenizer: {name}", names, apply)


def edits(seed: int, count: int) -> list[Edit]:
  """So many random edits."""
  rng = random.Random(seed)
  kinds = rng.choices((field, file, adapter, tokenizer), (6, 3, 1, 1), k=count)
  return [kind(rng) for kind in kinds]


class Outcome(NamedTuple):
  """What came of an edit, and what was said."""

  verdict: str
  said: str

  @property
  def bad(self) -> bool:
    """Whether vectors differ, or a refusal names nothing."""
    return self.verdict in ("DIFFERENT", "UNNAMED", "CRASH")


@contextlib.contextmanager
def silent():
  """No output of libraries."""
  logging.disable(logging.CRITICAL)
  with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")
    yield
  logging.disable(logging.NOTSET)


def ours(folder: pathlib.Path, encode: Callable[[Any], Any]) -> tuple[str, Any]:
  """(what was said, vectors or None): by the importer and `load`.

  `encode` gets a function that loads the model.
  """
  import embeddinggemma as eg
  from embeddinggemma.convert import verbs
  from embeddinggemma.convert.read import families
  from embeddinggemma.data.tokenizer import Tokenizer
  from embeddinggemma.types import BadInput, Stopped

  try:
    found = families.read(folder)
    owner = str(folder)
    tokenizer = Tokenizer(found.tokenizer, owner)
    tokenizer.require_fits(found.config.vocab_size, owner)
    left = verbs.left_aside_of(found, folder)
    with silent():
      vectors = encode(lambda: eg.load(folder))
    return " ".join((*found.warned, *left.warned)), vectors
  except (BadInput, Stopped) as error:
    return str(error), None


def judged(edit: Edit, said: str, mine: Any, theirs: Any) -> Outcome:
  """The verdict of an edit, from both sides' vectors; None: refused."""
  named = any(name in said for name in edit.names)
  if mine is None:
    return Outcome("refused" if named else "UNNAMED", said)
  if theirs is None:
    return Outcome("only ours reads it", said)
  same = mine.shape == theirs.shape and np.abs(mine - theirs).max() <= ATOL
  if same:
    return Outcome("same", said)
  return Outcome("warned" if named else "DIFFERENT", said)


TEXTS = [
  "the red river of the town",
  "Was SEEN at 7 o'clock",
  "the old house of the valley was seen at the garden road " * 12,
  " Ünïcode 日本語\t\U0001f600  two   spaces\nand <mask> of it ",
]
PROMPTS = (None, "query", "document")


def of_ours(load: Callable[[], Any]) -> np.ndarray:
  """Our vectors of TEXTS under each of PROMPTS."""
  model = load()
  return np.concatenate([model.encode(TEXTS, name) for name in PROMPTS])


def of_theirs(folder: pathlib.Path) -> np.ndarray | None:
  """sentence-transformers' vectors; None: it refuses the folder."""
  import sentence_transformers
  import transformers.integrations.peft as integration

  # It asks for a newer PEFT than there may be; the files are the same.
  integration.MIN_PEFT_VERSION = "0.18.0"
  try:
    with silent(), contextlib.redirect_stderr(io.StringIO()):
      model = sentence_transformers.SentenceTransformer(
        str(folder), device="cpu", local_files_only=True
      )
      found = [
        model.encode(TEXTS),
        model.encode_query(TEXTS),
        model.encode_document(TEXTS),
      ]
    return np.concatenate(found).astype(np.float32)
  except Exception:  # it has many kinds
    return None


def tried(base: pathlib.Path, edit: Edit, place: pathlib.Path) -> Outcome:
  """The outcome of an edit of a copy of the base folder at `place`."""
  shutil.rmtree(place, ignore_errors=True)
  shutil.copytree(base, place)
  edit.apply(place)
  try:
    said, mine = ours(place, of_ours)
  except Exception as error:
    return Outcome("CRASH", f"{type(error).__name__}: {error}"[:300])
  theirs = of_theirs(place) if mine is not None else None
  return judged(edit, said, mine, theirs)


def main() -> int:
  """Prints every outcome that is not as it should be, and the counts."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--count", type=int, default=300)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--base", type=pathlib.Path, required=True)
  parser.add_argument("--all", action="store_true", help="every outcome")
  values = parser.parse_args()
  counts: collections.Counter[str] = collections.Counter()
  with tempfile.TemporaryDirectory() as temporary:
    for edit in edits(values.seed, values.count):
      found = tried(values.base, edit, pathlib.Path(temporary) / "edited")
      counts[found.verdict] += 1
      if found.bad or values.all:
        print(f"{found.verdict:10} {edit.what}: {found.said}", flush=True)
  for verdict, count in counts.most_common():
    print(f"{count:5} {verdict}")
  return 1 if any(not key.islower() for key in counts) else 0


if __name__ == "__main__":
  os.environ.setdefault("HF_HUB_OFFLINE", "1")
  sys.exit(main())
