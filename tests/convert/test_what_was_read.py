"""At the end of an import: which file said what, and what was left aside."""

import re
import shutil

import pytest

from embeddinggemma import checkpoint
from embeddinggemma.cli import main
from embeddinggemma.convert.read import left_aside
from embeddinggemma.convert.write import exporting
from embeddinggemma.convert.write.sentence_transformers import FORMAT


@pytest.fixture
def folder(exported, tmp_path):
  return shutil.copytree(exported, tmp_path / "folder")


def said_by_import(capsys, folder, workdir):
  code = main.call(["import", f"--from={folder}", f"--workdir={workdir}"])
  said = capsys.readouterr().err
  assert code == 0, said
  return said


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_every_file_is_in_the_table(
  capsys, folder, tmp_path, monkeypatch, columns
):
  """At any width: names fold, and none is lost; the recipe keeps them too."""
  monkeypatch.setenv("COLUMNS", str(columns))
  for name in ("a, b.md", "optimizer.pt", "onnx/model.onnx", "notes.bin"):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
  said = said_by_import(capsys, folder, tmp_path / "in")
  table = said[said.index("file") : said.index("/checkpoints/")]
  whole = re.sub(r"\s", "", table)
  files = [p.relative_to(folder) for p in folder.rglob("*") if p.is_file()]
  recipe = checkpoint.json_of(
    checkpoint.read_files(checkpoint.find(tmp_path / "in")), "recipe.json"
  )
  kept = recipe["source"]["files"]
  rows = {*kept["read"], *kept["left_aside"]}
  assert {str(file) for file in files} == rows
  assert all(str(file) in table for file in files)
  assert "43tensors" not in whole
  assert "41tensorsinfloat32" in whole
  assert "note: not read: notes.bin" in " ".join(said.split())
  assert any("notes.bin" in line for line in kept["notes"])


def test_half_precision_is_said(capsys, model, tmp_path):
  folder = tmp_path / "half"
  exporting.export(FORMAT, str(model), folder, "bfloat16")
  said = said_by_import(capsys, folder, tmp_path / "in")
  assert "tensors in bfloat16" in said
  assert "note: config.json: dtype is bfloat16, so transformers 5" in said


def test_names_of_files_cannot_steer_the_terminal(capsys, folder, tmp_path):
  (folder / "x\x1b[31m\n.json").write_text("{}")
  said = said_by_import(capsys, folder, tmp_path / "in")
  assert "\x1b[31m" not in said and r"x\x1b[31m" in said


def test_files_of_one_folder_are_one_row(tmp_path):
  more = ("2_Dense/a.json", "2_Dense/b.json", "2_Dense/read.json")
  for name in ("runs/a/x", "runs/b/y", "model.gguf", "b.bin", "z", *more):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("x")
  found = left_aside.in_folder(tmp_path, {"z", "2_Dense/read.json"})
  assert found.reasons == {
    "2_Dense/a.json": "not known here, not read",
    "2_Dense/b.json": "not known here, not read",
    "b.bin": "not known here, not read",
    "model.gguf": "a model of its own; give the file as --from",
    "runs/ (2 files)": "of a training",
  }
  (said,) = found.warned
  assert "2_Dense/a.json, 2_Dense/b.json, b.bin" in said
