"""Teacher vectors: written once, found by text, whole across kills."""

import json
import pathlib
import re
import sys
import types
from typing import ClassVar

import numpy as np
import pytest
from rich.console import Console
from stand_in import MODEL

from embeddinggemma.data import prompts
from embeddinggemma.mining import teach as teaching
from embeddinggemma.mining import teacher
from embeddinggemma.mining.teacher import Item, TeacherModel
from embeddinggemma.mining.teachers import checkpoint as checkpoints
from embeddinggemma.mining.teachers import sentence_transformers, tfidf
from embeddinggemma.types import BadInput, Pair, Truncated

NUMBERS = "one two three four five six seven eight nine ten".split()
ITEMS = [Item("document", f"{a} and {b}", "") for a in NUMBERS for b in NUMBERS]


def hashed(width=8, **changes):
  """A teacher whose vectors say which text they are of; counts its calls."""
  calls = []

  def start(items, own):
    del items, own

    def encode(chunk):
      calls.append(len(chunk))
      seed = lambda item: list("".join(item).encode())
      draw = lambda item: np.random.default_rng(seed(item)).normal(size=width)
      return np.stack([draw(item) for item in chunk]).astype(np.float32)

    return encode

  about = {"teacher": "hashed", **changes}
  return TeacherModel(about, width, start), calls


def teach(items, model, directory, **options):
  options = {"dtype": "float32"} | options
  return teacher.teach(items, model, directory, **options)


def vectors_of(items, model):
  found = model.start(items, pathlib.Path())(items)
  return found / np.linalg.norm(found, axis=1, keepdims=True)


def rows(directory, items):
  return teacher.open_vectors(directory).rows(teacher.keys_of(items))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_text_is_found_whatever_the_order(tmp_path, dtype):
  model, calls = hashed()
  mixed = [ITEMS[i] for i in np.random.default_rng(0).permutation(len(ITEMS))]
  about = teach([*mixed, *mixed[:7]], model, tmp_path, dtype=dtype)
  assert sum(calls) == about["count"] == len(ITEMS)
  opened = teacher.open_vectors(tmp_path)
  assert opened.width == 8
  assert opened.vectors.dtype == dtype
  asked = [ITEMS[i] for i in (5, 3, 5, 99)]
  found = opened.rows(teacher.keys_of(asked))
  assert found.dtype == np.float32
  want = vectors_of(asked, model)
  np.testing.assert_allclose(
    found, want, atol=0 if dtype == "float32" else 1e-3
  )
  assert opened.rows(teacher.keys_of([])).shape == (0, 8)


def test_a_key_is_what_the_student_reads():
  one = lambda *item: teacher.keys_of([Item(*item)])[0]
  same = one("query", "stone", "")
  assert same == one("retrieval", "stone", "") == one("query", "stone", "t")
  others = [
    one("query", "stones", ""),
    one("document", "stone", ""),
    one("document", "stone", "title"),
    one("sts", "stone", ""),
  ]
  assert len({same, *others}) == 5
  assert teacher.keys_of([Item("query", "x", "")]).dtype == "S16"


def test_the_items_of_pairs_are_those_of_training():
  pair = Pair("q", "p", ("n", "m"), "title", "qa", "", "here:1")
  like = pair._replace(task="sts", negatives=())
  items = teacher.items_of([pair, like])
  texts = [prompts.prompted(*item) for item in items]
  assert texts == [
    prompts.query_text("qa", "q"),
    prompts.document_text("qa", "p", "title"),
    prompts.document_text("qa", "n"),
    prompts.document_text("qa", "m"),
    prompts.query_text("sts", "q"),
    prompts.document_text("sts", "p", "title"),
  ]
  assert [item.title for item in items] == ["", "title", "", "", "", ""]
  titles = ("", "of m")
  titled = teacher.items_of([pair._replace(negative_titles=titles)])
  assert titled[2:] == [
    Item("document", "n", ""),
    Item("document", "m", "of m"),
  ]
  symmetric = like._replace(negatives=("n",), negative_titles=("t",))
  assert teacher.items_of([symmetric])[2] == Item("sts", "n", "")


def test_it_is_written_once(tmp_path):
  model, calls = hashed()
  first = teach(ITEMS, model, tmp_path)
  assert teach(ITEMS[::-1], model, tmp_path) == first
  assert len(calls) == 1
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ["keys.npy", "teacher.json", "vectors.npy"]


@pytest.mark.parametrize("change", ["texts", "teacher", "dtype"])
def test_other_inputs_replace_it(tmp_path, change):
  model, calls = hashed()
  first = teach(ITEMS, model, tmp_path)
  items = ITEMS[1:] if change == "texts" else ITEMS
  if change == "teacher":
    model, calls = hashed(version=2)
  dtype = "float16" if change == "dtype" else "float32"
  second = teach(items, model, tmp_path, dtype=dtype)
  assert second["key"] != first["key"]
  assert calls[-1] == len(items)
  assert len(teacher.open_vectors(tmp_path).keys) == len(items)


class Killed(BaseException):
  pass


@pytest.mark.parametrize("kind", ["hashed", "tfidf"])
def test_a_kill_loses_a_chunk_and_no_bit(tmp_path, monkeypatch, kind):
  monkeypatch.setattr(teacher, "CHUNK", 30)
  model = lambda: hashed()[0] if kind == "hashed" else tfidf.tfidf(8, 0)
  whole = teach(ITEMS, model(), tmp_path / "whole")
  fits = []
  fit = tfidf._fit
  monkeypatch.setattr(tfidf, "_fit", lambda *a: fits.append(1) or fit(*a))
  seen = []

  def kill(done, total):
    assert total == len(ITEMS)
    seen.append(done)
    if len(seen) in (1, 3):
      raise Killed

  for _ in range(2):
    with pytest.raises(Killed):
      teach(ITEMS, model(), tmp_path / "x", progress=kill)
    assert not (tmp_path / "x" / "vectors.npy").exists()
    with pytest.raises(BadInput, match="holds no teacher's vectors"):
      teacher.open_vectors(tmp_path / "x")
  assert teach(ITEMS, model(), tmp_path / "x", progress=kill) == whole
  assert seen == [30, 60, 90, 100]
  assert len(fits) == (kind == "tfidf")
  for path in (tmp_path / "whole").iterdir():
    assert path.read_bytes() == (tmp_path / "x" / path.name).read_bytes()
  assert len(list((tmp_path / "x").iterdir())) == 3


def test_a_kill_at_the_end_is_no_loss(tmp_path, monkeypatch):
  model, calls = hashed()
  whole = teach(ITEMS, model, tmp_path / "whole")
  write = teacher.arrays.cache.write_json

  def killed(path, value):
    if path.name == "teacher.json":
      raise Killed
    write(path, value)

  monkeypatch.setattr(teacher.arrays.cache, "write_json", killed)
  with pytest.raises(Killed):
    teach(ITEMS, model, tmp_path / "x")
  with pytest.raises(BadInput, match="holds no teacher's vectors"):
    teacher.open_vectors(tmp_path / "x")
  monkeypatch.undo()

  def start(items, own):
    raise AssertionError("there is nothing left to encode")

  idle = model.__class__(model.about, model.width, start)
  assert teach(ITEMS, idle, tmp_path / "x") == whole
  assert len(calls) == 2


def test_a_lost_file_is_written_again(tmp_path):
  model, calls = hashed()
  whole = teach(ITEMS, model, tmp_path)
  (tmp_path / "vectors.npy").unlink()
  with pytest.raises(BadInput, match="holds no teacher's vectors"):
    teacher.open_vectors(tmp_path)
  assert teach(ITEMS, model, tmp_path) == whole
  assert len(calls) == 2
  assert len(teacher.open_vectors(tmp_path).keys) == len(ITEMS)


def test_a_start_that_was_killed_is_not_trusted(tmp_path):
  """Nor is one whose arrays are gone, or are of other inputs."""
  model, _ = hashed()
  whole = teach(ITEMS, model, tmp_path / "whole")
  directory = tmp_path / "x"
  directory.mkdir()
  progress = {"key": whole["key"], "done": len(ITEMS)}
  (directory / "progress.json").write_text(json.dumps(progress))
  assert teach(ITEMS, model, directory) == whole
  other, _ = hashed(version=2)
  (directory / "progress.json").write_text(json.dumps(progress))
  assert teach(ITEMS, other, directory)["hash"] == whole["hash"]


def test_tfidf_knows_what_texts_are_about(tmp_path):
  rng = np.random.default_rng(0)
  topics = [f"topic{t}word{w}" for t in range(4) for w in range(12)]
  draw = lambda t: " ".join(rng.choice(topics[12 * t : 12 * t + 12], 8))
  items = [Item("document", draw(i % 4), "") for i in range(200)]
  model = tfidf.tfidf(32, 0)
  teach(items, model, tmp_path)
  found = rows(tmp_path, items)
  cosines = found @ found.T
  same = np.equal.outer(np.arange(200) % 4, np.arange(200) % 4)
  assert cosines[same].mean() > cosines[~same].mean() + 0.3
  assert cosines[~same].max() < 0.9
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_tfidf_is_a_function_of_texts_and_seed(tmp_path, monkeypatch):
  whole = teach(ITEMS, tfidf.tfidf(8, 0), tmp_path / "a")
  monkeypatch.setattr(teacher, "CHUNK", 7)
  again = teach(ITEMS[::-1], tfidf.tfidf(8, 0), tmp_path / "b")
  assert again["hash"] == whole["hash"]
  other = teach(ITEMS, tfidf.tfidf(8, 1), tmp_path / "c")
  assert other["hash"] != whole["hash"]


@pytest.mark.parametrize(
  "texts", [["alone"], ["!!!", "???", "a"], ["same", "Same"], NUMBERS]
)
def test_tfidf_has_a_vector_for_any_text(tmp_path, texts):
  """Even where there is nothing to learn, or more width than texts."""
  items = [Item("query", text, "") for text in texts]
  teach(items, tfidf.tfidf(64, 0), tmp_path)
  assert rows(tmp_path, items).shape == (len(items), 64)


def test_tfidf_needs_two_columns():
  with pytest.raises(BadInput, match="width 1; give it at least 2"):
    tfidf.tfidf(1, 0)


def test_tfidf_reads_titles_and_a_large_corpus_in_part(tmp_path, monkeypatch):
  monkeypatch.setattr(tfidf, "FIT_TEXTS", 25)
  sizes = []
  fit = tfidf._fit
  monkeypatch.setattr(
    tfidf, "_fit", lambda c, *rest: sizes.append(c.shape[0]) or fit(c, *rest)
  )
  titled = [Item("document", "text", name) for name in NUMBERS]
  teach([*ITEMS, *titled], tfidf.tfidf(16, 0), tmp_path)
  assert sizes == [22]  # every fifth of 110
  found = rows(tmp_path, titled)
  assert len(np.unique(found.round(5), axis=0)) > 5


def test_our_own_model_is_a_teacher(tmp_path):
  asked = []

  def encode(texts, prompt_name, titles=()):
    asked.append((prompt_name, len(texts)))
    out = np.zeros((len(texts), 4), np.float32)
    for row, text, title in zip(out, texts, titles, strict=True):
      row[:] = len(text), len(title), len(prompt_name), 1
    return out / np.linalg.norm(out, axis=1, keepdims=True)

  items = [
    Item("document", "abc", "title"),
    Item("sts", "abcd", ""),
    Item("document", "ab", ""),
  ]
  about = teach(items, checkpoints.from_encoder(encode, MODEL, 4), tmp_path)
  assert sorted(asked) == [("document", 2), ("sts", 1)]
  assert about["teacher"] == {
    "teacher": "checkpoint",
    "model": MODEL.weights,
    "identity": MODEL.as_json(),
  }
  want = np.array([[3, 5, 8, 1], [4, 0, 3, 1], [2, 0, 8, 1]], np.float32)
  want /= np.linalg.norm(want, axis=1, keepdims=True)
  np.testing.assert_allclose(rows(tmp_path, items), want, rtol=1e-6)
  narrow = checkpoints.from_encoder(encode, MODEL, 6)
  with pytest.raises(BadInput, match=r"checkpoint gives .* width 4, not 6"):
    teach(items, narrow, tmp_path)


class Tensor:
  """What a state_dict holds, as far as the hash of weights asks."""

  def __init__(self, values):
    self.values = np.asarray(values, np.float32)

  def detach(self):
    return self

  cpu = float = detach

  def numpy(self):
    return self.values


class SentenceTransformer:
  """The package's class, as far as it is used."""

  loaded: ClassVar[list[str]] = []
  prompts: ClassVar[dict[str, str]] = {
    "query": "Q: ",
    "document": "",
    "passage": "P: ",
    "STS": "S: ",
  }

  tokenizer = None
  max_seq_length = 256

  def __init__(self, name, *, trust_remote_code, local_files_only):
    assert not trust_remote_code and local_files_only
    if name == "missing":
      raise OSError("not found\nsecond line")
    self.loaded.append(name)

  def __str__(self):
    return "SentenceTransformer(...)"

  def state_dict(self):
    return {"w": Tensor([1.0, 2.0])}

  def encode(self, texts, *, prompt, show_progress_bar):
    assert not show_progress_bar
    self.loaded.extend(prompt + text for text in texts)
    return np.array([[len(prompt), len(text), 1.0] for text in texts])


def test_a_sentence_transformers_model_uses_its_own_prompts(
  tmp_path, monkeypatch
):
  package = types.ModuleType("sentence_transformers")
  package.SentenceTransformer = SentenceTransformer
  monkeypatch.setitem(sys.modules, "sentence_transformers", package)
  monkeypatch.setattr(SentenceTransformer, "loaded", [])
  model = sentence_transformers.opened("some/model")
  items = [
    Item("qa", "a question", ""),
    Item("document", "a text", "a title"),
    Item("document", "a bare text", ""),
    Item("sts", "alike", ""),
  ]
  about = teach(items, model, tmp_path)
  assert {*SentenceTransformer.loaded} == {
    "some/model",
    "P: width",
    "Q: a question",
    "P: a title\na text",
    "P: a bare text",
    "S: alike",
  }
  assert about["width"] == 3
  want = np.array([[3, 10, 1], [3, 14, 1], [3, 11, 1], [3, 5, 1]])
  want = want / np.linalg.norm(want, axis=1, keepdims=True)
  np.testing.assert_allclose(rows(tmp_path, items), want, rtol=1e-6)
  weights = about["teacher"]["weights"]
  monkeypatch.setattr(
    SentenceTransformer, "state_dict", lambda self: {"w": Tensor([1.0, 3.0])}
  )
  changed = sentence_transformers.opened("some/model").about["weights"]
  assert changed != weights
  with pytest.raises(BadInput, match=r"missing: no .* machine \(not found\)"):
    sentence_transformers.opened("missing")
  own = {"document": prompts.DOCUMENT}
  monkeypatch.setattr(SentenceTransformer, "prompts", own)
  loaded = SentenceTransformer.loaded
  loaded.clear()
  teach(items[:3], sentence_transformers.opened("ours"), tmp_path)
  assert {*loaded[2:]} == {
    "a question",
    "title: a title | text: a text",
    "title: none | text: a bare text",
  }


def test_a_real_sentence_transformers_model_teaches(tmp_path):
  """The package itself, where it is installed, under the model's prompts."""
  package = pytest.importorskip("sentence_transformers")
  transformers = pytest.importorskip("transformers")
  vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "and", *NUMBERS]
  (tmp_path / "vocab.txt").write_text("\n".join(vocab))
  bert = tmp_path / "bert"
  transformers.BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(
    bert
  )
  config = transformers.BertConfig(
    vocab_size=len(vocab),
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
  )
  transformers.BertModel(config).save_pretrained(bert)
  prompts_of = {"query": "one ", "document": "two "}
  model = package.SentenceTransformer(str(bert), prompts=prompts_of)
  model.save_pretrained(str(tmp_path / "model"))
  items = [Item("qa", "three and four", ""), Item("document", "five", "six")]
  given = sentence_transformers.opened(str(tmp_path / "model"))
  assert given.width == 16
  about = teach(items, given, tmp_path / "taught")
  assert about["truncated"]["cut"] == 0 and about["truncated"]["of"] == 2
  long = [*items, Item("document", "five " * 60, "")]
  with pytest.warns(Truncated, match=r"1 of 3 texts is .* max_length=32 .* 63"):
    teach(long, given, tmp_path / "long")
  want = [
    model.encode("three and four", prompt="one "),
    model.encode("six\nfive", prompt="two "),
  ]
  want = np.stack(want) / np.linalg.norm(want, axis=1, keepdims=True)
  np.testing.assert_allclose(rows(tmp_path / "taught", items), want, atol=1e-5)
  with pytest.raises(BadInput, match="no sentence-transformers model"):
    sentence_transformers.opened(str(tmp_path / "none"))


def test_without_the_package_it_says_so(monkeypatch):
  monkeypatch.setitem(sys.modules, "sentence_transformers", None)
  with pytest.raises(BadInput, match="pip install it, or use the tfidf"):
    sentence_transformers.opened("some/model")


def broken(value, width=8):
  def encode(chunk):
    out = np.ones((len(chunk), width), np.float32)
    out[[item.text == "two and two" for item in chunk]] = value
    return out

  return TeacherModel({"teacher": "broken"}, 8, lambda items, own: encode)


@pytest.mark.parametrize("value", [np.nan, 0.0, np.inf])
def test_a_broken_vector_names_its_text(tmp_path, value):
  message = "broken gives 1 vectors .* the first for 'two and two'"
  with pytest.raises(BadInput, match=message):
    teach(ITEMS, broken(value), tmp_path)
  with pytest.raises(BadInput, match="holds no teacher's vectors"):
    teacher.open_vectors(tmp_path)


def test_other_bad_input_is_named(tmp_path):
  with pytest.raises(BadInput, match="broken gives vectors of width 5, not 8"):
    teach(ITEMS, broken(1.0, 5), tmp_path / "a")
  with pytest.raises(BadInput, match="no texts to teach"):
    teach([], broken(1.0), tmp_path / "b")
  with pytest.raises(BadInput, match="unknown dtype 'int8'; use float16 or"):
    teach(ITEMS, broken(1.0), tmp_path / "b", dtype="int8")
  model, _ = hashed()
  teach(ITEMS, model, tmp_path / "c")
  opened = teacher.open_vectors(tmp_path / "c")
  absent = [Item("query", "absent", ""), ITEMS[0]]
  with pytest.raises(BadInput, match="lacks 1 of 2 texts; run `teach`"):
    opened.rows(teacher.keys_of(absent))
  with pytest.raises(BadInput, match=re.escape(str(tmp_path / "none"))):
    teacher.open_vectors(tmp_path / "none")
  (tmp_path / "c" / "vectors.npy").write_bytes(b"no array")
  with pytest.raises(BadInput, match="holds no teacher's vectors"):
    teacher.open_vectors(tmp_path / "c")


def test_vectors_of_a_version_without_identities_are_kept(tmp_path):
  """They are said to be so; those of another model are made anew."""
  encode, calls = hashed()[0].start, []

  def of(identity, model="w"):
    about = {"teacher": "checkpoint", "model": model, **identity}
    counted = lambda items, own: calls.append(1) or encode(items, own)
    return TeacherModel(about, 8, counted)

  teach(ITEMS, of({}), tmp_path)
  teach(ITEMS, of({"identity": {"max_length": 9}}), tmp_path)
  assert len(calls) == 1
  teach(ITEMS, of({"identity": {"max_length": 9}}, model="v"), tmp_path)
  assert len(calls) == 2
  teach(ITEMS, of({"identity": {"max_length": 8}}, model="v"), tmp_path)
  assert len(calls) == 3


def test_one_vector_for_all_texts_is_said(tmp_path, capsys):
  start = lambda items, own: lambda chunk: np.ones((len(chunk), 4), np.float32)
  model = TeacherModel({"teacher": "constant"}, 4, start)
  pair = Pair("a", "b", (), "", "qa", "", "x:1")
  console = Console(file=sys.stdout, width=200)
  teaching.teach([pair], model, "float16", tmp_path / "same", console)
  said = capsys.readouterr().out
  assert "teacher constant gives all 2 texts one vector" in said
  model, _ = hashed()
  teaching.teach([pair], model, "float16", tmp_path / "other", console)
  assert "one vector" not in capsys.readouterr().out
