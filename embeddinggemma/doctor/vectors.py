"""Checks of the embeddings that `encode` returns."""

import itertools

import jax
import numpy as np
from jaxtyping import Float

from embeddinggemma import encode
from embeddinggemma.data import samples
from embeddinggemma.doctor.head import TOLERANCE
from embeddinggemma.doctor.opened import Finding, Opened
from embeddinggemma.losses import matryoshka
from embeddinggemma.types import Stopped

FLOAT16 = 65_504  # the largest number of float16
# In brackets: the values of EmbeddingGemma-300M, as of November 2026.
_UNIT = 1e-3  # largest distance of a norm from 1
_ALIKE = 0.95  # largest mean cosine of unrelated texts (.23)
_DIRECTIONS = 1.5  # least effective rank of the embeddings (26.4)
_COARSE = 0.9  # least cosine of bfloat16 and float32 embeddings (.9998)
_NEAREST = 5  # neighbours by which prefixes are compared
_SLACK = 0.1  # share of neighbours that a longer prefix may lose (0)
_DAMAGED = "train, convert or export anew from weights that are known good"


def check_finite(opened: Opened) -> Finding:
  """Check that no embedding has NaN or infinity, even of empty or cut texts."""
  try:
    count = len(opened.vectors)
  except Stopped as stopped:
    return Finding("finite", False, f"in float32, {stopped}", _DAMAGED)
  return Finding("finite", True, f"{count} texts in float32")


def check_unit(opened: Opened) -> Finding:
  """Check that every embedding has norm 1."""
  norms = np.linalg.norm(opened.vectors, axis=1)
  worst = float(norms[np.argmax(np.abs(norms - 1))])
  said = f"the norm furthest from 1 is {worst:.6f}"
  if abs(worst - 1) < _UNIT:
    return Finding("unit", True, said)
  return Finding(
    "unit", False, said, "end with Normalize, as modules.json does"
  )


def check_collapse(opened: Opened) -> Finding:
  """Check that unrelated texts have different directions.

  This detects degeneracy and not low quality: random weights pass. The
  effective rank is the exponential of the entropy of the squared singular
  values.
  """
  vectors = opened.vectors
  count = len(vectors)
  gram = vectors @ vectors.T
  alike = float((gram.sum() - np.trace(gram)) / (count * (count - 1)))
  rank = _effective_rank(vectors)
  said = f"mean cosine {alike:.2f}, spread over {rank:.1f} directions"
  if alike < _ALIKE and rank >= _DIRECTIONS:
    return Finding("collapse", True, said)
  said = f"vectors are collapsed: {said}"
  fix = "check final norm and Dense of the source; in training, lower the"
  fix += " rate and keep loss.spread_out above 0"
  return Finding("collapse", False, said, fix)


def _effective_rank(vectors: Float[np.ndarray, "n M"]) -> float:
  power = np.linalg.svd(vectors, compute_uv=False) ** 2
  share = power / power.sum()
  share = share[share > 0]  # the division may round to 0
  return float(np.exp(-np.sum(share * np.log(share))))


def check_packing(opened: Opened) -> Finding:
  """Check that a text has the same embedding alone and packed with others."""
  # Without the last, which may be so long that it fills a row by itself.
  some = opened.texts[-2 :: -max(1, len(opened.texts) // 4)]
  # So often that they share rows on every device.
  together = opened.encode(list(some) * jax.device_count())[: len(some)]
  alone = np.concatenate([opened.encode([text]) for text in some])
  worst = float(np.abs(together - alone).max())
  said = f"a text alone and among {len(some) - 1} others differ by {worst:.0e}"
  if worst < TOLERANCE:
    return Finding("packing", True, said)
  text = some[int(np.abs(together - alone).max(axis=1).argmax())]
  return Finding(
    "packing",
    False,
    f"{said}, such as {text[:20]!r}",
    "mask keys of other texts and of padding",
  )


def check_bfloat16(opened: Opened) -> Finding:
  """Note whether bfloat16 embeddings are not finite or far from float32 ones.

  It is no fault, since a model may need float32. Only the first texts are used:
  bfloat16 has the range of float32, and few CPUs compute in it.
  """
  fix = "run it in float32"
  try:
    coarse = opened.encode(samples.BRIEF, "bfloat16")
  except Stopped as stopped:
    return Finding("bfloat16", True, f"in bfloat16, {stopped}", fix)
  cosine = float(np.sum(coarse * opened.vectors[: len(coarse)], axis=1).min())
  said = f"finite; the least cosine with float32 is {cosine:.4f}"
  if cosine >= _COARSE:
    return Finding("bfloat16", True, said)
  return Finding("bfloat16", True, said, fix)


def check_float16(opened: Opened) -> Finding:
  """Note whether an activation exceeds the largest float16; it is no fault.

  The activations of the published EmbeddingGemma-300M reach 103,481: it is
  right in float32 and bfloat16, and gives NaN without an error in float16.
  """
  largest = {k: float(x) for k, x in opened.brief.trace.largest.items()}
  place = max(largest, key=lambda name: largest[name])
  said = f"the largest activation is {largest[place]:,.0f} in {place}"
  if largest[place] <= FLOAT16:
    return Finding("float16", True, f"{said}; float16 ends at {FLOAT16:,}")
  return Finding(
    "float16",
    True,
    f"{said}; float16 ends at {FLOAT16:,} and would give NaN",
    "never run it in float16; bfloat16 or float32",
  )


def check_matryoshka(opened: Opened) -> Finding:
  """Check that prefixes normalise, and longer ones have truer neighbours."""
  vectors = opened.vectors
  dims = sorted(matryoshka.dims_of(vectors.shape[1]))
  fix = "train with loss.matryoshka over these dimensions; do not reorder them"
  try:
    cut = [encode.truncate(vectors, dim) for dim in dims]
  except Stopped as stopped:
    return Finding("matryoshka", False, str(stopped), fix)
  whole = _neighbours(vectors)
  agreement = [float(np.mean(_both(_neighbours(x), whole))) for x in cut]
  said = ", ".join(f"{dim}: {x:.2f}" for dim, x in zip(dims, agreement))
  said = f"neighbours shared with all dimensions: {said}"
  falls = [b < a - _SLACK for a, b in itertools.pairwise(agreement)]
  if any(falls):
    return Finding("matryoshka", False, said, fix)
  return Finding("matryoshka", True, said)


def _neighbours(vectors: Float[np.ndarray, "n M"]) -> np.ndarray:
  """The nearest texts of each text, as rows of booleans."""
  cosine = vectors @ vectors.T
  np.fill_diagonal(cosine, -2)
  nearest = np.argsort(-cosine, axis=1, kind="stable")[:, :_NEAREST]
  chosen = np.zeros(cosine.shape, bool)
  np.put_along_axis(chosen, nearest, True, axis=1)
  return chosen


def _both(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, "n"]:
  return (a & b).sum(axis=1) / _NEAREST


def check_meaning(opened: Opened) -> Finding:
  """Check that paraphrases are nearer to each other than unrelated texts.

  Even random weights pass, since paraphrases share a few tokens: only a model
  with the order reversed fails.
  """
  pairs = opened.vectors[len(samples.BRIEF) :][: 2 * len(samples.PAIRS)]
  first, second = np.split(pairs, 2)
  cosine = first @ second.T
  same = float(np.trace(cosine)) / len(cosine)
  other = float(cosine[~np.eye(len(cosine), dtype=bool)].mean())
  said = f"the same in other words {same:.2f}, unrelated texts {other:.2f}"
  if same > other:
    return Finding("meaning", True, said)
  fix = "check that tokenizer, table and Dense are of one model"
  return Finding("meaning", False, f"mean cosine: {said}", fix)
