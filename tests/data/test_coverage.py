"""Text that a vocabulary has no pieces for is counted, and said where it is much."""

import numpy as np
import pytest

from embeddinggemma.data import coverage
from embeddinggemma.data.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
  path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
  train_tokenizer(["the quiet garden at the river"] * 9, path, 420)
  return Tokenizer(path)


def test_bytes_are_counted(tokenizer):
  rows = tokenizer.encode_batch(["the river", "the 河"], 99)[0]
  few, many = coverage.in_bytes(tokenizer, rows)
  assert few == len("河".encode()) and many == sum(map(len, rows))
  assert coverage.in_bytes(tokenizer, []) == (0, 0)
  named = [tokenizer.pieces[n] for n in np.flatnonzero(tokenizer.is_byte)]
  assert named == [f"<0x{n:02X}>" for n in range(256)]


def test_only_what_is_much_is_said_the_worst_first():
  counted = {
    "sts": (60, 1000),
    "nli": (300, 1000),
    "qa": (50, 1000),  # as many as is usual
    "few": (9, 10),  # too few tokens to tell
    "none": (0, 0),
  }
  said = coverage.note(counted)
  assert said.endswith(
    "single bytes are 30% of those of nli, 6% of those of sts"
  )
  assert coverage.note({"qa": (50, 1000)}) == "" == coverage.note({})
