"""Negatives of a corpus: which tasks, which texts, and whose titles."""

import numpy as np
import pytest

from embeddinggemma.mining import negatives, neighbours, per_task, teacher
from embeddinggemma.mining.candidates import MiningConfig
from embeddinggemma.mining.teacher import TeacherModel
from embeddinggemma.types import BadInput, Pair

CONFIG = MiningConfig(
  search="dense",
  negatives=2,
  top_k=8,
  choose="lowest",
  margin=None,
  ratio=None,
  near_cosine=None,
  near_words=None,
  seed=0,
)


def task_of(task, count=24, name="", labels=0, **fields):
  text = lambda i: f"{task} answer {i % labels if labels else i}"
  return [
    Pair(
      f"{task} question {i}",
      text(i),
      (),
      name and f"{name} {i}",
      task,
      "",
      f"{task}:{i}",
    )._replace(**fields)
    for i in range(count)
  ]


def corpus():
  parts = (
    task_of("qa", name="title"),
    task_of("nli"),
    task_of("classification"),
    task_of("code", count=8),
    task_of("retrieval", count=300, labels=25),
  )
  pairs = [pair for part in parts for pair in part]
  return [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))]


def vectors_of(pairs, directory):
  def encode(items):
    seed = lambda item: list("".join(item).encode())
    draw = lambda item: np.random.default_rng(seed(item)).normal(size=16)
    return np.stack([draw(item) for item in items]).astype(np.float32)

  model = TeacherModel({"teacher": "hashed"}, 16, lambda items, own: encode)
  teacher.teach(teacher.items_of(pairs), model, directory, dtype="float32")
  return teacher.open_vectors(directory)


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
  """The corpus, where it was mined, and what mine_all said."""
  directory = tmp_path_factory.mktemp("mined")
  pairs = corpus()
  vectors = vectors_of(pairs, directory / "vectors")
  about = negatives.mine_all(pairs, vectors, CONFIG, directory / "out")
  return pairs, directory / "out", about


def test_each_task_is_mined_or_says_why_not(mined):
  _, directory, about = mined
  assert sorted(about["tasks"]) == ["nli", "qa"]
  assert about["skipped"] == {
    "classification": "near texts of classification are mostly of the same"
    " class",
    "code": "8 different positives are fewer than 20",
    "retrieval": "25 positives of 300 pairs are class labels",
  }
  assert (about["pairs"], about["negatives"], about["without"]) == (48, 96, {})
  assert sorted(path.name for path in directory.iterdir()) == [
    "negatives.json",
    "nli",
    "qa",
  ]
  lines = negatives.summary(about)
  assert "qa: 48 negatives for 24 pairs, 0 without one" in lines
  assert any(line.endswith("48  chosen") for line in lines)
  assert "code: not mined, 8 different positives are fewer than 20" in lines


def test_pairs_keep_their_order_and_get_texts_with_titles(mined):
  pairs, directory, _ = mined
  got = negatives.with_negatives(pairs, directory, 2)
  bare = [p._replace(negatives=(), negative_titles=()) for p in got]
  assert bare == pairs
  for pair in got:
    if pair.task == "qa":
      numbers = [text.split()[-1] for text in pair.negatives]
      assert len({*numbers, pair.query.split()[-1]}) == 3
      assert pair.negative_titles == tuple(f"title {n}" for n in numbers)
    else:
      assert len(pair.negatives) == 2 * (pair.task == "nli")
      assert not pair.negative_titles
  opened = per_task.open_mined(directory / "qa")
  members = [pair for pair in pairs if pair.task == "qa"]
  first = next(pair for pair in got if pair.task == "qa")
  want = tuple(members[i].positive for i in opened.negatives[0])
  assert first.negatives == want


def test_mined_negatives_need_no_more_teaching(mined):
  """They are positives as the student reads them, title and all."""
  pairs, directory, _ = mined
  taught = {*teacher.keys_of(teacher.items_of(pairs)).tolist()}
  full = negatives.with_negatives(pairs, directory, 2)
  assert {*teacher.keys_of(teacher.items_of(full)).tolist()} == taught


def test_given_negatives_come_first(mined):
  pairs, directory, _ = mined
  mined_ones = negatives.with_negatives(pairs, directory, 2)
  row = next(i for i, pair in enumerate(pairs) if pair.task == "qa")
  other = next(i for i, pair in enumerate(pairs) if pair.task == "code")
  first, second = mined_ones[row].negatives
  changed = list(pairs)
  # One is its own positive, one comes twice, one is mined as well.
  own = (pairs[row].positive.upper(), "given", " Given", second)
  changed[row] = pairs[row]._replace(negatives=own)
  changed[other] = pairs[other]._replace(negatives=("a", "b", "c"))
  got = negatives.with_negatives(changed, directory, 3)
  assert got[row].negatives == ("given", second, first)
  assert got[row].negative_titles[0] == got[row].negative_titles[1] == ""
  assert got[other].negatives == ("a", "b", "c")
  got = negatives.with_negatives(changed, directory, 1)
  assert got[row].negatives == ("given",)
  assert got[row].negative_titles == ()
  assert got[other].negatives == ("a",)


def test_a_positive_of_the_query_in_another_task_is_no_negative(mined):
  pairs, directory, _ = mined
  row = next(i for i, pair in enumerate(pairs) if pair.task == "qa")
  full = negatives.with_negatives(pairs, directory, 2)
  answer = full[row].negatives[0]
  asked = pairs[row].query.upper()
  more = [*pairs, Pair(asked, answer, (), "", "code", "", "x:1")]
  got = negatives.with_negatives(more, directory, 2)
  assert got[row].negatives == full[row].negatives[1:]


def test_it_is_done_once_and_a_kill_changes_no_bit(
  mined, tmp_path, monkeypatch
):
  pairs, directory, about = mined
  monkeypatch.setattr(neighbours, "MAX_QUERIES", 10)
  vectors = vectors_of(pairs, tmp_path / "vectors")
  seen = []

  class Killed(BaseException):
    pass

  def kill(done, total):
    assert total == 48
    seen.append(done)
    if len(seen) in (2, 4):
      raise Killed

  mine = lambda: negatives.mine_all(
    pairs, vectors, CONFIG, tmp_path / "x", kill
  )
  for _ in range(2):
    with pytest.raises(Killed):
      mine()
    with pytest.raises(BadInput, match=r"holds no negatives.json; run `mine`"):
      negatives.with_negatives(pairs, tmp_path / "x", 1)
  assert mine() == about
  assert seen == [10, 20, 24, 34, 44, 48]
  assert mine() == about
  assert len(seen) == 6
  files = [p for p in directory.rglob("*") if p.is_file()]
  assert len(files) == 9
  for path in files:
    other = tmp_path / "x" / path.relative_to(directory)
    assert path.read_bytes() == other.read_bytes()


def test_explain_finds_the_row(mined):
  pairs, directory, _ = mined
  for row, pair in enumerate(pairs):
    if pair.task == "qa":
      lines = negatives.explain_row(pairs, directory, row)
      assert lines[0].startswith(f"{pair.origin}, row ")
      assert lines[1].endswith(f": {pair.query}")
      assert sum("chosen" in line for line in lines) >= 2
  row = next(i for i, pair in enumerate(pairs) if pair.task == "code")
  assert negatives.explain_row(pairs, directory, row) == [
    "code is not mined: 8 different positives are fewer than 20"
  ]
  with pytest.raises(
    BadInput, match="no row 380; the pairs have rows 0 to 379"
  ):
    negatives.explain_row(pairs, directory, 380)


def test_other_pairs_are_refused(mined, tmp_path):
  pairs, directory, _ = mined
  with pytest.raises(BadInput, match="was mined from other pairs; run"):
    negatives.with_negatives(pairs[:-40], directory, 1)
  sts = [pair._replace(task="sts") for pair in pairs]
  with pytest.raises(BadInput, match="was mined without sts; run `mine` again"):
    negatives.with_negatives(sts, directory, 1)
  with pytest.raises(BadInput, match="0 negatives a pair; give 1 or more"):
    negatives.with_negatives(pairs, directory, 0)
  with pytest.raises(BadInput, match="dense mining needs vectors"):
    negatives.mine_all(pairs, None, CONFIG, tmp_path)
