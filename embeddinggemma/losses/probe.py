"""What a step cannot afford at every step: how vectors lie, what pulls them.

The step hands out the vectors of its batch as they are, which costs it nothing.
A probe is a program of its own that reads them every so many steps: the step
sends nothing more between devices with it, and rounds every weight alike.

It differentiates each term of the loss, and each Matryoshka dimension of a term,
by these vectors alone. By the weights it would take a backward pass of the model
for each. The model turns one gradient by the vectors into that by the weights,
linearly, so the norms by the vectors say how strong the terms pull against each
other.
"""

from collections.abc import Collection, Mapping

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from embeddinggemma import sharding
from embeddinggemma.losses import geometry, matryoshka, objectives
from embeddinggemma.types import (
  Aux,
  Embeddings,
  LossTerm,
  Metrics,
  PairBatch,
  Probe,
  Seen,
  Values,
)

GRADIENT = "gradient"  # metrics are "gradient/TERM" and "gradient/TERM/PART"
# Queries, positives and hard negatives, as far as there are any.
Sides = tuple[Array, Array | None, Array | None]


def show(mesh: Mesh, hidden: Collection[str] = ()) -> objectives.Show:
  """What hands out a batch's vectors; see `objectives.pair_objective`.

  They stay where they are, whatever the shape of the batch's texts: one probe
  serves all shapes. `hidden` are keys of aux that no term reads.
  """
  split = lambda x: sharding.split_batch(x, mesh)

  def shown(aux: Aux, embeddings: Embeddings) -> Metrics:
    read = {name: leaf for name, leaf in aux.items() if name not in hidden}
    sides = embeddings.query, embeddings.positive, embeddings.negative
    seen = Seen(read, *jax.tree.map(split, sides))
    return {objectives.SEEN: jax.lax.stop_gradient(seen)}

  return shown


def pair_probe(
  terms: Mapping[str, tuple[float, LossTerm]], mesh: Mesh
) -> Probe:
  """The figures of a batch of pairs, or of single texts.

  Args:
    terms: name -> (weight, term), those of the objective.
    mesh: the devices.

  Returns:
    A probe whose metrics are those of `geometry.figures` and, for each term that
    has a weight and for each of its parts, the norm of the gradient of its mean,
    times the weight, by the vectors before they got unit norm. Of a part that no
    pair has, it is NaN.
  """

  def probe(seen: Seen, batch: PairBatch) -> Metrics:
    found = geometry.figures(seen, batch, mesh)
    for name, (weight, term) in terms.items():
      if weight:
        for part, norm in _gradients(term, seen, batch).items():
          key = "/".join(filter(None, (GRADIENT, name, part)))
          found[key] = weight * norm
    return found

  return probe


def _gradients(
  term: LossTerm, seen: Seen, batch: PairBatch
) -> dict[str, Float[Array, ""]]:
  """The norms of the gradients of a term, as "", and of its parts by name.

  A term is the sum of its parts, and so is its gradient.
  """
  sides = seen.query, seen.positive, seen.negative
  valid = batch.query.valid.reshape(-1)

  def values(sides: Sides) -> Values:
    return matryoshka.values(term(seen.aux, _at_unit_norm(sides), batch))

  def summed(sides: Sides, part: str) -> Float[Array, ""]:
    found = values(sides)
    found = found.parts[part] if part else found
    counted = objectives.counted(found, valid)
    return jnp.sum(jnp.where(counted, found.total, 0.0))

  now = values(sides)
  parts = now.parts or {"": now}
  gradients = {part: jax.grad(summed)(sides, part) for part in parts}
  norms = {x: _norm(gradients[x], parts[x], valid) for x in parts}
  if "" in parts:
    return norms
  whole = jax.tree.map(lambda *of: sum(of), *gradients.values())
  return {"": _norm(whole, now, valid), **norms}


def _at_unit_norm(sides: Sides) -> Embeddings:
  """The embeddings, made so that none of their gradients changes a norm."""
  unit = lambda x: matryoshka.truncate(x, x.shape[-1])
  query, positive, negative = jax.tree.map(unit, sides)
  candidates = query if positive is None else positive
  return Embeddings(query, positive, negative, candidates)


def _norm(
  gradient: Sides, values: Values, valid: Bool[Array, "B"]
) -> Float[Array, ""]:
  """The norm of the gradient of a mean, given that of the sum."""
  number = jnp.sum(objectives.counted(values, valid))
  norm = optax.tree.norm(gradient) / jnp.maximum(number, 1)
  return jnp.where(number > 0, norm, jnp.nan)
