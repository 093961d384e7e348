"""Students: what is kept of a model is the parent's, bit for bit."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from rich.console import Console

import embeddinggemma as eg
from embeddinggemma import checkpoint, soups
from embeddinggemma.cli import main
from embeddinggemma.cli import students as verb
from embeddinggemma.convert.write import exporting, gguf
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.doctor import examine, passed
from embeddinggemma.students import cuts, shrink, vocabulary
from embeddinggemma.students import texts as reading
from embeddinggemma.types import BadInput, Notice

TEXTS = [f"the quiet garden {n} was seen at the river" for n in range(40)]


def tensors(workdir):
  return dict(checkpoint.stream(checkpoint.find(workdir)))


def files(workdir):
  return checkpoint.read_files(checkpoint.find(workdir))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
  path = tmp_path_factory.mktemp("texts") / "texts.txt"
  path.write_text("\n".join(TEXTS))
  return path


@pytest.fixture(scope="module")
def teacher(model):
  return eg.load(model)


def test_layers_are_the_parents_with_their_kinds(
  model, teacher, tmp_path, capsys
):
  kinds = [teacher.config.attention_kind(n) for n in range(2)]
  argv = ["shrink", f"--model={model}", f"--workdir={tmp_path}"]
  assert main.call([*argv, "--layers=1"]) == 0
  assert f"layers 0 ({kinds[0]});" in capsys.readouterr().out
  ours, theirs = tensors(tmp_path), tensors(model)
  assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
  assert not any("layer_1" in name for name in ours)
  student = eg.load(tmp_path)
  assert student.config.attention_kind(0) == kinds[0]
  assert student.encode_query("a river").shape == (student.config.embed_dim,)


def test_a_list_takes_later_layers(model, teacher, tmp_path):
  last = teacher.config.num_layers - 1
  found = shrink.shrink(str(model), tmp_path, f"0,{last}")
  assert found.layers == [0, last]
  ours, theirs = tensors(tmp_path), tensors(model)
  for name, tensor in ours.items():
    there = tuple(f"layer_{last}" if x == "layer_1" else x for x in name)
    np.testing.assert_array_equal(tensor, theirs[there])
  kinds = [teacher.config.attention_kind(n) for n in found.layers]
  made = eg.load(tmp_path).config
  assert [made.attention_kind(n) for n in range(2)] == kinds


def test_a_vocabulary_of_all_used_pieces_changes_no_vector(
  model, teacher, texts, tmp_path, capsys
):
  size = teacher.tokenizer.vocab_size - 20
  argv = ["shrink", f"--model={model}", f"--workdir={tmp_path}"]
  argv += [f"--vocabulary={size}", f"--data={texts}"]
  assert main.call(argv) == 0
  assert "0 were cut; 100.0% of tokens" in capsys.readouterr().out
  student = eg.load(tmp_path)
  assert student.tokenizer.vocab_size <= size
  assert student.config.vocab_size == student.tokenizer.vocab_size
  np.testing.assert_allclose(
    student.encode_document(TEXTS), teacher.encode_document(TEXTS), atol=1e-6
  )
  recipe = json.loads(files(tmp_path)["recipe.json"])
  assert recipe["parents"] == {"base": teacher.hash}
  assert recipe["identity"] == student.identity.parts


def test_what_is_kept_is_cut_as_before(teacher):
  """Wherever a text's pieces are kept, with all from which they are merged."""
  tokenizer = teacher.tokenizer
  least = len(vocabulary.prune(tokenizer, TEXTS[:1], tokenizer.vocab_size).ids)
  made = vocabulary.prune(tokenizer, TEXTS[:1], least)
  small, kept = Tokenizer(made.model), set(made.ids.tolist())
  for text in [*TEXTS, "entirely other words, ünïcode 字"]:
    ids = tokenizer.encode(text).tolist()
    if set(ids) <= kept:
      assert made.ids[small.encode(text)].tolist() == ids
    assert small.decode(small.encode(text)) == text
  assert made.lost == 0 and made.share == 1


def test_pieces_are_merged_from_those_that_are_kept():
  scores = {"a": 0, "b": 0, "c": 0, "ab": -1.0, "bc": -2.0, "abc": -3.0}
  assert vocabulary.merged_from("abc", scores) == {"a", "b", "c", "ab", "abc"}
  assert vocabulary.merged_from("cc", scores) == set()  # no merge makes it
  assert vocabulary.merged_from("ad", scores) == set()


@pytest.mark.parametrize(
  ("layers", "said"),
  [
    ("0", "give a number from 1 to"),
    ("99", "the model has the layers 0 to"),
    ("1,0", "name each layer once, in their order: 0,1"),
    ("0,0", "name each layer once"),
    ("", "give a number of layers"),
    ("3", "--layers=3 keeps all 3: nothing to cut"),
    ("0,1,2", "keeps all 3: nothing to cut"),
    ("0,9", "the model has the layers"),
    ("two", "give a number of layers, such as 6"),
    ("-1", "the model has the layers"),
  ],
)
def test_layers_that_cannot_be_are_named(model, tmp_path, layers, said):
  with pytest.raises(BadInput, match=said):
    shrink.shrink(str(model), tmp_path / "w", layers)
  assert not (tmp_path / "w" / "checkpoints").exists()


@pytest.mark.parametrize(
  ("flags", "said"),
  [
    ((), "nothing to cut; give --layers or --vocabulary"),
    (("--vocabulary=64k",), "--vocabulary needs --data=DIR"),
    (("--data=x",), "--data is for --vocabulary=N"),
    (("--vocabulary=big", "--data=x"), "give a number, such as 64k"),
    (("--vocabulary=0k", "--data=x"), "give a number, such as 64k"),
    (("--vocabulary=64.5", "--data=x"), "give a number, such as 64k"),
    (("--vocabulary=1.2345k", "--data=x"), "give a number, such as 64k"),
    (("--vocabulary=1k", "--data=x"), "is more than the"),
    (("--vocabulary=400", "--data=/none"), "does not exist"),
    (("--vocabulary=400", "--data={empty}"), "no usable text"),
    (("--vocabulary=400", "--data={nothing}"), "holds no text: neither pairs"),
    (("--layers=99", "--vocabulary=400", "--data=/none"), "has the layers"),
    (("--vocabulary=9", "--data={texts}"), "control pieces, bytes and pieces"),
  ],
)
def test_bad_input_is_one_line(model, texts, tmp_path, capsys, flags, said):
  argv = ["shrink", f"--model={model}", f"--workdir={tmp_path / 'w'}"]
  empty, nothing = tmp_path / "empty.txt", tmp_path / "nothing"
  empty.write_text("\n \n")
  nothing.mkdir()
  names = {"texts": texts, "empty": empty, "nothing": nothing}
  assert main.call([*argv, *(flag.format(**names) for flag in flags)]) == 2
  found = capsys.readouterr()
  assert said in found.err and len(found.err.strip().splitlines()) == 1
  assert not (tmp_path / "w").exists()


def test_a_workdir_with_a_checkpoint_is_kept(model, tmp_path):
  shrink.shrink(str(model), tmp_path, "1")
  with pytest.raises(BadInput, match="holds a checkpoint already"):
    shrink.shrink(str(model), tmp_path, "1")


@pytest.mark.parametrize("form", ["folder", "gguf"])
def test_public_weights_are_cut_as_their_import_would_be(
  model, exported, tmp_path, form
):
  """A folder of sentence-transformers or a GGUF needs no import before."""
  place = exported
  if form == "gguf":
    exporting.export(gguf.FORMAT, str(model), tmp_path / "g")
    [place] = (tmp_path / "g").glob("*.gguf")
  shrink.shrink(str(place), tmp_path / "direct", "0,2")
  argv = ["import", f"--from={place}", f"--workdir={tmp_path / 'in'}"]
  assert main.call(argv) == 0
  shrink.shrink(str(tmp_path / "in"), tmp_path / "after", "0,2")
  direct, after = eg.load(tmp_path / "direct"), eg.load(tmp_path / "after")
  assert direct.identity == after.identity
  ours, theirs = files(tmp_path / "direct"), files(tmp_path / "after")
  assert ours.keys() == theirs.keys() and ours["LICENSE"] == theirs["LICENSE"]
  one, other = (json.loads(x["recipe.json"]) for x in (ours, theirs))
  assert one.keys() == other.keys()
  for key in ("parents", "cuts", "grid", "view", "identity", "origin"):
    assert one[key] == other[key], key


def test_a_language_model_is_refused(model, tmp_path):
  place = checkpoint.find(model)
  params = checkpoint.read_params(place)
  params["model"]["decoder"] = params["model"].pop("encoder")
  checkpoint.write(tmp_path / "lm", params, checkpoint.read_files(place))
  with pytest.raises(BadInput, match="is a language model"):
    shrink.shrink(str(tmp_path / "lm"), tmp_path / "w", "1")


def test_factors_that_are_not_merged_are_refused(model, tmp_path):
  """A checkpoint from the middle of a training with low-rank factors."""
  place = checkpoint.find(model)
  kept = dict(checkpoint.read_files(place))
  kept["recipe.json"] = json.dumps({"view": "lora:4:8"}).encode()
  checkpoint.write(tmp_path / "lora", checkpoint.read_params(place), kept)
  with pytest.raises(BadInput, match="give the workdir of a training that is"):
    shrink.shrink(str(tmp_path / "lora"), tmp_path / "w", "1")
  assert not (tmp_path / "w").exists()


def test_a_student_of_a_student_knows_both_parents(model, teacher, tmp_path):
  origin = {"from": "google/embeddinggemma-300m", "family": "embeddinggemma"}
  place = checkpoint.find(model)
  kept = dict(checkpoint.read_files(place))
  kept["recipe.json"] = json.dumps(
    {"stage": "import", "source": origin, "white_space": "kept"}
  ).encode()
  checkpoint.write(tmp_path / "base", checkpoint.read_params(place), kept)
  shrink.shrink(str(tmp_path / "base"), tmp_path / "one", "0,2")
  words = ["the river"] * 3
  shrink.shrink(str(tmp_path / "one"), tmp_path / "two", "1", 480, words)
  recipe = json.loads(files(tmp_path / "two")["recipe.json"])
  assert recipe["origin"] == origin
  first, second = recipe["cuts"]
  assert first["from"] == teacher.hash
  assert (first["layers"], first["of_layers"]) == ([0, 2], 3)
  assert first["pieces"] == first["of_pieces"]
  assert recipe["parents"] == {"base": second["from"]}
  assert second["from"] == checkpoint.hash_of(checkpoint.find(tmp_path / "one"))
  found = examine(tmp_path / "two", Console(quiet=True))
  assert passed(found)
  assert (
    f"cut out of a larger model: 2 of 3 layers of {teacher.hash[:12]}, and of"
    " these 1 of 2 layers and" in found[0].reason
  )
  # A mean of it, and so whatever is made of it, still knows.
  soups.soup([tmp_path / "two", tmp_path / "two"], None, tmp_path / "soup")
  found = checkpoint.descent(files(tmp_path / "soup"))
  stages = [stage["stage"] for stage in found.pop("trained")]
  assert stages[0] == "import" and stages[-1] == "soup"
  assert found == {"origin": origin, "cuts": [first, second]}


@pytest.mark.parametrize("there", [True, False])
def test_what_is_interrupted_leaves_nothing(
  model, tmp_path, monkeypatch, there
):
  workdir = tmp_path / "w"
  if there:
    workdir.mkdir()
    (workdir / "notes").write_text("mine")
  written = checkpoint.FilesHandler.save

  def interrupted(*args, **more):
    written(*args, **more)
    raise KeyboardInterrupt

  monkeypatch.setattr(checkpoint.FilesHandler, "save", interrupted)
  with pytest.raises(KeyboardInterrupt):
    shrink.shrink(str(model), workdir, "1")
  assert workdir.exists() == there
  if there:
    assert [path.name for path in workdir.iterdir()] == ["notes"]
  monkeypatch.undo()
  # What a kill leaves is no obstacle.
  left = workdir / ".checkpoints.partial" / "checkpoints"
  left.mkdir(parents=True)
  (left / "0.orbax-checkpoint-tmp").mkdir()
  shrink.shrink(str(model), workdir, "1")
  assert eg.load(workdir).config.num_layers == 1
  assert not (workdir / ".checkpoints.partial").exists()


@pytest.mark.parametrize(
  ("given", "size"),
  [
    ("64k", 64000),
    ("64K", 64000),
    ("64.5k", 64500),
    ("1.024k", 1024),
    ("7", 7),
  ],
)
def test_sizes_of_a_vocabulary(given, size):
  assert verb._size(given) == size


def pairs_in(folder):
  """Pairs of two languages and tasks."""
  rows = [
    {"query": f"{text} ?", "positive": text, "lang": "en", "task": "qa"}
    for text in TEXTS
  ]
  rows += [
    {"query": "old lamp", "positive": f"wide north valley {n}", "lang": "xx"}
    for n in range(5)
  ]
  folder.mkdir()
  lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
  (folder / "pairs.jsonl").write_text(lines)
  return folder


def test_each_language_is_shown_the_worst_first(
  model, teacher, tmp_path, capsys
):
  data = pairs_in(tmp_path / "pairs")
  # What is always kept, and a few pieces of the commoner language.
  least = len(vocabulary.prune(teacher.tokenizer, TEXTS[:1], 512).ids)
  argv = ["shrink", f"--model={model}", f"--vocabulary={least}"]
  argv += [f"--data={data}", "--layers=2"]
  assert main.call([*argv, f"--workdir={tmp_path / 'a'}"]) == 0
  said = capsys.readouterr().out
  assert "of the texts need a piece that was cut" in said
  rows = [line.split() for line in said.splitlines()]
  header = rows.index(
    ["data", "texts", "cut", "as", "before", "tokens", "bytes"]
  )
  named = [
    " ".join(row[:2]) for row in rows[header + 1 :] if "%" in "".join(row)
  ]
  assert main.call([*argv, f"--workdir={tmp_path / 'b'}", "--json"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert found["layers"] == [0, 1] and found["kinds"] == ["local", "global"]
  figures = found["vocabulary"]
  worst, best = figures["parts"]
  assert named == [worst["data"], best["data"]]
  texts = {part["data"]: part["texts"] for part in (worst, best)}
  assert texts == {"qa en": 80, "retrieval xx": 6}
  assert worst["share"] < figures["share"] < best["share"] <= 1
  assert worst["tokens"] > 1 and figures["needing"] > 0
  recipe = json.loads(files(tmp_path / "b")["recipe.json"])
  assert recipe["vocabulary"] == figures
  assert found["checkpoint"] == str(checkpoint.find(tmp_path / "b"))


def test_the_comparison_of_two_vocabularies_is_that_of_their_tokens(teacher):
  """Against sets of places, text by text."""
  tokenizer = teacher.tokenizer
  few = [*TEXTS[:5], "other words, ünïcode 字", "", "  a\n\n b"]
  made = vocabulary.prune(tokenizer, TEXTS[7:8], 460)
  small = Tokenizer(made.model)

  def spans(which, text):
    at, found = 0, set()
    for n in which.encode(text)[1:-1]:
      piece = which.pieces[n]
      size = 1 if which.is_byte[n] else len(piece.encode())
      found.add((at, at + size))
      at += size
    return found

  before = [spans(tokenizer, text) for text in few]
  after = [spans(small, text) for text in few]
  total = sum(map(len, before))
  whole, parts = cuts.compare(tokenizer, small, made.ids, few)
  assert parts == [] and whole.texts == len(few)
  same = sum(len(a & b) for a, b in zip(before, after))
  assert 0 < same < total
  assert whole.share == pytest.approx(same / total)
  assert whole.tokens == pytest.approx(sum(map(len, after)) / total)
  kept = set(made.ids.tolist())
  needing = [not set(tokenizer.encode(text).tolist()) <= kept for text in few]
  assert whole.needing == pytest.approx(np.mean(needing))
  # A label's texts weigh as many as there are, though few are looked at.
  many = ["the river"] * 4000 + few
  labels = ["a"] * 4000 + ["b"] * len(few)
  both, rows = cuts.compare(tokenizer, small, made.ids, many, labels)
  assert [row.data for row in rows] == ["b", "a"] and rows[
    0
  ].share == whole.share
  assert both.needing == pytest.approx(
    (rows[1].needing * 4000 + sum(needing)) / len(many)
  )


def test_texts_are_read_from_whatever_holds_them(tmp_path):
  said = []
  read = lambda path, **more: reading.read(path, say=said.append, **more)
  data = read(pairs_in(tmp_path / "pairs"))
  assert set(data.labels) == {"qa en", "retrieval xx"}
  assert len(data.texts) == len(set(data.texts)) == 86
  rows = tmp_path / "rows"
  (rows / "in").mkdir(parents=True)
  (rows / "a.txt").write_text("one\ntwo\n")
  (rows / "in" / "b.jsonl").write_text('{"text": "three", "title": "t"}\n')
  assert read(rows) == (
    ["one", "two", "t\nthree"],
    ["a.txt", "a.txt", "in/b.jsonl"],
  )
  notes = tmp_path / "notes"
  notes.mkdir()
  (notes / "a.md").write_text("# Title\n\nwords of a note\n")
  (notes / "b.py").write_text("def f():\n  return 1\n")
  (notes / "c.bin").write_bytes(b"\0\1")
  found = read(notes)
  assert set(found.labels) == {"a.md", "b.py"}
  assert any("words of a note" in text for text in found.texts)
  assert said[-1] == f"documents of {notes}: 1 .md, 1 .py; 1 left out: binary"
  assert read(notes / "a.md").texts == found.texts[: len(found.texts) - 1]
  for n in range(40):
    (notes / f"{n}.md").write_text(f"note {n}")
  assert set(read(notes).labels) == {".md", ".py"}
  # Columns of other names, and rows that are broken.
  table = tmp_path / "t.csv"
  table.write_text("ask,answer,x\nwhy,because,1\n")
  with pytest.raises(BadInput, match="--fields"):
    read(table)
  assert read(table, fields="query:ask,positive:answer").texts == [
    "why",
    "because",
  ]
  (rows / "in" / "b.jsonl").write_text('{"text": "three"}\n{"no": 1}\n')
  with pytest.raises(BadInput, match=r"b\.jsonl:2"):
    read(rows)
  assert read(rows, skip_bad_rows=True).texts == ["one", "two", "three"]
  assert "b.jsonl:2" in said[-1]


def test_notes_on_public_weights_are_warnings(exported, tmp_path):
  copy = pathlib.Path(shutil.copytree(exported, tmp_path / "half"))
  tree = json.loads((copy / "config.json").read_text())
  half = {"dtype": "bfloat16", "torch_dtype": "bfloat16"}
  (copy / "config.json").write_text(json.dumps(tree | half))
  with pytest.warns(Notice, match="computes in bfloat16"):
    shrink.shrink(str(copy), tmp_path / "w", "1")
