"""Eight CPU devices, strict ranks and checked shapes, for every test."""

# ruff: noqa: E402  (the environment and the hook come before what they change)

import importlib.metadata
import importlib.util
import os
import pathlib

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile much and compute little: the optimiser would cost most of it.
os.environ["XLA_FLAGS"] = (
  "--xla_force_host_platform_device_count=8"
  " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
if importlib.metadata.version("jaxlib").startswith("0.10.") and (
  importlib.util.find_spec("libtpu") is None
):
  # Half of what compiling costs then. Later ones know no such flag, nor does
  # libtpu, and what is not known ends the process.
  os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# A program that several tests train, or the processes that they start and kill,
# is compiled once.
ROOT = pathlib.Path(__file__).parent.parent
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".pytest_cache" / "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jaxtyping

# Shapes and types of annotations are checked at run time.
jaxtyping.install_import_hook("embeddinggemma", "runtime_types.checked")

import json
from collections.abc import Callable

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

WORDS = (
  "river stone copper lantern garden winter harbour signal meadow engine"
  " paper violet thunder marble orchard compass feather bridge candle forest"
).split()


def _pair(number: int) -> dict[str, str]:
  """A small pair of texts that no other number has."""
  a, b, c = (WORDS[(number // 20**i) % 20] for i in range(3))
  return {
    "query": f"where is the {a} {b} {c}",
    "positive": f"The {a} {b} stands by the {c} in row {number}.",
    "task": "qa" if number % 3 else "code",
  }


def _write_pairs(folder: pathlib.Path, rows: list) -> pathlib.Path:
  """FOLDER/small/pairs.jsonl with the rows; text is written as it is."""
  path = folder / "small" / "pairs.jsonl"
  path.parent.mkdir(parents=True, exist_ok=True)
  lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
  path.write_text("\n".join(lines) + "\n", encoding="utf-8")
  return folder


def _small_pairs(count: int) -> list[dict[str, str]]:
  return [_pair(17 * n) for n in range(count)]


@pytest.fixture(scope="session")
def small_pairs() -> Callable[[int], list[dict[str, str]]]:
  """count -> so many different pairs of two tasks."""
  return _small_pairs


@pytest.fixture(scope="session")
def write_pairs() -> Callable[[pathlib.Path, list], pathlib.Path]:
  """(folder, rows) -> the folder, with small/pairs.jsonl in it."""
  return _write_pairs


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A folder of small pairs of two tasks."""
  return _write_pairs(tmp_path_factory.mktemp("data"), _small_pairs(120))


@pytest.fixture(scope="session")
def train_command(
  data_folder: pathlib.Path,
) -> Callable[[pathlib.Path], list[str]]:
  """workdir -> the `train` of two steps, on a tiny model of one layer."""
  return lambda workdir: [
    "train",
    f"--config=configs/prefinetune.py:tiny,data={data_folder}",
    f"--workdir={workdir}",
    "--config.steps=2",
    "--config.model.num_layers=1",
  ]


@pytest.fixture(scope="session")
def trained(
  tmp_path_factory: pytest.TempPathFactory,
  train_command: Callable[[pathlib.Path], list[str]],
) -> pathlib.Path:
  """The workdir that `train_command` leaves."""
  from embeddinggemma.cli import main

  workdir = tmp_path_factory.mktemp("trained")
  assert main.call(train_command(workdir)) == 0
  return workdir


def _rows(task: str, count: int, seed: int = 0, longest: int = 30):
  """Tokenised pairs of random lengths; the keys of row i are 2i and 2i + 1."""
  import numpy as np

  from embeddinggemma.data.mixture import Rows

  rng = np.random.default_rng(seed)
  text = lambda: np.arange(rng.integers(3, longest), dtype=np.int32)
  keys = np.arange(2 * count, dtype=np.uint32).reshape(count, 2)
  return Rows(
    task,
    [text() for _ in range(count)],
    [text() for _ in range(count)],
    keys,
    [f"{task}:{i}" for i in range(count)],
  )


@pytest.fixture(scope="session")
def rows() -> Callable:
  """(task, count, seed, longest) -> the Rows of a task."""
  return _rows
