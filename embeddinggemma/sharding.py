"""Meshes, the rules that place parameters, and the one shard_map.

Axes: `data` and `fsdp`; the batch is split over both. Whether parameters are
split over `fsdp`, or optimizer moments over everything, is a table of rules.
Models, losses and data never see a mesh.
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from embeddinggemma.types import BadInput, Params

AXES = ("data", "fsdp")
BATCH = P(AXES)  # leading axis over the whole mesh
# The whole mesh, for moments, in the order in which gradients are scattered: on
# `fsdp`, a ring of neighbours, and then on `data`.
_WHOLE = ("fsdp", "data")

AnyMesh = Mesh | AbstractMesh  # sizes of axes are enough to place arrays

# Kinds of parameters, by patterns of their paths. The path of an optimizer's
# moment ends in that of its parameter.
_TABLE = r"embedding$"
_HEADS = r"(attention|pooling)/(q|k|v)$"  # (width, heads, head)
_MIXED = r"attention/o$"  # (heads, head, width)
_MATRIX = r"(mlp/(gate|up|down)|model/(up|down))$"  # (input, output)
_SMALL = (  # and what a pooling has beside heads
  r"(norm/scale|pooling/.*|aux/projection|aux/lora/.*/[ab]|count|step)$"
)

# Table -> rules. A rule is a pattern and specs, of which the first applies that
# the mesh divides. The first rule that matches applies; no match is an error.
#
# - The embedding table is split by vocabulary rows: by columns, every chip
#   would sort all ids of the global batch.
# - Parameters are split along output axes, never along the input: along it run
#   the blocks and channels of quantisation grids, and a device must see all of
#   one. Moments are on no grid.
RULES: dict[str, tuple[tuple[Any, ...], ...]] = {
  # Parameters and their moments over the axis `fsdp`.
  "fsdp": (
    (_TABLE, P("fsdp", None)),
    (_HEADS, P(None, None, "fsdp")),
    (_MIXED, P(None, None, "fsdp")),
    (_MATRIX, P(None, "fsdp")),
    (_SMALL, P()),
  ),
  # Moments over the whole mesh, parameters on every device. The moments of a
  # layer are split over `fsdp` alone if they do not divide into all devices.
  "zero1": (
    (rf"^opt_state/.*{_TABLE}", P(_WHOLE, None)),
    (
      rf"^opt_state/.*{_HEADS}",
      P(None, None, _WHOLE),
      P(_WHOLE, None, None),
      P(None, None, "fsdp"),
    ),
    (
      rf"^opt_state/.*{_MIXED}",
      P(None, None, _WHOLE),
      P(None, _WHOLE, None),
      P(None, None, "fsdp"),
    ),
    (
      rf"^opt_state/.*{_MATRIX}",
      P(None, _WHOLE),
      P(_WHOLE, None),
      P(None, "fsdp"),
    ),
    (rf"({_TABLE}|{_HEADS}|{_MIXED}|{_MATRIX}|{_SMALL})", P()),
  ),
}


def make_mesh(
  data: int, fsdp: int, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """A (data, fsdp) mesh; data = -1 takes all devices that fsdp leaves.

  fsdp = -1 is one ring of a TPU's torus, and 1 where there is none: over one
  ring at a time TPUs reduce and scatter, over a plane they only reduce. Of
  devices of several slices, `data` runs over them, outermost, so that `fsdp`
  stays within one. Axis types are Auto: a linen embedding lookup fails under
  the Explicit ones that jax.make_mesh gives by default.
  """
  devices = list(jax.devices() if devices is None else devices)
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  shape = mesh_shape(data, fsdp, len(devices), _ring(devices), slices)
  array = _arrange(shape, slices, devices)
  return Mesh(array, AXES, axis_types=(AxisType.Auto,) * 2)


def mesh_shape(
  data: int, fsdp: int, devices: int, ring: int, slices: int
) -> tuple[int, int]:
  """The sizes of `make_mesh` for so many devices; BadInput if they do not fit.

  `ring` is the number of devices of a ring, `slices` the number of slices.
  """
  if min(data, fsdp) < -1 or 0 in (data, fsdp):
    raise BadInput(f"mesh.data={data} mesh.fsdp={fsdp}: sizes start at 1")
  fsdp = ring if fsdp == -1 else fsdp
  size = devices // fsdp if data == -1 else data
  if size * fsdp != devices:
    raise BadInput(
      f"mesh.data={data} x mesh.fsdp={fsdp} does not give {devices} devices; set"
      " them so that it does, data=-1 for what fsdp leaves"
    )
  if size % slices:
    raise BadInput(
      f"mesh.fsdp={fsdp} does not divide the {devices // slices} devices"
      f" of one of {slices} slices; use one that does"
    )
  return size, fsdp


def _ring(devices: Sequence[jax.Device]) -> int:
  """The number of devices along the longest axis of the torus."""
  places = [getattr(device, "coords", None) for device in devices]
  if None in places:
    return 1
  return max(len(set(axis)) for axis in zip(*places))


def _arrange(
  shape: tuple[int, int], slices: int, devices: Sequence[jax.Device]
) -> np.ndarray:
  """The devices in an order that makes mesh neighbours physically near."""
  data, fsdp = shape
  if slices > 1:
    arrange = functools.partial(
      mesh_utils.create_hybrid_device_mesh,
      (data // slices, fsdp),
      (slices, 1),
      devices,
    )
  else:
    arrange = functools.partial(mesh_utils.create_device_mesh, shape, devices)
  try:
    return arrange()
  except NotImplementedError:  # the axes are none of the torus
    return arrange(allow_split_physical_axes=True)


def memory_limit() -> int:
  """Bytes of memory of one device of this run; 0 if devices do not report it.

  The result is the same in every process, and each has to call it.
  """
  stats = jax.local_devices()[0].memory_stats() or {}
  limit = int(stats.get("bytes_limit", 0))
  if jax.process_count() == 1:
    return limit
  # In units that an int32 holds.
  told = multihost_utils.process_allgather(np.int32(limit >> 20))
  return int(np.min(told)) << 20


def path_name(path: tuple[Any, ...]) -> str:
  """A tree path as 'a/b/c'."""
  name = lambda k: getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))
  return "/".join(str(name(key)) for key in path)


def spec_of(
  path: str, shape: tuple[int, ...], mesh: AnyMesh, rules: str = "fsdp"
) -> P:
  """The PartitionSpec of the first rule that matches a path.

  Raises BadInput if no rule matches, or if the mesh does not divide the shape.
  """
  specs = next(
    (specs for rule, *specs in RULES[rules] if re.search(rule, path)), None
  )
  if specs is None:
    raise BadInput(f"no sharding rule matches {path!r}; add one to RULES")
  wrong = ""
  for spec in specs:
    wrong = _undivided(spec, shape, mesh)
    if not wrong:
      return spec
  raise BadInput(
    f"{wrong} does not divide {path!r} of shape {shape} (mesh.rules={rules});"
    " use a smaller one"
  )


def _undivided(spec: P, shape: tuple[int, ...], mesh: AnyMesh) -> str:
  """The mesh axes that do not divide the axis they are to split, or ""."""
  for names, size in zip(spec, shape):
    if size % _parts(names, mesh):
      names = (names,) if isinstance(names, str) else names
      return " x ".join(f"mesh.{name}={mesh.shape[name]}" for name in names)
  return ""


def _parts(names: str | tuple[str, ...] | None, mesh: AnyMesh) -> int:
  """Into how many parts these mesh axes split an axis."""
  names = (names,) if isinstance(names, str) else names or ()
  return math.prod(mesh.shape[name] for name in names)


def tree_shardings(tree: Any, mesh: AnyMesh, rules: str = "fsdp") -> Any:
  """NamedShardings for a tree of arrays or shapes, by a table of RULES."""

  def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    spec = spec_of(path_name(path), leaf.shape, mesh, rules)
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(place, tree)


def placed_shapes(tree: Any, mesh: AnyMesh, rules: str = "fsdp") -> Any:
  """Shapes of arrays with their shardings by a table; allocates nothing."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    tree,
    tree_shardings(tree, mesh, rules),
  )


def device_bytes(leaf: Any) -> int:
  """Bytes of one device's part of an array, without the padding of tiles."""
  part = leaf.sharding.shard_shape(leaf.shape)
  return math.prod(part) * np.dtype(leaf.dtype).itemsize


class Placed(NamedTuple):
  """The placement of one array of the state, for people to read."""

  path: str
  shape: tuple[int, ...]
  dtype: str
  spec: P
  device_bytes: int


def placements(tree: Any) -> list[Placed]:
  """The placement of each array or shape of a tree."""
  return [
    Placed(
      path_name(path),
      tuple(leaf.shape),
      np.dtype(leaf.dtype).name,
      leaf.sharding.spec,
      device_bytes(leaf),
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  ]


def batch_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
  """Arrays of a batch are split along their first axis, scalars not at all."""
  return NamedSharding(mesh, BATCH if shape else P())


def to_devices(tree: Any, mesh: Mesh) -> Any:
  """Turn a batch on the host into global arrays, a part from each process."""

  def place(x: Any) -> jax.Array:
    x = np.asarray(x)
    sharding = batch_sharding(mesh, x.shape)
    return jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])

  return jax.tree.map(place, tree)


def replicate(x: jax.Array, mesh: Mesh) -> jax.Array:
  """Put all of x on every device, inside a jitted function."""
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P()))


def split_batch(x: jax.Array, mesh: Mesh) -> jax.Array:
  """Keeps the leading axis of x split over the mesh."""
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, BATCH))


def data_parallel(
  f: Callable[..., Any], mesh: Mesh, rules: str = "fsdp"
) -> Callable[[Params, Any], Any]:
  """Map `f` (one group -> arrays (b, ...)) over all groups of a batch.

  A batch is a tuple whose arrays begin with G; `f` gets them without that axis,
  and its results come back as (B, ...).

  It is one shard_map, manual over every axis, with the parameters gathered at
  its edge; each device scans `f` over its own groups. With an automatic
  partitioner such a scan would all-reduce the gradients once for each group,
  and a Pallas call fails; here gradients are reduced once a step, at the edge,
  and each device keeps the part whose moments it holds.
  """

  def local(whole: Params, part: Params, batch: Any) -> Any:
    specs = gradient_specs(whole, mesh, rules)
    params = jax.tree.map(_with_gradient, whole, part, specs)
    if jax.tree.leaves(batch)[0].shape[0] == 1:
      first = f(params, *jax.tree.map(lambda x: x[0], batch))
      return jax.tree.map(lambda x: x[None], first)
    group = jax.checkpoint(lambda group: f(params, *group))
    return jax.lax.scan(lambda _, g: (None, group(g)), None, batch)[1]

  def flat(x: jax.Array) -> jax.Array:
    # (G, b, ...) -> (B, ...): the split stays on the leading axis.
    return split_batch(jnp.reshape(x, (-1, *x.shape[2:])), mesh)

  def over_mesh(params: Params, batch: Any) -> Any:
    specs = gradient_specs(params, mesh, rules)
    mapped = jax.shard_map(
      local,
      mesh=mesh,
      in_specs=(P(), specs, BATCH),
      out_specs=BATCH,
      check_vma=False,
    )
    whole = jax.tree.map(
      lambda x: replicate(jax.lax.stop_gradient(x), mesh), params
    )
    return jax.tree.map(flat, mapped(whole, params, batch))

  return over_mesh


def over_rows(
  f: Callable[[Any, Any], Any], mesh: Mesh, at_once: int
) -> Callable[[Any, Any], Any]:
  """Divide `f` (rows, columns) -> a tree of (B,) among the devices, by rows.

  Rows and columns are trees of arrays that begin with B. Each device computes
  its own rows, at most `at_once` at a time, with all columns. So no device
  holds a matrix of B x B, and nothing of it is kept for the backward pass,
  which gathers the columns and computes it again.
  """

  def local(rows: Any, columns: Any) -> Any:
    columns = jax.tree.map(_gathered, columns)
    number = jax.tree.leaves(rows)[0].shape[0]
    blocks = next(
      n
      for n in range(1, number + 1)
      if number % n == 0 and number // n <= at_once
    )
    if blocks == 1:
      return f(rows, columns)
    block = jax.checkpoint(lambda rows: f(rows, columns))
    apart = lambda x: x.reshape(blocks, -1, *x.shape[1:])
    found = jax.lax.scan(
      lambda _, rows: (None, block(rows)), None, jax.tree.map(apart, rows)
    )
    return jax.tree.map(lambda x: x.reshape(number), found[1])

  return jax.checkpoint(
    jax.shard_map(
      local,
      mesh=mesh,
      in_specs=(BATCH, BATCH),
      out_specs=BATCH,
      check_vma=False,
    )
  )


def _gathered(x: jax.Array) -> jax.Array:
  """All devices' parts of x, gathered over one mesh axis at a time."""
  for name in reversed(AXES):
    x = jax.lax.all_gather(x, name, tiled=True)
  return x


def gradient_specs(params: Params, mesh: Mesh, rules: str) -> Any:
  """PartitionSpecs of the parameters' gradients: those of their moments."""
  return jax.tree_util.tree_map_with_path(
    lambda path, x: spec_of(
      f"opt_state/{path_name(path)}", x.shape, mesh, rules
    ),
    params,
  )


def _with_gradient(whole: jax.Array, part: jax.Array, spec: P) -> jax.Array:
  """`whole`, with its gradient going to `part`, scattered by `spec`.

  A sum and a slice would compute the same, but leave it to the compiler to make
  one collective of the two, and whether to move the slice into a loop.
  """

  @jax.custom_vjp
  def attach(whole: jax.Array, part: jax.Array) -> jax.Array:
    del part
    return whole

  def scatter(_: None, gradient: jax.Array) -> tuple[None, jax.Array]:
    for axis, names in enumerate(spec):
      for name in (names,) if isinstance(names, str) else names or ():
        gradient = jax.lax.psum_scatter(
          gradient, name, scatter_dimension=axis, tiled=True
        )
    return None, gradient

  attach.defvjp(lambda whole, part: (whole, None), scatter)
  return attach(whole, part)
