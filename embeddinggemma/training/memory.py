"""How much memory a step takes, from shapes alone: how many groups it needs.

An estimate, made before anything is compiled, so that a config need not say
how many groups a device goes through; `compile` says exactly. Whatever is
chosen, the loss is the same. Bytes are of one device.
"""

import math
from typing import NamedTuple

from embeddinggemma.model.config import ModelConfig

# Of a device's memory, what a program may take: the rest is the runtime's, and
# the estimate's error.
_USABLE = 0.85
# Whole copies of the parameters beside the state, while gradients are summed:
# with one group the gradients alone; over several, those of a group, and the
# sums of the queries' and of the positives' loop. Measured with the compiler
# of a v5e, at 300M (tests/benchmarks/step_memory.py).
_COPIES_ONE, _COPIES_MANY = 2.0, 3.5


class Work(NamedTuple):
  """What a device has to do in a step, but for how it is grouped."""

  texts: int  # examples of this device
  # Of each model that an example goes through: itself, and an example's
  # positions in it, at most.
  sides: tuple[tuple[ModelConfig, int], ...]
  state_bytes: int
  parameter_bytes: int  # of all parameters, unsplit
  loss_bytes: int  # of what the losses hold, whatever the groups


def activation_bytes(model: ModelConfig, length: int) -> int:
  """What the backward pass keeps of a position in rows of `length`.

  Of each layer: inputs and outputs of its parts and of their norms (7 x width),
  queries, keys, values and what they become, three of the MLP's products, and
  attention's logits and weights in float32. At 300M in bfloat16 this is 1.1
  times what the compiler of a v5e says; in float32 on a CPU, .6 times.
  """
  size = 2 if model.dtype == "bfloat16" else 4
  heads = 3 * (model.num_heads + model.num_kv_heads) * model.head_dim
  layer = (7 * model.width + heads + 3 * model.mlp_width) * size
  if getattr(model, "attention", "xla") == "xla":
    layer += 2 * 4 * model.num_heads * length
  if getattr(model, "remat", "none") == "full":
    # A layer's input, and all of one layer.
    return model.num_layers * model.width * size + layer
  return model.num_layers * layer


def needed_bytes(work: Work, groups: int) -> int:
  """Of the state and of a step's temporaries, with so many groups."""
  copies = _COPIES_ONE if groups == 1 else _COPIES_MANY
  texts = math.ceil(work.texts / groups)
  kept = sum(
    texts * positions * activation_bytes(model, positions)
    for model, positions in work.sides
  )
  fixed = work.state_bytes + int(copies * work.parameter_bytes)
  return fixed + max(kept, work.loss_bytes)


def fewest_groups(work: Work, capacity: int) -> int:
  """The fewest groups that divide the texts and fit; the most, if none does.

  Few groups: each but the first costs one more forward pass of it.
  """
  numbers = [n for n in range(1, work.texts + 1) if work.texts % n == 0]
  room = _USABLE * capacity
  fits = (n for n in numbers if needed_bytes(work, n) <= room)
  return next(fits, numbers[-1])
