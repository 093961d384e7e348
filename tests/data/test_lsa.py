"""The table from counting: its geometry, and that it knows something."""

import numpy as np
import pytest

from embeddinggemma.data import lsa
from embeddinggemma.data.lsa import lsa_table

# Two topics whose words share no spelling; "date" and its kin are of the first.
ALPHABETS = ("abcdef", "uvwxyz")
WORDS = [
  ["\u2581" + "".join(rng.choice(list(letters), 6)) for _ in range(30)]
  for rng, letters in ((np.random.default_rng(0), x) for x in ALPHABETS)
]
COMMON = ["\u2581the", "\u2581text", "\u2581port", "\u2581rare"]
SPELLED = ["\u2581calendar", "calendars", "Calendar", "\u2581socket"]
CONTROL = ["<pad>", "<eos>", "<bos>", "<unk>"]
SPARE = [f"<unused{n}>" for n in range(8)]
PIECES = [*CONTROL, *SPARE, *COMMON, *SPELLED, *WORDS[0], *WORDS[1], "\u2581"]
ID = {piece: number for number, piece in enumerate(PIECES)}
VOCABULARY, WIDTH = 90, 32


def _texts() -> list[np.ndarray]:
  """400 texts: six words of one topic, the prompt, and "the" in most."""
  rng = np.random.default_rng(0)
  texts = []
  for number in range(400):
    words = list(rng.choice(WORDS[number % 2], 6))
    words += ["\u2581text", "\u2581port"] + ["\u2581the"] * (number % 10 != 0)
    words += ["\u2581rare"] * (number == 7) + SPELLED * (number in (8, 9))
    ids = [ID["<bos>"], *(ID[word] for word in words), ID["<eos>"]]
    texts.append(np.array(ids, np.int32))
  return texts


@pytest.fixture(scope="module")
def table() -> np.ndarray:
  return lsa_table(_texts(), PIECES, VOCABULARY, WIDTH, [ID["\u2581port"]])


def _cosine(table: np.ndarray, one: str, other: str) -> float:
  a, b = table[ID[one], :-1], table[ID[other], :-1]
  return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_rows_are_unit_float32(table):
  assert table.shape == (VOCABULARY, WIDTH)
  assert table.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1.0, atol=1e-5)


def test_what_says_nothing_lies_in_the_last_column(table):
  silent = [ID[piece] for piece in CONTROL]
  silent += [
    ID["\u2581text"],
    ID["\u2581port"],
    *range(len(PIECES), VOCABULARY),
  ]
  for row in table[silent]:
    np.testing.assert_array_equal(row, np.eye(WIDTH, dtype=np.float32)[-1])


def test_spare_pieces_can_be_told_apart(table):
  rows = table[[ID[piece] for piece in SPARE]]
  np.testing.assert_array_equal(rows[:, -1], 0.0)
  alike = rows @ rows.T - np.eye(len(SPARE))
  assert np.abs(alike).max() < 0.8  # random directions of 31 dimensions


def test_the_angle_is_inverse_document_frequency(table):
  said = lambda piece: np.linalg.norm(table[ID[piece], :-1])
  assert said("\u2581the") < said(WORDS[0][0]) < said("\u2581rare")
  document = lambda n: np.log(401 / (1 + n))
  ratio = said("\u2581the") / said("\u2581rare")
  np.testing.assert_allclose(ratio, document(360) / document(1), rtol=1e-3)


def test_pieces_of_a_topic_are_alike(monkeypatch):
  monkeypatch.setattr(lsa, "SPELLING_LENGTH", 0.0)
  table = lsa_table(_texts(), PIECES, VOCABULARY, WIDTH)
  rows = [table[[ID[word] for word in words], :-1] for words in WORDS]
  rows = [r / np.linalg.norm(r, axis=1, keepdims=True) for r in rows]
  assert np.mean(rows[0] @ rows[0].T) > np.mean(rows[0] @ rows[1].T) + 0.1


def test_pieces_spelled_alike_are_alike(table):
  assert _cosine(table, "Calendar", "\u2581calendar") > 0.9
  kin = _cosine(table, "calendars", "\u2581calendar")
  assert kin > _cosine(table, "\u2581socket", "\u2581calendar") + 0.2


def test_no_two_rows_are_equal(table):
  rows = table[5 : len(PIECES), :-1]
  rows = rows[np.linalg.norm(rows, axis=1) > 1e-6]
  assert len(np.unique(rows.round(5), axis=0)) == len(rows)


def test_both_kinds_of_columns_are_in_every_prefix():
  mixed = lsa._mixed(np.full((3, 4), 1.0), np.full((3, 8), 2.0), 14)
  assert mixed.shape == (3, 14)
  assert set(mixed[0, :3]) == {1.0, 2.0}
  np.testing.assert_array_equal(mixed[0, 12:], 0.0)


def test_it_is_the_same_every_time(table):
  again = lsa_table(_texts(), PIECES, VOCABULARY, WIDTH, [ID["\u2581port"]])
  np.testing.assert_array_equal(again, table)


@pytest.mark.parametrize("texts", [[], [np.array([2, 1], np.int32)]])
def test_too_little_text_is_finite(texts):
  table = lsa_table(texts, PIECES, VOCABULARY, WIDTH)
  assert np.isfinite(table).all()
  np.testing.assert_allclose(np.linalg.norm(table, axis=1), 1.0, atol=1e-5)
