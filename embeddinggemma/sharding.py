"""Meshes, the rules that place parameters, and the one shard_map.

Axes: `data` replicates the parameters, `fsdp` shards them; the batch is split
over both. Models, losses and data never see a mesh.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from embeddinggemma.types import BadInput, Params

AXES = ("data", "fsdp")
BATCH = P(AXES)  # leading axis over the whole mesh

# Earlier wins. The embedding table is split by vocabulary rows: by columns,
# every chip would sort all ids of the global batch. Optimizer moments have
# their parameter's path inside their own, so they follow it.
RULES = (
  (r"embedding$", P("fsdp", None)),
  (r"(attention|pooling)/(q|k|v)$", P("fsdp", None, None)),
  (r"attention/o$", P(None, None, "fsdp")),
  (r"mlp/(gate|up)$", P("fsdp", None)),
  (r"mlp/down$", P(None, "fsdp")),
  (r"model/up$", P("fsdp", None)),
  (r"model/down$", P(None, "fsdp")),
  (r"aux/lora/.*/[ab]$", P()),
  (r"(norm/scale|pooling/query|aux/projection|count|step)$", P()),
)


def make_mesh(
  data: int, fsdp: int, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """A (data, fsdp) mesh; data = -1 takes all devices that fsdp leaves.

  Axis types are Auto: a linen embedding lookup fails under the Explicit ones
  that jax.make_mesh now gives by default.
  """
  devices = list(jax.devices() if devices is None else devices)
  if fsdp < 1 or (data < 1 and data != -1):
    raise BadInput(f"mesh.data={data} mesh.fsdp={fsdp}: sizes start at 1")
  size = len(devices) // fsdp if data == -1 else data
  if size * fsdp != len(devices):
    raise BadInput(
      f"mesh.data={data} x mesh.fsdp={fsdp} does not divide"
      f" {len(devices)} devices; set them so that data * fsdp is that number"
    )
  return jax.make_mesh(
    (size, fsdp), AXES, devices=devices, axis_types=(AxisType.Auto,) * 2
  )


def path_name(path: tuple[Any, ...]) -> str:
  """A tree path as 'a/b/c'."""
  name = lambda k: getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))
  return "/".join(str(name(key)) for key in path)


def spec_of(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
  """The first rule that matches; no rule, or a size it cannot split, raises."""
  spec = next((spec for rule, spec in RULES if re.search(rule, path)), None)
  if spec is None:
    raise BadInput(f"no sharding rule matches {path!r}; add one to RULES")
  for axis, size in zip(spec, shape):
    if axis is not None and size % mesh.shape[axis]:
      raise BadInput(
        f"mesh.{axis}={mesh.shape[axis]} does not divide {path!r} of shape"
        f" {shape}; use a smaller mesh.{axis}"
      )
  return spec


def tree_shardings(tree: Any, mesh: Mesh) -> Any:
  """NamedShardings for a tree of arrays or shapes, by RULES."""

  def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
    return NamedSharding(mesh, spec_of(path_name(path), leaf.shape, mesh))

  return jax.tree_util.tree_map_with_path(place, tree)


def batch_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
  """Arrays of a batch are split along their first axis; scalars are not."""
  return NamedSharding(mesh, BATCH if shape else P())


def to_devices(tree: Any, mesh: Mesh) -> Any:
  """Host arrays of a batch to global arrays; each process places its part."""

  def place(x: Any) -> jax.Array:
    x = np.asarray(x)
    sharding = batch_sharding(mesh, x.shape)
    return jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])

  return jax.tree.map(place, tree)


def replicate(x: jax.Array, mesh: Mesh) -> jax.Array:
  """Every device gets all of x, inside a jitted function."""
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P()))


def split_batch(x: jax.Array, mesh: Mesh) -> jax.Array:
  """Keeps the leading axis of x split over the mesh."""
  return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, BATCH))


def data_parallel(
  f: Callable[..., Any], mesh: Mesh
) -> Callable[[Params, Any], Any]:
  """Maps `f` (one group -> arrays (b, ...)) over all groups of a batch.

  A batch is a tuple whose arrays begin with G; `f` gets its fields without
  that axis, and what it returns comes back as (B, ...).

  One shard_map, manual over every axis, with the parameters gathered at its
  edge; each device scans `f` over its own groups. Under an automatic
  partitioner such a scan all-reduces the gradients once per group, and a
  Pallas call fails; here gradients are reduced once a step, at the edge.
  """

  def local(params: Params, batch: Any) -> Any:
    if jax.tree.leaves(batch)[0].shape[0] == 1:
      first = f(params, *jax.tree.map(lambda x: x[0], batch))
      return jax.tree.map(lambda x: x[None], first)
    group = jax.checkpoint(lambda group: f(params, *group))
    return jax.lax.scan(lambda _, g: (None, group(g)), None, batch)[1]

  mapped = jax.shard_map(
    local, mesh=mesh, in_specs=(P(), BATCH), out_specs=BATCH, check_vma=False
  )

  def flat(x: jax.Array) -> jax.Array:
    # (G, b, ...) -> (B, ...): the split stays on the leading axis.
    return split_batch(jnp.reshape(x, (-1, *x.shape[2:])), mesh)

  return lambda params, batch: jax.tree.map(flat, mapped(params, batch))
