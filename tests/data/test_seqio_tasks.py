"""Real seqio tasks and mixtures, read as running text."""

import functools
import os
import sys

import numpy as np
import pytest

from embeddinggemma.data import seqio_tasks
from embeddinggemma.data import text as text_lib
from embeddinggemma.data.tokenizer import Tokenizer, train_tokenizer
from embeddinggemma.types import BadInput

TEXTS = [f"The harbour of {n} — signal {10**n}" for n in range(20)]


@pytest.fixture(scope="module")
def seqio():
  return seqio_tasks._seqio()


@pytest.fixture(scope="module")
def tf(seqio):
  import tensorflow

  return tensorflow


@pytest.fixture
def register(seqio, tf):
  """Registers tasks of in-memory examples, and forgets them afterwards."""
  names: list[tuple] = []

  def task(
    name, examples, steps=(), features=("targets",), splits=("train",), **kwargs
  ):
    def dataset(split, shuffle_files, seed=None):
      assert not shuffle_files
      return tf.data.Dataset.from_tensor_slices(examples)

    feature = seqio.Feature(seqio.ByteVocabulary(), add_eos=True)
    seqio.TaskRegistry.add(
      name,
      source=seqio.FunctionDataSource(dataset, splits=splits, **kwargs),
      preprocessors=list(steps),
      output_features=dict.fromkeys(features, feature),
    )
    names.append((seqio.TaskRegistry, name))
    return name

  def mixture(name, tasks):
    seqio.MixtureRegistry.add(name, tasks)
    names.append((seqio.MixtureRegistry, name))
    return name

  task.mixture = mixture
  yield task
  for registry, name in names:
    registry.remove(name)


def read(name, feature=""):
  return [
    (source.name, source.weight, list(source.texts))
    for source in seqio_tasks.sources(name, "", feature)
  ]


def texts_of(name, feature="") -> list[str]:
  (only,) = read(name, feature)
  return [text for _, text in only[2]]


def test_a_task_gives_its_texts_in_order(register):
  register("plain", {"text": TEXTS})
  assert read("plain") == [
    ("plain", 1.0, [(f"plain:{n}", t) for n, t in enumerate(TEXTS, 1)])
  ]


def test_lines_of_files_are_read_with_their_preprocessors(seqio, tf, tmp_path):
  for number, lines in enumerate((TEXTS[:12], TEXTS[12:])):
    path = tmp_path / f"part-{number}.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")

  @seqio.map_over_dataset
  def shout(line):
    return {"targets": tf.strings.join([line, "!"])}

  feature = seqio.Feature(seqio.ByteVocabulary(), add_eos=True)
  seqio.TaskRegistry.add(
    "lines",
    source=seqio.TextLineDataSource({"train": str(tmp_path / "part-*.txt")}),
    preprocessors=[
      shout,
      seqio.CacheDatasetPlaceholder(),
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={"targets": feature},
  )
  source = seqio.TextLineDataSource({"train": str(tmp_path / "part-0.txt")})
  seqio.TaskRegistry.add("bare", source=source, output_features={})
  try:
    assert texts_of("bare") == TEXTS[:12]
    found = texts_of("lines")
    assert sorted(found) == sorted(f"{text}!" for text in TEXTS)
    assert found == texts_of("lines")  # in one order
  finally:
    for name in ("lines", "bare"):
      seqio.TaskRegistry.remove(name)


def test_text_is_read_before_it_is_tokenised(seqio, register):
  rekey = functools.partial(
    seqio.preprocessors.rekey, key_map={"inputs": None, "targets": "body"}
  )
  tokenise = seqio.preprocessors.tokenize
  both = ("inputs", "targets")
  kept = functools.partial(tokenise, copy_pretokenized=False)
  for name, steps in (
    ("copies", [rekey, tokenise]),
    ("keeps", [rekey, kept]),
    ("appends", [rekey, seqio.preprocessors.tokenize_and_append_eos]),
  ):
    register(name, {"body": TEXTS}, steps, both)
    assert texts_of(name) == TEXTS
    assert texts_of(name, "targets") == TEXTS
    assert texts_of(name, "targets_pretokenized") == TEXTS
    # As a feature that was asked for, the raw one serves as well.
    assert texts_of(name, "body") == TEXTS


def test_another_tokenisation_is_stepped_back_from(seqio, tf, register):
  @seqio.map_over_dataset
  def bytes_of(x):
    return {"targets": tf.io.decode_raw(x["text"], tf.uint8)}

  def never_run(dataset, sequence_length):
    cut = sequence_length["targets"]
    return dataset.map(lambda x: {"targets": x["targets"][:cut]})

  register("own", {"text": TEXTS}, [bytes_of, never_run])
  assert texts_of("own") == TEXTS


def test_filters_before_tokenisation_count(seqio, tf, register):
  def long(dataset):
    return dataset.filter(lambda x: tf.strings.length(x["text"]) > 32)

  register("long", {"text": TEXTS}, [long])
  wanted = [text for text in TEXTS if len(text.encode()) > 32]
  assert 0 < len(wanted) < len(TEXTS)
  assert texts_of("long") == wanted


def test_random_preprocessors_repeat(seqio, tf, register):
  @seqio.map_over_dataset(num_seeds=1)
  def numbered(x, seed):
    drawn = tf.random.stateless_uniform([], seed, 0, 10**6, tf.int32)
    return {"text": tf.strings.join([x["text"], tf.strings.as_string(drawn)])}

  register("random", {"text": TEXTS}, [numbered])
  first = texts_of("random")
  assert first == texts_of("random")
  assert len(set(first)) == len(TEXTS)


def test_the_first_feature_that_is_text_is_read(register):
  numbers = list(range(20))
  register("a", {"inputs": TEXTS, "targets": numbers})
  assert texts_of("a") == TEXTS
  register("b", {"inputs": ["x"] * 20, "targets": TEXTS, "text": numbers})
  assert texts_of("b") == TEXTS
  register("c", {"title": ["x"] * 20, "text": TEXTS})
  assert texts_of("c", "title") == ["x"] * 20


def test_a_mixture_gives_its_tasks_by_their_rates(register):
  for number, name in enumerate(("one", "two", "three", "none")):
    register(name, {"text": TEXTS[number : number + 3]})
  register("held_out", {"text": TEXTS}, splits=("validation",))
  register.mixture("inner", [("one", 1.0), ("two", 3.0)])
  register.mixture(
    "outer",
    [
      ("inner", 2.0),
      ("three", lambda task: float(len(task.name))),
      ("none", 0.0),
      ("held_out", 1.0),
    ],
  )
  found = {name: (weight, texts) for name, weight, texts in read("outer")}
  weights = {name: weight for name, (weight, _) in found.items()}
  assert weights == {"one": 0.5, "two": 1.5, "three": 5.0}
  assert [text for _, text in found["two"][1]] == TEXTS[1:4]


def test_a_mixture_becomes_shards(register, tmp_path):
  path = tmp_path / "tokenizer.model"
  train_tokenizer(TEXTS, path, 440)
  tokenizer = Tokenizer(path)
  register("one", {"text": TEXTS})
  register("two", {"text": TEXTS[:5]})
  register.mixture("both", [("one", 3.0), ("two", 1.0)])
  sources = seqio_tasks.sources("both", "", "")
  text_lib.write(sources, tokenizer, tmp_path / "text", 2)
  windows = text_lib.Windows(tmp_path / "text", tokenizer, 1000)
  assert windows.weights == {"one": 3.0, "two": 1.0}
  assert windows.task_rows == {"one": range(20), "two": range(20, 25)}
  np.testing.assert_array_equal(
    windows.tokens(21), tokenizer.encode(TEXTS[1])[1:-1]
  )


def test_the_module_that_registers_is_imported(seqio, tmp_path, monkeypatch):
  (tmp_path / "my_registry.py").write_text(
    "import seqio\nimport tensorflow as tf\n"
    "def data(split, shuffle_files):\n"
    "  return tf.data.Dataset.from_tensors({'text': 'from a module'})\n"
    "seqio.TaskRegistry.add('mine', source=seqio.FunctionDataSource(\n"
    "  data, splits=['train']), output_features={})\n"
  )
  # From the current folder, which a console script does not look into.
  monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
  monkeypatch.chdir(tmp_path)
  try:
    (source,) = seqio_tasks.sources("mine", "my_registry", "")
    assert list(source.texts) == [("mine:1", "from a module")]
  finally:
    seqio.TaskRegistry.remove("mine")
    sys.modules.pop("my_registry", None)


def test_a_module_that_cannot_be_imported_is_named():
  with pytest.raises(BadInput, match=r"=no_such_module: .*No module named"):
    seqio_tasks.sources("any", "no_such_module", "")


def test_whatever_a_module_raises_is_one_line(tmp_path, monkeypatch):
  (tmp_path / "my_broken.py").write_text("{}['a']\n")
  monkeypatch.chdir(tmp_path)
  with pytest.raises(BadInput, match="my_broken: KeyError: 'a'; give a module"):
    seqio_tasks.sources("any", "my_broken", "")


def test_the_fingerprint_sees_code_and_files(seqio, tmp_path, monkeypatch):
  lines, module = tmp_path / "a.txt", tmp_path / "my_files.py"
  lines.write_text("one\n")
  module.write_text(
    "import seqio\n"
    "seqio.TaskRegistry.add('of_files', source=seqio.TextLineDataSource(\n"
    f"  {{'train': {str(lines)!r}}}), output_features={{}})\n"
  )
  monkeypatch.chdir(tmp_path)
  try:
    made = lambda: seqio_tasks.fingerprint("of_files", "my_files")
    first = made()
    assert made() == first
    lines.write_text("one\ntwo\n")
    second = made()
    assert second != first
    module.write_text(module.read_text() + "# changed\n")
    assert made() != second
  finally:
    seqio.TaskRegistry.remove("of_files")
    sys.modules.pop("my_files", None)


def test_an_unknown_name_gets_the_nearest(register, seqio, monkeypatch):
  register("wikipedia_en", {"text": TEXTS})
  with pytest.raises(BadInput, match="did you mean 'wikipedia_en'"):
    seqio_tasks.sources("wikipedia_de", "", "")
  with pytest.raises(BadInput, match=r"; known: .*wikipedia_en"):
    seqio_tasks.sources("q", "", "")
  for registry in (seqio.TaskRegistry, seqio.MixtureRegistry):
    monkeypatch.setattr(registry, "_REGISTRY", {})
  with pytest.raises(BadInput, match="knows no task at all, so not 'q'"):
    seqio_tasks.sources("q", "", "")


def test_a_task_without_a_train_split_is_refused(register):
  register("splits", {"text": TEXTS}, splits=("test", "validation"))
  message = "'splits' has no 'train' split; its splits are test, validation"
  with pytest.raises(BadInput, match=message):
    seqio_tasks.sources("splits", "", "")
  register("nothing", {"text": TEXTS}, splits=())
  with pytest.raises(BadInput, match="its splits are none"):
    seqio_tasks.sources("nothing", "", "")


def test_a_task_without_text_lists_its_features(register):
  register(
    "numbers",
    {"text": np.zeros((4, 3), np.int32), "title": ["a"] * 4, "n": [1.0] * 4},
  )
  types = r"Its features: n float32, text int32\[3\], title string"
  with pytest.raises(BadInput, match=f"no text in any of text, .*{types}"):
    seqio_tasks.sources("numbers", "", "")
  with pytest.raises(BadInput, match=f"no text in 'text'; name a.*{types}"):
    seqio_tasks.sources("numbers", "", "text")
  with pytest.raises(BadInput, match=f"no text in 'body'; name a.*{types}"):
    seqio_tasks.sources("numbers", "", "body")
  assert texts_of("numbers", "title") == ["a"] * 4


def test_lists_of_texts_are_no_text(register):
  register("lists", {"text": [["a", "b"]] * 3})
  with pytest.raises(BadInput, match=r"Its features: text string\[2\]"):
    seqio_tasks.sources("lists", "", "")


def test_a_task_that_yields_nothing_is_refused(register):
  drop = lambda dataset: dataset.filter(lambda x: False)
  register("empty", {"text": TEXTS}, [drop])
  (source,) = seqio_tasks.sources("empty", "", "")
  with pytest.raises(BadInput, match="'empty': its 'train' split holds no ex"):
    list(source.texts)


def test_text_that_is_not_utf8_is_named(register):
  register("latin", {"text": [b"fine", b"caf\xe9"]})
  (source,) = seqio_tasks.sources("latin", "", "")
  with pytest.raises(BadInput, match=r"latin:2: not UTF-8 \(byte 4\)"):
    list(source.texts)


def test_what_a_task_raises_is_one_line(seqio, tf, register, tmp_path):
  def broken(dataset):
    raise KeyError("no such column")

  def breaks_late(dataset):
    check = lambda x: {"text": tf.strings.substr(x["text"], 99, 1)}
    return dataset.map(check)

  register("broken", {"text": TEXTS}, [broken])
  with pytest.raises(
    BadInput, match=r"'broken': preprocessor broken fails: .*no"
  ):
    seqio_tasks.sources("broken", "", "")
  register("late", {"text": TEXTS}, [breaks_late])
  (source,) = seqio_tasks.sources("late", "", "")
  with pytest.raises(BadInput, match="'late': example 1 fails: ") as error:
    list(source.texts)
  assert "\n" not in str(error.value)


def test_files_that_are_missing_are_named(seqio, tmp_path):
  for name, pattern in (("no_file", "none.txt"), ("no_match", "none-*.txt")):
    source = seqio.TextLineDataSource({"train": str(tmp_path / pattern)})
    seqio.TaskRegistry.add(name, source=source, output_features={})
    try:
      with pytest.raises(BadInput, match=rf"{name}.* fails: .*none") as error:
        list(seqio_tasks.sources(name, "", "")[0].texts)
      assert "\n" not in str(error.value)
    finally:
      seqio.TaskRegistry.remove(name)


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf")])
def test_rates_that_mix_nothing_are_refused(register, rate):
  register("one", {"text": TEXTS})
  register.mixture("bad", [("one", rate)])
  with pytest.raises(BadInput, match="'bad': the rate of 'one' is"):
    seqio_tasks.sources("bad", "", "")


def test_a_mixture_of_nothing_is_refused(seqio, register):
  register("one", {"text": TEXTS})
  register("two", {"text": TEXTS}, splits=("test",))
  register.mixture("zero", [("one", 0.0), ("two", 1.0)])
  with pytest.raises(BadInput, match="'zero': no task has a rate above 0 and"):
    seqio_tasks.sources("zero", "", "")
  register.mixture("counts", [("one", seqio.mixing_rate_num_examples)])
  with pytest.raises(BadInput, match="'one': its mixing rate fails: "):
    seqio_tasks.sources("counts", "", "")


def test_tensorflow_leaves_the_gpus_alone(tf):
  assert tf.config.get_visible_devices("GPU") == []


def test_stderr_is_quiet_unless_something_fails(capfd):
  with seqio_tasks._quiet_stderr():
    os.write(2, b"a greeting\n")
  assert capfd.readouterr().err == ""
  with pytest.raises(ImportError):
    with seqio_tasks._quiet_stderr():
      os.write(2, b"the cause\n")
      raise ImportError
  os.write(2, b"after\n")
  assert capfd.readouterr().err == "the cause\nafter\n"
