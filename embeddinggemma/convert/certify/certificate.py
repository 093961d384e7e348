"""Certify that an export gives the model's vectors in its own runtime.

certificate.json lies beside the exported files. It compares the runtime's
vectors, of golden texts and of rows of token ids, with those of the JAX model
that has the written weights and rounds as the runtime does: these decide the
verdict. It also says what writing and rounding cost, from a comparison with the
model that was exported, as `load` gives it. Without an installed runtime, the
certificate says that nothing was checked.
"""

import hashlib
import importlib.metadata
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from embeddinggemma import cache, quantize
from embeddinggemma.convert.certify import control_tokens, golden, runtimes
from embeddinggemma.convert.certify.golden import Item, References
from embeddinggemma.convert.write import exporting
from embeddinggemma.convert.write.exporting import Format, Job, Written
from embeddinggemma.types import Stopped

FILE = "certificate.json"
PASSED, FAILED, UNCHECKED = "passed", "failed", "unchecked"
_NEIGHBOURS = 10
# What rounding on the way may cost: of the nearest nine tenths of the texts on
# average, and of any text, in multiples of the former's cost to our own model.
#
# A step of rounding that falls to the other side, since a sum was in another
# order, makes more of them fall so in the next layer. With one layer llama.cpp
# and we agree to .9999998 in q4_0 (random weights of width 32), where exact
# arithmetic is .9997 away; after the 24 layers of EmbeddingGemma-300M, two right
# ways to round are further apart than either is from exact arithmetic. There, in
# q4_0 on 31 texts of up to 16 tokens, 1 - cosine of the nearest nine tenths is
#   3.1e-4 to 3.3e-4  from exact arithmetic to each of three ways of ours to round
#   3.2e-4            from exact arithmetic to llama.cpp
#   4.0e-4 to 4.3e-4  between any two of ours, and from any of ours to llama.cpp
# which is 1.3 times the cost in q4_0, 1.2 in q8_0, 1.5 in bfloat16; and of the
# furthest text 15, 3 and 5 times. One Arabic sentence is moved two to nineteen
# times as far as others, by another amount each time (7e-4, 2.0e-3, 3.6e-3,
# 5.8e-3), so that no bound can be made of one measurement of it. Without such
# rounding, in float32, the least cosine of the 31 is .9999997. (November 2026,
# xllamacpp 2026.10.11549 without flash attention, on a CPU with AVX.)
_TYPICAL, _ANY = 2.0, 50.0
_NEAREST = 0.9
_VERSIONS = ("embeddinggemma", "jax", "numpy")


def certify(
  form: Format, job: Job, folder: pathlib.Path, written: Written
) -> dict[str, Any]:
  """Run the export in its runtime, write the certificate, and return it."""
  found = exporting.about(form, job, written) | {
    "versions": {name: importlib.metadata.version(name) for name in _VERSIONS},
  }
  if written.artefact.is_file():
    with written.artefact.open("rb") as file:
      digest = hashlib.file_digest(file, "sha256").hexdigest()
    found |= {"sha256": digest}
  found |= _checked(form, job, written)
  cache.write_json(folder / FILE, found)
  return found


def _checked(form: Format, job: Job, written: Written) -> dict[str, Any]:
  """The verdict, and the comparison on which it rests."""
  runtime = runtimes.find(form.name)
  if runtime is None:
    reason = f"{form.name} is run by {runtimes.how_to_install(form.name)}"
    return {"verdict": UNCHECKED, "reason": reason}
  about: dict[str, Any] = {"runtime": runtime.name, "through": runtime.through}
  items, words = golden.items(job), control_tokens.words(job)
  asked = [*items, *(word.item for word in words)]
  try:
    reply = runtime.ask(written.artefact, asked, job.config.max_length)
  except runtimes.Refused as refused:
    reason = f"{runtime.name} refuses it: {refused}"
    return about | {"verdict": FAILED, "reason": reason}
  about["runtime_versions"] = reply.versions
  about |= control_tokens.report(job, words, reply.vectors[len(items) :])
  rows = [item.ids for item in items]
  references = golden.references(job, rows, form.arithmetic(job))
  vectors, bound = reply.vectors[: len(items)], form.dtypes[job.dtype].bound
  return about | judge(items, vectors, references, job.trained, bound)


def judge(
  items: Sequence[Item],
  vectors: Float[np.ndarray, "rows width"],  # of another shape: a failure
  references: References,
  trained: str,
  bound: float,
) -> dict[str, Any]:
  """Compare the runtime's vectors, of any length, with ours, of unit length.

  Args:
    items: the texts and rows of ids.
    vectors: the runtime's.
    references: ours; those of the written weights decide.
    trained: the precision of the model that was exported.
    bound: the least cosine that passes if the runtime rounds nothing.
  """
  ours = references.written
  if vectors.shape != ours.shape or not np.isfinite(vectors).all():
    reason = f"vectors have shape {vectors.shape}, not {ours.shape}"
    if vectors.shape == ours.shape:
      bad = int(np.argmin(np.isfinite(vectors).all(axis=1)))
      reason = f"the vector of {items[bad].name} is not finite"
    return {"verdict": FAILED, "reason": reason}
  norms = np.linalg.norm(vectors, axis=1, keepdims=True)
  theirs = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
  cosines = np.sum(theirs * ours, axis=1)
  worst = int(np.argmin(cosines))
  bounds = _bounds(references, bound)
  found: dict[str, Any] = {
    "bound": bounds,
    "texts": len(items),
    "tokens": sorted({len(item.ids) for item in items}),
    "cosine": _spread(cosines),
    "worst": {
      "text": items[worst].text,
      "tokens": len(items[worst].ids),
      "cosine": float(cosines[worst]),
    },
    "top10_overlap": _overlap(theirs, ours),
  }
  if references.model is not None:
    found["to_model"] = {
      "precision": trained,
      "cosine": _spread(np.sum(theirs * references.model, axis=1)),
      "top10_overlap": _overlap(theirs, references.model),
    }
  if cosines[worst] < bounds["min"]:
    reason = (
      f"cosine {cosines[worst]:.5f} on {items[worst].name} of"
      f" {len(items[worst].ids)} tokens, where {bounds['min']:.5f} is right"
    )
  elif (typical := _typical(cosines)) < bounds["typical"]:
    reason = (
      f"cosine {typical:.5f} on average of the nearest texts, where"
      f" {bounds['typical']:.5f} is right"
    )
  else:
    return found | {"verdict": PASSED}
  return found | {"verdict": FAILED, "reason": reason}


def _bounds(references: References, bound: float) -> dict[str, float]:
  """The least cosines that pass: of any text, and the typical one.

  Where the runtime rounds activations, they are lower by a multiple of what
  that rounding costs this model.
  """
  if references.exact is None:
    return {"min": bound, "typical": bound}
  ours = np.sum(references.written * references.exact, axis=1)
  cost = 1 - _typical(ours)
  return {"min": bound - _ANY * cost, "typical": bound - _TYPICAL * cost}


def _typical(cosines: Float[np.ndarray, "n"]) -> float:
  """The mean of all but the lowest tenth."""
  count = math.ceil(_NEAREST * len(cosines))
  return float(np.sort(cosines)[-count:].mean())


def _spread(cosines: Float[np.ndarray, "n"]) -> dict[str, float]:
  return {
    "min": float(cosines.min()),
    "mean": float(cosines.mean()),
    "typical": _typical(cosines),
  }


def _overlap(a: Float[np.ndarray, "n M"], b: Float[np.ndarray, "n M"]) -> float:
  """The share of nearest neighbours, among the texts, that both have."""
  first, second = _nearest(a), _nearest(b)
  shared = [len(set(x) & set(y)) for x, y in zip(first, second)]
  return float(np.mean(shared)) / first.shape[1]


def _nearest(vectors: Float[np.ndarray, "n M"]) -> Int[np.ndarray, "n k"]:
  scores = vectors @ vectors.T
  np.fill_diagonal(scores, -np.inf)
  count = min(_NEIGHBOURS, len(vectors) - 1)
  return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def require(found: Mapping[str, Any]) -> None:
  """Raise Stopped if the verdict is against the export."""
  if found["verdict"] == FAILED:
    raise Stopped(
      f"certificate: {found['reason']}; nothing was written (--uncertified keeps"
      " such an export)"
    )


def grid(found: Mapping[str, Any]) -> str:
  """The grid on which the weights lie, and since when; "" for none."""
  if found["precision"] == quantize.FLOAT:
    return ""
  since = ", rounded after training" if found["rounded_after_training"] else ""
  dense = ", both Dense as floats" if "unpacked" in found else ""
  return f", on the {found['precision']} grid{since}{dense}"


def _loss(found: Mapping[str, Any]) -> str:
  """What the export costs against the model that it was made from, as text.

  A model trained for a grid is compared as seen on its grid: nobody uses its
  raw float weights.
  """
  name = found["precision"]
  model = "the float model"
  if name != quantize.FLOAT:
    model = f"the model on the {name} grid"
  cosine = found["cosine"]
  return (
    f"to {model} {cosine['min']:.5f} at least, {cosine['mean']:.5f} on average,"
    f" {found['top10_overlap']:.0%} of nearest neighbours"
  )


def summary(found: Mapping[str, Any]) -> str:
  """The certificate as one line for people."""
  if "cosine" not in found:
    return f"certificate: {found['verdict'].upper()}: {found['reason']}"
  line = (
    f"certificate: {found['verdict']} in {found['runtime']}"
    f" ({found['through']}): {found['texts']} texts, cosine"
    f" {found['cosine']['min']:.5f} at least ({found['bound']['min']:.5f} is"
    f" right), {found['cosine']['typical']:.5f} of nine tenths on average"
    f" ({found['bound']['typical']:.5f}), {found['top10_overlap']:.0%} of nearest neighbours"
  )
  if "to_model" in found:
    line += f"; {_loss(found['to_model'])}"
  line += control_tokens.summary(found)
  return line if found["verdict"] == PASSED else f"{line}; {found['reason']}"
