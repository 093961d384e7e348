"""Vectors that were made elsewhere, matched to the texts of pairs."""

import json

import numpy as np
import pytest

from embeddinggemma.cli import main
from embeddinggemma.mining import teacher
from embeddinggemma.mining.teacher import Item

TEXTS = ["a query", "a text", "another", "a third"]


@pytest.fixture
def pairs(tmp_path):
  """Two pairs, of which one has a title."""
  rows = [
    {"query": "a query", "positive": "a text", "title": "of a text"},
    {"query": "another", "positive": "a third"},
  ]
  folder = tmp_path / "pairs"
  folder.mkdir()
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "pairs.jsonl").write_text(lines)
  return folder


@pytest.fixture
def made(tmp_path):
  """(rows of texts, vectors, ending of the ids) -> the .npy."""

  def write(rows, vectors=None, ids="made.jsonl"):
    path = tmp_path / "made.npy"
    if vectors is None:
      vectors = np.random.default_rng(0).normal(size=(len(rows), 6))
    np.save(path, vectors)
    text = "".join(
      (row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows
    )
    (tmp_path / ids).write_text(text)
    return path

  return write


def teach(pairs, path, *more):
  output = pairs.parent / "taught"
  argv = ["teach", "--config=configs/teach.py", f"--data={pairs}"]
  argv += [f"--output={output}", f"--vectors={path}", *more]
  return main.call([*argv, "--config.dtype=float32"])


def rows(pairs, *items):
  vectors = teacher.open_vectors(pairs.parent / "taught")
  return vectors.rows(teacher.keys_of([Item(*item) for item in items]))


def unit(vectors):
  vectors = np.asarray(vectors, np.float32)
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


ALL = (
  ("retrieval", "a query", ""),
  ("document", "a text", "of a text"),
  ("retrieval", "another", ""),
  ("document", "a third", ""),
)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("ids", ["made.jsonl", "made.txt", "ids.txt"])
def test_a_text_is_found_under_any_prompt_and_title(pairs, made, dtype, ids):
  vectors = np.random.default_rng(1).normal(size=(5, 6)).astype(dtype)
  texts = [*TEXTS, "that nobody asks for"]
  given = [{"text": x} for x in texts] if ids.endswith("jsonl") else texts
  assert teach(pairs, made(given, vectors, ids)) == 0
  np.testing.assert_allclose(rows(pairs, *ALL), unit(vectors[:4]), atol=1e-6)


def test_prompts_and_titles_decide_where_they_are_named(pairs, made, capsys):
  given = [
    {"text": "a query", "prompt": "document"},
    {"text": "a query", "prompt": "query"},
    {"text": "a text", "prompt": "document"},
    {"text": "a text", "prompt": "document", "title": "of a text"},
    {"text": "another", "prompt": "retrieval"},  # a task's name does as well
    {"text": "a third"},
  ]
  path = made(given)
  assert teach(pairs, path) == 0
  vectors = np.load(path)[[1, 3, 4, 5]]
  np.testing.assert_allclose(rows(pairs, *ALL), unit(vectors), atol=1e-6)
  about = teacher.open_vectors(pairs.parent / "taught").about
  assert about["origin"] == {"kind": "vectors", "name": "made.npy"}
  said = capsys.readouterr().err
  assert "teacher made.npy (vectors); licence: not known (state it" in said
  assert teach(pairs, path, "--config.name=ours", "--config.licence=mit") == 0
  assert "teacher ours (vectors); licence: mit\n" in capsys.readouterr().err
  about = teacher.open_vectors(pairs.parent / "taught").about
  assert about["origin"] == {
    "kind": "vectors",
    "name": "ours",
    "licence": "mit",
  }


def test_the_config_names_them_as_well(pairs, made, tmp_path):
  path = made(TEXTS, ids="other.txt")
  argv = ["teach", "--config=configs/teach.py", f"--data={pairs}"]
  argv += [f"--output={pairs.parent / 'taught'}", "--config.dtype=float32"]
  argv += [f"--config.teacher={path}"]
  assert main.call([*argv, f"--config.ids={tmp_path / 'other.txt'}"]) == 0
  np.testing.assert_allclose(rows(pairs, *ALL), unit(np.load(path)), atol=1e-6)


def test_texts_alike_need_one_vector(pairs, made, capsys):
  vectors = np.eye(5, 6)
  twice = [*TEXTS, "a third"]
  vectors[4] = vectors[3]
  assert teach(pairs, made(twice, vectors, "made.txt")) == 0
  vectors[4] = vectors[2]
  assert teach(pairs, made(twice, vectors, "made.txt")) == 2
  said = capsys.readouterr().err
  assert "made.txt: lines 4 and 5 are one text with two vectors" in said


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (np.nan, "row 2 (from 0) is zero or not finite; make the vector of line 3"),
    (np.inf, "row 2 (from 0) is zero or not finite"),
    (0.0, "row 2 (from 0) is zero or not finite"),
  ],
)
def test_a_row_that_is_no_vector_is_named(pairs, made, capsys, change, said):
  vectors = np.eye(4, 6)
  vectors[2] = change
  assert teach(pairs, made(TEXTS, vectors, "made.txt")) == 2
  assert said in capsys.readouterr().err


BAD = {
  "too few texts": (lambda v: v, TEXTS[:3], "has 3 texts and"),
  "too many texts": (lambda v: v, [*TEXTS, "x"], "has 5 texts and"),
  "a text that is missing": (
    lambda v: v,
    [*TEXTS[:3], "unknown"],
    "lacks vectors of 1 of 4 texts, the first 'a third' (prompt document)",
  ),
  "an empty line": (lambda v: v, [*TEXTS[:3], ""], "made.txt:4: 'text' is em"),
  "objects": (lambda v: v.astype(object), TEXTS, "is no .npy file of numbers"),
  "integers": (lambda v: v.astype(np.int8), TEXTS, "holds int8 of shape"),
  "one dimension": (lambda v: v[0], TEXTS, "holds float64 of shape (6,)"),
  "no rows": (lambda v: v[:0], TEXTS, "of shape (0, 6), where floats"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line(pairs, made, capsys, name):
  change, texts, said = BAD[name]
  path = made(texts, change(np.eye(4, 6)), "made.txt")
  assert teach(pairs, path) == 2
  assert said in capsys.readouterr().err.splitlines()[-1]


def test_other_mistakes_are_one_line(pairs, made, tmp_path, capsys):
  def fails(said, *argv, path=None):
    assert teach(pairs, path or made(TEXTS, ids="made.txt"), *argv) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]

  fails("--ids=none: no such file", "--ids=none")
  fails("are two teachers; give one", "--config.teacher=some/model")
  fails("is no .npy; write one", path="made.npz")
  fails("absent.npy does not exist", path="absent.npy")
  (tmp_path / "text.npy").write_text("no array")
  fails("is no .npy file of numbers", path=tmp_path / "text.npy")
  with (tmp_path / "zip.npy").open("wb") as file:
    np.savez(file, a=np.eye(2))
  fails("is an .npz of several arrays", path=tmp_path / "zip.npy")
  (tmp_path / "alone").mkdir()
  np.save(tmp_path / "alone" / "x.npy", np.eye(2))
  fails("which texts its rows are of", path=tmp_path / "alone" / "x.npy")
  odd = tmp_path / "odd.jsonl"
  odd.write_text('{"text": "a", "prompt": "docment"}\n')
  fails("odd.jsonl:1: unknown prompt name 'docment'; did", f"--ids={odd}")
  odd.write_text("{no json\n")
  fails("odd.jsonl:1: not JSON", f"--ids={odd}")
  argv = ["teach", "--config=configs/teach.py", f"--data={pairs}", "--output=x"]
  assert main.call([*argv, "--ids=made.txt"]) == 2
  assert "are those of a file of vectors" in capsys.readouterr().err
