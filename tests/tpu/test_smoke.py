"""launch/smoke.sh, for real on a CPU, and where it must fail."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from embeddinggemma.launch import smoke
from embeddinggemma.types import Stopped

ROOT = pathlib.Path(__file__).parent.parent.parent


def run(*words, **env: str) -> subprocess.CompletedProcess:
  return subprocess.run(
    ["bash", ROOT / "launch" / "smoke.sh", *words],
    env=os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)} | env,
    capture_output=True,
    text=True,
  )


def test_smoke_passes_on_a_cpu(tmp_path):
  """Two steps on every device, a checkpoint, and the same command again."""
  done = run(f"--workdir={tmp_path}")
  assert done.returncode == 0, done.stderr
  first, *_, last = done.stderr.splitlines()
  about = json.loads(first)
  assert about["jax"] == jax.__version__
  assert about["devices"] == jax.device_count()
  assert "continues at step 2" in done.stderr
  assert last.startswith("smoke: passed")
  assert (tmp_path / "train" / "checkpoints" / "2" / "params").is_dir()


# Counts, trains, and says how training began.
STAND_IN = """#!/usr/bin/env bash
if [[ $2 == embeddinggemma.launch.smoke ]]; then echo "library: hello"; echo "$COUNT"; exit; fi
echo "$*" >>"$CALLS"
if (($(wc -l <"$CALLS") > 1)); then echo "prefinetune: $SECOND" >&2; exit "$CODE"; fi
"""


@pytest.fixture
def stand_in(tmp_path):
  """environment -> launch/smoke.sh with a Python that does as it says."""
  python = tmp_path / "python"
  python.write_text(STAND_IN)
  python.chmod(0o755)
  calls = tmp_path / "calls"
  good = {"COUNT": "16", "SECOND": "continues at step 2 of x", "CODE": "0"}
  good |= {"PYTHON": str(python), "CALLS": str(calls)}

  def start(**env: str) -> tuple[subprocess.CompletedProcess, str]:
    done = run(f"--workdir={tmp_path / 'w'}", **(good | env))
    return done, calls.read_text() if calls.exists() else ""

  return start


def test_each_device_has_pairs(stand_in):
  done, calls = stand_in()
  assert done.returncode == 0, done.stderr
  first, second = calls.splitlines()
  assert first == second and "--config.batch_size=32" in first


@pytest.mark.parametrize(
  ("env", "code", "reason"),
  [
    ({"COUNT": "none"}, 1, "'none' is no number of devices"),
    ({"COUNT": ""}, 1, "hello' is no number of devices"),
    ({"SECOND": "starts from random weights"}, 1, "did not find"),
    ({"CODE": "42"}, 42, "continues"),
  ],
)
def test_a_slice_that_fails_does_not_pass(stand_in, env, code, reason):
  done, _ = stand_in(**env)
  assert done.returncode == code
  assert reason in done.stderr and "passed" not in done.stderr


def test_a_dry_run_only_prints(tmp_path):
  done = run("--dry-run", f"--workdir={tmp_path / 'w'}")
  assert done.returncode == 0
  first, second = done.stdout.splitlines()
  assert "embeddinggemma.launch.smoke" in first and " train " in second
  assert not (tmp_path / "w").exists()


def test_a_wrong_flag_is_named():
  done = run("--wrokdir=x")
  assert done.returncode == 2
  assert done.stderr == "error: unknown flag '--wrokdir=x'; see --help\n"


def test_a_sum_without_a_device_is_found(monkeypatch):
  """As if the slice had one more than takes part."""
  smoke.check_sum()
  real = jax.numpy.sum
  monkeypatch.setattr(smoke.jnp, "sum", lambda x: real(x[:-1]))
  with pytest.raises(Stopped, match="8 devices add up to 21, not to 28"):
    smoke.check_sum()
