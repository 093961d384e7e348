"""How much memory a step takes, from shapes alone: how many groups it needs.

An estimate, made before anything is compiled, so that a config need not say
how many groups a device goes through; `compile` says exactly. Whatever is
chosen, the loss is the same. Bytes are of one device.
"""

import math
from typing import NamedTuple

from embeddinggemma.model.config import FUSED, XLA, ModelConfig
from embeddinggemma.model.kernels import choose
from embeddinggemma.model.kernels.choose import LANES

# Of a device's memory, what a program may take: the rest is the runtime's, and
# the estimate's error.
_USABLE = 0.85
# Whole copies of the parameters beside the state, while gradients are summed:
# over several groups those of one group, and the sums of the queries' and of
# the positives' loop. The compiler of a v5e says 3.7 GB where parameters are
# .85 GB, nearly all of it the table, and activations .06 GB
# (tests/benchmarks/step_memory.py). With one group, gradients come when most
# activations are gone, so fewer copies count beside all of these.
_COPIES_ONE, _COPIES_MANY = 2.0, 3.7


class Side(NamedTuple):
  """A model that an example goes through, and its positions in it, at most."""

  model: ModelConfig
  length: int
  read: int = 0  # positions of an encoder, which its attention sees as well


class Work(NamedTuple):
  """What a device has to do in a step, but for how it is grouped."""

  texts: int  # examples of this device
  calls: tuple[tuple[Side, ...], ...]  # of each, what an example goes through
  state_bytes: int
  parameter_bytes: int  # of all parameters, unsplit
  loss_bytes: int  # of what the losses hold, whatever the groups


def activation_bytes(side: Side) -> int:
  """What the backward pass keeps of a position.

  Of each layer: inputs and outputs of its parts and of their norms, queries,
  keys, values and what they become, the MLP's products, and attention's logits
  and weights (a pair in bfloat16 takes 1.7 to 4.5 bytes by the compiler, where
  decoders read 2,048 positions: the logits' float32 does not stay). That is .6
  times what XLA keeps on a CPU, where it fuses less. A fused half keeps its
  input, which the half before it wrote, and no norms: what the compiler lists
  for a v5e. No kernel reads an encoder.
  """
  model, length, read = side
  size = 2 if model.dtype == "bfloat16" else 4
  attention = XLA if read else choose.attention_of(model, length)
  mlp = choose.mlp_of(model, LANES)
  copies, inside = (2, 2) if attention == FUSED else (4, 3)
  first = copies * model.width
  first += inside * (model.num_heads + model.num_kv_heads) * model.head_dim
  copies, inside = (1, 2) if mlp == FUSED else (3, 3)
  second = copies * model.width + inside * model.mlp_width
  layer = (first + second) * size
  if attention == XLA:
    layer += 2 * size * model.num_heads * (length + read)
  if model.remat == "full":
    # A layer's input, and all of one layer.
    return model.num_layers * model.width * size + layer
  return model.num_layers * layer


def needed_bytes(work: Work, groups: int) -> int:
  """Of the state and of a step's temporaries, with so many groups."""
  copies, of_calls = (_COPIES_ONE, sum) if groups == 1 else (_COPIES_MANY, max)
  texts = math.ceil(work.texts / groups)
  # Several groups: a call is through with its own before the next call's.
  kept = of_calls(
    sum(texts * side.length * activation_bytes(side) for side in sides)
    for sides in work.calls
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
