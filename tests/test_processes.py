"""Several real processes on loopback: one answer, signals, kills, quarrels."""

import importlib.util
import pathlib
import shutil
import signal
import sys

import jax
import numpy as np
import pytest
import test_mesh

from embeddinggemma import checkpoint

TESTS = pathlib.Path(__file__).parent
_spec = importlib.util.spec_from_file_location(
  "soak", TESTS / "benchmarks" / "soak.py"
)
soak = importlib.util.module_from_spec(_spec)
sys.modules["soak"] = soak
_spec.loader.exec_module(soak)

# A short form of the soak.
soak.STEPS = 24
# Every objective; parameters replicated and sharded.
CASES = ("separate:4:1:1", "joint:2:2:2", "adapt:2:2:1", "pretrain:4:1:2")


@pytest.mark.slow
def test_two_processes_of_two_devices_change_nothing(tmp_path):
  output = tmp_path / "found.npz"
  worker = [sys.executable, str(TESTS / "mesh_worker.py"), str(output), *CASES]
  run = soak.launch([worker] * 2, tmp_path / "run", 2)
  want = {
    kind: test_mesh.train("1", 1, kind)
    for kind in (case.partition(":")[0] for case in CASES)
  }
  assert run.wait() == [0, 0], run.said()
  found = np.load(output)
  for kind, (losses, gradients, _) in want.items():
    np.testing.assert_allclose(found[f"{kind}/losses"], losses, rtol=1e-5)
    leaves = jax.tree.leaves(gradients)
    for n, leaf in enumerate(leaves):
      far = 1e-5 * np.abs(leaf).max()
      np.testing.assert_allclose(found[f"{kind}/{n}"], leaf, 1e-5, far)
    assert f"{kind}/{len(leaves)}" not in found


@pytest.fixture(scope="module")
def data(small_pairs, write_pairs, tmp_path_factory):
  """Pairs of one task: one program to compile."""
  pairs = [pair | {"task": "qa"} for pair in small_pairs(120)]
  return write_pairs(tmp_path_factory.mktemp("pairs"), pairs)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
  """A run of two processes with two devices each, from start to end."""
  workdir = tmp_path_factory.mktemp("processes") / "whole"
  run = soak.train(data, workdir, "2x2")
  assert run.wait() == [0, 0], run.said()
  return workdir


def at_step(run, step):
  """Whether so many updates are logged."""
  return lambda: max(soak.rows(run.workdir), default=0) >= step


def test_signals_and_kills_change_no_bit(undisturbed, data, tmp_path):
  # SIGTERM to one: all save the same step. By the clock they save at every
  # fourth step or so, which also slows them down, and at the same steps.
  workdir = tmp_path / "run"
  more = ("--config.every_checkpoint=1000", "--config.every_minutes=1e-9")
  run = soak.train(data, workdir, "2x2", *more)
  soak.wait_until(run, at_step(run, 6))
  run.processes[1].send_signal(signal.SIGTERM)
  assert run.wait() == [42, 42], run.said()
  said = [text.splitlines()[-1] for text in run.said()]
  assert said[0] == said[1] and "told to stop: saved at step" in said[0]
  newest = checkpoint.steps(workdir)[-1]
  assert f"at step {newest};" in said[0]
  assert 6 <= newest < soak.STEPS
  shutil.copytree(workdir, tmp_path / "other")

  # SIGKILL to one: the other names it and exits with 42, within a minute.
  run = soak.train(data, workdir, "2x2", *more)
  soak.wait_until(run, at_step(run, newest + 1))
  run.processes[1].kill()
  assert run.wait(60) == [42, -signal.SIGKILL], run.said()
  assert "process 1 (" in run.said()[0].splitlines()[-1]

  # The same shape goes on to the same bits, another one to the same rows.
  run = soak.train(data, workdir, "2x2")
  assert run.wait() == [0, 0], run.said()
  assert "continues at step" in run.said()[0]
  assert soak.compare(workdir, undisturbed, exact=True) == (0, [])
  run = soak.train(data, tmp_path / "other", "4")
  assert run.wait() == [0], run.said()
  assert f"continues at step {newest}" in run.said()[0]
  far, wrong = soak.compare(tmp_path / "other", undisturbed, exact=False)
  assert far < 1e-4 and wrong == []


def test_processes_that_disagree_name_the_key_and_stop(data, tmp_path):
  workdir = tmp_path / "run"
  commands = [
    soak.train_command(data, workdir, f"--config.optimizer.lr={lr}")
    for lr in (0.01, 0.02)
  ]
  run = soak.launch(commands, workdir, 1)
  assert run.wait() == [2, 2], run.said()
  for said in run.said():
    assert "disagree about the config: optimizer.lr=0.01 in process 0" in said
    assert "0.02 in process 1" in said
  assert not (workdir / "checkpoints").exists()


def test_a_host_that_does_not_come_is_named(data, tmp_path):
  command = soak.train_command(data, tmp_path / "run")
  run = soak.launch(
    [command],
    tmp_path / "run",
    1,
    JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{soak._free_port()}",
    JAX_NUM_PROCESSES="3",
    JAX_PROCESS_ID="0",
    EMBEDDINGGEMMA_START_SECONDS="4",
  )
  assert run.wait(60) == [42], run.said()
  assert "of 3 processes, 1, 2 did not come within 4 s" in run.said()[0]


def test_a_process_that_hangs_is_named(tmp_path):
  code = """if True:
    import time
    from embeddinggemma import distributed
    with distributed.together(), distributed.preemption(0) as preempted:
      for n in range(4):
        preempted(n)
        time.sleep(1000 if n == 1 and not distributed.is_first() else 0.1)
      time.sleep(1000)
  """
  command = [sys.executable, "-c", code]
  run = soak.launch(
    [command] * 2, tmp_path / "run", 1, EMBEDDINGGEMMA_HEARTBEAT_SECONDS="3"
  )
  assert run.wait(60) == [42, 42], run.said()
  words = "process 1 (", "hangs: the others have been at step 3", "it is at 1"
  assert all(word in said for said in run.said() for word in words)


def test_the_soak_finds_what_differs(undisturbed, tmp_path):
  other = tmp_path / "other"
  shutil.copytree(undisturbed, other)
  lines = (other / "metrics.jsonl").read_text().splitlines()
  lines[3] = lines[3].replace('"rows": [', '"rows": [0, ')
  (other / "metrics.jsonl").write_text("\n".join(lines))
  assert soak.compare(undisturbed, other, True)[1] == ["rows of step 4"]
  shutil.rmtree(other / "checkpoints" / str(soak.STEPS))
  assert {"params", "opt_state", "rows"} <= set(
    soak.compare(undisturbed, other, True)[1]
  )


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
def test_a_result_that_no_process_holds_whole_is_written(data, tmp_path, rank):
  """Parameters split over two processes; low-rank factors have to be merged."""
  workdir = tmp_path / "run"
  split = ("--config.mesh.rules=fsdp", "--config.mesh.fsdp=4")
  few = (f"--config.lora.rank={rank}", "--config.steps=2")
  run = soak.train(data, workdir, "2x2", *split, *few)
  assert run.wait() == [0, 0], run.said()
  place = workdir / ("merged" if rank else "") / "checkpoints" / "2"
  assert checkpoint.read_params(place)["model"]
