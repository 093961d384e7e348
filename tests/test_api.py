"""What Python users pass to a model is checked, whatever it is."""

import collections
import copy
import dataclasses
import enum
import pickle
import threading
import time

import numpy as np
import pytest

import embeddinggemma as eg
from embeddinggemma import loading
from embeddinggemma.data import arguments
from embeddinggemma.types import BadInput

LONG = "word " * 200


@pytest.fixture(scope="module")
def model(trained):
  return eg.load(trained)


class Colour(str, enum.Enum):  # noqa: UP042  (str() of it is not its text)
  RED = "red"


class Table:
  """As a table of pandas: iterating it gives the names of its columns."""

  columns = ("text", "title")

  def __iter__(self):
    return iter(self.columns)


class Arrow:
  """As a column of pyarrow: its items are scalars of its own."""

  def __iter__(self):
    return iter([object(), object()])

  def to_pylist(self):
    return ["red", "blue"]


@pytest.mark.parametrize(
  "texts",
  [
    ("red", "blue"),
    iter(["red", "blue"]),
    (text for text in ("red", "blue")),
    np.array(["red", "blue"]),
    np.array(["red", "blue"], object),
    np.array(["red", "blue"], np.dtypes.StringDType()),
    {"red": 1, "blue": 2}.keys(),
    {1: "red", 2: "blue"}.values(),
    collections.deque(["red", "blue"]),
    [np.str_("red"), "blue"],
    [Colour.RED, "blue"],
    Arrow(),
  ],
  ids=lambda texts: type(texts).__name__,
)
def test_any_iterable_of_texts_is_read(model, texts):
  np.testing.assert_allclose(
    model.encode_document(texts), model.encode_document(["red", "blue"])
  )


MISSING = 'leave it out, or give ""'


@pytest.mark.parametrize(
  ("texts", "said"),
  [
    ([None], rf"sentences\[0\] is not text but NoneType; {MISSING}"),
    (["a", None], r"sentences\[1\] is not text but NoneType"),
    (["a", 3, "b", 4], r"sentences\[1\] is .* int \(3\); .*; 2 of 4 are no"),
    (["a", float("nan")], rf"sentences\[1\] is .* float \(nan\); {MISSING}"),
    ([np.float32("nan")], rf"sentences\[0\] is .* float32 \(nan\); {MISSING}"),
    ([True], r"sentences\[0\] is not text but bool \(True\); give str"),
    ([b"a"], r"sentences\[0\] is not text but bytes; decode it"),
    ([["a", "b"]], r"sentences\[0\] is not text but list"),
    ([("a", "b")], r"sentences\[0\] is not text but tuple"),
    ([{"text": "a"}], r"sentences\[0\] is not text but dict"),
    (np.array([["a"]]), r"sentences\[0\] is not text but ndarray"),
    (np.array("a"), "sentences: iteration over a 0-d array; give a list"),
    (np.ones(2), r"sentences\[0\] is not text but float64 \(1.0\)"),
    (iter(["a", None]), r"sentences\[1\] is not text but NoneType"),
    (None, "sentences is not text but NoneType; give a text or several"),
    (b"ab", "sentences is not text but bytes; decode it"),
    (bytearray(b"ab"), "sentences is not text but bytearray; decode it"),
    (3, r"sentences is not text but int \(3\); give a text or several"),
    ({"a": "b"}, r"sentences is a dict, .*; give list\(it.values\(\)\)"),
    ({"n": 1, "a": ["b"]}, r"of which only keys .*; give a column, as it\['a'"),
    (Table(), "sentences is a Table, a table; give one of its columns"),
    ("a\ud800", "sentences holds half a surrogate pair at character 1"),
    (["a", "é\udfff"], r"sentences\[1\] holds half a surrogate pair at char"),
  ],
)
def test_what_is_no_text_is_named(model, texts, said):
  texts = list(texts) if isinstance(texts, type(iter([]))) else texts
  for function in model.encode, model.encode_query, model.encode_document:
    with pytest.raises(BadInput, match=said):
      function(texts)
  said = said.replace("sentences", "texts")
  for function in model.token_counts, lambda texts: model(texts, "query"):
    with pytest.raises(BadInput, match=said):
      function(texts)


def test_python_expects_its_own_exceptions(model):
  with pytest.raises(TypeError):
    model.encode([None])
  with pytest.raises(ValueError, match="truncate_dim=0"):
    model.encode(["a"], truncate_dim=0)
  with pytest.raises(ValueError, match="unknown prompt name 'none'"):
    model.encode(["a"], "none")
  with pytest.raises(ValueError, match="precision='int5' is unknown"):
    eg.load(model.name, precision="int5")


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({"prompt_name": 3}, r"prompt_name is not text but int \(3\)"),
    ({"prompt_name": b"query"}, "prompt_name is not text but bytes"),
    ({"prompt_name": ["query"]}, "prompt_name is not text but list"),
    ({"prompt_name": "qury"}, "'qury'; did you mean 'query'"),
    ({"prompt": 3}, r"prompt is not text but int \(3\)"),
    ({"prompt": ["a"]}, "prompt is not text but list"),
    ({"prompt": "\ud800"}, "prompt holds half a surrogate pair"),
    ({"titles": "T"}, "titles is a single text; give a list"),
    ({"titles": ["T"]}, "1 titles for 2 texts"),
    ({"titles": ["T"] * 3}, "3 titles for 2 texts"),
    ({"titles": ["T", None]}, r"titles\[1\] is not text but NoneType"),
    ({"titles": [1, 2]}, r"titles\[0\] is not text but int \(1\)"),
    ({"titles": {"a": 1, "b": 2}}, "titles is a dict"),
    ({"titles": ["a", "\ud800"]}, r"titles\[1\] holds half a surrogate pair"),
    ({"titles": 5}, r"titles is not text but int \(5\)"),
    ({"batch_size": 0}, "batch_size=0 must be at least 1"),
    ({"batch_size": -1}, "batch_size=-1 must be at least 1"),
    ({"batch_size": True}, r"batch_size is not a whole number but bool"),
    ({"batch_size": 2.0}, r"batch_size is not a whole .* float \(2.0\)"),
    ({"batch_size": "2"}, r"batch_size is not a whole number but str \('2'\)"),
    ({"truncate_dim": 16.0}, r"truncate_dim is not a whole .* float \(16.0\)"),
    ({"truncate_dim": True}, "truncate_dim is not a whole number but bool"),
    ({"truncate_dim": "16"}, "truncate_dim is not a whole number but str"),
    ({"truncate_dim": 0}, "truncate_dim=0: the model has dimensions 1 to 32"),
    ({"truncate_dim": -1}, "truncate_dim=-1: the model has dimensions 1 to"),
    ({"truncate_dim": 33}, "truncate_dim=33: the model has dimensions 1 to"),
    ({"show_progress_bar": "no"}, "show_progress_bar is not True or False"),
    ({"truncate": None}, "truncate is not True or False but NoneType"),
  ],
)
def test_options_are_checked(model, options, said):
  for function in (model.encode, model.encode_document):
    with pytest.raises(BadInput, match=said):
      function(["a", "b"], **options)


def test_numbers_of_numpy_and_titles_of_any_kind_are_taken(model):
  got = model.encode_document(
    ["a", "b"],
    titles=np.array(["T", ""]),
    truncate_dim=np.int64(8),
    batch_size=np.int32(1),
    show_progress_bar=None,
  )
  want = model.encode_document(["a", "b"], titles=("T", ""), truncate_dim=8)
  np.testing.assert_allclose(got, want, atol=1e-6)
  one = model.encode_document("a", titles="T", truncate_dim=8)
  np.testing.assert_allclose(one, want[0], atol=1e-6)
  for none in ((), [], None):
    assert model.encode_document(["a"], titles=none).shape == (1, 32)
  assert model("a", "query").shape == (1, 32)


def test_titles_that_no_prompt_reads_are_said(model):
  with pytest.warns(UserWarning, match="1 title is left out: the prompt has"):
    got = model.encode_query(["a"], titles=["T"])
  np.testing.assert_array_equal(got, model.encode_query(["a"]))


def test_checking_a_hundred_thousand_texts_takes_no_time():
  texts = [f"the river garden by the harbour, number {n}" for n in range(10**5)]
  began = time.perf_counter()
  assert arguments.texts("sentences", texts) == texts
  assert time.perf_counter() - began < 1  # 10 ms on a free core


@pytest.mark.parametrize(
  ("a", "b", "said"),
  [
    ([[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0]], "a: vector 1 is zero or not fin"),
    ([[1.0, 0.0]], [[np.nan, 0.0]], "b: vector 0 is zero or not finite"),
    ([[1.0, 0.0]], [[np.inf, 0.0]], "b: vector 0 is zero or not finite"),
    ([1.0, 0.0], np.zeros((3, 2)), r"b: vector 0 \(and 2 more\) is zero"),
    ([1.0, 0.0], [[1.0, 0.0, 0.0]], "a has vectors of 2 dimensions and b of 3"),
    (None, [1.0], "a is not one vector or a matrix of numbers but NoneType"),
    ("text", [1.0], r"a is not one vector .* but str \('text'\)"),
    (["a", "b"], [1.0], "a is not one vector or a matrix of numbers but list"),
    ([[1.0], [1.0, 2.0]], [1.0], "a is not one vector or a matrix of numbers"),
    ([1.0], [True], "b is not one vector or a matrix of numbers"),
    (np.ones((1, 2, 2)), [1.0, 1.0], r"a has shape \(1, 2, 2\)"),
    ([], [1.0], r"a has shape \(0,\)"),
    (np.ma.array([1.0, 2.0], mask=[0, 1]), [1.0, 2.0], "a has masked numbers"),
    (3.0, [1.0], r"a has shape \(\)"),
  ],
)
def test_what_has_no_direction_is_not_compared(model, a, b, said):
  for function in (model.similarity, model.similarity_pairwise):
    with pytest.raises(BadInput, match=said):
      function(a, b)


@pytest.mark.filterwarnings("error")
def test_small_large_and_short_numbers_have_their_direction(model):
  rows = np.array([[3e-30, 4e-30], [3e30, 4e30], [3.0, 4.0]], np.float32)
  want = np.ones((3, 3))
  np.testing.assert_allclose(model.similarity(rows, rows), want, atol=1e-6)
  half = np.array([[3e-5, 4e-5]], np.float16)
  np.testing.assert_allclose(model.similarity(half, half), [[1]], atol=1e-3)
  whole = np.array([[3, 4]], np.int8)
  np.testing.assert_allclose(model.similarity(whole, rows[2]), [[1]])
  assert model.similarity([3, 4], [[4, 3], [3, 4]]).shape == (1, 2)


def test_pairs_have_as_many_of_both(model):
  with pytest.raises(BadInput, match="a has 2 vectors and b 3; pairs need as"):
    model.similarity_pairwise(np.eye(3)[:2], np.eye(3))
  one = model.similarity_pairwise(np.eye(3)[0], np.eye(3))
  np.testing.assert_array_equal(one, [1, 0, 0])


@pytest.mark.parametrize(
  ("call", "said"),
  [
    (lambda m, d: eg.load(None), "path is not a path but NoneType"),
    (lambda m, d: eg.load(b"/tmp"), "path is not a path but bytes"),
    (lambda m, d: eg.load(""), "path='' names nothing"),
    (lambda m, d: eg.load("a\0b"), r"path='a\\x00b' names nothing"),
    (lambda m, d: eg.load("a\ud800"), r"path='a\\ud800' names nothing"),
    (
      lambda m, d: eg.load("a" * 999),
      r"aaa...': File name too long; choose an",
    ),
    (lambda m, d: eg.load("~/none"), "~ is no home here; write /.*/none"),
    (lambda m, d: eg.load("own/name"), "or fetch it: import --from=own/name"),
    (lambda m, d: eg.load(m.name, precision="INT4"), "did you mean 'int4'"),
    (lambda m, d: eg.load(m.name, precision="full"), "known: float, int4"),
    (lambda m, d: eg.load(d, precision=4), r"precision is not text but int"),
    (lambda m, d: eg.load(m.name, precision="int5"), "int5"),
    (lambda m, d: eg.load(m.name, precision=""), "precision='' is unknown"),
    (lambda m, d: eg.export(d, "gguf", d, dtype=""), "dtype='' is unknown"),
    (lambda m, d: eg.stage(None), "config is not text but NoneType"),
    (
      lambda m, d: eg.stage("configs/finetune.py:tiny", ["steps"]),
      "overrides is not a dict but list",
    ),
    (
      lambda m, d: eg.stage("configs/finetune.py:tiny", {1: 2}),
      r"a key of overrides is not text but int \(1\)",
    ),
    (
      lambda m, d: eg.stage("configs/finetune.py:tiny", {"mesh": {"data": 1}}),
      r"overrides\['mesh'\] is a dict; give each of its .*, as 'mesh.data'",
    ),
    (
      lambda m, d: eg.stage("configs/finetune.py:tiny", {"steps": 1.5}),
      "config key 'steps' is a whole number, not '1.5'; write --config.steps=",
    ),
    (
      lambda m, d: eg.stage("configs/finetune.py:tiny", {"optimizer.lr": None}),
      "config key 'optimizer.lr' is a number, not 'None'; write --config.opt",
    ),
    (
      lambda m, d: eg.train({"steps": 1}, d),
      r"config is not a TrainConfig but dict; stage\(...\) gives one",
    ),
    (lambda m, d: eg.evaluate(str(d), d), "model is not a Model but str"),
    (lambda m, d: eg.evaluate(m, None), "data is not a path but NoneType"),
    (lambda m, d: eg.soup(str(d), d), "checkpoints is a single path; give a"),
    (lambda m, d: eg.soup([d, 3], d), r"checkpoints\[1\] is not a path but"),
    (lambda m, d: eg.soup(None, d), "checkpoints is not a list of paths but"),
    (lambda m, d: eg.soup([d], d, 1.0), "weights is not a list of numbers but"),
    (lambda m, d: eg.soup([d, d], __file__), "workdir='.*' cannot be written"),
    (
      lambda m, d: eg.export(m.name, "gguf", f"{__file__}/x.gguf"),
      r"output='.*x.gguf' cannot be written \(Not a directory\); choose ano",
    ),
    (lambda m, d: eg.index(m, d, __file__), "output='.*' cannot be written"),
    (
      lambda m, d: eg.soup([d, d], d, weights=[0.5, "x"]),
      r"weights\[1\] is not a number but str \('x'\)",
    ),
    (
      lambda m, d: eg.soup([d, d], d, weights=[0.5, float("nan")]),
      r"weights\[1\]=nan is not a finite number",
    ),
    (lambda m, d: eg.export(m, "gguf", d), "model is not a path but Model"),
    (
      lambda m, d: eg.export(d, "ggml", d),
      "format='ggml' is unknown; known: g",
    ),
    (lambda m, d: eg.export(d, "gguf", d, dtype=4), "dtype is not text but i"),
    (lambda m, d: eg.index(d, d, d), "model is not a Model but PosixPath"),
    (lambda m, d: eg.index(m, d, d, dim=8.0), "dim is not a whole number but"),
    (lambda m, d: eg.index(m, d, d, dim=99), "dim=99 must be from 1 to 32"),
    (lambda m, d: eg.index(m, d, d, vectors="int4"), "vectors='int4' is unkn"),
    (lambda m, d: eg.search(None, d, "a"), "model is not a Model but NoneType"),
    (lambda m, d: eg.search(m, 3, "a"), r"index is not a path but int \(3\)"),
  ],
)
def test_functions_name_what_they_cannot_take(model, tmp_path, call, said):
  with pytest.raises(BadInput, match=said):
    call(model, tmp_path)
  assert not any(tmp_path.iterdir())


@pytest.fixture(scope="module")
def indexed(model, tmp_path_factory):
  folder = tmp_path_factory.mktemp("indexed")
  (folder / "notes").mkdir()
  (folder / "notes" / "a.md").write_text("the river\n\nby the harbour\n")
  (folder / "notes" / "b.md").write_text("a copper lantern\n")
  eg.index(model, folder / "notes", folder / "index")
  return folder / "index"


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({"query": None}, "query is not text but NoneType"),
    ({"query": ["river"]}, "query is not text but list"),
    ({"query": "a\ud800"}, "query holds half a surrogate pair at character 1"),
    ({"query": " "}, "the query is empty"),
    ({"k": 0}, "k=0 must be at least 1"),
    ({"k": True}, r"k is not a whole number but bool \(True\)"),
    ({"k": 2.0}, r"k is not a whole number but float \(2.0\)"),
    ({"mode": "dens"}, "mode='dens' is unknown; did you mean 'dense'"),
    ({"mode": None}, "mode is not text but NoneType"),
  ],
)
def test_a_search_is_checked(model, indexed, options, said):
  with pytest.raises(BadInput, match=said):
    eg.search(model, indexed, **{"query": "river"} | options)


def test_a_vector_without_direction_is_never_an_answer(model, indexed):
  (path,) = indexed.glob("data-*/vectors.npy")
  vectors = np.load(path)
  for bad in (0.0, np.nan):
    broken = vectors.copy()
    broken[0] = bad
    np.save(path, broken)
    with pytest.raises(BadInput, match="chunk 0 is zero or not finite"):
      eg.search(model, indexed, "river", mode="dense")
  np.save(path, vectors)
  assert eg.search(model, indexed, "river", mode="dense")


def test_what_a_person_prints_is_a_line(model, indexed):
  from embeddinggemma.retrieval import index

  assert repr(model) == (
    f"Model({model.name!r}, dimensions=32, precision='float',"
    f" parameters={sum(x.size for x in _leaves(model)):,})"
  )
  assert repr(index.open_index(indexed)) == (
    f"Index({str(indexed)!r}, chunks=2, dim=32, vectors='int8')"
  )


def _leaves(model):
  import jax

  return jax.tree.leaves(model.params["model"])


@pytest.mark.parametrize("used", [False, True])
def test_a_model_is_pickled_and_copied_before_and_after_use(trained, used):
  model = eg.load(trained)
  want = loading.load(trained).encode(["red"])
  if used:
    model.encode(["blue"])
  for other in (
    pickle.loads(pickle.dumps(model)),
    copy.deepcopy(model),
    copy.copy(model),
    dataclasses.replace(model, name="other"),
  ):
    np.testing.assert_array_equal(other.encode(["red"]), want)
    assert other.hash == model.hash
  assert model == model and model in {model} and model != copy.copy(model)


def test_threads_share_a_model(trained):
  model, found = eg.load(trained), {}
  want = [model.encode(f"text {n}") for n in range(4)]
  fresh = eg.load(trained)
  work = lambda n: found.update({n: fresh.encode(f"text {n}")})
  threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  np.testing.assert_allclose([found[n] for n in range(4)], want, atol=1e-6)
