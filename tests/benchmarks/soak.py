"""Kills a training anywhere, resumes it on any shape, compares what comes out.

  python tests/benchmarks/soak.py --kills=20 --seed=0 [--workdir=DIR]

Runs of a tiny model on 1 device, 4 devices and 2 processes x 2 devices are
killed at random moments (in a step, in a save, in start-up; one process, or
all), and started again until they end. Parameters, optimizer state and the rows
of the next 100 batches then equal, bit for bit, those of a run on the same
shape that nothing disturbed. A run that changes its shape with every start has
the same rows in all its batches, and losses that agree to 1e-4.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
SHAPES = {"1": (1, 1), "4": (1, 4), "2x2": (2, 2), "4x1": (4, 1)}
HEARTBEAT = 10  # seconds until a process that is gone is missed
START = 45  # seconds that processes wait for each other at the start
STEPS, EVERY = 40, 4
LIMIT = 600.0  # seconds of one start, at most
AGAIN = (42, -signal.SIGKILL)  # exit codes after which to start again


@dataclasses.dataclass
class Run:
  """The processes of one start."""

  workdir: pathlib.Path
  processes: list[subprocess.Popen]
  logs: list[pathlib.Path]

  def wait(self, limit: float = LIMIT) -> list[int]:
    """Exit codes of all."""
    end = time.monotonic() + limit
    try:
      return [p.wait(max(end - time.monotonic(), 0.1)) for p in self.processes]
    except subprocess.TimeoutExpired:
      for process in self.processes:
        process.kill()
      raise AssertionError(f"no end after {limit} s: {self.said()}") from None

  def said(self) -> list[str]:
    """What each process printed."""
    return [log.read_text(errors="replace") for log in self.logs]

  def running(self) -> bool:
    """Whether all still run."""
    return all(process.poll() is None for process in self.processes)


def _free_port() -> int:
  """A port whose next one is free too."""
  while True:
    with socket.socket() as one, socket.socket() as two:
      one.bind(("127.0.0.1", 0))
      port = one.getsockname()[1]
      with contextlib.suppress(OSError, OverflowError):
        two.bind(("127.0.0.1", port + 1))
        return port


def environment(processes: int, devices: int, **more: str) -> dict[str, str]:
  """Of a process; its index is added by `launch`."""
  flags = os.environ.get("XLA_FLAGS", "")
  shared = {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
    # The last of a flag counts.
    "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    # Else the command would start itself again, under another parent.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
  }
  if processes > 1:
    shared |= {
      "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{_free_port()}",
      "JAX_NUM_PROCESSES": str(processes),
      "EMBEDDINGGEMMA_HEARTBEAT_SECONDS": str(HEARTBEAT),
      "EMBEDDINGGEMMA_START_SECONDS": str(START),
    }
  return {**os.environ, **shared, **more}


def launch(
  commands: Sequence[Sequence[str]],
  workdir: pathlib.Path,
  devices: int,
  **more: str,
) -> Run:
  """Starts one process a command."""
  shared = environment(len(commands), devices, **more)
  run = Run(workdir, [], [])
  for index, command in enumerate(commands):
    log = workdir.with_name(f"{workdir.name}.{index}.log")
    with log.open("w") as out:
      run.processes.append(
        subprocess.Popen(
          command,
          env=shared | {"JAX_PROCESS_ID": str(index)}
          if len(commands) > 1
          else shared,
          stdout=out,
          stderr=subprocess.STDOUT,
          cwd=ROOT,
        )
      )
    run.logs.append(log)
  return run


def train_command(
  data: pathlib.Path, workdir: pathlib.Path, *more: str
) -> list[str]:
  """The `train` that is killed."""
  return [
    *(sys.executable, "-m", "embeddinggemma", "train"),
    f"--config=configs/prefinetune.py:tiny,data={data}",
    f"--workdir={workdir}",
    f"--config.steps={STEPS}",
    f"--config.every_checkpoint={EVERY}",
    "--config.model.num_layers=1",
    *more,
  ]


def train(
  data: pathlib.Path, workdir: pathlib.Path, shape: str, *more: str
) -> Run:
  """Starts a training on a shape."""
  processes, devices = SHAPES[shape]
  commands = [train_command(data, workdir, *more)] * processes
  return launch(commands, workdir, devices)


def rows(workdir: pathlib.Path) -> dict[int, tuple[float, list[int]]]:
  """Step -> loss and rows of its batch, from metrics.jsonl."""
  found = {}
  path = workdir / "metrics.jsonl"
  for line in path.read_text().splitlines() if path.is_file() else ():
    with contextlib.suppress(json.JSONDecodeError):
      row = json.loads(line)
      found[row["step"]] = row["loss"], row["rows"]
  return found


def fingerprint(workdir: pathlib.Path) -> dict[str, str]:
  """Hashes of parameters, optimizer state, and the next 100 batches' rows."""
  import jax
  import numpy as np

  from embeddinggemma import checkpoint
  from embeddinggemma.training import prepare, stages

  place = checkpoint.find(workdir)

  def digest(tree: Any) -> str:
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      found.update(jax.tree_util.keystr(path).encode())
      found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()

  with checkpoint._reading(place) as reader:
    directory = (place / "opt_state").absolute()
    args = jax.tree.map(
      checkpoint._to_numpy, checkpoint._tree(reader, directory)
    )
    moments = reader.restore(directory, restore_args=args)
  position = json.loads((place / "data" / "metadata").read_text())
  config = stages.build(json.loads((workdir / "config.json").read_text()))
  made = prepare.inputs_in(config, workdir / "inputs")
  data, _ = prepare.dataset(config, made, 1)
  first = position["next_index"]
  drawn = [data[n].rows.tolist() for n in range(first, first + 100)]
  return {
    "params": digest(checkpoint.read_params(place)),
    "opt_state": digest(moments),
    "rows": hashlib.sha256(json.dumps([first, drawn]).encode()).hexdigest(),
  }


def wait_until(run: Run, ready: Callable[[], bool]) -> None:
  """Until it is, or a process has ended."""
  end = time.monotonic() + LIMIT
  while run.running() and not ready():
    assert time.monotonic() < end, run.said()
    time.sleep(0.02)


def kill_somewhere(run: Run, chance: random.Random) -> str:
  """SIGKILL to one process or all, in start-up, in a step or in a save."""
  kind = chance.choice(("start-up", "step", "save", "save"))
  done = max(rows(run.workdir), default=0)
  if kind == "start-up":
    time.sleep(chance.uniform(0.5, 6.0))
  elif kind == "step":
    after = done + chance.randint(1, 2 * EVERY)
    wait_until(run, lambda: max(rows(run.workdir), default=0) >= after)
    time.sleep(chance.uniform(0, 0.3))
  else:
    seen = chance.randint(0, 1)
    places = run.workdir / "checkpoints"
    saving = lambda: any("tmp" in p.name for p in _children(places))
    for _ in range(seen + 1):
      wait_until(run, lambda: not saving())
      wait_until(run, saving)
    time.sleep(chance.uniform(0, 0.05))
  every = chance.random() < 0.5
  victims = run.processes if every else [chance.choice(run.processes)]
  for process in victims:
    process.kill()
  return f"{kind}, {'all' if every else 'one'} of {len(run.processes)}"


def _children(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  with contextlib.suppress(FileNotFoundError):
    yield from folder.iterdir()


def finish(
  data: pathlib.Path,
  workdir: pathlib.Path,
  shapes: Callable[[], str],
  kills: int,
  chance: random.Random,
  say: Callable[[str], None] = lambda line: None,
) -> int:
  """Starts it again until it ends, killing it so often; the kills that hit.

  A run that is at its end before a kill comes has escaped the rest.
  """
  for done in range(kills + 1):
    shape = shapes()
    run = train(data, workdir, shape)
    if done < kills:
      where = kill_somewhere(run, chance)
      began = time.monotonic()
      codes = run.wait()
      took = time.monotonic() - began
      if any(codes):
        say(f"{shape}: killed in {where}; exit codes {codes}, {took:.0f} s")
      assert took < 60, f"{took} s until all had left"
    else:
      codes = run.wait()
    if not any(codes):
      return done
    assert all(code in (0, *AGAIN) for code in codes), run.said()
  raise AssertionError("it never ends")


def compare(
  one: pathlib.Path, other: pathlib.Path, exact: bool
) -> tuple[float, list[str]]:
  """The largest relative difference of losses, and what else differs."""
  a, b = rows(one), rows(other)
  wrong = [] if a.keys() == b.keys() else ["steps"]
  wrong += [f"rows of step {n}" for n in a if n in b and a[n][1] != b[n][1]]
  far = max(abs(a[n][0] / b[n][0] - 1) for n in a if n in b)
  first, second = fingerprint(one), fingerprint(other)
  for name in first if exact else ("rows",):
    if first[name] != second[name]:
      wrong.append(name)
  return far, wrong


def _write_data(folder: pathlib.Path) -> pathlib.Path:
  sys.path.insert(0, str(ROOT / "tests"))
  import conftest

  # Of one task: one program to compile at every start.
  pairs = [pair | {"task": "qa"} for pair in conftest._small_pairs(120)]
  return conftest._write_pairs(folder, pairs)


def main() -> int:
  """Prints a line a kill and a line a comparison; 1 if any differs."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--kills", type=int, default=20)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--workdir", type=pathlib.Path)
  parser.add_argument("--shapes", default="1,4,2x2")
  given = parser.parse_args()
  names = given.shapes.split(",")
  if not set(names) <= set(SHAPES):
    parser.error(f"--shapes={given.shapes}: known: {', '.join(SHAPES)}")
  os.environ["JAX_PLATFORMS"] = "cpu"
  sys.path.insert(0, str(ROOT))
  chance = random.Random(given.seed)
  place = given.workdir or pathlib.Path(tempfile.mkdtemp())
  shutil.rmtree(place, ignore_errors=True)
  place.mkdir(parents=True)
  data = _write_data(place / "data")
  say = lambda line: print(line, flush=True)
  for shape in names:
    assert (
      train(data, place / f"whole-{shape}", shape).wait()
      == [0] * (SHAPES[shape][0])
    )
    say(f"{shape}: undisturbed")
  # As many kills on each shape, and as many where the shape changes.
  parts = [*names, "mixed"]
  counts = [len(range(i, given.kills, len(parts))) for i in range(len(parts))]
  failed = False
  for name, kills in zip(parts, counts):
    mixed = name == "mixed"
    shapes = (lambda: chance.choice(names)) if mixed else (lambda n=name: n)
    for attempt in range(100):
      workdir = place / f"killed-{name}-{attempt}"
      done = finish(data, workdir, shapes, kills, chance, say)
      kills -= done
      for other in names if mixed else [name]:
        far, wrong = compare(workdir, place / f"whole-{other}", not mixed)
        bad = bool(wrong) or far > (1e-4 if mixed else 0)
        failed |= bad
        say(
          f"{name} after {done} kills, against {other} undisturbed: losses"
          f" differ by {far:.1e} at most;"
          f" {', '.join(wrong) or ('same rows' if mixed else 'same bits')}"
          f"{'  FAILED' if bad else ''}"
        )
      if not kills:
        break
    else:
      failed = True
      say(f"{name}: {kills} kills came too late  FAILED")
  for other in names[1:]:
    far, wrong = compare(
      place / f"whole-{names[0]}", place / f"whole-{other}", False
    )
    failed |= bool(wrong) or far > 1e-4
    say(f"{names[0]} against {other}: {far:.1e} {', '.join(wrong)}")
  return int(failed)


if __name__ == "__main__":
  sys.exit(main())
