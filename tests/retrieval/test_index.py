"""A folder becomes an index that answers with file, line and snippet."""

import json
import zlib

import numpy as np
import pytest

from embeddinggemma import encode, lexical
from embeddinggemma.retrieval import chunks, index
from embeddinggemma.types import BadInput, Stopped

CODE = '''"""Dates and colours."""

import datetime

LIMIT = 3


def parse_date(text):
  """Read a day, month and year."""
  return datetime.date.fromisoformat(text)


@register
class Color:
  """A colour."""

  red = 1

  def mix(self, other):
    return blend(self, other)
'''


def bag_of_words(texts, prompt_name, titles=()):
  """A model's stand-in: counts of hashed words, at unit length."""
  assert prompt_name in ("query", "document")
  titles = titles or [""] * len(texts)
  vectors = np.full((len(texts), 256), 1e-3, np.float32)
  for row, title, text in zip(vectors, titles, texts, strict=True):
    for word in lexical.tokens(f"{title} {text}"):
      row[zlib.crc32(word.encode()) % 128] += 1
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _build(source, output, **options):
  options = {"dim": 128, "model": "m" * 64} | options
  return index.build_index(bag_of_words, source, output, **options)


def _search(directory, text, **options):
  options = {"model": "m" * 64} | options
  return index.search(directory, bag_of_words, text, **options)


@pytest.fixture
def folder(tmp_path):
  """Code, prose, and files that an index has to pass over."""
  root = tmp_path / "source"
  (root / "pkg").mkdir(parents=True)
  (root / ".git").mkdir()
  (root / "pkg" / "dates.py").write_text(CODE)
  (root / "notes.md").write_text("# Cooking\n\nBoil the rice.\n\n# Music\n\nA")
  (root / "plain.txt").write_bytes(b"one\r\n\r\nsecond paragraph")
  (root / "broken.py").write_text("def (:\n  tomato\n")
  (root / "image.png").write_bytes(b"\x89PNG\0\0")
  (root / "latin.txt").write_bytes(b"caf\xe9")
  (root / ".git" / "secret.txt").write_text("hidden tomato")
  return root


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


def test_headings_title_their_sections():
  found = chunks.chunk("a.md", "# One\n\ntext\n\n## Two\nmore\n")
  assert [(c.title, c.line) for c in found] == [("One", 1), ("Two", 5)]


def test_index_counts_what_it_skipped(folder, tmp_path):
  about = _build(folder, tmp_path / "index")
  assert about["skipped"] == {"binary": 1, "not UTF-8": 1}
  assert about["files"] == 4
  assert about["dim"] == 128
  names = {p.name for p in (tmp_path / "index").rglob("*")}
  assert not any(name.endswith((".pkl", ".pickle")) for name in names)
  assert [p.name for p in tmp_path.iterdir() if p.name[0] == "."] == []


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_every_mode_finds_the_function(folder, tmp_path, mode):
  _build(folder, tmp_path / "index")
  hits = _search(tmp_path / "index", "read a day, month", mode=mode, k=2)
  assert hits[0].path == "pkg/dates.py"
  assert hits[0].line == 8
  assert hits[0].title == "dates.parse_date"
  assert "month and year" in hits[0].snippet
  assert len(hits) <= 2
  assert [h.score for h in hits] == sorted(h.score for h in hits)[::-1]


def test_lexical_needs_no_model_and_no_match_is_no_hit(folder, tmp_path):
  _build(folder, tmp_path / "index")
  options = {"model": "other", "mode": "lexical"}
  opened = index.open_index(tmp_path / "index")
  assert index.search(opened, None, "tomato", **options)[0].path == "broken.py"
  assert index.search(opened, None, "zebra", **options) == []


def test_hybrid_fuses_candidates_of_both_sides(folder, tmp_path):
  _build(folder, tmp_path / "index")
  opened = index.open_index(tmp_path / "index")
  found = _search(opened, "boil rice", k=100)
  assert len(found) == len(opened.chunks)
  assert found[0].title == "Cooking"


def test_int8_and_moments_keep_the_cosines(folder, tmp_path):
  _build(folder, tmp_path / "index")
  opened = index.open_index(tmp_path / "index")
  rows = opened.chunks
  exact = encode.truncate(
    bag_of_words([r.text for r in rows], "document", [r.title for r in rows]),
    128,
  )
  query = encode.truncate(bag_of_words(["a day of rice"], "query"), 128)[0]
  cosines = index._cosines(opened, query, np.arange(len(rows)))
  np.testing.assert_allclose(cosines, exact @ query, atol=0.03)
  mean, covariance = opened.moments[0], opened.moments[1:]
  np.testing.assert_allclose(query @ mean, (exact @ query).mean(), atol=1e-5)
  spread = np.sqrt(query @ covariance @ query)
  np.testing.assert_allclose(spread, (exact @ query).std(), atol=1e-5)


def test_an_approximate_search_finds_the_same(folder, tmp_path, monkeypatch):
  _build(folder, tmp_path / "index")
  exact = _search(tmp_path / "index", "boil rice", mode="dense")
  monkeypatch.setattr(index, "EXACT_UP_TO", 0)
  assert _search(tmp_path / "index", "boil rice", mode="dense") == exact


def test_jsonl_rows_are_documents(tmp_path):
  rows = [{"text": "boil rice", "title": "Food"}, {"text": "a\u2028b tune"}]
  source = tmp_path / "docs.jsonl"
  source.write_text("".join(json.dumps(r) + "\n" for r in rows))
  steps = []
  _build(source, tmp_path / "i", progress=lambda *at: steps.append(at))
  assert steps == [(2, 2)]
  hit = _search(tmp_path / "i", "tune")[0]
  assert (hit.path, hit.line) == (str(source), 2)
  assert _search(tmp_path / "i", "food", mode="lexical")[0].line == 1


def test_the_tail_of_a_long_row_is_found(tmp_path):
  text = "\n\n".join(f"paragraph {n} " + "word " * 60 for n in range(9))
  rows = [{"text": "short"}, {"text": f"{text} zebra", "title": "Long"}]
  source = tmp_path / "docs.jsonl"
  source.write_text("".join(json.dumps(r) + "\n" for r in rows))
  about = _build(source, tmp_path / "i")
  assert about["chunks"] > 2
  hit = _search(tmp_path / "i", "zebra", mode="lexical")[0]
  assert (hit.line, hit.title) == (2, "Long")


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
    _build(source, tmp_path / "index")
  assert not (tmp_path / "index").exists()


def test_a_text_file_is_an_input(tmp_path, folder):
  _build(folder / "notes.md", tmp_path / "index")
  assert _search(tmp_path / "index", "rice")[0].path == "notes.md"
  with pytest.raises(BadInput, match=r"cannot be indexed \(binary\)"):
    _build(folder / "image.png", tmp_path / "index")


def test_inputs_without_text_are_named(tmp_path):
  with pytest.raises(BadInput, match="no such folder or file"):
    _build(tmp_path / "missing", tmp_path / "index")
  (tmp_path / "empty").mkdir()
  with pytest.raises(BadInput, match="no text to index"):
    _build(tmp_path / "empty", tmp_path / "index")


def test_only_an_index_is_replaced(folder, tmp_path):
  output = folder / "index"  # inside its own input: left out of it
  first = _build(folder, output)
  assert _build(folder, output)["chunks"] == first["chunks"]
  with pytest.raises(BadInput, match="exists and is no index"):
    _build(folder, folder / "pkg")
  with pytest.raises(BadInput, match="exists and is no index"):
    _build(folder, folder / "plain.txt")


def test_a_failed_build_leaves_the_old_index(folder, tmp_path):
  _build(folder, tmp_path / "index")

  def broken(texts, prompt_name, titles=()):
    return bag_of_words(texts, prompt_name, titles) * np.nan

  with pytest.raises(Stopped, match="zero or not finite"):
    index.build_index(broken, folder, tmp_path / "index", dim=64, model="m")
  assert _search(tmp_path / "index", "rice")
  assert len(list(tmp_path.iterdir())) == 2


def test_an_index_of_another_model_or_dimension_is_refused(folder, tmp_path):
  _build(folder, tmp_path / "index")
  with pytest.raises(
    BadInput, match=r"made with model mmmmmmmmmmmm, not other"
  ):
    _search(tmp_path / "index", "x", model="other")
  with pytest.raises(BadInput, match="needs a model"):
    index.search(tmp_path / "index", None, "x", model="m" * 64)
  opened = index.open_index(tmp_path / "index")
  narrow = lambda *args: bag_of_words(*args)[:, :64]
  with pytest.raises(
    BadInput, match="dim=128: the model has dimensions 1 to 64"
  ):
    index.search(opened, narrow, "x", model="m" * 64)
  with pytest.raises(BadInput, match="dim=0: the model has dimensions"):
    _build(folder, tmp_path / "other", dim=0)


def test_bad_queries_are_refused(folder, tmp_path):
  _build(folder, tmp_path / "index")
  for text in "", " \n":
    with pytest.raises(BadInput, match="the query is empty"):
      _search(tmp_path / "index", text)
  with pytest.raises(BadInput, match="k is 0"):
    _search(tmp_path / "index", "x", k=0)


def test_broken_indexes_are_named(folder, tmp_path):
  with pytest.raises(BadInput, match="not an index"):
    index.open_index(tmp_path / "missing")
  output = tmp_path / "index"
  _build(folder, output)
  lines = (output / "chunks.jsonl").read_text().splitlines(keepends=True)
  (output / "chunks.jsonl").write_text("".join(lines[1:]))
  with pytest.raises(BadInput, match="its files disagree"):
    index.open_index(output)
  about = json.loads((output / "index.json").read_text())
  (output / "index.json").write_text("[]")
  with pytest.raises(BadInput, match="not an index"):
    index.open_index(output)
  (output / "index.json").write_text(json.dumps(about | {"format": 99}))
  with pytest.raises(BadInput, match="index format 99"):
    index.open_index(output)
