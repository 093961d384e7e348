"""Convert config.json of transformers' Gemma models to ModelConfig, and back.

A setting that this project would not follow is refused by name. Both spellings
of rotary bases are read (rope_theta and rope_local_base_freq; rope_parameters),
and both a list of layer types and the length of its pattern.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from embeddinggemma.model.config import GLOBAL, LOCAL, ModelConfig
from embeddinggemma.model.identity import layer_kinds
from embeddinggemma.types import BadInput

_KINDS = {"sliding_attention": LOCAL, "full_attention": GLOBAL}
_TYPES = {kind: name for name, kind in _KINDS.items()}
_SIZES = {  # ours -> theirs, whole numbers
  "vocab_size": "vocab_size",
  "num_layers": "num_hidden_layers",
  "width": "hidden_size",
  "mlp_width": "intermediate_size",
  "num_heads": "num_attention_heads",
  "num_kv_heads": "num_key_value_heads",
  "head_dim": "head_dim",
  "window": "sliding_window",
  "max_length": "max_position_embeddings",
}
_PATTERNS = ("sliding_window_pattern", "_sliding_window_pattern")
# Key of config.json -> the only values that mean the model of this project.
_FIXED: Mapping[str, tuple[Any, ...]] = {
  "attention_bias": (False, None),
  "hidden_activation": ("gelu_pytorch_tanh", None),
  "tie_word_embeddings": (True, None),
  "is_causal": (True, None),
}
# Keys that, if they say anything, mean another model.
_FOREIGN = {
  "quantization_config": "the weights are packed in a way that is not read; save"
  " them dequantised",
  "auto_map": "the model is code of its own, which is never run here",
}


class Family(NamedTuple):
  """What a family's config.json implies where it says nothing, and always."""

  defaults: Mapping[str, Any]  # those of transformers
  pattern: int  # every pattern-th layer is global
  bases: tuple[float, float]  # of rotary positions: local, global
  always: Mapping[str, Any]  # fields of ModelConfig
  softcap: bool = True  # whether its attention heeds attn_logit_softcapping


_GEMMA3 = {
  "vocab_size": 262_208,
  "hidden_size": 2304,
  "intermediate_size": 9216,
  "num_hidden_layers": 26,
  "num_attention_heads": 8,
  "num_key_value_heads": 4,
  "head_dim": 256,
  "query_pre_attn_scalar": 256,
  "sliding_window": 4096,
  "max_position_embeddings": 131_072,
  "rms_norm_eps": 1e-6,
}
_GEMMA2 = {
  **_GEMMA3,
  "vocab_size": 256_000,
  "max_position_embeddings": 8192,
  "attn_logit_softcapping": 50.0,
  "final_logit_softcapping": 30.0,
}
GEMMA3 = Family(_GEMMA3, 6, (1e4, 1e6), {}, softcap=False)
T5GEMMA = Family(
  _GEMMA2, 2, (1e4, 1e4), {"qk_norm": False, "window_rule": "t5gemma"}
)
T5GEMMA2 = Family(_GEMMA3, 6, (1e4, 1e6), {"window_rule": "t5gemma2"})


def model_config(
  tree: Mapping[str, Any], family: Family, where: Any
) -> ModelConfig:
  """The ModelConfig of one side, with a head in the paper's proportions.

  Args:
    tree: config.json, or the part of it that describes the side.
    family: the defaults of its family.
    where: its name in messages.

  Raises:
    BadInput: a value has the wrong type or means another model.
  """
  given = {**family.defaults, **tree}
  for name, reason in _FOREIGN.items():
    if tree.get(name):
      raise BadInput(f"{where}: {name} is set: {reason}")
  if tree.get("attn_logit_softcapping") is not None and not family.softcap:
    raise BadInput(
      f"{where}: attn_logit_softcapping={tree['attn_logit_softcapping']!r} is"
      " not supported; transformers' Gemma 3 has no such cap: write null"
    )
  for name, allowed in _FIXED.items():
    if tree.get(name) not in allowed:
      raise BadInput(
        f"{where}: {name}={tree[name]!r} is not supported; only {allowed[0]!r}"
      )
  sizes: dict[str, Any] = {
    ours: _whole(given, key, where) for ours, key in _SIZES.items()
  }
  scalar = given["query_pre_attn_scalar"]
  if scalar != sizes["head_dim"]:
    raise BadInput(
      f"{where}: query_pre_attn_scalar={scalar} is not supported; only that of"
      f" head_dim={sizes['head_dim']}"
    )
  if tree.get("use_bidirectional_attention"):
    check_whole_window(sizes["window"], where)
  try:
    return ModelConfig(
      **sizes,
      up_width=4 * sizes["width"],
      embed_dim=sizes["width"],
      pattern=_pattern(tree, family, sizes["num_layers"], where),
      **_rope(tree, family, where)._asdict(),
      norm_eps=_number(given, "rms_norm_eps", where),
      attention_softcap=_number(given, "attn_logit_softcapping", where),
      logit_softcap=_number(given, "final_logit_softcapping", where),
      **family.always,
    )
  except BadInput as error:
    said = str(error)
    raise BadInput(
      said if said.startswith(str(where)) else f"{where}: {said}"
    ) from None


def _whole(tree: Mapping[str, Any], name: str, where: Any) -> int:
  value = tree[name]
  if type(value) is not int or value < 1:
    raise BadInput(f"{where}: {name}={value!r} is not a whole number above 0")
  return value


def _number(tree: Mapping[str, Any], name: str, where: Any) -> float:
  value = tree.get(name) or 0.0  # null: no softcap
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise BadInput(f"{where}: {name}={value!r} is not a number")
  return float(value)


def check_whole_window(
  window: int, where: Any, place: str = "config.json"
) -> None:
  """Raise BadInput for a window that transformers has halved on saving.

  transformers 4.57 saves a bidirectional window as half of it plus one, 257 for
  512. Read as it stands, attention would reach half as far, without an error.
  `place` is the file in which the full window should be written.
  """
  if window % 2:
    raise BadInput(
      f"{where}: sliding_window={window} is odd, so it was saved by a version"
      " of transformers that writes half the window plus one (257 of 512, 129"
      f" when saved twice); write the model's full window, {2 * (window - 1)} if"
      f" it was saved once, into {place}"
    )


class Rope(NamedTuple):
  """Rotary positions: both kinds' bases, and the scaling of global layers."""

  local_rope_base: float
  global_rope_base: float
  global_rope_factor: float


def _rope(tree: Mapping[str, Any], family: Family, where: Any) -> Rope:
  scaling = tree.get("rope_scaling") or {}
  new = tree.get("rope_parameters") or {}
  if not isinstance(scaling, Mapping) or not isinstance(new, Mapping):
    raise BadInput(f"{where}: rope_scaling or rope_parameters is not an object")
  alike = family.bases[0] == family.bases[1]
  if new and not set(new) & set(_KINDS) and not alike and "rope_theta" in new:
    raise BadInput(
      f"{where}: rope_parameters has no {' and '.join(_KINDS)}, which this model"
      " has of its own; write both"
    )
  keys = ("rope_theta" if alike else "rope_local_base_freq", "rope_theta")
  bases, factors = [], []
  for kind, key, base in zip(_KINDS, keys, family.bases):
    part = new.get(kind) if set(new) & set(_KINDS) else new
    part = {} if part is None else part
    if not isinstance(part, Mapping):
      raise BadInput(f"{where}: rope_parameters.{kind} is not an object")
    if _KINDS[kind] == GLOBAL or alike:
      part = {**part, **scaling}  # as in every version of transformers
    name = f"rope_parameters.{kind}" if new else "rope_scaling"
    factors.append(_factor(part, name, where))
    value = part.get("rope_theta", tree.get(key))
    given = {key: base if value is None else value}
    bases.append(_number(given, key, where))
  if factors[0] != 1:
    raise BadInput(
      f"{where}: rotary positions of local layers are divided by {factors[0]:g},"
      " which is not supported"
    )
  local, everywhere = bases
  return Rope(local, everywhere, factors[1])


def _factor(rope: Mapping[str, Any], name: str, where: Any) -> float:
  """What positions are divided by."""
  kind = rope.get("rope_type", rope.get("type", "default"))
  if rope.get("partial_rotary_factor") not in (None, 1):
    raise BadInput(
      f"{where}: {name}.partial_rotary_factor={rope['partial_rotary_factor']!r}"
      " is not supported; only 1"
    )
  if kind == "default":
    return 1.0
  if kind != "linear":
    raise BadInput(
      f"{where}: {name} of type {kind!r} is not supported; only 'default' and"
      " 'linear'"
    )
  factor = _number(rope, "factor", where)
  if factor <= 0:
    raise BadInput(f"{where}: {name}.factor={factor:g} must be above 0")
  return factor


def _pattern(
  tree: Mapping[str, Any], family: Family, num_layers: int, where: Any
) -> tuple[str, ...]:
  """The shortest sequence of kinds that repeats over the layers."""
  types = tree.get("layer_types")
  if types is None:
    name = next((k for k in _PATTERNS if tree.get(k) is not None), "")
    count = _whole(tree, name, where) if name else family.pattern
    if name == _PATTERNS[1] and count != family.pattern:
      raise BadInput(
        f"{where}: {name}={count} without layer_types, which transformers does"
        f" not read; write it as {_PATTERNS[0]}"
      )
    types = [
      _TYPES[LOCAL if (i + 1) % count else GLOBAL] for i in range(num_layers)
    ]
  if not isinstance(types, list) or len(types) != num_layers:
    raise BadInput(f"{where}: layer_types does not name {num_layers} layers")
  unknown = [kind for kind in types if kind not in _KINDS]
  if unknown:
    raise BadInput(
      f"{where}: layer_types holds {unknown[0]!r}, which is not supported;"
      f" known: {', '.join(_KINDS)}"
    )
  return repeating([_KINDS[kind] for kind in types])


def repeating(kinds: Sequence[str]) -> tuple[str, ...]:
  """The shortest sequence of kinds that repeats over all layers."""
  period = next(
    p
    for p in range(1, len(kinds) + 1)
    if all(kind == kinds[i % p] for i, kind in enumerate(kinds))
  )
  return tuple(kinds[:period])


def encoder_json(config: ModelConfig, dtype: str) -> dict[str, Any]:
  """config.json of an EmbeddingGemma encoder, in the spelling of all versions.

  The window is the full one, which every version halves on reading.
  """
  sizes = {key: getattr(config, ours) for ours, key in _SIZES.items()}
  factor = config.global_rope_factor
  scaling = {} if factor == 1 else {"rope_type": "linear", "factor": factor}
  rope = lambda base: {"rope_type": "default", "rope_theta": base}
  return {
    "architectures": ["Gemma3TextModel"],
    "model_type": "gemma3_text",
    **sizes,
    "sliding_window": full_window(config),
    "layer_types": [_TYPES[kind] for kind in layer_kinds(config)],
    "_sliding_window_pattern": len(config.pattern),
    "query_pre_attn_scalar": config.head_dim,
    "hidden_activation": "gelu_pytorch_tanh",
    "use_bidirectional_attention": True,
    "rms_norm_eps": config.norm_eps,
    "rope_theta": config.global_rope_base,
    "rope_local_base_freq": config.local_rope_base,
    "rope_scaling": scaling or None,
    "rope_parameters": {
      "full_attention": rope(config.global_rope_base) | scaling,
      "sliding_attention": rope(config.local_rope_base),
    },
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "use_cache": True,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "dtype": dtype,
    "torch_dtype": dtype,
  }


def full_window(config: ModelConfig) -> int:
  """The window to write: even, with the same reach as the model's.

  An odd window reaches no further than the even one below it.
  """
  return config.window // 2 * 2 or 2  # 2: a window of 1 of no local layer
