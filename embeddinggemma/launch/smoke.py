"""The first minute on a slice: versions, devices, and whether they add up.

  python -m embeddinggemma.launch.smoke [--pairs=DIR]

A slice whose hosts have not found each other still counts its devices right,
and fails hours later in a checkpoint; so each device adds its number. That each
host hears of every other, `distributed.together` has checked before.
"""

import argparse
import importlib.metadata
import json
import pathlib
import platform
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from embeddinggemma import cache, distributed
from embeddinggemma.terminal.printable import printable
from embeddinggemma.types import BadInput, Interrupted, Stopped

_PACKAGES = ("embeddinggemma", "jax", "jaxlib", "libtpu", "flax")
_HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
PAIRS_PER_DEVICE = 8


def versions() -> dict[str, str]:
  """Versions of the packages that decide numerical results, if installed."""
  found = {"python": platform.python_version()}
  for name in _PACKAGES:
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def devices() -> dict[str, object]:
  """The devices of this process and of the slice, as JAX reports them."""
  first = jax.local_devices()[0]
  return {
    "kind": first.device_kind,
    "devices": jax.device_count(),
    "here": jax.local_device_count(),
    "processes": jax.process_count(),
    "huge_pages": _HUGE_PAGES.read_text().strip()
    if _HUGE_PAGES.exists()
    else "",
  }


def check_sum() -> None:
  """Raise Stopped unless every device of every process takes part in a sum."""
  count = jax.device_count()
  mesh = jax.make_mesh(
    (count,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  numbers = jax.make_array_from_callback(
    (count,),
    NamedSharding(mesh, P("data")),
    lambda index: np.arange(count, dtype=np.int32)[index],
  )
  total = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, P()))(numbers)
  expected = count * (count - 1) // 2
  if int(total) != expected:
    raise Stopped(f"{count} devices add up to {total}, not to {expected}")


def write_pairs(folder: pathlib.Path, count: int) -> None:
  """Write `count` small pairs to FOLDER/smoke/pairs.jsonl."""
  path = folder / "smoke" / "pairs.jsonl"
  path.parent.mkdir(parents=True, exist_ok=True)
  lines = (
    json.dumps(
      {"query": f"what is {n} plus {n}", "positive": f"{n} and {n} is {2 * n}"}
    )
    for n in range(count)
  )
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(pairs: str) -> None:
  """Print versions and devices, check a sum, and print the number of devices.

  `pairs` is a folder to fill with small training pairs; "" for none.
  """
  with distributed.together():
    print(json.dumps(versions() | devices()), file=sys.stderr)
    check_sum()
    count = jax.device_count()
    if pairs:
      folder = cache.as_folder(pairs)

      def fill() -> None:
        cache.require_writable(folder)
        write_pairs(folder, max(PAIRS_PER_DEVICE * count, 200))

      distributed.first_does("pairs", fill)
  print(count)


def main() -> None:
  """Entry point of the program."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--pairs", default="", help="a folder to fill")
  try:
    run(parser.parse_args().pairs)
  except BadInput as error:
    print(f"error: {printable(str(error))}", file=sys.stderr)
    sys.exit(2)
  except (Stopped, Interrupted) as error:
    print(f"stopped: {printable(str(error))}", file=sys.stderr)
    sys.exit(1 if isinstance(error, Stopped) else 42)


if __name__ == "__main__":
  main()
