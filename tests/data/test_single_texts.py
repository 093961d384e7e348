"""Texts without a partner: which files hold them, and what a row may be."""

import dataclasses
import gzip
import json
import pathlib

import numpy as np
import pytest

from embeddinggemma.data import corpus, loader, mixture, prompts, sources
from embeddinggemma.data.single_texts import Texts
from embeddinggemma.types import BadInput

ROWS = [
  {"text": "where is the river", "prompt": "query"},
  {"text": "The river is here.", "title": "Rivers"},
  {"text": "two sentences alike", "prompt": "STS", "id": 7},
  {"text": "no prompt", "prompt": None, "title": " "},
]


def write(folder: pathlib.Path, rows=ROWS, name="texts.jsonl") -> pathlib.Path:
  path = folder / name
  path.parent.mkdir(parents=True, exist_ok=True)
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (gzip.open if name.endswith(".gz") else open)(path, "wb").write(
    lines.encode()
  )
  return folder


def texts_of(folder: pathlib.Path, out: pathlib.Path, **kwargs) -> list:
  corpus.write(str(folder), False, out, texts=True, **kwargs)
  return list(corpus.read_texts(out))


@pytest.mark.parametrize(
  "name", ["texts.jsonl", "own/texts.jsonl", "texts.jsonl.gz"]
)
def test_texts_are_read_with_their_prompts(tmp_path, name):
  said = []
  folder = write(tmp_path / "in", name=name)
  found = texts_of(folder, tmp_path / "out", say=said.append)
  assert [(x.text, x.prompt, x.title) for x in found] == [
    ("where is the river", "query", ""),
    ("The river is here.", "document", "Rivers"),
    ("two sentences alike", "STS", ""),
    ("no prompt", "document", ""),
  ]
  assert found[2].origin.endswith("out/train/texts.jsonl:3")
  assert said == [f"{folder / name}: 4 single texts; left aside: id"]
  about = corpus.about(tmp_path / "out")
  assert (about["tasks"], about["texts"]) == ({}, 4)
  assert len(corpus.read_train(tmp_path / "out")) == 0


def test_a_text_is_found_by_its_number(tmp_path):
  found = texts_of(write(tmp_path / "in"), tmp_path / "out")
  texts = Texts(tmp_path / "out" / "train" / "texts.jsonl")
  assert [texts[row] for row in (2, 0, 3)] == [found[2], found[0], found[3]]
  assert texts[-1] == found[3] and len(texts) == 4
  assert len(Texts(tmp_path / "none")) == 0 and list(Texts(tmp_path)) == []


@pytest.mark.parametrize(
  ("row", "message"),
  [
    ({"text": ""}, "'text' is empty"),
    ({"text": 3}, "'text' is not text but int"),
    ({"body": "x"}, "no field 'text'; found: body"),
    ({"text": "a", "prompt": "querry"}, "'querry'; did you mean 'query'?"),
    ({"text": "a", "prompt": "query", "title": "T"}, "a title goes with the"),
    ({"text": "a", "title": 1}, "'title' is not text"),
  ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
  folder = write(tmp_path / "in", [*ROWS, row])
  with pytest.raises(BadInput, match=r"texts.jsonl:5: ") as error:
    texts_of(folder, tmp_path / "out")
  assert message in str(error.value)
  about = corpus.write(str(folder), True, tmp_path / "out", texts=True)
  assert about["texts"] == 4 and message in about["skipped"][0]


def test_no_text_that_is_held_out_is_read(tmp_path, small_pairs, write_pairs):
  """By pairs that lie beside them; in any letters."""
  folder = write_pairs(tmp_path / "in", small_pairs(120))
  pairs, _ = sources.read_pairs(folder)
  rows = [{"text": pair.positive.upper()} for pair in pairs]
  said = []
  found = texts_of(write(folder, rows), tmp_path / "out", say=said.append)
  train = {p.positive.upper() for p in corpus.read_train(tmp_path / "out")}
  assert {x.text for x in found} <= train and 50 < len(found) < 120
  assert f"{120 - len(found)} single texts left out" in said[-1]
  about = corpus.about(tmp_path / "out")
  assert set(about["tasks"]) == {"qa", "code"} and about["texts"] == len(found)


def test_without_being_asked_pairs_alone_are_read(
  tmp_path, small_pairs, write_pairs
):
  folder, said = write_pairs(tmp_path / "in", small_pairs(60)), []
  before = corpus.fingerprint(str(folder))
  alone = corpus.write(str(folder), False, tmp_path / "alone")
  write(folder)
  assert corpus.fingerprint(str(folder)) == before
  assert corpus.fingerprint(str(folder), texts=True) != before
  args = str(folder), False, tmp_path / "out"
  assert corpus.write(*args, say=said.append)["hash"] == alone["hash"]
  assert "texts.jsonl holds single texts and no pairs" in said[0]
  assert len(corpus.read_texts(tmp_path / "out")) == 0


@pytest.mark.parametrize("path", ["", "texts.jsonl"])
def test_texts_alone_are_no_pairs(tmp_path, path):
  """The message says what reads them."""
  write(tmp_path)
  with pytest.raises(
    BadInput, match=r"texts\.jsonl holds texts .*contrastive=0"
  ):
    corpus.fingerprint(str(tmp_path / path))
  assert not sources.has_pairs(tmp_path / path)
  found = corpus.fingerprint(str(tmp_path / path), texts=True)
  assert found.keys() == {"texts"}


@pytest.mark.parametrize(
  ("row", "fields"),
  [
    ({"query": "a", "positive": "b"}, ""),
    ({"text": "a", "summary": "b"}, "query:text,positive:summary"),
  ],
)
def test_a_file_of_that_name_with_pairs_stays_one(tmp_path, row, fields):
  write(tmp_path, [row | {"n": str(n)} for n in range(3)])
  assert not sources.texts_of(tmp_path, fields)
  pairs, _ = sources.read_pairs(tmp_path, fields=fields)
  assert [(pair.query, pair.positive) for pair in pairs] == [("a", "b")] * 3


def test_a_bad_first_row_makes_it_no_other_file(tmp_path):
  """So that it is named, or left out, as any other bad row."""
  folder = write(tmp_path / "in")
  path = folder / "texts.jsonl"
  path.write_bytes(b"{broken\n" + path.read_bytes())
  with pytest.raises(BadInput, match=r"texts.jsonl:1: not JSON"):
    texts_of(folder, tmp_path / "out")
  about = corpus.write(str(folder), True, tmp_path / "out", texts=True)
  assert about["texts"] == 4 and len(about["skipped"]) == 1


def test_other_files_beside_texts_are_said(tmp_path):
  folder, said = write(tmp_path / "in"), []
  (folder / "manifest.json").write_text('{"made": "by hand"}')
  assert len(texts_of(folder, tmp_path / "out", say=said.append)) == 4
  assert "no pairs are found in manifest.json, which is not read" in said[0]


class Letters:
  """A tokenizer of one id a letter."""

  def encode_batch(self, texts, max_length):
    ids = [np.array([ord(c) % 90 + 4 for c in t], np.int32) for t in texts]
    return [i[:max_length] for i in ids], sum(len(i) > max_length for i in ids)


def test_a_batch_of_texts_has_no_empty_side(tmp_path):
  given = [{"text": "x" * (n % 7 + 1), "prompt": "query"} for n in range(20)]
  texts_of(write(tmp_path / "in", given), tmp_path / "out")
  texts = corpus.read_texts(tmp_path / "out")
  rows, cut = mixture.tokenise_texts(texts, Letters(), 40)
  words = len(prompts.PROMPTS["query"])
  assert rows.positive is None and cut == 0 and len(rows) == 20
  assert rows.lengths[:, 0].tolist() == [words + n % 7 + 1 for n in range(20)]
  assert (rows.keys[:, 0] == rows.keys[:, 1]).all()
  assert rows.keys[0, 0] == rows.keys[7, 0] != rows.keys[1, 0]
  taught = np.arange(20)[:, None]
  rows = dataclasses.replace(rows, taught=taught)
  vectors = np.arange(20, dtype=np.float16)[:, None] + np.ones(3, np.float16)
  packer = loader.Packer({"texts": rows}, 16, 4, 0, vectors)
  loaded = packer(mixture.Draw("texts", np.arange(13)))
  batch = loaded.batch
  assert batch.positive is None and batch.negative is None
  assert batch.teacher.positive is None and batch.query.valid.sum() == 13
  assert loaded.capacity == batch.query.ids.size
  assert loaded.tokens == rows.lengths[:13].sum()
  for g in range(4):
    for s in np.flatnonzero(batch.query.valid[g]):
      row = int(batch.teacher.query[g * 4 + s][0]) - 1
      text = batch.query.ids[g][batch.query.segment_ids[g] == s]
      np.testing.assert_array_equal(text, rows.query[row])
      assert batch.keys[g * 4 + s, 0] == rows.keys[row, 0]
