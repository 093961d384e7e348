"""Estimate a step's memory from shapes, and the number of groups that fits.

The estimate is made before anything is compiled, so that a config need not set
the number of groups of a device; the verb `compile` reports exact figures. The
loss does not depend on the number. Bytes are those of one device.
"""

import math
from typing import NamedTuple

import jax

from embeddinggemma.model.config import FUSED, XLA, ModelConfig
from embeddinggemma.model.kernels import choose
from embeddinggemma.model.kernels.choose import LANES

# Share of a device's memory that a program may use; the rest is for the runtime
# and the error of the estimate.
_USABLE = 0.85
# Copies of the parameters beside the state while gradients are summed. With
# several groups they are the gradients of one group, and the sums over groups
# for queries and for positives: the compiler of a v5e needs 3.7 GB where
# parameters take .85 GB, nearly all of it the table, and activations .06 GB
# (tests/benchmarks/step_memory.py). With one group, gradients come when most
# activations are gone, so fewer copies count beside all activations.
_COPIES_ONE, _COPIES_MANY = 2.0, 3.7


class Side(NamedTuple):
  """A model that an example passes through, with its positions there."""

  model: ModelConfig
  length: int
  read: int = 0  # encoder positions that its attention reads in addition


Calls = tuple[tuple[Side, ...], ...]  # for each call, the models of an example


class Work(NamedTuple):
  """What a device computes in a step, independently of groups."""

  texts: int  # examples of this device
  calls: Calls
  state_bytes: int  # of the train state, as it is sharded
  parameter_bytes: int  # of all parameters, unsharded
  loss_bytes: int  # of logits and other arrays of the losses


class Program(NamedTuple):
  """Memory that a compiled program needs on one device, in bytes."""

  arguments: int  # train state and batch
  outputs: int  # without those that reuse the memory of an argument
  temporaries: int
  code: int = 0

  @property
  def needed(self) -> int:
    """The sum of all parts."""
    return sum(self)


def of_program(program: jax.stages.Compiled) -> Program:
  """Memory as the compiler reports it; 0 where a backend reports nothing."""
  found = program.memory_analysis()
  of = lambda name: getattr(found, f"{name}_size_in_bytes", 0)
  return Program(
    of("argument"),
    of("output") - of("alias"),
    of("temp"),
    of("generated_code"),
  )


def activation_bytes(side: Side) -> int:
  """Bytes that the backward pass keeps for one position of an example.

  For each layer these are the inputs and outputs of its parts and of their
  norms; queries, keys and values before and after norm and rotation; the
  products of the MLP; and attention's logits and weights. (A pair of positions
  in bfloat16 takes 1.7 to 4.5 bytes by the compiler for decoders that read
  2,048 positions: the float32 logits are not kept.) The estimate is .6 times
  what XLA keeps on a CPU, where it fuses less. A fused half of a layer keeps
  its input, which the half before it wrote anyway, and no norms, as the
  compiler lists it for a v5e. Kernels do not serve attention to an encoder.
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
  """Bytes of the state and of a step's temporaries, for so many groups."""
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
  """The fewest groups that divide the texts and fit; the most, if none fit.

  Few are better: each group but the first costs a further forward pass.
  """
  numbers = [n for n in range(1, work.texts + 1) if work.texts % n == 0]
  room = _USABLE * capacity
  fits = (n for n in numbers if needed_bytes(work, n) <= room)
  return next(fits, numbers[-1])
