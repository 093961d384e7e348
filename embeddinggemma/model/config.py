"""Sizes of Gemma encoders, decoders and embedding heads (paper section 2.1).

The letters of annotations and einsums, everywhere in `model`: R rows, L
positions, S positions of a source (what is attended to), D width, H heads, K
key-value heads, E head dimension, G = H / K, F mlp width, V vocabulary, b
texts, U up-projection, M embedding.
"""

import dataclasses
from collections.abc import Callable

from embeddinggemma.config import above_zero, at_least, divides, one_of
from embeddinggemma.model.pooling import POOLINGS
from embeddinggemma.types import BadInput

LOCAL, GLOBAL = "local", "global"
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
# Window w -> how many positions to its (left, right) a position sees in an
# encoder's local layer. In a decoder's it sees w positions: itself and the
# w - 1 before.
WINDOW_RULES: dict[str, Callable[[int], tuple[int, int]]] = {
  "symmetric": lambda w: (w // 2, w // 2),  # EmbeddingGemma in transformers
  "t5gemma2": lambda w: ((w + 1) // 2 - 1, w // 2),  # w positions in all
  "t5gemma": lambda w: (w - 1, w - 1),  # a whole window to each side
}
_STACK = (  # sizes that determine the shapes of a side's tensors
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
  """One side of a model: an encoder with its head, or a decoder.

  Defaults are those of Gemma 3 and EmbeddingGemma; presets set the sizes.
  """

  vocab_size: int  # V
  num_layers: int
  width: int  # D
  mlp_width: int  # F
  num_heads: int  # H
  num_kv_heads: int  # K
  head_dim: int  # E
  up_width: int  # U
  embed_dim: int  # M
  window: int  # of local layers, in positions; see window_rule
  max_length: int  # tokens, BOS and EOS included
  pattern: tuple[str, ...] = (LOCAL,) * 5 + (GLOBAL,)  # repeated over layers
  local_rope_base: float = 1e4
  global_rope_base: float = 1e6
  # Positions in global layers are divided by this; 8 in Gemma 3 from 4B on.
  global_rope_factor: float = 1.0
  norm_eps: float = 1e-6
  pooling: str = "mean"  # a key of POOLINGS
  pooling_heads: int = 4  # for attention pooling only
  dtype: str = "float32"  # of activations; parameters stay float32
  post_norm_gain: float = 1.0  # 1 + w of the post-norms at initialisation
  projection_init: str = "random"  # of the head; one of PROJECTIONS
  qk_norm: bool = True  # Gemma 2 has none
  attention_softcap: float = 0.0  # Gemma 2: 50; 0: none
  logit_softcap: float = 0.0  # of the logits over the vocabulary; Gemma 2: 30
  window_rule: str = "symmetric"  # a key of WINDOW_RULES
  # How it runs, which changes results by rounding only: the implementation of
  # attention, that of the MLP with its norms, and which values of a layer are
  # recomputed in the backward pass instead of kept (rematerialisation).
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
    one_of("model.pooling", self.pooling, tuple(POOLINGS))
    one_of("model.projection_init", self.projection_init, PROJECTIONS)
    one_of("model.dtype", self.dtype, DTYPES)
    one_of("model.window_rule", self.window_rule, tuple(WINDOW_RULES))
    one_of("model.attention", self.attention, (AUTO, XLA, SPLASH, FUSED))
    one_of("model.mlp", self.mlp, (AUTO, XLA, FUSED))
    one_of("model.remat", self.remat, REMATS)
    if self.attention == FUSED and (what := self.unfused):
      raise BadInput(
        f"{what}, which model.attention={FUSED!r} does not do; use {SPLASH!r}"
      )
    for kind in self.pattern:
      one_of("model.pattern", kind, (LOCAL, GLOBAL))
    divides(
      "model.num_kv_heads",
      self.num_kv_heads,
      "model.num_heads",
      self.num_heads,
    )
    POOLINGS[self.pooling].check(self)

  @property
  def portable(self) -> "ModelConfig":
    """The same function of the same weights, in a form that runs anywhere.

    Checkpoints hold this config, and their readers run it.
    """
    return dataclasses.replace(
      self, dtype="float32", attention=XLA, mlp=XLA, remat="none"
    )

  @property
  def unfused(self) -> str:
    """What of this attention the fused kernel cannot compute; "" if nothing."""
    if not self.qk_norm:
      return "model.qk_norm=false"
    if self.attention_softcap:
      return f"model.attention_softcap={self.attention_softcap}"
    return ""

  def rope(self, kind: str) -> tuple[float, float]:
    """A kind of layers' rotary base, and the divisor of its positions."""
    if kind == LOCAL:
      return self.local_rope_base, 1.0
    return self.global_rope_base, self.global_rope_factor

  def attention_kind(self, layer: int) -> str:
    """LOCAL or GLOBAL for a layer, counted from 0; the pattern repeats."""
    return self.pattern[layer % len(self.pattern)]


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig:
  """The two sides of an encoder-decoder, and how they are joined.

  Separate cross-attention is T5Gemma's (arXiv 2504.06225) and allows sides of
  different widths. Cross-attention merged with the decoder's self-attention,
  and one tied embedding table, are T5Gemma 2's (arXiv 2512.14856) and do not.
  """

  encoder: ModelConfig
  decoder: ModelConfig
  tied: bool  # one table: input of both sides, and output
  cross_attention: str  # "separate" or "merged"

  def __post_init__(self) -> None:
    one_of("cross_attention", self.cross_attention, (SEPARATE, MERGED))
    self._agree("vocab_size", "both sides share a tokenizer: set them alike")
    if self.tied:
      self._agree("width", "tied=true needs one; set tied=false")
    if self.cross_attention == MERGED:
      for name in ("width", "num_heads", "num_kv_heads", "head_dim"):
        self._agree(name, "cross_attention='merged' needs one; use 'separate'")

  @property
  def differs(self) -> str:
    """The sizes that differ between the sides, with both values; "" if none."""
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


# How a large model is trained: with bfloat16 activations and, on TPUs, Pallas
# kernels.
LARGE = {"dtype": "bfloat16", "attention": AUTO, "mlp": AUTO}
