"""Reading a compiled program: an excerpt that libtpu 0.0.52 made for a v5e:2x2.

It is a scan of five steps with two products of 128 x 256 x 384 each, then an
all-reduce, an all-gather, a sort and a scatter; backend_config is cut down to
the estimated cycles.
"""

import pathlib

import jax
import pytest

from embeddinggemma import generations, sharding
from embeddinggemma.aot import (
  buffers,
  collectives,
  hlo,
  kernel_costs,
  matmuls,
  traffic,
)

TEXT = pathlib.Path(__file__).with_name("scan_v5e.hlo").read_text()
STEPS = 5


def cycles(text: str) -> int:
  return sum(
    n * (i.cycles or 0) for n, _, i in hlo.parse(text).walk(fused=False)
  )


def test_the_body_of_a_loop_counts_every_time() -> None:
  once = 4601 + 3487 + 1824 + 16  # outside of the loop
  assert cycles(TEXT) == once + STEPS * (2647 + 448)
  assert not hlo.parse(TEXT).unknown_loops


def test_no_program_costs_nothing() -> None:
  program = hlo.parse("")
  assert not list(program.walk(fused=True))
  assert matmuls.flops(program) == traffic.hbm_bytes(program) == 0


def test_a_sentinel_for_unknown_cycles_is_dropped() -> None:
  text = TEXT.replace('"2647"', f'"{2**63 - 1}"')
  assert cycles(text) == cycles(TEXT) - STEPS * 2647


@pytest.mark.parametrize(
  ("direction", "count"), [("LT", 5), ("LE", 6), ("GT", 0), ("NE", 1)]
)
def test_trip_counts(direction: str, count: int) -> None:
  condition = next(x for x in TEXT.splitlines() if "ROOT %lt.13 =" in x)
  other = condition.replace("direction=LT", f"direction={direction}")
  program = hlo.parse(TEXT.replace(condition, other))
  body = next(
    i.attribute("body").lstrip("%")
    for _, _, i in program.walk(fused=False)
    if i.opcode == "while"
  )
  assert program.times[body] == count
  # What cannot be told is counted once, and said.
  assert bool(program.unknown_loops) == (direction == "NE")


def test_source_lines_are_those_of_the_package() -> None:
  program = hlo.parse(TEXT)
  found = {i.opcode: program.source(i) for _, _, i in program.walk(fused=True)}
  assert found["sort"] == "model/example.py:16 local"
  assert found["all-gather"] == "model/example.py:15 local"
  stack = list(program._stack(11))
  assert [frame.line for frame in stack] == [11, 13, 13, 13, 19]


def test_products_in_loops_and_fusions_are_counted() -> None:
  assert matmuls.flops(hlo.parse(TEXT)) == STEPS * 2 * 2 * 128 * 256 * 384


def test_collectives_by_kind_bytes_and_axes() -> None:
  mesh = sharding.make_mesh(2, 2, jax.devices()[:4])
  found = collectives.find(hlo.parse(TEXT), mesh.size)
  assert collectives.summary(found, mesh) == [
    {
      "kind": "all-gather",
      "axes": ["fsdp"],
      "count": 1,
      "bytes": 5 * 256 * 256 * 4,
    },
    {"kind": "all-reduce", "axes": ["data", "fsdp"], "count": 1, "bytes": 4},
  ]
  gather = next(c for c in found if c.kind == "all-gather")
  assert gather.sent == gather.bytes / 2  # each of two sends its half
  assert not list(collectives.in_loops(found))


def test_a_collective_that_is_spread_over_fusions_counts_once() -> None:
  line = next(x for x in TEXT.splitlines() if " all-gather(" in x)
  part = lambda n, flag: (
    line.replace("%all-gather.4", f"%all-gather.{n}")
    + f', backend_config={{"async_collective_fusion_config":{{"flag_start":"{flag}"'
  )
  several = "\n".join([part(4, -1), part(90, 2), part(91, 2)])
  program = hlo.parse(TEXT.replace(line, several))
  kinds = [c.kind for c in collectives.find(program, 4)]
  assert kinds.count("all-gather") == 1


@pytest.mark.parametrize(
  ("groups", "want"),
  [
    ("replica_groups={{0,2},{1,3}}", [0, 2]),
    ("replica_groups=[2,4]<=[8]", [0, 1, 2, 3]),
    ("replica_groups=[4,2]<=[2,4]T(1,0)", [0, 4]),
    ("replica_groups=mesh['a'=8] {'a'}", list(range(8))),
    ("replica_groups=mesh['a'=4,'b'=2] {'b'}", [0, 1]),
    ("replica_groups=mesh['a'=4,'b'=2] {'a'}", [0, 2, 4, 6]),
    ("replica_groups=mesh['a'=8] {'a':(1)2}", [0, 4]),
    ("replica_groups=mesh['a'=8] {'a':(4)2}", [0, 1]),
    ("source_target_pairs={{0,0},{1,3}}, x", [1, 3]),
    ("replica_groups={}", list(range(8))),
  ],
)
def test_groups_of_devices(groups: str, want: list[int]) -> None:
  given = hlo.Instruction(
    "x", "f32[8]", "all-reduce", ("y",), f"%y), {groups}", False
  )
  assert list(collectives.group_of(given, 8)) == want


def brute_force(
  given: int, made: int, size: int, stride: int, pad: int, lhs: int, rhs: int
) -> int:
  """Walks over the dilated input with its padding."""
  data = {n * lhs for n in range(given)}
  return sum(
    o * stride + k * rhs - pad in data for o in range(made) for k in range(size)
  )


@pytest.mark.parametrize(
  "case",
  [
    (4, 4, 4, 3, 0, 4, 1),  # a batch of four products
    (3, 3, 3, 1, 1, 1, 1),
    (8, 3, 2, 3, 0, 1, 2),
    (1, 2, 2, 1, 1, 1, 1),
    (5, 7, 3, 2, 4, 3, 2),
    (4, 9, 5, 4, 3, 6, 3),
    (7, 5, 6, 6, 5, 4, 5),
  ],
)
def test_positions_of_a_window_that_meet_data(case: tuple[int, ...]) -> None:
  assert matmuls._valid_pairs(*case) == brute_force(*case)


def test_a_batch_of_millions_is_a_window_too() -> None:
  count = 2**21
  case = (count, count, count, count - 1, 0, count, 1)
  assert matmuls._valid_pairs(*case) == count


def program_of(lines: str) -> hlo.Program:
  return hlo.parse(f"HloModule m\n\n{lines}\n")


def test_only_what_is_touched_is_read() -> None:
  """Rows picked from a table, a row written into it in place."""
  program = program_of("""
%picks (p.1: f32[1000,64], p.2: s32[8]) -> f32[8,64] {
  %p.1 = f32[1000,64]{1,0} parameter(0)
  %p.2 = s32[8]{0} parameter(1)
  ROOT %g = f32[8,64]{1,0} gather(%p.1, %p.2), offset_dims={1}
}

%writes (q.1: f32[1000,64], q.2: f32[1,64], q.3: s32[]) -> f32[1000,64] {
  %q.1 = f32[1000,64]{1,0} parameter(0)
  %q.2 = f32[1,64]{1,0} parameter(1)
  %q.3 = s32[] parameter(2)
  ROOT %u = f32[1000,64]{1,0} dynamic-update-slice(%q.1, %q.2, %q.3, %q.3)
}

ENTRY %main (a: f32[1000,64], i: s32[8], r: f32[1,64], n: s32[]) -> f32[8,64] {
  %a = f32[1000,64]{1,0} parameter(0)
  %i = s32[8]{0} parameter(1)
  %r = f32[1,64]{1,0} parameter(2)
  %n = s32[]{:S(6)} parameter(3)
  %f.1 = f32[8,64]{1,0:S(1)} fusion(%a, %i), kind=kLoop, calls=%picks
  %f.2 = f32[1000,64]{1,0} fusion(%a, %r, %n), kind=kLoop, calls=%writes
  ROOT %f.3 = f32[8,64]{1,0} copy(%f.1)
}""")
  row = 64 * 4
  picked = 8 * row + 8 * 4  # the result stays on the chip
  written = 3 * row  # the row, what it replaces, and where it lands
  assert traffic.hbm_bytes(program) == picked + written + 8 * row


KERNEL = """
ENTRY %main (q: bf16[8,3,256,64], k: bf16[8,256,64]) -> bf16[8,3,256,64] {
  %q = bf16[8,3,256,64]{3,2,1,0} parameter(0)
  %k = bf16[8,256,64]{2,1,0} parameter(1)
  ROOT %NAME.3 = bf16[8,3,256,64]{3,2,1,0} custom-call(%q, %k, %k), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{}"
}}, metadata={op_name="jit(f)/pallas_call"}, backend_config={"custom_call_config":{"body":"AA"COST}}
}"""
SCORES = 8 * 3 * 256 * 256


@pytest.mark.parametrize(
  ("name", "products"),
  [
    ("splash_mqa_fwd_segmented", 2),
    ("splash_mqa_dq_segmented", 3),
    ("splash_mqa_dkv_segmented", 4),
  ],
)
def test_attention_kernels_by_their_shapes(name: str, products: int) -> None:
  v5e = generations.GENERATIONS["v5e"]
  text = KERNEL.replace("NAME", name).replace("COST", "")
  (kernel,) = kernel_costs.find(program_of(text), v5e)
  assert kernel.name == name
  assert kernel.flops == products * 2 * 64 * SCORES
  alone = kernel.flops / v5e.bf16_flops
  assert alone < kernel.seconds < 20 * alone


def test_a_kernel_that_states_its_cost_is_believed() -> None:
  v5e = generations.GENERATIONS["v5e"]
  cost = (
    ',"cost_estimate":{"flops":"197000000000","transcendentals":"0",'
    '"bytes_accessed":"77"}'
  )
  text = KERNEL.replace("NAME", "mine").replace("COST", cost)
  (kernel,) = kernel_costs.find(program_of(text), v5e)
  assert (kernel.flops, kernel.bytes) == (197e9, 77)
  # Products, and the vector unit's work on what goes in and out.
  assert 1e-3 < kernel.seconds < 1.1e-3


def test_an_unknown_kernel_costs_at_least_its_bytes() -> None:
  v5e = generations.GENERATIONS["v5e"]
  text = KERNEL.replace("NAME", "other").replace("COST", "")
  (kernel,) = kernel_costs.find(program_of(text), v5e)
  assert kernel.flops is None
  moved = 2 * (2 * 8 * 3 * 256 * 64 + 2 * 8 * 256 * 64)
  assert kernel.bytes == moved
  assert kernel.seconds >= moved / v5e.hbm_bandwidth


def test_buffers_of_hbm_alone() -> None:
  laid = buffers.parse("""BufferAssignment:
allocation 22: size 4096, page 0, parameter 0, shape |f32[32,32]| at ShapeIndex {}:
 value: <55 x.1 @0> (size=4096,offset=0): f32[32,32]{1,0:T(8,128)}
allocation 34: size 9999, color 1, page 0, preallocated-temp:
 value: <50 vmem @1> (size=9999,offset=0): f32[2499]{0:T(128)S(1)}
allocation 35: size 640, page 0, preallocated-temp:
 value: <56 fusion.1 @0> (size=512,offset=0): f32[128]{0:T(128)}
 value: <58 iota.clone @0> (size=512,offset=0): s32[128]{0:T(128)}
 value: <57 copy @0> (size=128,offset=512): f32[32]{0:T(128)}
 value: <59 sort.6{} @0> (size=32,offset=608): (f32[128]{0:T(128)}, s32[128])
""")
  assert laid.bytes == 640
  assert [(b.name, b.bytes, b.values) for b in laid.buffers] == [
    ("fusion.1", 512, 2),
    ("copy", 128, 1),
  ]
  rows = buffers.largest(laid, {"fusion.1": "model/layers.py:1 f"}, 1)
  assert rows[0]["source"] == "model/layers.py:1 f"
