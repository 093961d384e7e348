"""Users' pairs: every fault has a line number, and the split does not leak."""

import hashlib
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddinggemma.data import beir, sources
from embeddinggemma.types import BadInput, Pair

GOOD = {"query": "q", "positive": "p"}


def _pair(query, positive, negatives=(), task="retrieval"):
  return Pair(query, positive, tuple(negatives), "", task, "", "f:1")


def _distinct(count, task="retrieval"):
  return [_pair(f"query {i}", f"positive {i}", (), task) for i in range(count)]


def _write(folder, *lines):
  folder.mkdir(parents=True, exist_ok=True)
  raw = [x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines]
  (folder / "pairs.jsonl").write_bytes(b"\n".join(raw) + b"\n")


def _texts(pairs):
  both = (t for p in pairs for t in (p.query, p.positive))
  return {beir.normalised(text) for text in both}


def test_reads_every_field_and_default(tmp_path):
  full = {
    "query": " q ",
    "positive": "\tp\n",
    "negative": "n ",
    "title": "t",
    "task": " qa ",
    "lang": "en ",
  }
  _write(tmp_path / "a", full)
  _write(tmp_path / "b", GOOD | {"negative": ["x", "y"], "title": None})
  pairs, skipped = sources.read_pairs(tmp_path)
  assert skipped == []
  origin = f"{tmp_path}/a/pairs.jsonl:1"
  assert pairs[0] == Pair(" q ", "\tp\n", ("n ",), "t", "qa", "en", origin)
  assert pairs[1][:6] == ("q", "p", ("x", "y"), "", "retrieval", "")


def test_a_byte_order_mark_and_windows_lines_are_read(tmp_path):
  line = json.dumps(GOOD).encode()
  _write(tmp_path, b"\xef\xbb\xbf" + line + b"\r", line)
  assert len(sources.read_pairs(tmp_path)[0]) == 2


@pytest.mark.parametrize(
  ("line", "reason"),
  [
    (b'{"query": ', "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b"[1]", "not a JSON object but list"),
    (b"null", "not a JSON object but NoneType"),
    (b'{"query": "\xff"}', r"not UTF-8 \(byte 12\)"),
    ({"query": "q"}, "no field 'positive'"),
    (GOOD | {"query": " \n"}, "'query' is empty"),
    (GOOD | {"positive": 3}, "'positive' is not text but int"),
    (GOOD | {"query": None}, "'query' is not text but NoneType"),
    (GOOD | {"query": "\ud800"}, "half a surrogate pair"),
    (GOOD | {"negative": {"a": 1}}, "neither text nor a list"),
    (GOOD | {"negative": ["x", " "]}, "'negative' is empty"),
    (GOOD | {"title": 1}, "'title' is not text"),
    (GOOD | {"task": "chess"}, "unknown task 'chess'; known: code"),
  ],
)
def test_first_bad_line_is_named_or_skipped(tmp_path, line, reason):
  _write(tmp_path / "a", GOOD, line, GOOD)
  with pytest.raises(BadInput, match=rf"a/pairs.jsonl:2: .*{reason}"):
    sources.read_pairs(tmp_path)
  pairs, skipped = sources.read_pairs(tmp_path, skip_bad_rows=True)
  assert len(pairs) == 2
  assert len(skipped) == 1
  assert "pairs.jsonl:2: " in skipped[0]


def test_folders_without_pairs_are_one_clear_line(tmp_path):
  with pytest.raises(BadInput, match="no such folder"):
    sources.read_pairs(tmp_path / "missing")
  with pytest.raises(BadInput, match=r"holds no pairs\.jsonl"):
    sources.read_pairs(tmp_path)
  _write(tmp_path, b"{")
  with pytest.raises(BadInput, match="no usable pair"):
    sources.read_pairs(tmp_path, skip_bad_rows=True)


WORDS = st.sampled_from([f"w{i}" for i in range(40)] + ["W1", " w2  "])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=60))
def test_no_text_is_on_two_sides(rows):
  pairs = [_pair(q, p, (n,)) for q, p, n in rows]
  parts = sources.split_pairs(pairs, held_out=0.3, salt="s")
  train, validation, test = parts
  assert train
  assert sum(map(len, parts)) == len(pairs)
  assert not _texts(train) & _texts(validation)
  assert not _texts(train) & _texts(test)
  assert not _texts(validation) & _texts(test)
  held_out = _texts(validation) | _texts(test)
  negatives = {beir.normalised(n) for pair in train for n in pair.negatives}
  assert not negatives & held_out


def test_split_is_hashed_not_drawn():
  pairs = _distinct(2000)
  first = sources.split_pairs(pairs, held_out=0.1, salt="s")
  again = sources.split_pairs(pairs[::-1], held_out=0.1, salt="s")
  assert [set(part) for part in first] == [set(part) for part in again]
  other = sources.split_pairs(pairs, held_out=0.1, salt="t")
  assert set(first[2]) != set(other[2])
  assert 120 < len(first[1]) < 280
  assert 120 < len(first[2]) < 280


def test_a_giant_component_stays_in_training():
  hub = [_pair("hub", f"spoke {i}") for i in range(300)]
  train, _, test = sources.split_pairs(
    hub + _distinct(700), held_out=0.2, salt="s"
  )
  assert set(hub) <= set(train)
  assert test


@pytest.mark.parametrize("count", [1, 2, 3, 5, 20])
def test_tiny_inputs_leave_something_to_train_on(count):
  for salt in map(str, range(20)):
    parts = sources.split_pairs(_distinct(count), held_out=0.5, salt=salt)
    assert parts[0]
    assert sum(map(len, parts)) == count


def test_written_corpus_reads_back_and_repeats_its_bytes(tmp_path):
  train = [_pair("a", "b", ("c",)), _pair("d", "e", (), "qa")]
  held_out = _distinct(8)
  for name in "first", "second":
    sources.write_corpus(tmp_path / name, train, held_out[:3], held_out)
  pairs, _ = sources.read_pairs(tmp_path / "first" / "train")
  assert {pair[:6] for pair in pairs} == {pair[:6] for pair in train}
  data = beir.read_retrieval(tmp_path / "first" / "test" / "retrieval")
  assert set(data.queries.values()) == {pair.query for pair in held_out}
  assert not (tmp_path / "first/validation/retrieval").exists()  # 3: too few
  hashes = {sources.content_hash(tmp_path / n) for n in ("first", "second")}
  assert len(hashes) == 1
  sources.write_corpus(tmp_path / "first", train[:1], [], [])
  assert not (tmp_path / "first/train/qa").exists()
  assert sources.content_hash(tmp_path / "first") not in hashes


def test_retrieval_caps_queries_and_joins_equal_texts():
  pairs = [_pair("Q", "x"), _pair("q ", "y"), _pair("other", "X")]
  data = beir.as_retrieval(pairs, 10)
  assert len(data.queries) == 2
  assert len(data.corpus) == 2
  assert sorted(map(len, data.qrels.values())) == [1, 2]
  assert len(beir.as_retrieval(_distinct(30), 7).queries) == 7


def test_only_the_pairs_count_for_their_hash(tmp_path):
  _write(tmp_path / "a", GOOD)
  before = sources.pairs_hash(tmp_path)
  (tmp_path / "notes.txt").write_text("unrelated")
  assert sources.pairs_hash(tmp_path) == before
  _write(tmp_path / "a", GOOD, GOOD)
  assert sources.pairs_hash(tmp_path) != before


def _components(pairs):
  """The smallest text of each pair's component, found by spreading it."""
  names = {}
  sides = [
    (beir.normalised(p.query), beir.normalised(p.positive)) for p in pairs
  ]
  for texts in sides:
    for text in texts:
      names[text] = text
  changed = True
  while changed:
    changed = False
    for texts in sides:
      least = min(names[text] for text in texts)
      for text in texts:
        changed |= names[text] != least
        names[text] = least
  return [names[query] for query, _ in sides]


BEGINNINGS = ("", "a long beginning that many of the texts share, ", "\0", "Ü ")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_the_side_is_that_of_the_smallest_text(seed):
  draw = random.Random(seed)
  words = [f"{draw.choice(BEGINNINGS)}{n}" for n in range(80)]
  pairs = [_pair(draw.choice(words), draw.choice(words)) for _ in range(60)]
  keys = sources.Keys("s")
  for pair in pairs:
    keys.add(pair)
  side = keys.sides(0.3, lambda rows: (pairs[row] for row in rows)).tolist()
  names = _components(pairs)
  limit = max(0.01 * len(pairs), 5)
  for name, own in zip(names, side):
    key = f"s\0{name}".encode()
    digest = hashlib.blake2b(key, digest_size=8).digest()
    place = int.from_bytes(digest) / 2**64
    expected = 2 if place < 0.3 else 1 if place < 0.6 else 0
    large = names.count(name) > limit
    assert own == (0 if large else expected) or not any(
      other == 0 for other in side
    )


def test_a_split_of_files_is_that_of_a_list(tmp_path):
  draw = random.Random(0)
  rows = [
    {
      "query": f"q {draw.randrange(900)}",
      "positive": f"{draw.choice(BEGINNINGS)}{n}",
      "negative": [f"q {draw.randrange(900)}", f"n {n}"],
      "task": draw.choice(["qa", "code", "sts"]),
    }
    for n in range(1500)
  ]
  _write(tmp_path / "data", *rows)
  read, _ = sources.read_pairs(tmp_path / "data")
  keys = sources.Keys("s")
  again, _ = sources.read_pairs(tmp_path / "data", each=keys.add)
  sources.write_split(tmp_path / "files", again, keys, 0.2)
  sides = sources.split_pairs(list(read), held_out=0.2, salt="s")
  sources.write_corpus(tmp_path / "list", *sides)
  hashes = {sources.content_hash(tmp_path / n) for n in ("files", "list")}
  assert len(hashes) == 1
  assert min(map(len, sides)) > 50
  assert any(len(pair.negatives) < 2 for pair in sides[0])
