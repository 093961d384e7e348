"""The folder of an export: whole, one writer at a time, nothing lost."""

import os
import pathlib

import pytest

from embeddinggemma.convert import formats
from embeddinggemma.convert.certify import runtimes
from embeddinggemma.convert.write.output import MARK, whole
from embeddinggemma.types import BadInput


def fill(output: pathlib.Path, content: str) -> None:
  with whole(output) as folder:
    (folder / MARK).write_text("{}")
    (folder / "model").write_text(content)


def test_one_writer_at_a_time(tmp_path):
  output = tmp_path / "out"
  with whole(output) as folder:
    (folder / "model").write_text("first")
    with pytest.raises(BadInput, match="being filled by another process"):
      fill(output, "second")
    (folder / MARK).write_text("{}")
  assert (output / "model").read_text() == "first"
  fill(output, "second")
  assert (output / "model").read_text() == "second"
  assert list(tmp_path.iterdir()) == [output]


def test_what_a_kill_left_goes(tmp_path):
  (tmp_path / ".out.partial" / "deep").mkdir(parents=True)
  (tmp_path / ".out.partial" / "model").write_text("half")
  fill(tmp_path / "out", "whole")
  names = sorted(p.name for p in (tmp_path / "out").iterdir())
  assert names == [MARK, "model"]


def test_a_name_that_cannot_be_taken_keeps_the_old_export(
  tmp_path, monkeypatch
):
  output = tmp_path / "out"
  fill(output, "old")
  rename = pathlib.Path.rename

  def refuse(self, target):
    if self.name.endswith(".partial"):
      raise PermissionError(13, "not now")
    return rename(self, target)

  monkeypatch.setattr(pathlib.Path, "rename", refuse)
  with pytest.raises(PermissionError):
    fill(output, "new")
  assert (output / "model").read_text() == "old"
  assert list(tmp_path.iterdir()) == [output]


def test_what_is_no_folder_is_refused(tmp_path):
  os.mkfifo(tmp_path / "fifo")
  (tmp_path / "file").write_text("a user's")
  for name in ("fifo", "file"):
    with pytest.raises(BadInput, match="exists and is no export of ours"):
      fill(tmp_path / name, "content")
  assert sorted(p.name for p in tmp_path.iterdir()) == ["fifo", "file"]
  # A link stays one, whether its folder is there or not.
  (tmp_path / "link").symlink_to(tmp_path / "later")
  fill(tmp_path / "link", "content")
  assert (tmp_path / "link").is_symlink()
  assert (tmp_path / "later" / "model").read_text() == "content"


def test_this_folder_is_a_name_too(tmp_path, monkeypatch):
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  fill(pathlib.Path("."), "content")
  assert (tmp_path / "here" / "model").read_text() == "content"


def test_the_table_of_formats_says_what_their_modules_do():
  for name, offer in formats.FORMATS.items():
    form = formats.opened(name)
    assert (form.name, tuple(form.dtypes)) == (name, offer.dtypes)
    assert name in runtimes.RUNTIMES, "nothing would check what is written"
