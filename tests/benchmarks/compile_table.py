"""The table of docs/measured.md: what the TPU compiler says of the recipe's steps.

  python tests/benchmarks/compile_table.py --output=FOLDER [--only=REGEX]
  python tests/benchmarks/compile_table.py --output=FOLDER --shipped=tiny,laptop

The first form compiles the recipe's large steps; the second every shipped
config of training, in these presets, for every generation, with of each its
groups a device, temporaries in GiB and MFU by cycles. Each report is kept in
FOLDER as JSON, so that a second call compiles only what is not there; delete a
file to have it made again. Needs libtpu, and no TPU.
"""

import argparse
import itertools
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parent.parent.parent
RECIPE = "configs/recipe.py:embeddinggemma_300m"
ON = "teacher, spread-out, all dimensions"


class Case(NamedTuple):
  """One row: what it is, and the arguments of `compile`."""

  name: str
  config: str
  topology: str
  arguments: tuple[str, ...] = ()


Made = Iterable[tuple[Case, dict[str, Any]]]


LARGE = (
  Case(
    f"pre-finetuning, 16,384 pairs of 128 + 128, {ON}",
    RECIPE,
    "v5e:16x16",
    ("--config.max_length=128",),
  ),
  Case(
    f"the same, 65,536 pairs, {ON}",
    RECIPE,
    "v5e:16x16",
    ("--config.max_length=128", "--config.batch_size=65536"),
  ),
  Case(
    "the same, 16,384 pairs, two slices",
    RECIPE,
    "v5e:16x16",
    ("--config.max_length=128", "--num_slices=2"),
  ),
  Case(
    "finetuning, 1,024 pairs, one hard negative, 512 tokens",
    RECIPE,
    "v5e:4x4",
    (
      "--stage=finetune",
      "--config.finetune.batch_size=1024",
      "--config.max_length=512",
    ),
  ),
  Case(
    "adaptation, 2,048 texts of 512 in and 512 out",
    "configs/adapt.py:embeddinggemma_300m",
    "v5e:16x16",
    ("--config.max_length=512",),
  ),
  Case(
    "the same",
    "configs/adapt.py:embeddinggemma_300m",
    "v5p:4x4x8",
    ("--config.max_length=512",),
  ),
  Case(
    "pre-finetuning, 4,096 pairs of 2,048 + 2,048",
    RECIPE,
    "v5e:16x16",
    ("--config.max_length=2048", "--config.batch_size=4096"),
  ),
  Case(
    "pre-finetuning, 65,536 pairs of 512 + 512, in one group: too much",
    RECIPE,
    "v5e:4x4",
    (
      "--config.max_length=512",
      "--config.batch_size=65536",
      "--config.groups_per_device=1",
    ),
  ),
)
STAGES = ("pretrain", "adapt", "prefinetune", "finetune", "qat")
SMALLEST = ("v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1")


def shipped(presets: list[str]) -> Iterator[Case]:
  """Every config of a stage of training, on every generation."""
  for preset in presets:
    for stage in STAGES:
      for topology in SMALLEST:
        yield Case(
          f"{stage}:{preset}", f"configs/{stage}.py:{preset}", topology
        )


def compile_one(case: Case, folder: pathlib.Path) -> dict[str, Any]:
  """The report of a case, made or read; one that was refused says why."""
  words = (case.config, case.topology, *case.arguments)
  name = re.sub(r"[^\w.=-]+", "_", "_".join(words))
  path = folder / f"{name}.json"
  if not path.is_file():
    done = subprocess.run(
      [
        sys.executable,
        "-m",
        "embeddinggemma",
        "compile",
        f"--config={case.config}",
        f"--topology={case.topology}",
        "--json",
        *case.arguments,
      ],
      cwd=ROOT,
      capture_output=True,
      text=True,
    )
    if done.returncode not in (0, 1, 2):
      raise RuntimeError(done.stderr[-2000:])
    text = done.stdout or json.dumps({"refused": done.stderr.strip()})
    path.write_text(text, encoding="utf-8")
  return json.loads(path.read_text(encoding="utf-8"))


def row(case: Case, found: dict[str, Any]) -> str:
  """A line of the table."""
  if "refused" in found:
    return f"| {case.name} | {case.topology} | {found['refused']} |" + " |" * 8
  slices = f"{found['num_slices']} x " if found["num_slices"] > 1 else ""
  hbm, gib = found["hbm"], 2**30
  figures = (
    case.name,
    f"{slices}{case.topology}",
    "fits" if found["fits"] else "does not fit",
    found["groups_per_device"],
    f"{hbm['arguments_bytes'] / gib:.2f}",
    f"{hbm['temporaries_bytes'] / gib:.2f}",
    f"{found['cycles'] / 1e6:.1f}" if found["cycles"] else "-",
    f"{found['kernel_seconds'] * 1e3:.1f}" if found["cycles"] else "-",
    f"{found['recompute_factor']:.2f}",
    f"{found['cycle_mfu']:.3f}" if found["cycles"] else "-",
    f"{found['step_seconds'] * 1e3:.1f}",
  )
  return "| " + " | ".join(map(str, figures)) + " |"


def cell(found: dict[str, Any]) -> str:
  """What a grid says of a step."""
  if "refused" in found:
    return found["refused"]
  if not found["fits"]:
    return "does not fit"
  temporaries = found["hbm"]["temporaries_bytes"] / 2**30
  mfu = f"{found['cycle_mfu']:.3f}".removeprefix("0")
  return f"{found['groups_per_device']}, {temporaries:.1f}, {mfu}"


def rows(made: Made) -> Iterator[str]:
  """A table of steps, a line each."""
  yield HEAD
  yield "|---" * HEAD.count(" |") + "|"
  for case, found in made:
    yield row(case, found)


def grid(made: Made) -> Iterator[str]:
  """A table of stages by generations."""
  yield f"| step | {' | '.join(SMALLEST)} |"
  yield "|---" * (1 + len(SMALLEST)) + "|"
  for name, steps in itertools.groupby(made, lambda pair: pair[0].name):
    cells = {case.topology: cell(found) for case, found in steps}
    yield f"| {name} | {' | '.join(cells.get(t, '') for t in SMALLEST)} |"


HEAD = (
  "| step | topology | verdict | groups a device | state and batch, GiB |"
  " temporaries, GiB | cycles, million | kernels, ms | recompute | MFU by"
  " cycles | roofline, ms |"
)


def main() -> None:
  """Compiles what is not there, and prints the table."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--output", required=True, type=pathlib.Path)
  parser.add_argument("--only", default="", help="a pattern of names")
  parser.add_argument("--shipped", default="", help="presets, by commas")
  parser.add_argument("--jobs", type=int, default=1)
  arguments = parser.parse_args()
  arguments.output.mkdir(parents=True, exist_ok=True)
  presets = arguments.shipped.split(",") if arguments.shipped else []
  cases = list(shipped(presets)) if presets else list(LARGE)
  cases = [
    c for c in cases if re.search(arguments.only, f"{c.name} {c.topology}")
  ]
  with ThreadPoolExecutor(arguments.jobs) as pool:
    made = pool.map(lambda c: compile_one(c, arguments.output), cases)
    for line in (grid if presets else rows)(zip(cases, made)):
      print(line, flush=True)


if __name__ == "__main__":
  main()
