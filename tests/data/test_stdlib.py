"""The standard library as a corpus: what is read, split and written."""

import json
import pathlib

import pytest

from embeddinggemma.data import stdlib
from embeddinggemma.data.beir import normalised, read_retrieval
from embeddinggemma.data.stdlib import (
  code_pairs,
  docstrings,
  held_out,
  python_source,
)

PARSER = '''"""Tools to parse dates and times of many countries."""

import re


# Four digits of a year come first in every pattern here
# because sorting text then sorts time.
PATTERN = re.compile("x")
LIMIT = 10


@cache
def parse_date{n}(text):
  """Parse_date{n} turns text number {n} into a calendar date.

  The parse_date{n} function knows ISO 8601. It raises ValueError for number
  {n} of anything else. The time zone is local. Leap seconds are ignored.

  Args:
    text: what a person wrote as the date number {n} on a form. It may have
      spaces around it, and the month may be a word in any of the languages.
  """
  found = parse_date{n}.pattern.match(text)
  """not a docstring"""
  return found and found.group({n})


class Calendar{n}:
  """A calendar {n} of days on which the shops of a country are closed."""

  def is_closed{n}(self, day): "Tell if the shops number {n} are closed."; x = 1

  def nothing{n}(self):
    """This method number {n} is here for subclasses to override it."""
    raise NotImplementedError
'''


def _module(path: pathlib.Path, number: int, text: str = PARSER) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text.replace("{n}", str(number)), encoding="utf-8")


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> list[stdlib.Root]:
  """A fake library: 24 modules, a test folder, broken files; and a package."""
  root = tmp_path_factory.mktemp("library")
  for number in range(24):
    _module(root / f"mod{number}.py", number)
  _module(root / "distutils" / "__init__.py", 100)
  _module(root / "mod1" / "tests" / "helper.py", 101)
  _module(root / "site-packages" / "other.py", 102)
  (root / "latin.py").write_bytes('x = "é"\n"""doc"""'.encode("latin-1"))
  (root / "syntax.py").write_text('"""doc"""\nprint "python 2"\n')
  package = tmp_path_factory.mktemp("package")
  for number in range(200, 203):
    _module(package / "part" / f"file{number}.py", number)
  # A package that copies a test module whole: nothing of it may train.
  held = next(n for n in range(24) if stdlib.side("", f"mod{n}") == "test")
  for number in range(1):
    _module(package / "part" / f"copy{number}.py", held)
  return [stdlib.Root("", root), stdlib.Root("package", package)]


@pytest.fixture(scope="module")
def corpus(roots, tmp_path_factory) -> pathlib.Path:
  directory = tmp_path_factory.mktemp("corpus")
  stdlib.write_corpus(directory, roots)
  return directory


def _rows(path: pathlib.Path) -> list[dict]:
  return [json.loads(x) for x in path.read_text(encoding="utf-8").splitlines()]


def _texts(directory: pathlib.Path) -> set[str]:
  keys = ("query", "positive", "text", "sentence1", "sentence2")
  rows = [r for path in directory.rglob("*.jsonl") for r in _rows(path)]
  found = {normalised(row[k]) for row in rows for k in keys if k in row}
  return found | {normalised(n) for r in rows for n in r.get("negative", ())}


@pytest.fixture(scope="module")
def module(tmp_path_factory) -> python_source.Module:
  path = tmp_path_factory.mktemp("one") / "dates.py"
  _module(path, 7)
  found = python_source.read_module("dates", path)
  assert found is not None
  return found


def test_every_docstring_is_taken_out_of_the_source(module):
  by_name = {d.name: d for d in module.definitions}
  function = by_name["parse_date7"]
  assert function.source.splitlines() == [
    "@cache",
    "def parse_date7(text):",
    "  found = parse_date7.pattern.match(text)",
    '  """not a docstring"""',
    "  return found and found.group(7)",
  ]
  assert by_name["Calendar7"].source.count('"') == 0
  assert by_name["is_closed7"].source == "def is_closed7(self, day):  x = 1"
  assert by_name["is_closed7"].docstring.startswith("Tell if")
  assert by_name["nothing7"].trivial and not function.trivial


def test_code_pairs_hold_no_documentation_and_no_trivial_body(module):
  pairs = list(code_pairs.code(module))
  assert [p.origin for p in pairs] == ["dates"] * len(pairs)
  assert any(p.query.startswith("A calendar 7") for p in pairs)
  assert not any("override" in p.query for p in pairs)
  assert not any("ISO 8601" in p.positive for p in pairs)


def test_the_name_is_masked_in_query_and_source(module):
  full, masked = next(code_pairs.code_views(module))
  assert "parse_date7" in full.positive
  assert "parse_date7" not in masked.query + masked.positive
  assert "def _(text):" in masked.positive
  pair = next(code_pairs.code_name(module))
  assert "parse_date7" not in pair.positive
  assert pair.query in ("parse_date7", "parse date7")


def test_mask_leaves_longer_names_alone():
  assert code_pairs.mask("get(x.get, target, get_2)", "get") == (
    "_(x._, target, get_2)"
  )


def test_spoken_splits_snake_and_camel():
  assert code_pairs.spoken("parse_date") == "parse date"
  assert code_pairs.spoken("getHTTPDate_v2") == "get httpdate v2"


def test_comments_of_several_lines_meet_the_code_below(module):
  (pair,) = code_pairs.comment(module)
  assert pair.query.endswith("because sorting text then sorts time.")
  assert pair.positive == 'PATTERN = re.compile("x")\nLIMIT = 10'


def test_sections_of_both_styles():
  google = "Sum.\n\nArgs:\n  x: a number\n\nReturns:\n  the sum"
  assert docstrings.sections(google) == [
    ("Args", "x: a number"),
    ("Returns", "the sum"),
  ]
  numpydoc = "Sum.\n\nParameters\n----------\nx : int\n\nNotes\n-----\nNone."
  assert [title for title, _ in docstrings.sections(numpydoc)] == [
    "Parameters",
    "Notes",
  ]
  assert docstrings.sections("Only a line:") == []


def test_cut_ends_at_a_line_or_word():
  assert code_pairs.cut("one two three", 9) == "one two"
  assert code_pairs.cut("one\ntwo three", 9) == "one"
  assert code_pairs.cut("x" * 20, 9) == "x" * 9


def test_seven_tasks_and_five_evaluations(corpus):
  tasks = {path.parent.name for path in corpus.glob("train/*/pairs.jsonl")}
  assert tasks >= {"code", "code_name", "documentation", "heading", "sts"}
  assert tasks >= {"classification", "comment", "span"}
  for side in ("validation", "test"):
    names = {path.name for path in (corpus / side).iterdir()}
    assert names >= {"code", "code_masked", "documentation", "sts"}
    task = json.loads((corpus / side / "code_masked" / "task.json").read_text())
    assert task == {"task": "code"}


def test_no_text_is_on_two_sides(corpus):
  train, validation, test = (
    _texts(corpus / side) for side in ("train", "validation", "test")
  )
  assert train and validation and test
  assert not train & test
  assert not train & validation
  assert not validation & test


def test_evaluation_is_on_functions_of_whole_held_out_modules(corpus, roots):
  data = read_retrieval(corpus / "test" / "code")
  numbers = {n for n in range(24) if stdlib.side("", f"mod{n}") == "test"}
  texts = [text for _, text in data.corpus.values()]
  assert len(texts) == len(numbers)  # one function each that does something
  assert all("def parse_date" in text for text in texts)
  trained = {row["query"] for row in _rows(corpus / "train/code/pairs.jsonl")}
  assert not any(f"number {n} into" in q for n in numbers for q in trained)


def test_removed_modules_and_packages_are_for_training():
  assert stdlib.side("", "distutils.core") == "train"
  assert {stdlib.side("numpy", f"x{n}") for n in range(50)} == {"train"}
  sides = {stdlib.side("", f"x{n}") for n in range(50)}
  assert sides == {"train", "validation", "test"}


@pytest.mark.parametrize(
  ("one", "other"),
  [("_pydecimal", "decimal"), ("ntpath", "posixpath"), ("json", "json.tool")],
)
def test_near_copies_share_a_side(one, other):
  assert stdlib.side("", one) == stdlib.side("", other)


def test_skips_tests_site_packages_and_what_cannot_be_read(roots):
  names = {name for name, _ in python_source.python_files(roots[0].path)}
  assert "distutils" in names
  assert not any("helper" in n or "other" in n for n in names)
  for broken in ("latin", "syntax", "missing"):
    path = roots[0].path / f"{broken}.py"
    assert python_source.read_module(broken, path) is None


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
def test_skips_what_is_nested_too_deep(tmp_path, monkeypatch, error):
  def give_up(*_):
    raise error

  path = tmp_path / "deep.py"
  path.write_text('"""Documented."""\n')
  assert python_source.read_module("deep", path) is not None
  monkeypatch.setattr(python_source.ast, "parse", give_up)
  assert python_source.read_module("deep", path) is None


def test_two_runs_write_the_same_bytes(corpus, roots, tmp_path):
  counts = stdlib.write_corpus(tmp_path, roots)
  files = [p.relative_to(corpus) for p in sorted(corpus.rglob("*.*"))]
  assert files
  for name in files:
    assert (tmp_path / name).read_bytes() == (corpus / name).read_bytes()
  rows = _rows(corpus / "train/code/pairs.jsonl")
  assert counts["train"]["code"] == len(rows)


def test_similarity_is_graded(corpus):
  rows = _rows(corpus / "test" / "sts" / "test.jsonl")
  assert {row["score"] for row in rows} >= {0.0, 4.0}
  assert all(row["sentence1"] != row["sentence2"] for row in rows)


def test_classification_has_labels_on_both_parts(tmp_path):
  for number in range(3):
    text = "\n".join(
      PARSER.replace("{n}", str(100 * number + k)) for k in range(4)
    )
    _module(tmp_path / f"mod{number}.py", 0, text)
  modules = [
    python_source.read_module(f"mod{n}", tmp_path / f"mod{n}.py")
    for n in range(3)
  ]
  pairs = list(code_pairs.classification(modules))
  assert {p.origin for p in pairs} == {"mod0", "mod1", "mod2"}
  queries = [p.query for p in pairs]
  assert len(queries) == len(set(queries))
  assert all(len(p.negatives) == 1 for p in pairs)


def test_classification_needs_two_labels(tmp_path):
  path = tmp_path / "one.py"
  _module(path, 0, "\n".join(PARSER.replace("{n}", str(k)) for k in range(9)))
  one = python_source.read_module("one", path)
  other = one._replace(name="other")
  found = held_out.held_out([one], set(), 100)
  assert found.classification == []
  texts = [
    d._replace(docstring=f"{d.docstring} Other.") for d in other.definitions
  ]
  other = other._replace(definitions=tuple(texts))
  found = held_out.held_out([one, other], set(), 100)
  assert {label for _, label in found.classification} == {"one", "other"}
  assert found.counts()["classification"] == len(found.classification)


def test_the_installed_library_is_found():
  roots = stdlib.installed_roots(("json", "no_such_package"))
  assert [root.name for root in roots] == ["", "json"]
  assert (roots[0].path / "json" / "decoder.py").is_file()


def test_the_small_test_is_of_modules_that_no_corpus_trains_on(
  corpus, roots, tmp_path
):
  counts = stdlib.write_test(tmp_path, 20, roots[0].path)
  assert set(counts) == {"code", "documentation", "sts"}
  assert 0 < counts["code"] <= 20
  assert read_retrieval(tmp_path / "code").queries
  assert not _texts(tmp_path) & _texts(corpus / "train")
  again = tmp_path / "again"
  stdlib.write_test(again, 20, roots[0].path)
  assert _texts(again) == _texts(tmp_path)
