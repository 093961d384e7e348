"""How many groups a device needs, from shapes alone."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
import test_mesh
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddinggemma.config import MeshConfig
from embeddinggemma.model import embedder
from embeddinggemma.model.config import LARGE
from embeddinggemma.presets import preset
from embeddinggemma.training import memory, stages
from embeddinggemma.training.stages.pairs import PairConfig
from embeddinggemma.types import BadInput

V5E = 16_909_336_576  # bytes, as one says of itself


def large(batch_size: int = 16_384, length: int = 128) -> PairConfig:
  """Pre-finetuning of the paper's model."""
  model = dataclasses.replace(preset("embeddinggemma_300m").model, **LARGE)
  return dataclasses.replace(
    test_mesh.config("separate"),
    model=model,
    batch_size=batch_size,
    max_length=length,
    groups_per_device=0,
    negatives=0,
    mesh=MeshConfig(-1, -1, "zero1"),
    loss=dataclasses.replace(
      test_mesh.config("separate").loss.without_teacher(),
      distill=1.0,
      matryoshka=(),
      teacher_width=0,
    ),
  )


def test_what_the_config_says_counts() -> None:
  config = test_mesh.config("separate")
  assert stages.groups(config, 8) == 1
  config = dataclasses.replace(config, groups_per_device=4)
  assert stages.groups(config, 8, capacity=1) == 4


def test_a_device_that_does_not_say_gets_one_group() -> None:
  config = dataclasses.replace(
    test_mesh.config("separate"), groups_per_device=0
  )
  assert stages.groups(config, 8) == 1


@pytest.mark.parametrize("groups", [0, 3])
def test_a_batch_that_does_not_divide_is_named(groups: int) -> None:
  config = dataclasses.replace(
    test_mesh.config("separate"), groups_per_device=groups, batch_size=20
  )
  with pytest.raises(BadInput, match="batch_size=20 does not divide into"):
    stages.groups(config, 8)


def test_more_work_or_less_memory_takes_more_groups() -> None:
  count = lambda batch_size, length=128, capacity=V5E: stages.groups(
    large(batch_size, length), 256, capacity
  )
  batches = [count(batch_size) for batch_size in (4_096, 16_384, 65_536)]
  lengths = [count(16_384, length) for length in (128, 512, 2_048)]
  sizes = [count(16_384, 512, n * V5E) for n in (4, 2, 1)]
  for counts in (batches, lengths, sizes):
    assert counts == sorted(counts) and counts[0] < counts[-1], counts
  assert batches[0] == 1
  assert 65_536 // 256 % batches[-1] == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 96), st.integers(1, 512), st.integers(0, 10**8))
def test_the_fewest_that_fit_and_divide(texts, length, capacity) -> None:
  work = memory.Work(
    texts, ((memory.Side(preset("tiny").model, length),),), 10**6, 10**5, 0
  )
  groups = memory.fewest_groups(work, capacity)
  assert texts % groups == 0
  fits = lambda n: memory.needed_bytes(work, n) <= 0.85 * capacity
  fewer = [n for n in range(1, groups) if texts % n == 0]
  assert not any(map(fits, fewer))
  assert fits(groups) or groups == texts


def test_a_decoder_that_reads_an_encoder_needs_more() -> None:
  """Its logits, which no kernel computes: what two of five chips lacked."""
  model = dataclasses.replace(preset("embeddinggemma_300m").model, **LARGE)
  alone = memory.activation_bytes(memory.Side(model, 2_048))
  reading = memory.activation_bytes(memory.Side(model, 2_048, read=2_048))
  logits = 2 * 2 * model.num_layers * model.num_heads * 4_096
  assert reading - alone >= logits > alone


def test_the_estimate_is_near_what_the_compiler_says() -> None:
  """Of what grows with positions; on a CPU, which fuses less than a TPU."""
  model = dataclasses.replace(
    preset("tiny").model, width=128, mlp_width=256, head_dim=64
  )
  shapes = jax.eval_shape(embedder.init(model), jax.random.key(0))
  encode = embedder.encode_group(model)

  def temporaries(rows: int) -> int:
    ids = jax.ShapeDtypeStruct((rows, 64), jnp.int32)
    valid = jax.ShapeDtypeStruct((rows,), jnp.bool_)
    loss = lambda params, *text: jnp.sum(encode(params, *text)[:, :4])
    program = jax.jit(jax.grad(loss)).lower(shapes, ids, ids, valid).compile()
    return program.memory_analysis().temp_size_in_bytes

  measured = (temporaries(64) - temporaries(32)) / (32 * 64)
  estimate = memory.activation_bytes(memory.Side(model, 64))
  assert 0.5 < estimate / measured < 1.5, (estimate, measured)
