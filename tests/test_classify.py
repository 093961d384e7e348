"""Labels are those of the examples that a text is near."""

import numpy as np
import pytest

from embeddinggemma.evaluation import classify
from embeddinggemma.types import BadInput


def _cloud(centres, count, seed=0):
  """Unit vectors around each centre, and whose they are."""
  rng = np.random.default_rng(seed)
  vectors = np.repeat(centres, count, axis=0)
  vectors = vectors + 0.1 * rng.normal(size=vectors.shape)
  names = [f"label {n}" for n in range(len(centres)) for _ in range(count)]
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), names


@pytest.mark.parametrize("count", [1, 3, 30])
def test_the_likeliest_label_is_the_nearest_centre(count):
  centres = np.eye(4, 16) + 2  # in a narrow cone, as trained vectors are
  known, labels = _cloud(centres, count)
  asked, truth = _cloud(centres, 20, seed=1)
  names, shares = classify.probabilities(known, labels, asked)
  assert names == sorted(set(labels))
  np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
  right = [names[n] for n in shares.argmax(axis=1)] == np.array(truth)
  assert np.mean(right) > (0.8 if count == 1 else 0.95)


def test_a_vector_without_direction_gets_no_label():
  known, labels = _cloud(np.eye(2, 8), 2)
  for bad in (0.0, np.nan):
    asked = known[:2].copy()
    asked[1] = bad
    with pytest.raises(BadInput, match="asked: vector 1 is zero or not fin"):
      classify.probabilities(known, labels, asked)


def test_more_examples_make_it_surer():
  centres = np.eye(3, 8)
  asked, _ = _cloud(centres, 20, seed=1)
  few, many = (
    classify.probabilities(*_cloud(centres, count), asked)[1].max(axis=1)
    for count in (1, 30)
  )
  assert many.mean() > few.mean() > 1 / 3


def test_vectors_that_are_all_alike_tell_nothing():
  one = np.random.default_rng(0).standard_normal(64).astype(np.float32)
  known = np.stack(
    [one / np.linalg.norm(one)] * 3
  )  # their mean is off a little
  for asked in (known[:1], -known[:1]):
    names, shares = classify.probabilities(known, ["x", "y", "y"], asked)
    np.testing.assert_allclose(shares, [[1 / 3, 2 / 3]], atol=1e-3)
    assert names == ["x", "y"]


def test_each_text_has_its_labels_in_order():
  asked = []

  def encode(texts, prompt_name, titles=()):
    asked.append(prompt_name)
    return np.array([[len(text), 1.0] for text in texts]) / 10

  examples = classify.Examples(["a", "bb", "cccc"], ["short", "short", "long"])
  guesses = classify.classify(encode, examples, ["dddd", "e"])
  assert [guess.text for guess in guesses] == ["dddd", "e"]
  assert [guess.labels[0][0] for guess in guesses] == ["long", "short"]
  for guess in guesses:
    assert [s for _, s in guess.labels] == sorted(s for _, s in guess.labels)[
      ::-1
    ]
  assert asked == ["classification", "classification"]


@pytest.mark.parametrize(
  ("content", "said"),
  [
    ('{"text": "a", "label": "x"}\n{"label": "y"}', ":2: no field 'text'"),
    ('{"text": " ", "label": "x"}', ":1: 'text' is empty"),
    ('{"text": "a"}', ":1: 'label' is neither text nor a whole number"),
    ('{"text": "a", "label": " "}', ":1: 'label' is empty"),
    ('{"text": "a", "label": 1.5}', ":1: 'label' is neither text nor"),
    ('{"text": "a", "label": "x"}\nx', ":2: not JSON"),
    ('{"text": "a", "label": "x"}\n{"text": "b", "label": "x"}', "two diff"),
    ("", "at least two different labels"),
    (None, "cannot read .*: No such file"),
  ],
)
def test_bad_examples_are_named(tmp_path, content, said):
  path = tmp_path / "labels.jsonl"
  if content is not None:
    path.write_text(content + "\n" * bool(content))
  with pytest.raises(BadInput, match=said):
    classify.read(path)


def test_labels_are_texts_or_whole_numbers(tmp_path):
  path = tmp_path / "labels.jsonl"
  path.write_text('{"text": "a", "label": 1}\n{"text": "b", "label": "two"}\n')
  assert classify.read(path) == (("a", "b"), ("1", "two"))


def test_labels_that_end_alike_stay_apart():
  known, labels = _cloud(np.eye(3, 8, dtype=np.float32), 4)
  names = {
    label: f"x{end}" for label, end in zip(sorted(set(labels)), ("", "\0", "y"))
  }
  labels = [names[label] for label in labels]
  found, shares = classify.probabilities(known, labels, known)
  assert found == ["x", "x\0", "xy"]
  assert [found[n] for n in shares.argmax(axis=1)] == labels


def test_labels_are_read_as_texts_are(tmp_path):
  path = tmp_path / "labels.jsonl"
  write = lambda *labels: path.write_text(
    "".join(f'{{"text": "t", "label": {label}}}\n' for label in labels)
  )
  write('"x "', '"x"', "2")
  assert classify.read(path).labels == ("x", "x", "2")
  for bad in ("true", '"\\ud800"', '" "', "null", "1.5"):
    write('"x"', bad)
    with pytest.raises(BadInput, match=r"labels\.jsonl:2: 'label'"):
      classify.read(path)
