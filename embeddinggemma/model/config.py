"""Shapes of Gemma encoders, decoders and embedding heads (paper section 2.1).

The letters of annotations and einsums, everywhere in `model`:
R rows, L positions, S positions of a source (what is attended to), D width,
H heads, K key-value heads, E head dimension, G = H / K, F mlp width,
V vocabulary, b texts, U up-projection, M embedding.
"""

import dataclasses
from collections.abc import Callable

from embeddinggemma.config import above_zero, at_least
from embeddinggemma.types import BadInput

LOCAL, GLOBAL = "local", "global"
POOLINGS = ("mean", "attention", "first", "last")
PROJECTIONS = ("random", "identity")
DTYPES = ("float32", "bfloat16")
SEPARATE, MERGED = "separate", "merged"
XLA, SPLASH, FUSED, AUTO = (
  "xla",
  "splash",
  "fused",
  "auto",
)  # model/kernels/choose.py
REMATS = ("none", "dots", "full")
# How far to the (left, right) a local layer of window w of an encoder sees,
# both included. A decoder's sees w positions: its own and w - 1 before.
WINDOW_RULES: dict[str, Callable[[int], tuple[int, int]]] = {
  "symmetric": lambda w: (w // 2, w // 2),  # EmbeddingGemma in transformers
  "t5gemma2": lambda w: ((w + 1) // 2 - 1, w // 2),  # w positions in all
  "t5gemma": lambda w: (w - 1, w - 1),  # a window to each side
}
_STACK = (  # what the shapes of a side's tensors follow from
  "vocab_size",
  "num_layers",
  "width",
  "mlp_width",
  "num_heads",
  "num_kv_heads",
  "head_dim",
)
_SIZES = (*_STACK, "up_width", "embed_dim", "window")
_ABOVE_ZERO = (
  "local_rope_base",
  "global_rope_base",
  "global_rope_factor",
  "norm_eps",
)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """One side of a model; every field is set by a preset."""

  vocab_size: int  # V
  num_layers: int
  width: int  # D
  mlp_width: int  # F
  num_heads: int  # H
  num_kv_heads: int  # K
  head_dim: int  # E
  up_width: int  # U
  embed_dim: int  # M
  window: int  # of a local layer; window_rule says how far that is
  max_length: int  # tokens, BOS and EOS included
  pattern: tuple[str, ...] = (LOCAL,) * 5 + (GLOBAL,)  # repeats over layers
  local_rope_base: float = 1e4
  global_rope_base: float = 1e6
  # Positions of global layers count so much less; Gemma 3 from 4B on: 8.
  global_rope_factor: float = 1.0
  norm_eps: float = 1e-6
  pooling: str = "mean"
  pooling_heads: int = 4  # of attention pooling only
  dtype: str = "float32"  # of activations; parameters stay float32
  post_norm_gain: float = 1.0  # 1 + w of the post-norms at initialisation
  projection_init: str = "random"
  qk_norm: bool = True  # Gemma 2 has none
  attention_softcap: float = 0.0  # Gemma 2: 50; 0: none
  logit_softcap: float = 0.0  # of the output over words; Gemma 2: 30
  window_rule: str = "symmetric"
  # How it runs, which changes no number but by rounding: who computes attention
  # and the MLP with its norms, and what of a layer is computed again for its
  # gradient instead of kept.
  attention: str = XLA
  mlp: str = XLA
  remat: str = "none"

  def __post_init__(self) -> None:
    for name in _SIZES:
      at_least(f"model.{name}", getattr(self, name), 1)
    at_least("model.max_length", self.max_length, 4)
    for name in _ABOVE_ZERO:
      above_zero(f"model.{name}", getattr(self, name))
    for name in ("attention_softcap", "logit_softcap"):
      at_least(f"model.{name}", getattr(self, name), 0)
    if self.head_dim % 2:
      raise BadInput(f"model.head_dim={self.head_dim} must be even (RoPE)")
    if not self.pattern:
      raise BadInput(f"model.pattern is empty; use {LOCAL} and {GLOBAL}")
    _one_of("pooling", self.pooling, POOLINGS)
    _one_of("projection_init", self.projection_init, PROJECTIONS)
    _one_of("dtype", self.dtype, DTYPES)
    _one_of("window_rule", self.window_rule, tuple(WINDOW_RULES))
    _one_of("attention", self.attention, (AUTO, XLA, SPLASH, FUSED))
    _one_of("mlp", self.mlp, (AUTO, XLA, FUSED))
    _one_of("remat", self.remat, REMATS)
    if self.attention == FUSED and (what := self.unfused):
      raise BadInput(
        f"{what}, which model.attention={FUSED!r} does not do; use {SPLASH!r}"
      )
    for kind in self.pattern:
      _one_of("pattern", kind, (LOCAL, GLOBAL))
    _divides("num_kv_heads", self.num_kv_heads, "num_heads", self.num_heads)
    if self.pooling == "attention":
      _divides("pooling_heads", self.pooling_heads, "width", self.width)

  @property
  def portable(self) -> "ModelConfig":
    """The same function of the same weights, to run anywhere.

    This is what a checkpoint holds, and how its readers run it.
    """
    return dataclasses.replace(
      self, dtype="float32", attention=XLA, mlp=XLA, remat="none"
    )

  @property
  def unfused(self) -> str:
    """What of this model's attention the fused kernel leaves out, or ""."""
    if not self.qk_norm:
      return "model.qk_norm=false"
    if self.attention_softcap:
      return f"model.attention_softcap={self.attention_softcap}"
    return ""

  def rope(self, kind: str) -> tuple[float, float]:
    """Base of rotary positions in a layer of a kind; what they are divided by."""
    if kind == LOCAL:
      return self.local_rope_base, 1.0
    return self.global_rope_base, self.global_rope_factor

  def attention_kind(self, layer: int) -> str:
    """LOCAL or GLOBAL: the pattern repeats from the first layer."""
    return self.pattern[layer % len(self.pattern)]


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig:
  """Two sides, and how the decoder reads the encoder.

  Separate cross-attention is T5Gemma's (arXiv 2504.06225), which allows sides
  of different widths; attention merged with the decoder's own, and one tied
  table, are T5Gemma 2's (arXiv 2512.14856), which do not.
  """

  encoder: ModelConfig
  decoder: ModelConfig
  tied: bool  # one table: input of both sides, and output
  cross_attention: str  # "separate" or "merged"

  def __post_init__(self) -> None:
    _one_of(
      "cross_attention", self.cross_attention, (SEPARATE, MERGED), prefix=""
    )
    self._agree("vocab_size", "both sides share a tokenizer: set them alike")
    if self.tied:
      self._agree("width", "tied=true needs one; set tied=false")
    if self.cross_attention == MERGED:
      for name in ("width", "num_heads", "num_kv_heads", "head_dim"):
        self._agree(name, "cross_attention='merged' needs one; use 'separate'")

  @property
  def differs(self) -> str:
    """The sizes in which the sides' tensors differ, with both values, or ""."""
    found = [
      f"{name} ({ours} and {theirs})"
      for name in _STACK
      if (ours := getattr(self.encoder, name))
      != (theirs := getattr(self.decoder, name))
    ]
    return ", ".join(found)

  def _agree(self, name: str, fix: str) -> None:
    ours, theirs = getattr(self.encoder, name), getattr(self.decoder, name)
    if ours != theirs:
      raise BadInput(
        f"model.{name}={ours} and decoder.{name}={theirs} differ; {fix}"
      )


def _one_of(
  name: str, value: str, known: tuple[str, ...], prefix: str = "model."
) -> None:
  if value not in known:
    raise BadInput(
      f"{prefix}{name}={value!r} is unknown; use one of {', '.join(known)}"
    )


def _divides(small: str, a: int, large: str, b: int) -> None:
  if a < 1 or b % a:
    raise BadInput(f"model.{small}={a} does not divide model.{large}={b}")


# How a large model is trained: activations of half the bytes, and on a TPU its
# kernels.
LARGE = {"dtype": "bfloat16", "attention": AUTO, "mlp": AUTO}

PRESETS = {
  # The paper's model: 307,581,696 parameters.
  "embeddinggemma_300m": ModelConfig(
    vocab_size=262_144,
    num_layers=24,
    width=768,
    mlp_width=1152,
    num_heads=3,
    num_kv_heads=1,
    head_dim=256,
    up_width=3072,
    embed_dim=768,
    window=512,
    max_length=2048,
  ),
  # The nearest public decoder, with a head in the paper's proportions.
  "gemma3_270m": ModelConfig(
    vocab_size=262_144,
    num_layers=18,
    width=640,
    mlp_width=2048,
    num_heads=4,
    num_kv_heads=1,
    head_dim=256,
    up_width=2560,
    embed_dim=640,
    window=512,
    max_length=2048,
  ),
  # Trains in about two minutes on two cores, from a table of latent semantic
  # vectors; all input dimensions are multiples of 32, the block of every
  # export format.
  "laptop": ModelConfig(
    vocab_size=16_384,
    num_layers=1,
    width=512,
    mlp_width=128,
    num_heads=2,
    num_kv_heads=1,
    head_dim=64,
    up_width=1024,
    embed_dim=512,
    window=512,
    max_length=256,
    pattern=(GLOBAL,),
    post_norm_gain=0.02,
    projection_init="identity",
  ),
  # For tests: both kinds of layers, seconds on one core.
  "tiny": ModelConfig(
    vocab_size=1024,
    num_layers=2,
    width=32,
    mlp_width=64,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    up_width=64,
    embed_dim=32,
    window=16,
    max_length=64,
    pattern=(LOCAL, GLOBAL),
  ),
}


def preset(name: str) -> ModelConfig:
  """Looks a preset up; BadInput lists the known ones."""
  if name not in PRESETS:
    raise BadInput(f"unknown preset {name!r}; use one of {', '.join(PRESETS)}")
  return PRESETS[name]
