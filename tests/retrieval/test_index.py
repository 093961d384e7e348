"""A folder becomes an index that answers with file, line and snippet."""

import dataclasses
import json

import numpy as np
import pytest
from stand_in import CODE, bag_of_words, making

from embeddinggemma import encode
from embeddinggemma.retrieval import codes, index, search, update
from embeddinggemma.types import BadInput, Stopped

KINDS = ("int8", "binary")


def _build(source, output, **options):
  return update.build_index(bag_of_words, source, output, making(**options))


def _search(directory, text, **options):
  options = {"model": "m" * 64} | options
  return search.search(directory, bag_of_words, text, **options)


def _fill(root):
  """Code, prose, and files that an index has to pass over."""
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


@pytest.fixture
def folder(tmp_path):
  return _fill(tmp_path / "source")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """An index of such a folder, for each kind of vectors."""
  place = tmp_path_factory.mktemp("made")
  source = _fill(place / "source")
  for kind in KINDS:
    _build(source, place / kind, vectors=kind)
  return place


def test_index_says_what_it_holds(folder, tmp_path):
  about = _build(folder, tmp_path / "index")
  assert about["skipped"] == {"hidden": 1, "binary": 1, "not UTF-8": 1}
  assert about["examples"]["not UTF-8"] == ["latin.txt"]
  assert about["files"] == 4
  assert (about["dim"], about["vectors"]) == (128, "int8")
  counts = {"kept": 0, "new": 8, "removed": 0, "embedded": 8, "chunks": 8}
  assert counts.items() <= about.items()
  data = tmp_path / "index" / about["data"]
  sizes = [p.stat().st_size for p in data.rglob("*") if p.is_file()]
  assert about["bytes"] == sum(sizes)
  names = {p.name for p in (tmp_path / "index").rglob("*")}
  assert not any(name.endswith((".pkl", ".pickle")) for name in names)
  assert {p.name for p in tmp_path.iterdir()} == {"source", "index"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_every_mode_finds_the_function(made, mode, kind):
  hits = _search(made / kind, "read a day, month", mode=mode, k=2)
  assert hits[0].path == "pkg/dates.py"
  assert hits[0].line == 8
  assert hits[0].title == "dates.parse_date"
  assert "month and year" in hits[0].snippet
  assert len(hits) <= 2
  assert [h.score for h in hits] == sorted(h.score for h in hits)[::-1]


def test_lexical_needs_no_model_and_no_match_is_no_hit(made):
  options = {"model": "other", "mode": "lexical"}
  opened = index.open_index(made / "int8")
  found = search.search(opened, None, "tomato", **options)
  assert found[0].path == "broken.py"
  assert search.search(opened, None, "zebra", **options) == []


def test_hybrid_fuses_candidates_of_both_sides(made):
  opened = index.open_index(made / "int8")
  found = _search(opened, "boil rice", k=100)
  assert len(found) == len(opened)
  assert found[0].title == "Cooking"


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_cosines_and_moments_those_of_all(made, kind):
  opened = index.open_index(made / kind)
  rows = [opened.chunk(place) for place in range(len(opened))]
  texts, titles = [r.text for r in rows], [r.title for r in rows]
  exact = encode.truncate(bag_of_words(texts, "document", titles), 128)
  query = encode.truncate(bag_of_words(["a day of rice"], "query"), 128)[0]
  places, cosines = search.nearest(opened, query, len(rows))
  assert sorted(places) == list(range(len(rows)))
  np.testing.assert_allclose(cosines, (exact @ query)[places], atol=1e-3)
  mean, covariance, _ = opened.spread
  np.testing.assert_allclose(query @ mean, (exact @ query).mean(), atol=1e-3)
  spread = np.sqrt(query @ covariance @ query)
  np.testing.assert_allclose(spread, (exact @ query).std(), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_finds_the_same(folder, tmp_path, made, monkeypatch, kind):
  monkeypatch.setattr(codes, "EXACT_UP_TO", 0)
  _build(folder, tmp_path / "index", vectors=kind)
  opened = index.open_index(tmp_path / "index")
  assert opened.graph is not None
  exact = _search(made / kind, "boil rice", mode="dense")
  assert _search(opened, "boil rice", mode="dense") == exact


def test_candidates_are_judged_by_the_vectors(made, monkeypatch):
  """Codes that tell nothing apart leave the order to float16."""
  opened = index.open_index(made / "int8")
  blind = dataclasses.replace(opened, codes=np.zeros_like(opened.codes))
  exact = _search(opened, "boil rice", mode="dense")
  assert _search(blind, "boil rice", mode="dense") == exact


def test_jsonl_rows_are_documents(tmp_path):
  rows = [{"text": "boil rice", "title": "Food"}, {"text": "a\u2028b tune"}]
  source = tmp_path / "docs.jsonl"
  source.write_text("".join(json.dumps(r) + "\n" for r in rows))
  steps = []
  update.build_index(
    bag_of_words,
    source,
    tmp_path / "i",
    making(),
    progress=lambda *at: steps.append(at),
  )
  assert steps == [(2, 2)]
  hit = _search(tmp_path / "i", "tune")[0]
  assert (hit.path, hit.line) == (str(source), 2)
  assert _search(tmp_path / "i", "food", mode="lexical")[0].line == 1


def test_a_text_file_is_an_input(tmp_path, folder):
  _build(folder / "notes.md", tmp_path / "index")
  assert _search(tmp_path / "index", "rice")[0].path == "notes.md"


def test_inputs_without_text_are_named(tmp_path):
  with pytest.raises(BadInput, match="no such folder or file"):
    _build(tmp_path / "missing", tmp_path / "index")
  assert not (tmp_path / "index").exists()
  (tmp_path / "empty").mkdir()
  (tmp_path / "empty" / "void.py").touch()
  with pytest.raises(BadInput, match=r"no text to index \(left out: 1 empty\)"):
    _build(tmp_path / "empty", tmp_path / "index")


def test_only_an_index_is_replaced(folder, tmp_path):
  output = folder / "index"  # inside its own input: left out of it
  first = _build(folder, output)
  assert _build(folder, output)["chunks"] == first["chunks"]
  with pytest.raises(BadInput, match="exists and is no index"):
    _build(folder, folder / "pkg")
  with pytest.raises(BadInput, match="exists and is no index"):
    _build(folder, folder / "plain.txt")
  (folder / "pkg" / "index.json").write_text('{"name": "of something else"}')
  with pytest.raises(BadInput, match="exists and is no index"):
    _build(folder, folder / "pkg")


@pytest.mark.parametrize(
  "names",
  [
    ("data-2023/a", "data-abcdefgh/a", "pending/inbox", "programs/run"),
    ("pending/inbox", "index.json.old"),
    ("data-abcdefgh/a", "stage.json"),
  ],
  ids=" ".join,
)
def test_folders_with_our_names_are_not_an_index(folder, tmp_path, names):
  output = tmp_path / "experiments"
  for name in names:
    (output / name).parent.mkdir(parents=True, exist_ok=True)
    (output / name).write_text("a user's")
  with pytest.raises(BadInput, match="exists and is no index"):
    _build(folder, output)
  assert all((output / name).read_text() == "a user's" for name in names)
  # Of an index that is there, only what we made is cleared.
  output = tmp_path / "index"
  _build(folder, output)
  (output / "data-2023").mkdir()
  _build(folder, output)
  assert (output / "data-2023").is_dir()


def test_a_failed_build_leaves_the_old_index(folder, tmp_path):
  _build(folder, tmp_path / "index")
  (folder / "new.txt").write_text("new")

  def broken(texts, prompt_name, titles=()):
    return bag_of_words(texts, prompt_name, titles) * np.nan

  with pytest.raises(Stopped, match="zero or not finite"):
    update.build_index(broken, folder, tmp_path / "index", making())
  assert _search(tmp_path / "index", "rice")


def test_a_search_with_another_model_is_refused(made, tmp_path):
  place = made / "int8"
  with pytest.raises(
    BadInput, match=r"made with model mmmmmmmmmmmm, not other"
  ):
    _search(place, "x", model="other")
  with pytest.raises(BadInput, match="needs a model"):
    search.search(place, None, "x", model="m" * 64)
  narrow = lambda *args: bag_of_words(*args)[:, :64]
  with pytest.raises(
    BadInput, match="dim=128: the model has dimensions 1 to 64"
  ):
    search.search(place, narrow, "x", model="m" * 64)
  with pytest.raises(BadInput, match="dim=0: the model has dimensions"):
    _build(made / "source", tmp_path / "other", dim=0)


def test_bad_queries_are_refused(made):
  for text in "", " \n":
    with pytest.raises(BadInput, match="the query is empty"):
      _search(made / "int8", text)
  with pytest.raises(BadInput, match="k is 0"):
    _search(made / "int8", "x", k=0)


def test_broken_indexes_are_named(folder, tmp_path):
  with pytest.raises(BadInput, match="not an index"):
    index.open_index(tmp_path / "missing")
  output = tmp_path / "index"
  data = output / _build(folder, output)["data"]
  lines = (data / "chunks.jsonl").read_text().splitlines(keepends=True)
  (data / "chunks.jsonl").write_text("".join(lines[1:]))
  with pytest.raises(
    BadInput, match=r"damaged index .its files disagree.; `index`"
  ):
    index.open_index(output)
  about = json.loads((output / "index.json").read_text())
  (output / "index.json").write_text("[]")
  with pytest.raises(BadInput, match="not an index"):
    index.open_index(output)
  (output / "index.json").write_text(json.dumps(about | {"format": 99}))
  with pytest.raises(BadInput, match=r"index format 99, .*--rebuild"):
    index.open_index(output)
  with pytest.raises(BadInput, match=r"index format 99, .*--rebuild"):
    _build(folder, output)
