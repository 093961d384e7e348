"""Whether commands would be understood on the devices that they are meant for.

  python -m embeddinggemma.cli.check --devices=16 --ring=4 < COMMANDS

A command a line, from its verb on. For launchers: what is wrong with a command
is found before a slice is asked for. Nothing is run, and no device is touched.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from embeddinggemma import cache, sharding
from embeddinggemma.cli import training
from embeddinggemma.cli.flags import parse
from embeddinggemma.cli.verbs import VERBS, unknown
from embeddinggemma.terminal.printable import printable
from embeddinggemma.training import stages, start
from embeddinggemma.types import BadInput


def check(command: Sequence[str], devices: int, ring: int, slices: int) -> None:
  """Raise BadInput for a verb, flag, key or value that would be refused."""
  name, *rest = command
  if name not in VERBS:
    raise BadInput(unknown(name))
  if "--help" in rest or "-h" in rest:
    return
  values, _ = parse(name, VERBS[name], rest)
  for flag in ("workdir", "output"):
    if flag in values and (path := values[flag].value):
      cache.as_folder(str(path), f"--{flag}")
  if name == "train":
    _check_slice(training.train_config(values), devices, ring, slices)


def _check_slice(config: Any, devices: int, ring: int, slices: int) -> None:
  """Raise BadInput if the config cannot be trained on such devices."""
  start.check_folders(config)
  shape = config.mesh.data, config.mesh.fsdp
  sharding.mesh_shape(*shape, devices, ring, slices)
  stages.groups(config, devices, capacity=0)  # what fits is seen there


def main() -> None:
  """Check the commands on stdin; exit code 2 for the first that is refused."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--devices", type=int, required=True)
  parser.add_argument("--ring", type=int, default=1, help="of the torus")
  parser.add_argument("--slices", type=int, default=1)
  given = parser.parse_args()
  try:
    for line in sys.stdin:
      check(shlex.split(line), given.devices, given.ring, given.slices)
  except BadInput as error:
    print(f"error: {printable(str(error))}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
  main()
