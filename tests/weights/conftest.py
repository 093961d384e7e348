"""The suite of real weights: see BUILD.md.

EMBEDDINGGEMMA_WEIGHTS=FOLDER names real weights, and what needs memory then
runs in a process of its own, without what tests/conftest.py asks of XLA.
Without it the tests run on small random models of the same layout.
"""

import functools
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import found
import logits
import numpy as np
import pytest
import small
import small_decoder
import vectors

from embeddinggemma.cli import main

ROOT = pathlib.Path(__file__).parent.parent.parent
HERE = pathlib.Path(__file__).parent
_FIGURES: list[tuple[str, str]] = []


@functools.cache
def _weights() -> found.Found | None:
  """The real ones, where the variable names a folder."""
  name = os.environ.get(found.VARIABLE)
  try:
    return found.weights(name) if name else None
  except ValueError as error:
    pytest.exit(f"{found.VARIABLE}={error}", returncode=2)


def pytest_configure() -> None:
  """A variable that names no weights ends it before any test."""
  _weights()


@pytest.fixture(scope="session")
def real() -> bool:
  """Whether the weights are real ones."""
  return _weights() is not None


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Of sentence-transformers: the published model, or the small one."""
  weights = _weights()
  if weights is None:
    return small.write(tmp_path_factory.mktemp("small") / "embedder")
  if weights.embedder is None:
    pytest.skip(f"{os.environ[found.VARIABLE]} has not {found.EMBEDDER}")
  return weights.embedder


@pytest.fixture(scope="session")
def prompts(folder: pathlib.Path) -> dict[str, str]:
  """The folder's, by name."""
  where = folder / "config_sentence_transformers.json"
  return json.loads(where.read_text())["prompts"]


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A GGUF file of a Gemma 3 decoder: a published one, or the small one."""
  weights = _weights()
  if weights is None:
    work = tmp_path_factory.mktemp("decoder")
    return small_decoder.write(work / "small.gguf", small.vocabulary(work))
  if weights.decoder is None:
    pytest.skip(f"{os.environ[found.VARIABLE]} has not {found.DECODER}")
  return weights.decoder


def _run(*command: Any) -> None:
  """A Python program on as many threads as there are, on one device."""
  ours = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR")
  kept = {k: v for k, v in os.environ.items() if k not in ours}
  done = subprocess.run(
    [sys.executable, *map(str, command)],
    cwd=ROOT,
    env=kept | {"PYTHONPATH": str(ROOT)},
    stderr=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    encoding="utf-8",
  )
  assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="session")
def call(real: bool) -> Callable[..., None]:
  """(a verb, its flags) -> runs it, and it must end well."""

  def run(*argv: Any) -> None:
    if real:
      _run("-m", "embeddinggemma", *argv)
    else:
      assert main.call([str(argument) for argument in argv]) == 0

  return run


@pytest.fixture(scope="session")
def encode(
  real: bool, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., np.ndarray]:
  """(who, folder, asks) -> the vectors, as in vectors.py."""

  def run(who: str, place: pathlib.Path, asks: vectors.Asks) -> np.ndarray:
    if not real:
      return vectors.encode(who, str(place), asks)
    work = tmp_path_factory.mktemp("vectors")
    (work / "asks").write_text(json.dumps(asks))
    _run(HERE / "vectors.py", who, place, work / "asks", work / "reply.npy")
    return np.load(work / "reply.npy")

  return run


@pytest.fixture(scope="session")
def decode(
  real: bool, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
  """(workdir, texts) -> ids and logits, as in logits.py."""

  def run(
    workdir: pathlib.Path, texts: Sequence[str]
  ) -> tuple[np.ndarray, np.ndarray]:
    if not real:
      return logits.of_texts(str(workdir), texts)
    work = tmp_path_factory.mktemp("logits")
    (work / "ask").write_text(json.dumps(texts))
    _run(HERE / "logits.py", workdir, work / "ask", work / "reply.npz")
    reply = np.load(work / "reply.npz")
    return reply["ids"], reply["logits"]

  return run


@pytest.fixture(scope="session")
def program() -> Callable[..., None]:
  """(a program of the tests, its arguments) -> runs it."""
  return _run


@pytest.fixture(scope="session")
def base(
  folder: pathlib.Path,
  call: Callable[..., None],
  tmp_path_factory: pytest.TempPathFactory,
) -> pathlib.Path:
  """The workdir of the import."""
  workdir = tmp_path_factory.mktemp("imported") / "base"
  call("import", f"--from={folder}", f"--workdir={workdir}")
  return workdir


@pytest.fixture(scope="session")
def figure(real: bool) -> Callable[[str, str], None]:
  """(name, value) -> shows what was measured on real weights, at the end."""
  return lambda name, value: _FIGURES.append((name, value)) if real else None


def pytest_terminal_summary(terminalreporter: Any) -> None:
  """The figures, for docs/real_weights.md."""
  if _FIGURES:
    terminalreporter.section("measured on real weights")
    for name, value in _FIGURES:
      terminalreporter.write_line(f"{name}: {value}")
