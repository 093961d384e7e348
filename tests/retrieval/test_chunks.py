"""Files are cut where functions, paragraphs and headings are."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_in import CODE

from embeddinggemma.retrieval import chunks


def test_python_is_cut_by_function_and_class():
  found = chunks.chunk("pkg/dates.py", CODE)
  assert [(c.line, c.title) for c in found] == [
    (1, "dates"),
    (8, "dates.parse_date"),
    (13, "dates.Color"),
    (19, "dates.Color.mix"),
  ]
  assert found[1].text.startswith("def parse_date")
  assert found[3].text.startswith("def mix")  # the indent is gone


def test_every_line_of_code_is_in_a_chunk_once():
  found = chunks.chunk("pkg/__init__.py", CODE)
  lines = [x.strip() for c in found for x in c.text.split("\n")]
  assert [x for x in lines if x] == [x.strip() for x in CODE.split("\n") if x]
  assert found[0].title == "pkg"


def test_long_texts_are_split_where_lines_end():
  content = "\n".join(f"line {i} of a long text" for i in range(300))
  found = chunks.chunk("a.txt", content + "\n\n" + "x" * 3000)
  assert max(len(c.text) for c in found) <= chunks.MAX_CHARS
  for piece in found[:5]:
    assert content.split("\n")[piece.line - 1] == piece.text.split("\n")[0]
  assert sum(c.text.count("x" * 100) for c in found) >= 28


_LINES = st.lists(
  st.sampled_from(["", "  ", "a", "\tb c", "def f():", "  return 1", "# H"])
  | st.integers(0, 3000).map("x".__mul__),
  max_size=30,
)


@settings(max_examples=40)
@given(_LINES, st.sampled_from(["a.py", "a.md", "a.txt"]))
def test_a_chunk_is_lines_of_its_file(lines, path):
  found = chunks.chunk(path, "\n".join(lines))
  for piece in found:
    assert len(piece.text) <= chunks.MAX_CHARS
    for number, line in enumerate(piece.text.split("\n"), piece.line - 1):
      assert line.strip() in lines[number]
  text = "".join("".join(piece.text.split()) for piece in found)
  assert text == "".join("".join(lines).split())


def test_headings_title_their_sections():
  found = chunks.chunk("a.md", "# One\n\ntext\n\n## Two\nmore\n")
  assert [(c.title, c.line) for c in found] == [("One", 1), ("Two", 5)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
  "content", ["x = " + "(" * 300 + ")" * 300, "x = " + "-" * 90_000 + "1"]
)
def test_code_that_python_cannot_follow_is_text(content):
  found = chunks.chunk("deep.py", content)
  assert {c.title for c in found} == {"deep"}
  assert chunks.chunk("escape.py", "x = '\\d'\n")[0].title == "escape"


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
def test_a_parser_that_gives_up_leaves_text(monkeypatch, error):
  def give_up(*_):
    raise error

  monkeypatch.setattr(chunks.ast, "parse", give_up)
  assert chunks.chunk("deep.py", "x = 1")[0].text == "x = 1"


def test_a_long_row_is_cut_and_keeps_its_line():
  text = "\n\n".join(f"paragraph {n} " + "word " * 60 for n in range(9))
  found = chunks.row_chunks("docs.jsonl", 7, "Long", text)
  assert len(found) > 1
  assert {(c.line, c.title) for c in found} == {(7, "Long")}
  assert " ".join(c.text for c in found).split() == text.split()


def test_a_row_that_fits_is_one_chunk_as_it_is():
  text = "\n  first\n\n\n    second \n"
  assert chunks.row_chunks("a.jsonl", 3, "T", text) == [
    chunks.Chunk("a.jsonl", 3, "T", text)
  ]
  assert chunks.row_chunks("a.jsonl", 3, "T", " \n") == []
