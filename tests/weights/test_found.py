"""Which weights a folder holds, and what is said of a folder without any."""

import os
import pathlib
import subprocess
import sys

import found
import gguf
import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture
def write_gguf(tmp_path):
  """(name, architecture) -> a file of it without tensors."""

  def write(name, architecture):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path

  return write


def embedder(folder, kind="gemma3_text"):
  folder.mkdir(exist_ok=True)
  (folder / "modules.json").write_text("[]")
  (folder / "config.json").write_text(f'{{"model_type": "{kind}"}}')
  return folder


def test_both_are_found_below(tmp_path, write_gguf):
  embedder(tmp_path / "a", "bert")
  own = embedder(tmp_path / "b")
  write_gguf("c/embedder.gguf", "gemma-embedding")
  decoder = write_gguf("c/model.gguf", "gemma3")
  (tmp_path / "c" / "a.gguf").write_bytes(b"GGUF")
  assert found.weights(str(tmp_path)) == (own, decoder)


def test_one_is_found_in_the_folder_itself(tmp_path, write_gguf):
  embedder(tmp_path)
  assert found.weights(str(tmp_path)) == (tmp_path, None)
  for path in tmp_path.iterdir():
    path.unlink()
  decoder = write_gguf("x.gguf", "gemma3")
  assert found.weights(str(tmp_path)) == (None, decoder)


@pytest.mark.parametrize("make", ["nothing", "other", "broken", "absent"])
def test_a_folder_without_weights_is_one_line(tmp_path, write_gguf, make):
  """So says the launcher, and pytest when the variable names it."""
  place = tmp_path / "none" if make == "absent" else tmp_path
  if make == "other":
    write_gguf("x.gguf", "llama")
  elif make == "broken":
    (embedder(tmp_path) / "config.json").write_text("{")
  command = [sys.executable, found.__file__, str(place)]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 2 and not done.stdout
  [line] = done.stderr.splitlines()
  words = "no such folder" if make == "absent" else "holds neither"
  assert line.startswith(f"error: {place}: {words}")


def test_the_variable_must_name_weights(tmp_path):
  command = [sys.executable, "-m", "pytest", "-n", "0", "tests/weights"]
  env = os.environ | {found.VARIABLE: str(tmp_path)}
  done = subprocess.run(
    command, cwd=ROOT, env=env, capture_output=True, text=True
  )
  assert done.returncode == 2
  assert f"{found.VARIABLE}={tmp_path}: holds neither" in done.stderr


@pytest.mark.parametrize(
  ("flag", "words"),
  [
    ("--weights=NONE", "no such folder"),
    ("--weights=", "no such folder"),
    ("--weights", "give --weights=DIR"),
  ],
)
def test_the_launcher_refuses_before_any_work(tmp_path, flag, words):
  flag = flag.replace("NONE", str(tmp_path / "none"))
  command = ["bash", str(ROOT / "launch" / "test.sh"), "-k", "card", flag]
  done = subprocess.run(command, capture_output=True, text=True, timeout=60)
  [line] = done.stderr.splitlines()
  assert done.returncode == 2 and words in line and not done.stdout
