"""What decides the vectors of a model, in one hash with readable parts.

Whatever keeps vectors or scores (an index, a teacher's vectors, an evaluation,
a certificate, a recipe's cache) keeps the identity of the model that made them,
and compares it before it is used with a model. What changes vectors by
rounding alone, such as the type of activations, is no part of it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from embeddinggemma import config as config_lib
from embeddinggemma.model.config import LOCAL, ModelConfig

SEARCH = ("query", "document")  # the prompts that a search uses
# What only decides how weights start, and how they are computed with.
_OF_TRAINING = (
  "post_norm_gain",
  "projection_init",
  "pooling_heads",
  "dtype",
  "attention",
  "mlp",
  "remat",
)
_OF_WINDOW = ("window", "window_rule")
_HASH = 64  # digits of a SHA-256
_LACKS = "<none>"
_OF_WEIGHTS = ("weights", "precision")


class Identity(NamedTuple):
  """All that decides the vector of a text, besides the text."""

  weights: str  # content hash of the weights, rounded to `precision`
  precision: str  # "float", or a spec of quantize.SPECS
  tokenizer: str  # hash of the pieces, their merges and the treatment of text
  prompts: Mapping[str, str]
  max_length: int  # tokens after which a text is cut
  model: Mapping[str, Any]  # `meaning` of the config: pooling, head, windows

  @property
  def hash(self) -> str:
    """SHA-256 of all parts."""
    text = json.dumps(self._asdict(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()

  @property
  def parts(self) -> dict[str, Any]:
    """All but the weights."""
    known = self._asdict()
    return {name: known[name] for name in known if name not in _OF_WEIGHTS}

  def as_json(self) -> dict[str, Any]:
    """The hash and the parts, as files hold them."""
    return {"hash": self.hash, **self._asdict()}


def of_model(
  config: ModelConfig,
  weights: str,
  precision: str,
  tokenizer: str,
  prompts: Mapping[str, str],
) -> Identity:
  """The identity of a model, from its config and the hashes of its parts."""
  return Identity(weights, precision, **parts(config, tokenizer, prompts))


def parts(
  config: ModelConfig, tokenizer: str, prompts: Mapping[str, str]
) -> dict[str, Any]:
  """All but the weights: what recipe.json records beside them."""
  model = meaning(config)
  return {
    "tokenizer": tokenizer,
    "prompts": dict(prompts),
    "max_length": model.pop("max_length"),
    "model": model,
  }


def differences(
  there: Any,
  here: Mapping[str, Any],
  used: Collection[str] | None = None,
) -> list[str]:
  """What differs between two identities in JSON: part and both values.

  A part that `there` lacks, since what wrote it knew less, is not compared.

  Args:
    there: of what made the vectors; {} if it was not recorded. What is no
      object was not written by this program, and differs as a whole.
    here: of the model at hand.
    used: the names of the prompts that matter; None: all.
  """
  if not isinstance(there, Mapping):
    return [f"identity={there!r} there, an object now"]
  kept = [name for name in Identity._fields if name in there and name in here]
  ours, theirs = (
    config_lib.flat({name: tree[name] for name in kept})
    for tree in (here, there)
  )
  unused = lambda name: (
    used is not None
    and name.startswith("prompts.")
    and name.removeprefix("prompts.") not in used
  )
  return [
    f"{name}={_short(theirs.get(name, _LACKS))} there,"
    f" {_short(ours.get(name, _LACKS))} now"
    for name in {**theirs, **ours}
    if ours.get(name, _LACKS) != theirs.get(name, _LACKS) and not unused(name)
  ]


def _short(value: Any) -> str:
  """A value for a message; of a hash, its first 12 digits."""
  is_hash = isinstance(value, str) and len(value) == _HASH
  return value[:12] if is_hash or value == _LACKS else repr(value)


def same_model(a: ModelConfig, b: ModelConfig) -> bool:
  """Whether two configs compute the same function of the same weights."""
  return meaning(a) == meaning(b)


def meaning(config: ModelConfig) -> dict[str, Any]:
  """The fields of a config that decide what is computed, as JSON."""
  tree = dataclasses.asdict(config)
  tree["pattern"] = kinds = layer_kinds(config)
  if config.window_rule == "symmetric":
    tree["window"] = config.window // 2
  unused = _OF_TRAINING + (() if LOCAL in kinds else _OF_WINDOW)
  return {name: value for name, value in tree.items() if name not in unused}


def layer_kinds(config: ModelConfig) -> list[str]:
  """LOCAL or GLOBAL for every layer."""
  return [config.attention_kind(i) for i in range(config.num_layers)]
