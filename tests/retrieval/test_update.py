"""Indexing again does only what is new, whole or not at all."""

import errno
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
from stand_in import MODEL, bag_of_words, making

from embeddinggemma import cache
from embeddinggemma.cli import main
from embeddinggemma.retrieval import (
  chunks,
  index,
  measure,
  pending,
  reading,
  search,
  update,
)
from embeddinggemma.types import BadInput

HERE = pathlib.Path(__file__).parent
KINDS = ("int8", "binary")


class Counting:
  """The stand-in, and the texts that it was given."""

  def __init__(self, fail_after: int = 10**9):
    self.texts: list[str] = []
    self._fail_after = fail_after

  def __call__(self, texts, prompt_name, titles=()):
    if len(self.texts) >= self._fail_after:
      raise KeyboardInterrupt
    self.texts += texts
    return bag_of_words(texts, prompt_name, titles)


@pytest.fixture
def source(tmp_path):
  """Three small files."""
  root = tmp_path / "source"
  root.mkdir()
  for name in ("river", "stone", "lantern"):
    (root / f"{name}.txt").write_text(f"about the {name}")
  return root


def _update(source, output, encode=bag_of_words, rebuild=False, **options):
  return update.build_index(
    encode, source, output, making(**options), rebuild=rebuild
  )


def _counts(about):
  names = ("kept", "new", "removed", "embedded")
  return tuple(about[name] for name in names)


def _data(output):
  """The bytes of all files but the random name that holds them."""
  data = output / index.about_of(output)["data"]
  files = sorted(path for path in data.rglob("*") if path.is_file())
  # A zip archive has the time in it.
  return {
    str(path.relative_to(data)): path.read_bytes()
    for path in files
    if path.suffix != ".npz"
  }


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_embeds_what_is_new_and_equals_a_rebuild(
  source, tmp_path, kind
):
  output, encode = tmp_path / "i", Counting()
  assert _counts(_update(source, output, vectors=kind)) == (0, 3, 0, 3)
  (source / "stone.txt").write_text("about the copper")
  (source / "lantern.txt").unlink()
  (source / "garden.txt").write_text("about the garden")
  (source / "image.png").write_bytes(b"\0")
  about = _update(source, output, encode, vectors=kind)
  assert sorted(encode.texts) == ["about the copper", "about the garden"]
  assert _counts(about) == (1, 2, 2, 2)
  assert about["skipped"] == {"binary": 1}
  _update(source, tmp_path / "anew", vectors=kind)
  assert _data(output) == _data(tmp_path / "anew")
  old, new = (index.open_index(tmp_path / n).spread for n in ("i", "anew"))
  np.testing.assert_array_equal(old.covariance, new.covariance)


def test_nothing_new_writes_nothing(source, tmp_path):
  output, encode = tmp_path / "i", Counting()
  first = _update(source, output)
  stamp = (output / "index.json").stat().st_mtime_ns
  about = _update(source, output, encode)
  assert encode.texts == []
  assert _counts(about) == (3, 0, 0, 0)
  assert about["data"] == first["data"]
  assert (output / "index.json").stat().st_mtime_ns == stamp


def test_what_is_the_same_text_elsewhere_is_kept(source, tmp_path):
  """A vector is known by title and text; a title is a stem, or a heading."""
  output, encode = tmp_path / "i", Counting()
  _update(source, output)
  (source / "sub").mkdir()
  (source / "stone.txt").rename(source / "sub" / "stone.txt")
  shutil.copy(source / "river.txt", source / "sub")
  about = _update(source, output, encode)
  assert encode.texts == []
  assert _counts(about) == (4, 0, 0, 0)
  hits = search.search(output, bag_of_words, "stone", model=MODEL, mode="dense")
  assert hits[0].path == "sub/stone.txt"
  (source / "sub" / "river.txt").unlink()
  assert _counts(_update(source, output, encode)) == (3, 0, 1, 0)


def test_rows_of_a_jsonl_are_kept(tmp_path):
  path, encode = tmp_path / "a.jsonl", Counting()
  rows = [{"text": f"text {n}", "title": "t"} for n in range(4)]
  path.write_text("".join(json.dumps(r) + "\n" for r in rows))
  _update(path, tmp_path / "i")
  rows[1]["title"] = "u"
  del rows[0]
  path.write_text("".join(json.dumps(r) + "\n" for r in [*rows, rows[0]]))
  about = _update(path, tmp_path / "i", encode)
  assert encode.texts == ["text 1"]
  assert _counts(about) == (2, 2, 2, 1)


def test_an_index_of_stripped_texts_keeps_what_is_the_same(tmp_path):
  """What has white space around it is embedded anew, and only that."""
  path, output, encode = tmp_path / "a.jsonl", tmp_path / "i", Counting()
  texts = ["plain", "ends\n", "  begins", "more"]  # a prompt stands before
  path.write_text("".join(json.dumps({"text": x}) + "\n" for x in texts))
  about = _update(path, output)
  assert about["note"] == "" and about["white_space"] == "kept"
  about = index.about_of(output)
  del about["white_space"]
  cache.write_json(output / index.INDEX_FILE, about)
  about = _update(path, output, encode)
  assert encode.texts == ["ends\n"]
  assert "ignored white space" in about["note"]
  assert _counts(about) == (3, 1, 0, 1)
  assert _update(path, output, encode)["note"] == ""
  assert encode.texts == ["ends\n"]


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({"dim": 64}, "dim=128 there, 64 now; add --rebuild to make it anew"),
    ({"vectors": "binary"}, "vectors='int8' there, 'binary' now"),
  ],
)
def test_an_index_made_otherwise_is_not_mixed(source, tmp_path, options, said):
  output = tmp_path / "i"
  _update(source, output)
  with pytest.raises(BadInput, match=said):
    _update(source, output, **options)
  about = _update(source, output, rebuild=True, **options)
  assert _counts(about) == (0, 3, 0, 3)
  assert options.items() <= index.open_index(output).about.items()


def test_an_index_of_another_model_or_prompt_is_not_mixed(source, tmp_path):
  output = tmp_path / "i"
  _update(source, output)
  prompts = {"query": "query: ", "document": "passage: "}
  changed = MODEL._replace(weights="n" * 64, prompts=prompts)
  other = making()._replace(identity=changed)
  with pytest.raises(BadInput) as error:
    update.build_index(bag_of_words, source, output, other)
  assert "weights=mmmmmmmmmmmm there, nnnnnnnnnnnn now" in str(error.value)
  assert "'title: none | text: ' there, 'passage: ' now" in str(error.value)
  path = output / "index.json"  # whatever is left of the identity in it
  path.write_text(json.dumps(json.loads(path.read_text()) | {"identity": {}}))
  with pytest.raises(BadInput, match="weights=mmmmmmmmmmmm there"):
    update.build_index(bag_of_words, source, output, other)


@pytest.mark.parametrize("name", ["vectors.npy", "files.jsonl", "index.json"])
def test_a_damaged_index_is_made_anew(source, tmp_path, name):
  output = tmp_path / "i"
  data = output / _update(source, output)["data"]
  place = output if name == "index.json" else data
  os.truncate(place / name, 10)
  about = _update(source, output)
  assert about["note"] == f"{output} was damaged, and is made anew"
  assert _counts(about) == (0, 3, 0, 3)
  assert len(index.open_index(output)) == 3


def test_an_interrupted_indexing_goes_on(source, tmp_path, monkeypatch):
  monkeypatch.setattr(update, "BLOCK", 1)
  output, encode = tmp_path / "i", Counting()
  with pytest.raises(KeyboardInterrupt):
    _update(source, output, Counting(fail_after=2))
  with pytest.raises(BadInput, match="not an index yet; `index` again"):
    index.open_index(output)
  about = _update(source, output, encode)
  assert len(encode.texts) == 1
  assert _counts(about) == (0, 3, 0, 1)
  _update(source, tmp_path / "anew")
  assert _data(output) == _data(tmp_path / "anew")
  assert not (output / index.PENDING).exists()


@pytest.mark.parametrize(
  "change",
  [
    {"model": None},
    {"dim": "8"},
    {"vectors": "int4"},
    {"chunks": "3"},
    {"data": 1},
    {"identity": "x"},
    {"identity": []},
  ],
  ids=str,
)
def test_an_index_that_says_too_little_is_made_anew(source, tmp_path, change):
  output = tmp_path / "index"
  first = _update(source, output)
  about = {**json.loads((output / "index.json").read_text()), **change}
  about = {name: value for name, value in about.items() if value is not None}
  (output / "index.json").write_text(json.dumps(about))
  with pytest.raises(BadInput, match="not an index"):
    index.open_index(output)
  again = _update(source, output)
  assert "was damaged" in again["note"]
  assert (
    again["chunks"]
    == first["chunks"]
    == index.open_index(output).about["chunks"]
  )


def test_files_that_are_cut_short_are_named_and_mended(source, tmp_path):
  for name in ("spread.npz", "chunks.jsonl", "vectors.npy", "codes.npy"):
    output = tmp_path / name
    about = _update(source, output)
    path = output / about["data"] / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput, match="a damaged index"):
      opened = index.open_index(output)
      [opened.chunk(n) for n in range(len(opened))]
    assert "was damaged" in _update(source, output)["note"]
    assert len(index.open_index(output)) == about["chunks"]


def test_an_index_is_not_indexed_into_itself(source, tmp_path):
  output = tmp_path / "index"
  _update(source, output)
  with pytest.raises(BadInput, match="is what is indexed"):
    _update(output, output)


def test_vectors_of_another_making_are_dropped(tmp_path):
  vectors = np.eye(3, 8, dtype=np.float16)
  ids = [bytes([n]) * pending.ID_BYTES for n in range(3)]
  first = pending.Pending(tmp_path, "a")
  first.add(ids[:2], vectors[:2])
  first.add(ids[2:], vectors[2:])
  (tmp_path / "a" / "7.partial").write_bytes(b"cut sh")
  again = pending.Pending(tmp_path, "a")
  for name, vector in zip(ids, vectors, strict=True):
    np.testing.assert_array_equal(again.vectors[name], vector)
  # A block that was cut short is made again; the others stay.
  for left in (b"", b"\x93NUMPY"):
    (tmp_path / "a" / "7.npy").write_bytes(left)
    again = pending.Pending(tmp_path, "a")
    assert len(again.vectors) == 3
    assert not (tmp_path / "a" / "7.npy").exists()
  assert pending.Pending(tmp_path, "b").vectors == {}
  assert pending.Pending(tmp_path, "a").vectors == {}


def test_two_at_once_are_refused(source, tmp_path):
  output = tmp_path / "i"
  with (
    index.writing(output),
    pytest.raises(BadInput, match=r"in use by .* or use another --output"),
  ):
    _update(source, output)
  _update(source, output)


def test_a_reader_meets_an_update(source, tmp_path, monkeypatch):
  """It has read index.json when the files that it names are replaced."""
  output = tmp_path / "i"
  _update(source, output)
  (source / "new.txt").write_text("new")
  about_of, updates = index.about_of, [lambda: _update(source, output)]

  def slow(directory):
    about = about_of(directory)
    if updates:
      updates.pop()()
    return about

  monkeypatch.setattr(index, "about_of", slow)
  assert len(index.open_index(output)) == 4


def test_an_open_index_outlives_an_update(source, tmp_path):
  output = tmp_path / "i"
  _update(source, output)
  opened = index.open_index(output)
  (source / "stone.txt").unlink()
  _update(source, output)
  hits = search.search(opened, bag_of_words, "stone", model=MODEL)
  assert hits[0].path == "stone.txt"
  assert len(index.open_index(output)) == 2


def test_a_kill_at_any_change_leaves_a_whole_index(source, tmp_path):
  old, output = tmp_path / "old", tmp_path / "i"
  _update(source, old)
  (source / "stone.txt").unlink()
  (source / "new.txt").write_text("new")
  worker = [sys.executable, HERE / "killed_update.py", old, source, output]
  done = subprocess.run(
    worker,
    env={**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent.parent}"},
    capture_output=True,
    text=True,
    check=True,
  )
  rows = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
  states = [row[0] for row in rows]
  assert states == sorted(states, key=["old", "new"].index)  # never back
  assert states.count("old") > 10 and states.count("new") > 3
  assert all(row[2] == "clean" for row in rows)
  embedded = [int(row[1]) for row in rows]  # after the kill
  assert set(embedded) == {0, 1} and embedded.index(0) < states.index("new")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.2, 0.5, 0.9])
def test_a_full_disk_leaves_the_old_index(tmp_path, share):
  """A limit on the size of files fails as a full disk does, in each writer."""
  source, output = tmp_path / "source", tmp_path / "i"
  source.mkdir()
  (source / "a.txt").write_text("about the stone")
  _update(source, output, dim=256)
  old = _data(output)
  words = np.random.default_rng(0).integers(0, 9999, (60, 40))
  text = "\n\n".join(" ".join(f"w{n}" for n in row) for row in words)
  (source / "b.txt").write_text(text)
  most = 256 * 256 * 4  # the spread: the largest file
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * most), hard))
  try:
    with pytest.raises(OSError) as error:
      _update(source, output, dim=256)
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  said = main._of_the_system(error.value)
  assert said is not None and "make room or choose another folder" in said
  assert error.value.errno in (errno.EFBIG, None)
  assert _data(output) == old
  assert len(list(output.glob("data-*"))) == 1
  assert _update(source, output, dim=256)["new"] > 1


def test_the_lock_names_its_flag(tmp_path):
  with (
    cache.locked(tmp_path),
    pytest.raises(BadInput, match="use another --workdir"),
    cache.locked(tmp_path),
  ):
    raise AssertionError


def test_a_changed_way_of_cutting_cuts_again(source, tmp_path, monkeypatch):
  _update(source, tmp_path / "i")
  monkeypatch.setattr(update.chunks, "VERSION", 99)
  seen = []
  read = reading.read
  spy = lambda *args: seen.append(args[2]) or read(*args)
  monkeypatch.setattr(reading, "read", spy)
  assert _counts(_update(source, tmp_path / "i")) == (3, 0, 0, 0)
  _update(source, tmp_path / "i")
  assert [len(known) for known in seen] == [0, 3]


def _cut_for(limit, tokenizer):
  prompt = MODEL.prompts["document"]
  return measure.of_tokenizer(tokenizer, prompt, limit)


def _index(source, output, measure_, encode=bag_of_words):
  read = MODEL._replace(max_length=measure_.limit)
  how = making()._replace(identity=read)
  return update.build_index(encode, source, output, how, measure=measure_)


LINES = [" ".join(f"w{n}{m}" for m in range(12)) for n in range(9)]


@pytest.fixture
def long(source):
  """The three small files, and one whose paragraph is long to a small model."""
  (source / "long.txt").write_text("\n".join(LINES))
  return source


def test_an_index_says_how_it_was_cut(long, tmp_path, tokenizer):
  (long / "cut.md").write_text("# " + "heading " * 60 + "\n\ntext " + "x" * 600)
  for _ in range(2):  # the second time as read from the index
    about = _index(long, tmp_path / "i", _cut_for(64, tokenizer))
    assert about["cut"] == {
      "version": chunks.VERSION,
      "characters": measure.MAX_CHARS,
      "max_length": 64,
      "tokenizer": tokenizer.identity,
    }
    counts = {"truncated": 0, "lines_cut": 2, "titles_shortened": 1}
    assert counts.items() <= about.items()
    (long / "other.txt").write_text("a file more, so that the index is written")


def test_another_length_cuts_again_and_embeds_what_is_new(
  long, tmp_path, tokenizer
):
  output, encode = tmp_path / "i", Counting()
  assert _index(long, output, _cut_for(2048, tokenizer))["chunks"] == 4
  about = _index(long, output, _cut_for(64, tokenizer), encode)
  assert about["kept"] == 3 and about["removed"] == 1
  assert about["note"].startswith("max_length=2048 there, 64 now")
  assert "\n".join(encode.texts) == "\n".join(LINES)
  again = Counting()
  assert _index(long, output, _cut_for(64, tokenizer), again)["new"] == 0
  assert again.texts == []
  assert _index(long, output, _cut_for(2048, tokenizer))["new"] == 1


def test_an_index_that_was_cut_by_characters_is_cut_anew(
  long, tmp_path, tokenizer
):
  output, encode = tmp_path / "i", Counting()
  _update(long, output)
  old = index.about_of(output) | {"cut": 3}  # as versions before wrote it
  cache.write_json(output / index.INDEX_FILE, old)
  assert search.search(output, bag_of_words, "stone", model=MODEL)
  about = _index(long, output, _cut_for(64, tokenizer), encode)
  assert "of its 4 chunks, 1 were longer than what the model" in about["note"]
  assert about["kept"] == 3
  assert "\n".join(encode.texts) == "\n".join(LINES)
  assert _index(long, output, _cut_for(64, tokenizer))["note"] == ""


def test_rows_fit_as_files_do(tmp_path, tokenizer):
  path = tmp_path / "a.jsonl"
  rows = [{"text": "\n".join(LINES), "title": "t " * 99}, {"text": "short"}]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  asked = _cut_for(64, tokenizer)
  about = _index(path, tmp_path / "i", asked)
  assert (about["truncated"], about["titles_shortened"]) == (0, 1)
  opened = index.open_index(tmp_path / "i")
  found = [opened.chunk(n) for n in range(len(opened))]
  assert {piece.line for piece in found} == {1, 2}
  for piece in found:
    assert asked.lengths([piece.text], piece.title)[0] <= 64
