"""Whether an export gives the model's vectors in its own runtime, on paper.

certificate.json stands beside what was exported. It compares vectors of golden
texts and of rows of ids, from the runtime, with those of the model in JAX that
has the same weights; where these were rounded after training, their cosine to
those of the float model is shown too. A runtime that is not installed has
checked nothing, which is what it says then.
"""

import hashlib
import importlib.metadata
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from embeddinggemma import cache, quantize
from embeddinggemma.convert import (
  control_tokens,
  exporting,
  golden,
  runtimes,
)
from embeddinggemma.convert.exporting import Format, Job, Written
from embeddinggemma.convert.golden import Item
from embeddinggemma.types import Stopped

FILE = "certificate.json"
PASSED, FAILED, UNCHECKED = "passed", "failed", "unchecked"
_NEIGHBOURS = 10
_VERSIONS = ("embeddinggemma", "jax", "numpy")


def certify(
  form: Format, job: Job, folder: pathlib.Path, written: Written
) -> dict[str, Any]:
  """Runs the export, writes the certificate into its folder, returns it."""
  found = exporting.about(form, job, written) | {
    "bound": form.dtypes[job.dtype].bound,
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
  """The verdict, and what it rests on."""
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
  references = golden.references(job, [item.ids for item in items])
  about["runtime_versions"] = reply.versions
  about |= control_tokens.report(job, words, reply.vectors[len(items) :])
  vectors, bound = reply.vectors[: len(items)], form.dtypes[job.dtype].bound
  return about | judge(items, vectors, references, job.precision, bound)


def judge(
  items: Sequence[Item],
  vectors: Float[np.ndarray, "rows width"],  # of another shape: a failure
  references: Mapping[str, Float[np.ndarray, "n M"]],
  precision: str,
  bound: float,
) -> dict[str, Any]:
  """The comparison of vectors, of any length, with unit ones.

  Args:
    items: what was asked.
    vectors: the runtime's.
    references: ours by precision; of rounded weights, "float" among them.
    precision: the one that counts.
    bound: the least cosine that is right.
  """
  ours = references[precision]
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
  found = {
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
  of_float = references.get(quantize.FLOAT)
  if precision != quantize.FLOAT and of_float is not None:
    found["cosine_to_float"] = _spread(np.sum(theirs * of_float, axis=1))
  if cosines[worst] >= bound:
    return found | {"verdict": PASSED}
  reason = (
    f"cosine {cosines[worst]:.5f} on {items[worst].name} of"
    f" {len(items[worst].ids)} tokens, where {bound} is right"
  )
  return found | {"verdict": FAILED, "reason": reason}


def _spread(cosines: Float[np.ndarray, "n"]) -> dict[str, float]:
  return {"min": float(cosines.min()), "mean": float(cosines.mean())}


def _overlap(a: Float[np.ndarray, "n M"], b: Float[np.ndarray, "n M"]) -> float:
  """The share of nearest neighbours, among the texts, that are the same."""
  first, second = _nearest(a), _nearest(b)
  shared = [len(set(x) & set(y)) for x, y in zip(first, second)]
  return float(np.mean(shared)) / first.shape[1]


def _nearest(vectors: Float[np.ndarray, "n M"]) -> Int[np.ndarray, "n k"]:
  scores = vectors @ vectors.T
  np.fill_diagonal(scores, -np.inf)
  count = min(_NEIGHBOURS, len(vectors) - 1)
  return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def require(found: Mapping[str, Any]) -> None:
  """Stopped for a verdict against the export."""
  if found["verdict"] == FAILED:
    raise Stopped(
      f"certificate: {found['reason']}; nothing was written (--uncertified keeps"
      " such an export)"
    )


def grid(found: Mapping[str, Any]) -> str:
  """The grid that the weights are on, and since when, or ""."""
  if found["precision"] == quantize.FLOAT:
    return ""
  since = ", rounded after training" if found["rounded_after_training"] else ""
  dense = ", both Dense as floats" if "unpacked" in found else ""
  return f", on the {found['precision']} grid{since}{dense}"


def summary(found: Mapping[str, Any]) -> str:
  """The certificate in a line."""
  if "cosine" not in found:
    return f"certificate: {found['verdict'].upper()}: {found['reason']}"
  line = (
    f"certificate: {found['verdict']} in {found['runtime']}"
    f" ({found['through']}): {found['texts']} texts, cosine"
    f" {found['cosine']['min']:.5f} at least ({found['bound']} is right),"
    f" {found['top10_overlap']:.0%} of nearest neighbours"
  )
  if "cosine_to_float" in found:
    line += f"; to the float model {found['cosine_to_float']['min']:.5f}"
  line += control_tokens.summary(found)
  return line if found["verdict"] == PASSED else f"{line}; {found['reason']}"
