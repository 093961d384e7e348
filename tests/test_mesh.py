"""One answer on every mesh and in every grouping (paper sections 2.2, 2.3)."""

import dataclasses
import functools
import re
from collections.abc import Sequence

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from embeddinggemma import sharding
from embeddinggemma.config import (
  DataConfig,
  LossConfig,
  MeshConfig,
  OptimizerConfig,
  TextConfig,
)
from embeddinggemma.data import denoisers, loader, mixture, packing
from embeddinggemma.model import decoder, embedder
from embeddinggemma.model.config import EncoderDecoderConfig
from embeddinggemma.presets import PRESETS, preset
from embeddinggemma.training import stages, step
from embeddinggemma.training.config import TrainConfig
from embeddinggemma.training.stages.language import AdaptConfig, LanguageConfig
from embeddinggemma.training.stages.pairs import CALLS, PairConfig
from embeddinggemma.types import BadInput, DenoiseBatch, PairBatch, Text

BATCH, STEPS = 32, 5
NEGATIVES, TAUGHT = 2, 48  # hard negatives a pair; width of the teacher
MESHES = {"1": (1, 1), "8": (8, 1), "4x2": (4, 2)}


def config(calls: str, rules: str = "fsdp") -> PairConfig:
  """A tiny stage whose losses are all on."""
  return PairConfig(
    stage="prefinetune",
    seed=0,
    steps=STEPS,
    batch_size=BATCH,
    max_length=32,
    groups_per_device=1,
    calls=calls,
    init="random",
    init_from="",
    frozen=(),
    every_checkpoint=5,
    keep_checkpoints=1,
    compiler_options={},
    model=preset("tiny").model,
    data=DataConfig("", False, {}, 0.5, ""),
    loss=LossConfig(
      0.05,
      True,
      1.0,
      (32, 8),
      distill=1.0,
      teacher_width=TAUGHT,
      false_negative_margin=0.1,
      false_negatives_by="teacher",
      score_matching=1.0,
    ),
    optimizer=OptimizerConfig(1e-2, 1, 0.1, 0.01, 0.9, 0.99, 1e-8, 1.0),
    mesh=MeshConfig(-1, 1, rules),
    negatives=NEGATIVES,
  )


def capture() -> optax.GradientTransformation:
  """Keeps the last gradients in the optimizer's state, for the test to read."""
  init = lambda params: jax.tree.map(jax.numpy.zeros_like, params)
  return optax.GradientTransformation(init, lambda g, s, p=None: (g, g))


def batch(
  number: int, groups: int, size: int | None = None, distinct: bool = False
) -> PairBatch:
  """Random pairs with hard negatives and a teacher, some sharing a text.

  `size` of the places are filled, by default all but a few of the first
  batch's; some pairs lack negatives. Those that are said to share a text have
  other ones all the same, unless all are `distinct`.
  """
  rng = np.random.default_rng(number)
  size = size or (BATCH - 5 if number == 0 else BATCH)
  text = lambda low, high: rng.integers(
    4, 500, rng.integers(low, high), dtype=np.int32
  )
  none = np.zeros(0, np.int32)
  negative = lambda: text(3, 33) if rng.random() < 0.7 else none
  negatives = [[negative() for _ in range(NEGATIVES)] for _ in range(size)]
  taught = rng.permutation(size * (2 + NEGATIVES)).reshape(size, -1)
  taught[:, 2:][[[len(t) == 0 for t in row] for row in negatives]] = -1
  vectors = rng.standard_normal((taught.size, TAUGHT), np.float32)
  anchors = [text(3, 12) for _ in range(size)]
  positives = [text(3, 33) for _ in range(size)]
  keys = rng.integers(0, 40, (size, 2))
  if distinct:
    keys = np.arange(2 * size).reshape(size, 2)
  rows = mixture.Rows(
    "qa",
    anchors,
    positives,
    keys.astype(np.uint32),
    [""] * size,
    negatives,
    taught,
  )
  packer = loader.Packer({"qa": rows}, BATCH, groups, 0, vectors)
  # All batches in one shape: one program for all of them.
  side = loader.Side(BATCH // groups, 64)
  packer._shapes = {"qa": (side, side, loader.Side(2 * side.rows, 64))}
  return packer(mixture.Draw("qa", np.arange(size))).batch


def language_config(name: str, rules: str = "fsdp") -> LanguageConfig:
  """A tiny language model; its vocabulary is in several blocks."""
  pairs = config("joint", rules)
  shared = {
    field.name: getattr(pairs, field.name)
    for field in dataclasses.fields(TrainConfig)
  } | {
    "stage": name,
    "data": TextConfig("", False, "", "", "", ""),
    "vocab_block": 256,
  }
  if name == "pretrain":
    return LanguageConfig(**shared)
  return AdaptConfig(
    **shared | {"keep_checkpoints": 1},
    decoder=preset("tiny").model,
    decoder_from="",
    tied=True,
    cross_attention="merged",
    hold_steps=0,
    denoisers=tuple(map(tuple, denoisers.UL2)),
    average=1,
  )


def language_batch(
  name: str, number: int, groups: int, size: int | None = None
) -> Text | DenoiseBatch:
  """Random texts of one side, or of two; `size` of the places are filled."""
  rng = np.random.default_rng(number)
  size = size or (BATCH - 5 if number == 0 else BATCH)
  text = lambda: rng.integers(4, 500, rng.integers(4, 28), dtype=np.int32)
  if name == "pretrain":
    sides = [[text() for _ in range(size)]]
  else:
    examples = (
      denoisers.denoise(text(), row, 0, denoisers.UL2, np.arange(1000, 1020))
      for row in range(size)
    )
    sides = [list(side) for side in zip(*examples)]
  sides = [side + [np.zeros(0, np.int32)] * (BATCH - size) for side in sides]
  sizes = np.array([[len(text) for text in texts] for texts in sides]).T
  dealt = packing.deal_sides(sizes, groups)
  rows = BATCH // groups
  packed = packing.pack_sides(sides, dealt, [32] * len(sides), rows)
  return DenoiseBatch(*packed) if len(packed) == 2 else packed[0]


@functools.cache
def train(
  mesh_name: str,
  groups_per_device: int,
  kind: str = "separate",
  rules: str = "fsdp",
):
  """Losses of five steps, gradients of the first, and the program's text.

  kind: how pairs are encoded, or a language-model stage.
  """
  shape = MESHES[mesh_name]
  size = shape[0] * shape[1]
  mesh = sharding.make_mesh(*shape, devices=jax.devices()[:size])
  if kind in CALLS:
    chosen, make = config(kind, rules), batch
  else:
    chosen = language_config(kind, rules)
    make = functools.partial(language_batch, kind)
  stage = stages.make(chosen, mesh)
  stage = dataclasses.replace(
    stage, optimizer=optax.chain(capture(), stage.optimizer)
  )
  state = step.init_state(stage, 0, mesh)
  groups = size * groups_per_device
  batches = [sharding.to_devices(make(n, groups), mesh) for n in range(STEPS)]
  program = step.compile_step(stage, 0, mesh).lower(state, batches[0]).compile()
  losses, gradients = [], None
  for item in batches:
    state, metrics = program(state, item)
    losses.append(float(metrics["loss"]))
    gradients = gradients or jax.device_get(state.opt_state[0])
  return np.array(losses), gradients, program.as_text()


def first(few: Sequence[tuple], cases: Sequence[tuple]) -> list:
  """These few of the cases by default, the others where time allows."""
  slow = [case for case in cases if case not in few]
  return [*few, *(pytest.param(*c, marks=pytest.mark.slow) for c in slow)]


@pytest.mark.parametrize(
  ("mesh", "rules", "groups"),
  first(
    [("1", "fsdp", 4), ("4x2", "fsdp", 1), ("4x2", "zero1", 4)],
    [
      (mesh, rules, groups)
      for rules, meshes in (("fsdp", MESHES), ("zero1", ("8", "4x2")))
      for mesh in meshes
      for groups in (1, 4)
    ],
  ),
)
def test_mesh_and_groups_change_nothing(
  mesh: str, rules: str, groups: int
) -> None:
  # Both ways to call the encoder, since every case must equal the first.
  calls = "joint" if groups == 4 else "separate"
  check(train("1", 1), train(mesh, groups, calls, rules), mesh)


# Pretraining has the same objective over one side; one case of it will do.
CASES = [("adapt", mesh, groups) for mesh in MESHES for groups in (1, 4)]


@pytest.mark.parametrize(
  ("stage", "mesh", "groups", "rules"),
  first(
    [("adapt", "4x2", 4, "zero1")],
    [*((*case, "fsdp") for case in CASES[1:]), ("pretrain", "4x2", 4, "fsdp")],
  ),
)
def test_denoising_is_the_same_on_every_mesh(
  stage: str, mesh: str, groups: int, rules: str
) -> None:
  check(train("1", 1, stage), train(mesh, groups, stage, rules), mesh)


def check(want, got, mesh: str) -> None:
  """The same losses and gradients, and no collective in a loop."""
  losses, gradients, _ = want
  got_losses, got_gradients, text = got
  np.testing.assert_allclose(got_losses, losses, rtol=1e-5)
  assert losses[-1] < losses[0]
  for a, b in zip(
    jax.tree.leaves(got_gradients), jax.tree.leaves(gradients), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())
  assert not collectives_in_loops(text)
  if mesh != "1":
    assert collectives(text), "a program for several devices must reduce"


# Whatever stands before the name: of several arrays, the type has spaces.
COLLECTIVE = re.compile(
  r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
  r"(-start)?\("
)


def collectives(text: str) -> list[str]:
  return [line for line in text.splitlines() if COLLECTIVE.search(line)]


def computations(text: str) -> dict[str, str]:
  """Name -> body of each computation of a compiled program's text."""
  found = {}
  for block in re.split(r"\n(?=(?:ENTRY )?%?[\w.\-]+ \()", text):
    name = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(", block)
    if name:
      found[name[1]] = block
  return found


def collectives_in_loops(text: str) -> list[str]:
  """Collectives in the bodies of while loops, or in what these call."""
  bodies = computations(text)
  reference = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations"
    r"|called_computations)=\{?((?:%?[\w.\-]+(?:, )?)+)"
  )
  called = lambda body: {
    name.lstrip("%")
    for names in reference.findall(body)
    for name in names.split(", ")
  }
  waiting = re.findall(r" while\(.*body=%?([\w.\-]+)", text)
  seen: set[str] = set()
  while waiting:
    name = waiting.pop()
    if name in bodies and name not in seen:
      seen.add(name)
      waiting += called(bodies[name]) - {name}
  return [line for name in seen for line in collectives(bodies[name])]


def test_the_check_of_loops_can_fail() -> None:
  mesh = sharding.make_mesh(8, 1)
  spec = jax.sharding.PartitionSpec("data")

  def summed(x):
    body = lambda c, v: (c + jax.lax.psum(v, "data"), None)
    return jax.lax.scan(body, jax.numpy.zeros(()), x)[0]

  mapped = jax.shard_map(
    summed,
    mesh=mesh,
    in_specs=spec,
    out_specs=jax.sharding.PartitionSpec(),
    check_vma=False,
  )
  text = jax.jit(mapped).lower(np.zeros(32, np.float32)).compile().as_text()
  assert collectives_in_loops(text)


def test_grouping_is_a_loop() -> None:
  assert " while(" in train("1", 4, "joint")[2]


def test_mesh_must_divide() -> None:
  with pytest.raises(BadInput, match=r"mesh.data=3 x mesh.fsdp=1.*8 devices"):
    sharding.make_mesh(3, 1)
  with pytest.raises(BadInput, match=r"mesh.fsdp=3"):
    sharding.make_mesh(-1, 3)
  with pytest.raises(BadInput, match=r"mesh.data=0 mesh.fsdp=1: sizes"):
    sharding.make_mesh(0, 1)


def test_no_torus_has_rings_of_one() -> None:
  assert dict(sharding.make_mesh(-1, -1).shape) == {"data": 8, "fsdp": 1}


@pytest.mark.parametrize("rules", list(sharding.RULES))
def test_rules_are_strict(rules: str) -> None:
  mesh = sharding.make_mesh(4, 2)
  for path in ("model/new", "opt_state/0/mu/model/new"):
    with pytest.raises(BadInput, match=f"no sharding rule matches '{path}'"):
      sharding.spec_of(path, (4,), mesh, rules)


def test_what_a_mesh_does_not_divide_is_named() -> None:
  mesh = sharding.make_mesh(4, 2)
  with pytest.raises(BadInput, match=r"mesh.fsdp=2 does not divide 'model/up'"):
    sharding.spec_of("model/up", (4, 3), mesh)
  moment = "opt_state/0/mu/model/up"
  with pytest.raises(BadInput, match=r"mesh.fsdp=2 .*'opt_state/0/mu"):
    sharding.spec_of(moment, (3, 3), mesh, "zero1")
  found = sharding.spec_of(moment, (3, 4), mesh, "zero1")
  assert found == P(None, "fsdp"), "where all devices are too many"
  assert sharding.spec_of("model/up", (3, 4), mesh, "zero1") == P()


# What a grid of quantisation has blocks or channels along: the axes that a
# matrix contracts, and the width of a row of the table.
INPUT_AXES = (
  (r"embedding$", (1,)),
  (r"(attention|pooling)/(q|k|v)$", (0,)),
  (r"attention/o$", (0, 1)),
  (r"(mlp/(gate|up|down)|model/(up|down))$", (0,)),
)


@pytest.mark.parametrize("rules", list(sharding.RULES))
@pytest.mark.parametrize("name", list(PRESETS))
def test_no_block_of_a_grid_is_split(name: str, rules: str) -> None:
  """On meshes up to 256 devices; of matrices, so not of moments."""
  plain = dataclasses.replace(PRESETS[name].model, num_layers=1)
  pooled = dataclasses.replace(plain, pooling="attention")
  both = EncoderDecoderConfig(plain, plain, False, "separate")
  inits = (embedder.init(plain), embedder.init(pooled))
  trees = [
    jax.eval_shape(init, jax.random.key(0))
    for init in (*inits, decoder.init_encoder_decoder(both))
  ]
  leaves = {
    sharding.path_name(path): leaf.shape
    for tree in trees
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
  checked = 0
  for data, fsdp in [(2**i, 2**j) for i in range(9) for j in range(9 - i)]:
    mesh = AbstractMesh((data, fsdp), sharding.AXES)
    for path, shape in leaves.items():
      try:
        spec = sharding.spec_of(path, shape, mesh, rules)
      except BadInput as error:
        assert f"mesh.fsdp={fsdp} does not divide" in str(error)
        continue
      axes = next((a for rule, a in INPUT_AXES if re.search(rule, path)), ())
      assert axes or not any(spec), path
      for axis in axes:
        parts = sharding._parts(tuple(spec)[axis] if any(spec) else None, mesh)
        assert parts == 1 or shape[axis] // parts % 32 == 0, (path, spec)
        checked += 1
  assert checked > 200


@pytest.mark.parametrize("name", ["embeddinggemma_300m", "gemma3_270m"])
def test_moments_are_split_over_every_device(name: str) -> None:
  model = dataclasses.replace(PRESETS[name].model, num_layers=1)
  params = jax.eval_shape(embedder.init(model), jax.random.key(0))
  state = {"params": params, "opt_state": {"mu": params}}
  for data, fsdp in ((256, 1), (16, 16), (4, 2)):
    mesh = AbstractMesh((data, fsdp), sharding.AXES)
    shapes = sharding.placed_shapes(state, mesh, "zero1")
    for placed in sharding.placements(shapes):
      whole = 4 * np.prod(placed.shape, dtype=int)
      moment = placed.path.startswith("opt_state") and len(placed.shape) > 1
      parts = data * fsdp if moment else 1
      assert placed.device_bytes * parts == whole, placed


def test_an_array_is_placed_as_the_table_says() -> None:
  mesh = sharding.make_mesh(4, 2)
  stage = stages.make(config("joint", "zero1"), mesh)
  state = step.init_state(stage, 0, mesh)
  found = sharding.placements(sharding.placed_shapes(state, mesh, "zero1"))
  for leaf, placed in zip(jax.tree.leaves(state), found, strict=True):
    assert leaf.addressable_shards[0].data.nbytes == placed.device_bytes
    assert leaf.shape == placed.shape and leaf.dtype.name == placed.dtype
  assert sum(p.device_bytes for p in found) < sum(
    leaf.nbytes for leaf in jax.tree.leaves(state)
  )
