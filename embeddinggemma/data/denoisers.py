"""UL2 denoising: spans of a text are replaced by sentinels and predicted.

Paper section 2.1 adapts the decoder by UL2 (arXiv 2205.05131) with the five
denoisers of T5Gemma 2 (arXiv 2512.14856). An example is a pure function of
(seed, row id), in numpy alone.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from embeddinggemma.data.tokenizer import BOS, EOS, Tokenizer
from embeddinggemma.types import BadInput


class Denoiser(NamedTuple):
  """How much of a text is hidden, and in spans of what length."""

  span: float  # mean length in tokens; 0: one span at the end (prefix LM)
  rate: float  # mean share of the tokens that is hidden
  weight: float  # probability of being drawn, relative to the others


UL2 = (
  Denoiser(3.0, 0.15, 1.0),
  Denoiser(12.0, 0.5, 1.0),
  Denoiser(32.0, 0.15, 1.0),
  Denoiser(32.0, 0.5, 1.0),
  Denoiser(0.0, 0.75, 4.0),
)


def check(denoisers: Sequence[Denoiser]) -> None:
  """Raises BadInput for denoisers that cannot be drawn or hide nothing."""
  for number, (span, rate, weight) in enumerate(denoisers):
    name = f"denoisers[{number}]"
    if not (span == 0 or 1 <= span < math.inf):
      raise BadInput(
        f"{name}: a mean span of {span} tokens; use 1 or more, or 0 for one"
        " span at the end"
      )
    if not 0 < rate < 1:
      raise BadInput(f"{name}: rate {rate} is not between 0 and 1")
    if not 0 <= weight < math.inf:
      raise BadInput(f"{name}: weight {weight}; weights are >= 0")
  if not any(denoiser.weight for denoiser in denoisers):
    raise BadInput("denoisers: none has a weight above 0; give one")


def sentinels_of(tokenizer: Tokenizer) -> Int[np.ndarray, "marks"]:
  """Ids of the pieces that stand for hidden spans; BadInput if there are none.

  They are the tokenizer's spare `<unusedN>` pieces. T5Gemma does not say what
  it uses.
  """
  if not tokenizer.spare_ids:
    raise BadInput(
      "the tokenizer has no spare <unusedN> piece to serve as a sentinel of"
      " UL2; use Gemma's, or one that was trained here"
    )
  return np.array(tokenizer.spare_ids, np.int32)


def causal(
  tokens: Int[np.ndarray, "n"], row: int
) -> tuple[Int[np.ndarray, "n+2"]]:
  """A text as a causal language model reads it: BOS, the tokens, EOS."""
  del row
  return (np.concatenate(([BOS], tokens, [EOS]), dtype=np.int32),)


def denoise(
  tokens: Int[np.ndarray, "n"],
  row: int,
  seed: int,
  denoisers: Sequence[Denoiser],
  sentinels: Int[np.ndarray, "marks"],
) -> tuple[Int[np.ndarray, "_"], Int[np.ndarray, "_"]]:
  """A text with some spans hidden, and these spans: (inputs, targets), int32.

  inputs: BOS, the kept tokens with a sentinel in place of each span, EOS.
  targets: BOS, each span after its sentinel, EOS. The k-th span has the k-th
  sentinel. With more spans than sentinels (Gemma has 99) sentinels repeat, and
  their order tells them apart.

  The expected rate and span length equal those of the denoiser exactly, except
  that a text too short for a span gets one shorter span, as in T5. Each side
  has at most n + 2 tokens. A text of one token is left as it is.
  """
  rng = np.random.default_rng([seed, row])
  number = _draw(rng, [denoiser.weight for denoiser in denoisers])
  hidden, gaps = _spans(rng, len(tokens), denoisers[number])
  count, order = len(hidden), np.arange(1, len(hidden) + 1)
  # Kept and hidden tokens take turns: gap, span, gap, ..., span, gap.
  turns = np.empty(2 * count + 1, np.int64)
  turns[::2], turns[1::2] = gaps, hidden
  hides = np.zeros(len(turns), bool)
  hides[1::2] = True
  is_hidden = hides.repeat(turns)
  # Both sides in one array, targets from `middle` on.
  out = np.empty(len(tokens) + 2 * count + 4, np.int32)
  middle = int(gaps.sum()) + count + 2
  marks = np.array(
    (gaps[:-1].cumsum() + order, middle + hidden.cumsum() - hidden + order)
  )
  free = np.ones(len(out), bool)
  free[0] = free[middle - 1] = free[middle] = free[-1] = free[marks] = False
  out[0] = out[middle] = BOS
  out[middle - 1] = out[-1] = EOS
  out[marks] = sentinels[(order - 1) % len(sentinels)]
  out[free] = np.concatenate((tokens[~is_hidden], tokens[is_hidden]))
  return out[:middle], out[middle:]


def drawn(seed: int, row: int, denoisers: Sequence[Denoiser]) -> int:
  """The index of the denoiser that `denoise` draws for a row."""
  rng = np.random.default_rng([seed, row])
  return _draw(rng, [denoiser.weight for denoiser in denoisers])


def _draw(rng: np.random.Generator, weights: list[float]) -> int:
  left = rng.random() * sum(weights)
  drawable = [number for number, weight in enumerate(weights) if weight]
  for number in drawable:
    left -= weights[number]
    if left < 0:
      return number
  return drawable[-1]  # the sum was rounded


def _spans(
  rng: np.random.Generator, n: int, denoiser: Denoiser
) -> tuple[Int[np.ndarray, "spans"], Int[np.ndarray, "spans+1"]]:
  """Lengths of the hidden spans, and of the kept parts around them."""
  if n < 2:
    return np.zeros(0, np.int64), np.array([n])
  # Up or down, so that the mean is the value.
  rounded = lambda value: math.floor(value + rng.random())
  noise = min(max(rounded(n * denoiser.rate), 1), n - 1)
  kept = n - noise
  if denoiser.span == 0:
    return np.array([noise]), np.array([kept, 0])
  # No more spans than tokens on either side, so that sentinels do not make a
  # side longer than the text.
  most = min(noise, kept)
  spans = min(max(rounded(noise / denoiser.span), 1), most)
  hidden = _parts(rng, noise, spans)
  gaps = _parts(rng, kept + 2, spans + 1)
  gaps[0] -= 1
  gaps[-1] -= 1
  return hidden, gaps


def _parts(
  rng: np.random.Generator, total: int, count: int
) -> Int[np.ndarray, "count"]:
  """A uniformly drawn split of `total` into `count` positive parts."""
  ends = np.zeros(count + 1, np.int64)
  ends[-1] = total
  if count > 1:
    cuts = rng.choice(total - 1, count - 1, replace=False, shuffle=False)
    cuts.sort()
    ends[1:-1] = cuts + 1
  return ends[1:] - ends[:-1]
