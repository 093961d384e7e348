"""Of a folder of anything, the texts are read and the rest is named."""

import inspect
import os
import sys

import pytest

from embeddinggemma.retrieval import reading
from embeddinggemma.types import BadInput


@pytest.fixture
def folder(tmp_path):
  """One of each thing that has no place in an index, and three that have."""
  root = tmp_path / "source"
  for name in ("pkg", ".git", "pkg/__pycache__", "env", "conda", "mine"):
    (root / name).mkdir(parents=True)
    (root / name / "text.txt").write_text(f"in {name}")
  (root / "env" / "pyvenv.cfg").touch()
  (root / "conda" / "conda-meta").mkdir()
  (root / ".env").write_text("secret")
  (root / "image.png").write_bytes(b"\x89PNG\0\0")
  (root / "latin.txt").write_bytes(b"caf\xe9")
  (root / "utf16.txt").write_bytes("text".encode("utf-16"))
  (root / "void.py").touch()
  (root / "blank.py").write_text(" \n\t\n")
  (root / "big.txt").write_bytes(b"x" * (reading.MAX_BYTES + 1))
  (root / "loop").symlink_to(root)
  (root / "circle").symlink_to("circle")
  (root / "gone").symlink_to("nowhere")
  (root / "link.txt").symlink_to(root / "mine" / "text.txt")
  os.mkfifo(root / "pipe")
  os.close(os.open(os.fsencode(root) + b"/\xff.txt", os.O_CREAT))
  return root


def test_a_folder_of_anything(folder):
  read = reading.read(folder, [folder / "mine"])
  assert [file.path for file in read.files] == ["link.txt", "pkg/text.txt"]
  assert read.chunks[1].text == "in pkg"
  assert read.skipped == {
    ".env": "hidden",
    ".git": "hidden",
    "big.txt": "too large",
    "blank.py": "empty",
    "circle": "broken link",
    "conda": "virtual environment",
    "env": "virtual environment",
    "gone": "broken link",
    "image.png": "binary",
    "latin.txt": "not UTF-8",
    "loop": "linked folder",
    "pipe": "not a file",
    "pkg/__pycache__": "generated folder",
    "utf16.txt": "binary",
    "void.py": "empty",
    "\N{REPLACEMENT CHARACTER}.txt": "name not UTF-8",
  }
  assert next(iter(read.reasons)) in ("hidden", "broken link", "empty")
  assert read.reasons["too large"] == ["big.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_what_cannot_be_read_is_named(tmp_path):
  (tmp_path / "a.txt").symlink_to("/proc/self/mem")  # a read of it fails
  (tmp_path / "b.txt").write_text("b")
  read = reading.read(tmp_path)
  assert read.skipped == {"a.txt": "unreadable"}
  assert [file.path for file in read.files] == ["b.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_closed_folder_is_named(tmp_path):
  (tmp_path / "a").mkdir(mode=0)
  assert reading.read(tmp_path).skipped == {"a": "unreadable folder"}


def test_a_folder_deeper_than_python_calls(tmp_path):
  inner = tmp_path.joinpath(*["d"] * 200)
  inner.mkdir(parents=True)
  (inner / "a.txt").write_text("deep")
  limit = sys.getrecursionlimit()
  sys.setrecursionlimit(len(inspect.stack(0)) + 100)
  try:
    read = reading.read(tmp_path)
  finally:
    sys.setrecursionlimit(limit)
  assert [file.path for file in read.files] == ["d/" * 200 + "a.txt"]


def test_line_ends_are_one_and_numbers_hold(tmp_path):
  content = b"\xef\xbb\xbfone\r\n\r\ntwo\r\n\r\n" + b"x" * 1200 + b"\rfour"
  (tmp_path / "a.txt").write_bytes(content)
  found = reading.read(tmp_path / "a.txt").chunks
  assert [(c.line, c.text[:4]) for c in found] == [
    (1, "one\n"),
    (5, "xxxx"),
    (6, "four"),
  ]


def test_what_was_cut_before_is_not_cut_again(tmp_path):
  (tmp_path / "a.txt").write_text("one")
  (file,) = reading.read(tmp_path).files
  other = file._replace(chunks=[file.chunks[0]._replace(text="as before")])
  known = {(file.path, file.digest): other}
  assert reading.read(tmp_path, known=known).files == [other]
  (tmp_path / "a.txt").write_text("two")
  assert reading.read(tmp_path, known=known).chunks[0].text == "two"


@pytest.mark.parametrize(
  ("content", "reason"),
  [(b"\0", "binary"), (b"\xff", "not UTF-8"), (b" ", "empty")],
)
def test_a_single_file_without_text_is_named(tmp_path, content, reason):
  (tmp_path / "a.txt").write_bytes(content)
  with pytest.raises(BadInput, match=rf"a.txt: cannot be indexed \({reason}"):
    reading.read(tmp_path / "a.txt")


def test_no_input_is_named(tmp_path):
  with pytest.raises(BadInput, match="missing: no such folder or file"):
    reading.read(tmp_path / "missing")


@pytest.mark.parametrize(
  ("line", "reason"),
  [
    (b'{"text": "x", "title": "\\ud800"}', "'title' holds half a surrogate"),
    (b"{", "not JSON"),
    (b'{"title": "t"}', "no field 'text'"),
    (b'{"text": " "}', "'text' is empty"),
    (b'{"text": "x", "title": 3}', "'title' is not text"),
  ],
)
def test_a_bad_jsonl_line_is_named(tmp_path, line, reason):
  source = tmp_path / "docs.jsonl"
  source.write_bytes(b'{"text": "ok"}\n' + line + b"\n")
  with pytest.raises(BadInput, match=rf"docs.jsonl:2: {reason}"):
    reading.read(source)
