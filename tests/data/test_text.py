"""Shards of running text: nothing lost, nothing held, every fault named."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddinggemma.data import text as text_lib
from embeddinggemma.data.text import Source, Windows
from embeddinggemma.data.tokenizer import BOS, EOS, Tokenizer, train_tokenizer
from embeddinggemma.types import BadInput, Pair

WORDS = "river stone copper lantern garden winter harbour signal".split()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
  path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
  train_tokenizer([" ".join(WORDS)] * 4, path, 440)
  return Tokenizer(path)


def words(count: int, first: int = 0) -> str:
  return " ".join(WORDS[(first + n) % len(WORDS)] for n in range(count))


def numbered(texts, name="f"):
  return [(f"{name}:{n}", text) for n, text in enumerate(texts, 1)]


@pytest.fixture
def write(tokenizer, tmp_path):
  """(sources as {name: texts}, fewest) -> the folder and text.json."""

  def make(sources, fewest=2, folder="shards", weight=1.0):
    found = [Source(n, weight, numbered(t, n)) for n, t in sources.items()]
    directory = tmp_path / folder
    return directory, text_lib.write(found, tokenizer, directory, fewest)

  return make


def texts_of(windows: Windows, rows: range) -> list[np.ndarray]:
  return [windows.tokens(row) for row in rows]


def test_texts_come_back_by_source(write, tokenizer):
  given = {
    "a": [words(n + 2, n) for n in range(20)],
    "b": [words(2 * n + 3, n) for n in range(9)],
  }
  folder, about = write(given)
  windows = Windows(folder, tokenizer, 10_000)
  assert list(windows.task_rows) == ["a", "b"]
  assert windows.task_rows == {"a": range(0, 20), "b": range(20, 29)}
  assert windows.weights == {"a": 1.0, "b": 1.0}
  assert len(windows) == 29
  for name, rows in windows.task_rows.items():
    for tokens, text in zip(texts_of(windows, rows), given[name], strict=True):
      assert tokens.dtype == np.int32
      np.testing.assert_array_equal(tokens, tokenizer.encode(text)[1:-1])
      assert not {BOS, EOS} & set(tokens.tolist())
  assert about["tasks"][1]["tokens"] == windows.lengths[20:].sum()
  assert [task["texts"] for task in about["tasks"]] == [20, 9]
  assert about["short"] == 0
  assert about["tokenizer"] == tokenizer.hash
  assert (
    text_lib.about(folder)
    == about
    == json.loads((folder / "text.json").read_text())
  )


def test_shards_are_split_between_texts(write, tokenizer, monkeypatch):
  texts = [words(n % 7 + 1, n) for n in range(100)]
  whole, about = write({"a": texts, "b": texts[:9]}, folder="whole")
  monkeypatch.setattr(text_lib, "SHARD_TOKENS", 25)
  monkeypatch.setattr(text_lib, "_BATCH_TEXTS", 7)
  split, other = write({"a": texts, "b": texts[:9]}, folder="split")
  assert about["tasks"][0]["shards"] == 1
  number = other["tasks"][0]["shards"]
  assert number > 10
  files = sorted(path.name for path in (split / "00").iterdir())
  assert len(files) == 2 * number
  assert files[-1] == f"tokens-{number - 1:05d}.npy"
  sizes = [len(np.load(p)) for p in (split / "00").glob("tokens-*")]
  assert max(sizes) <= 25
  for most in (3, 10_000):
    one, many = (Windows(f, tokenizer, most) for f in (whole, split))
    assert one.task_rows == many.task_rows
    np.testing.assert_array_equal(one.lengths, many.lengths)
    for row in range(len(one)):
      np.testing.assert_array_equal(one.tokens(row), many.tokens(row))


def test_a_text_longer_than_a_shard_is_one_shard(write, tokenizer, monkeypatch):
  monkeypatch.setattr(text_lib, "SHARD_TOKENS", 10)
  folder, about = write({"a": [words(2), words(90), words(3)]})
  assert about["tasks"][0]["shards"] == 3
  windows = Windows(folder, tokenizer, 10_000)
  assert windows.lengths.max() > 60


@settings(max_examples=100, deadline=None)
@given(
  st.lists(st.integers(1, 300), min_size=1, max_size=20), st.integers(1, 80)
)
def test_windows_are_even_and_as_few_as_fit(lengths, most):
  cut = text_lib._cut(np.array(lengths), most)
  for length in lengths:
    count = -(-length // most)
    mine, cut = cut[:count], cut[count:]
    assert mine.sum() == length
    assert mine.max() <= most
    assert mine.max() - mine.min() <= 1
  assert len(cut) == 0


def test_windows_lose_nothing(write, tokenizer):
  texts = [words(n + 2, n) for n in range(30)]
  folder, _ = write({"a": texts[:20], "b": texts[20:]})
  windows = Windows(folder, tokenizer, 7)
  assert windows.lengths.max() <= 7
  assert len(windows) > len(texts)
  for rows, part in zip(windows.task_rows.values(), (texts[:20], texts[20:])):
    tokens = np.concatenate(texts_of(windows, rows))
    wanted = np.concatenate([tokenizer.encode(text)[1:-1] for text in part])
    np.testing.assert_array_equal(tokens, wanted)


def test_texts_that_are_too_short_are_left_out_and_counted(write, tokenizer):
  folder, about = write({"a": ["", "  ", words(1), words(40)]}, fewest=20)
  assert about["short"] == 3
  assert about["tasks"][0]["texts"] == 1
  assert len(Windows(folder, tokenizer, 10_000)) == 1


def test_the_hash_follows_the_content(write, tokenizer):
  texts = [words(n + 1) for n in range(9)]
  _, first = write({"a": texts}, folder="first")
  _, same = write({"a": texts}, folder="same")
  assert first == same
  others = [
    write({"a": texts[::-1]}, folder="o1"),
    write({"a": texts[:-1]}, folder="o2"),
    write({"b": texts}, folder="o3"),
    write({"a": texts}, folder="o4", weight=2.0),
    write({"a": texts[:4], "b": texts[4:]}, folder="o5"),
  ]
  hashes = {about["hash"] for _, about in others} | {first["hash"]}
  assert len(hashes) == 6


def test_small_vocabularies_take_two_bytes(write):
  folder, _ = write({"a": [words(9)]})
  assert np.load(folder / "00" / "tokens-00000.npy").dtype == np.uint16
  assert np.load(folder / "00" / "lengths-00000.npy").dtype == np.int64


def test_large_vocabularies_take_four_bytes(tokenizer, tmp_path, monkeypatch):
  monkeypatch.setattr(Tokenizer, "vocab_size", 2**16 + 1)
  source = Source("a", 1.0, numbered([words(9)]))
  text_lib.write([source], tokenizer, tmp_path, 2)
  assert np.load(tmp_path / "00" / "tokens-00000.npy").dtype == np.int32


def test_texts_are_streamed(tokenizer, tmp_path, monkeypatch):
  """No more texts are held than a batch has."""
  monkeypatch.setattr(text_lib, "_BATCH_TEXTS", 4)
  asked, tokenised = 0, 0
  encode_batch = Tokenizer.encode_batch

  def spy(self, texts, max_length):
    nonlocal tokenised
    tokenised += len(texts)
    assert asked - tokenised <= 1
    return encode_batch(self, texts, max_length)

  def stream():
    nonlocal asked
    for n in range(30):
      asked += 1
      yield f"f:{n}", words(3, n)

  monkeypatch.setattr(Tokenizer, "encode_batch", spy)
  text_lib.write([Source("a", 1.0, stream())], tokenizer, tmp_path, 2)
  assert tokenised == 30


def test_a_folder_is_whole_or_has_no_text_json(write, tokenizer, tmp_path):
  def fails():
    yield "f:1", words(5)
    raise BadInput("f:2: broken")

  folder, _ = write({"a": [words(5)]})
  assert text_lib.is_prepared(folder)
  with pytest.raises(BadInput, match="f:2: broken"):
    text_lib.write([Source("a", 1.0, fails())], tokenizer, folder, 2)
  assert not text_lib.is_prepared(folder)
  with pytest.raises(BadInput, match=r"holds no text\.json; prepare"):
    Windows(folder, tokenizer, 8)


def test_a_source_without_texts_is_named(write):
  with pytest.raises(BadInput, match="b: holds no text"):
    write({"a": [words(5)], "b": []})


def test_a_source_of_short_texts_says_what_is_needed(write):
  message = "a: its longest text has [234] of the 33 tokens that a span"
  with pytest.raises(BadInput, match=message):
    write({"a": ["river", "stone"]}, fewest=33)


def test_windows_that_are_too_short_are_left_out(write, tokenizer):
  texts = [words(1), words(9), words(2), words(20)]
  folder, _ = write({"a": texts, "b": [words(30)]}, fewest=1)
  every = Windows(folder, tokenizer, 8)
  long = Windows(folder, tokenizer, 8, fewest=5)
  kept = [row for row in range(len(every)) if every.lengths[row] >= 5]
  assert 0 < len(kept) < len(every)
  assert long.task_rows["a"].start == 0
  assert sum(map(len, long.task_rows.values())) == len(long) == len(kept)
  for row, old in enumerate(kept):
    np.testing.assert_array_equal(long.tokens(row), every.tokens(old))
  with pytest.raises(BadInput, match="a has no text of the 9 tokens"):
    Windows(folder, tokenizer, 8, fewest=9)


def test_another_tokenizer_is_refused(write, tmp_path):
  folder, _ = write({"a": [words(5)]})
  path = tmp_path / "other.model"
  train_tokenizer(["quite another text"] * 4, path, 400)
  with pytest.raises(BadInput, match="prepared with another tokenizer"):
    Windows(folder, Tokenizer(path), 8)


@pytest.mark.parametrize(
  "damage",
  [
    lambda d: (d / "00" / "tokens-00000.npy").unlink(),
    lambda d: (d / "00" / "lengths-00000.npy").write_bytes(b""),
    lambda d: (d / "00" / "tokens-00000.npy").write_bytes(b"no array"),
    lambda d: np.save(d / "00" / "lengths-00000.npy", np.array([1, 2])),
    lambda d: [
      np.save(d / "00" / f"{name}-00000.npy", np.array([1]))
      for name in ("tokens", "lengths")
    ],
  ],
)
def test_damaged_shards_are_refused(damage, write, tokenizer):
  folder, _ = write({"a": [words(5), words(6)]})
  damage(folder)
  with pytest.raises(BadInput, match="shards are missing or damaged"):
    Windows(folder, tokenizer, 8)


def test_a_moved_folder_serves(write, tokenizer, tmp_path):
  folder, _ = write({"a": [words(5)]})
  shutil.move(folder, tmp_path / "moved")
  assert len(Windows(tmp_path / "moved", tokenizer, 8)) > 0


def test_windows_are_cheap_for_many_texts(tokenizer, tmp_path):
  """A million texts: no Python object for any of them."""
  lengths = np.random.default_rng(0).integers(1, 40, 1_000_000)
  (tmp_path / "00").mkdir()
  tokens = np.arange(lengths.sum()).astype(np.uint16)
  np.save(tmp_path / "00" / "tokens-00000.npy", tokens)
  np.save(tmp_path / "00" / "lengths-00000.npy", lengths)
  task = {"name": "a", "weight": 1.0, "texts": len(lengths), "shards": 1}
  about = {"tokenizer": tokenizer.hash, "tasks": [task | {"tokens": 0}]}
  about["tasks"][0]["tokens"] = len(tokens)
  (tmp_path / "text.json").write_text(json.dumps(about))
  windows = Windows(tmp_path, tokenizer, 30)
  held = [x for x in vars(windows).values() if isinstance(x, list | dict)]
  assert max(map(len, held)) == 1
  row = len(windows) // 2
  before = int(windows.lengths[:row].sum())
  wanted = tokens[before : before + windows.lengths[row]]
  np.testing.assert_array_equal(windows.tokens(row), wanted)


def pair(query, positive, title=""):
  return Pair(query, positive, ("n",), title, "qa", "", f"f:{query}")


def test_pairs_give_their_distinct_texts_in_order():
  pairs = [pair("q", "p", "T"), pair("q2", "p"), pair("q", "p", "T")]
  assert list(text_lib.pair_texts([*pairs, pair("p", "q2")])) == [
    ("f:q", "q"),
    ("f:q", "T\np"),
    ("f:q2", "q2"),
    ("f:q2", "p"),
  ]


def read(path, skip=False):
  skipped: list[str] = []
  return list(text_lib.read_texts(path, skip, skipped)), skipped


def test_reads_folders_of_jsonl_and_txt(tmp_path):
  rows = [{"text": " one "}, {"text": "two", "title": "T"}, {"text": "\n3\n"}]
  lines = "\n".join(json.dumps(row) for row in rows)
  (tmp_path / "b.jsonl").write_text(lines)
  (tmp_path / "a").mkdir()
  (tmp_path / "a" / "c.txt").write_bytes(
    b"\xef\xbb\xbffirst \r\n\n \n second\n"
  )
  (tmp_path / "notes.md").write_text("no text to train on")
  (tmp_path / ".hidden").mkdir()
  (tmp_path / ".hidden" / "d.txt").write_text("hidden\n")
  found, skipped = read(tmp_path)
  assert found == [
    (f"{tmp_path}/a/c.txt:1", "first "),
    (f"{tmp_path}/a/c.txt:4", " second"),
    (f"{tmp_path}/b.jsonl:1", " one "),
    (f"{tmp_path}/b.jsonl:2", "T\ntwo"),
    (f"{tmp_path}/b.jsonl:3", "\n3\n"),
  ]
  assert skipped == []
  assert read(tmp_path / "b.jsonl")[0] == found[2:]
  assert read(tmp_path / "a" / "c.txt")[0] == found[:2]


@pytest.mark.parametrize(
  ("name", "line", "reason"),
  [
    ("a.jsonl", b'{"text": ', "not JSON"),
    ("a.jsonl", b'{"title": "t"}', "no field 'text'"),
    ("a.jsonl", b'{"text": 3}', "'text' is not text but int"),
    ("a.jsonl", b'{"text": " "}', "'text' is empty"),
    ("a.jsonl", b'{"text": "a", "title": 1}', "'title' is not text"),
    ("a.jsonl", b"", "empty line"),
    ("a.txt", b"caf\xe9", r"not UTF-8 \(byte 4\)"),
  ],
)
def test_the_first_bad_line_is_named_or_skipped(tmp_path, name, line, reason):
  good = b'{"text": "good"}'
  (tmp_path / name).write_bytes(b"\n".join([good, line, good]))
  with pytest.raises(BadInput, match=rf"{name}:2: .*{reason}"):
    read(tmp_path)
  found, skipped = read(tmp_path, skip=True)
  assert len(found) == 2
  assert len(skipped) == 1
  assert f"{name}:2: " in skipped[0]


def test_skipped_rows_are_listed_while_reading(tmp_path):
  (tmp_path / "a.txt").write_bytes(b"\xff\none\n\xff\n")
  skipped: list[str] = []
  texts = text_lib.read_texts(tmp_path, True, skipped)
  assert next(texts)[1] == "one"
  assert len(skipped) == 1
  assert list(texts) == []
  assert len(skipped) == 2


def test_paths_without_texts_are_one_clear_line(tmp_path):
  # Before anything is read: a run fails here at its start.
  with pytest.raises(BadInput, match="missing does not exist; give a folder"):
    text_lib.read_texts(tmp_path / "missing", False, [])
  (tmp_path / "a.md").write_text("text\n")
  for path in (tmp_path, tmp_path / "a.md"):
    with pytest.raises(BadInput, match=r"holds no \*\.jsonl and no \*\.txt"):
      text_lib.read_texts(path, False, [])
  (tmp_path / "a.txt").write_bytes(b"\xff\n")
  with pytest.raises(BadInput, match="no usable text"):
    read(tmp_path, skip=True)


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
  (tmp_path / "a.txt").write_text("text\n")

  def refuse(path):
    raise PermissionError(13, "Permission denied")
    yield

  monkeypatch.setattr(text_lib.jsonl, "read_lines", refuse)
  with pytest.raises(BadInput, match=r"cannot read .*a\.txt: Permission"):
    read(tmp_path)


def test_the_fingerprint_sees_every_text_file(tmp_path):
  (tmp_path / "a.txt").write_text("one\n")
  first = text_lib.fingerprint(tmp_path)
  (tmp_path / "notes.md").write_text("unrelated")
  assert text_lib.fingerprint(tmp_path) == first
  (tmp_path / "b.jsonl").write_text('{"text": "two"}\n')
  second = text_lib.fingerprint(tmp_path)
  (tmp_path / "a.txt").write_text("another\n")
  assert len({first, second, text_lib.fingerprint(tmp_path)}) == 3
  alone = text_lib.fingerprint(tmp_path / "a.txt")
  (tmp_path / "b.jsonl").unlink()
  assert text_lib.fingerprint(tmp_path) == alone
