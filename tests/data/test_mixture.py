"""The stream: every row once an epoch, a function of (seed, step) alone."""

import collections
import dataclasses

import numpy as np
import pytest

from embeddinggemma.data import loader, mixture
from embeddinggemma.types import BadInput, Pair


@pytest.mark.parametrize("count", [1, 15, 16, 17, 100, 1600])
def test_an_epoch_uses_every_row_once(count, rows):
  epochs = mixture.Epochs(rows("code", count), 16, seed=0)
  drawn = [epochs[i].rows for i in range(2 * epochs.batches)]
  for epoch in (drawn[: epochs.batches], drawn[epochs.batches :]):
    assert sorted(np.concatenate(epoch)) == list(range(count))
    assert max(map(len, epoch)) <= 16
    assert max(map(len, epoch)) - min(map(len, epoch)) <= 1
  if epochs.batches > 1:
    assert not np.array_equal(drawn[0], drawn[epochs.batches])


def test_batches_have_alike_numbers_of_tokens(rows):
  data = rows("code", 1600)
  epochs = mixture.Epochs(data, 16, seed=0)
  tokens = np.array(
    [data.lengths[epochs[i].rows].sum(axis=0) for i in range(epochs.batches)]
  )
  assert (tokens.std(axis=0) < 0.03 * tokens.mean(axis=0)).all()


def text_draws(sizes, weights=None, batch_size=16, seed=0, longest=30):
  """The draws of tasks of so many rows each, and all their lengths."""
  ends = np.cumsum(list(sizes.values()))
  rows = {
    task: range(end - size, end)
    for end, (task, size) in zip(ends.tolist(), sizes.items())
  }
  lengths = np.random.default_rng(1).integers(3, longest, ends[-1])
  weights = weights or dict.fromkeys(sizes, 1.0)
  draws = mixture.TextDraws(rows, lengths, weights, batch_size, seed)
  return draws, lengths


def ids_of(draws, first, last):
  return np.concatenate([draws[step].rows for step in range(first, last)])


@pytest.mark.parametrize("count", [1, 7, 16, 100, 512])
def test_running_text_passes_over_every_row_again_and_again(count):
  draws, _ = text_draws({"a": count})
  ids = ids_of(draws, 0, 64)  # 1,024 rows
  assert ids.dtype == np.int64
  assert len(set(ids.tolist())) == 1024
  # Whole passes first, then a part of one.
  assert ids.max() < -(-1024 // count) * count
  for number in range(1024 // count):
    mine = ids[ids // count == number] % count
    assert sorted(mine) == list(range(count))


def test_a_pass_is_shuffled_anew():
  order = mixture.Passes("a", range(5, 105), 200, seed=0)
  ids = np.concatenate([order[i] for i in range(25)])  # four times 100 rows
  for number, part in enumerate(ids.reshape(4, 100)):
    assert (part // 200 == number).all()
    assert sorted(part % 200) == list(range(5, 105))
  assert len({tuple(part % 200) for part in ids.reshape(4, 100)}) == 4
  other = mixture.Passes("a", range(5, 105), 200, seed=1)
  assert not np.array_equal(other[0], order[0])
  assert not np.array_equal(
    mixture.Passes("b", range(5, 105), 200, seed=0)[0], order[0]
  )


def test_running_text_is_mixed_within_a_batch():
  draws, _ = text_draws({"a": 300, "b": 500}, {"a": 0.75, "b": 0.25}, 32)
  ids = ids_of(draws, 0, 128) % 800
  assert (ids < 300).mean() == pytest.approx(0.75, abs=0.01)
  shares = [(draws[i].rows % 800 < 300).mean() for i in range(128)]
  assert 0.4 < min(shares) and max(shares) < 1
  # Every row of each task in turn, however often the task is drawn.
  for rows in (range(300), range(300, 800)):
    counts = collections.Counter(ids.tolist())
    seen = [counts[row] for row in rows]
    assert max(seen) - min(seen) <= 1


def test_a_task_without_weight_is_not_read():
  draws, _ = text_draws({"a": 30, "b": 50}, {"b": 1.0})
  assert (ids_of(draws, 0, 64) % 80 >= 30).all()


def test_batches_of_running_text_have_alike_numbers_of_tokens():
  draws, lengths = text_draws({"a": 3000}, batch_size=32, longest=400)
  tokens = [lengths[draws[i].rows % 3000].sum() for i in range(128)]
  assert np.std(tokens) < 0.01 * np.mean(tokens)


def test_running_text_is_a_function_of_the_step():
  draws, _ = text_draws({"a": 300, "b": 50})
  steps = (200, 3, 64, 3, 199)
  other, _ = text_draws({"a": 300, "b": 50})
  for step in steps:
    assert len(draws[step].rows) == 16
    np.testing.assert_array_equal(draws[step].rows, other[step].rows)
    assert draws[step].task == "text"
  another, _ = text_draws({"a": 300, "b": 50}, seed=1)
  assert not np.array_equal(draws[3].rows, another[3].rows)


def test_another_seed_is_another_order(rows):
  a, b = (mixture.Epochs(rows("code", 100), 16, seed) for seed in (0, 1))
  assert not np.array_equal(a[0].rows, b[0].rows)


def test_tasks_are_mixed_by_weight_one_a_batch(rows):
  tasks = {"code": rows("code", 64), "qa": rows("qa", 64)}
  drawn = mixture.draws(tasks, {"code": 0.75, "qa": 0.25}, 16, seed=0)
  counts = collections.Counter(drawn[i].task for i in range(100))
  assert counts == {"code": 75, "qa": 25}


def test_shares_follow_weight_and_size():
  sizes = {"code": 400, "qa": 100, "sts": 0}
  assert mixture.shares(sizes, {"code": 1, "qa": 1}, 0.5) == {
    "code": pytest.approx(2 / 3),
    "qa": pytest.approx(1 / 3),
  }
  assert mixture.shares(sizes, {"qa": 2.0}, 0.0) == {"qa": 1.0}


@pytest.mark.parametrize(
  "weights, message",
  [
    ({"code": 0.0}, "all weights of the mixture are zero.*code, qa"),
    ({}, "all weights of the mixture are zero"),
    ({"code": -1.0}, "data.weights.code=-1.0"),
    ({"code": float("nan")}, "data.weights.code=nan"),
  ],
)
def test_weights_that_mix_nothing_are_refused(weights, message):
  with pytest.raises(BadInput, match=message):
    mixture.shares({"code": 4, "qa": 4}, weights, 0.5)


class Letters:
  """A tokenizer of one id a letter."""

  def encode_batch(self, texts, max_length):
    ids = [np.array([ord(c) % 90 + 4 for c in t], np.int32) for t in texts]
    return [i[:max_length] for i in ids], sum(len(i) > max_length for i in ids)


def pair(query, positive, task="code", title=""):
  return Pair(query, positive, (), title, task, "", f"f:{query}")


def test_tokenise_puts_prompts_before_the_texts():
  tasks, cut = mixture.tokenise(
    [pair("a", "b", title="T"), pair("c", "d", "sts")], Letters(), 200
  )
  spell = lambda ids: len(ids)
  code = "task: code retrieval | query: a", "title: T | text: b"
  assert spell(tasks["code"].query[0]) == len(code[0])
  assert spell(tasks["code"].positive[0]) == len(code[1])
  same = "task: sentence similarity | query: "
  assert spell(tasks["sts"].positive[0]) == len(same) + 1
  assert cut == 0
  _, cut = mixture.tokenise([pair("a" * 300, "b")], Letters(), 200)
  assert cut == 1


def test_keys_tell_texts_apart():
  tasks, _ = mixture.tokenise(
    [pair("a", "b"), pair("a", "c"), pair("d", "c")], Letters(), 200
  )
  keys = tasks["code"].keys
  assert keys[0, 0] == keys[1, 0] != keys[2, 0]
  assert keys[1, 1] == keys[2, 1] != keys[0, 1]


def test_loader_moves_pairs_and_keys_together(rows):
  data = rows("code", 40)
  packer = loader.Packer({"code": data}, 16, 4, seed=0)
  drawn = mixture.Draw("code", np.arange(13))
  loaded = packer(drawn)
  batch = loaded.batch
  assert batch.query.valid.sum() == batch.positive.valid.sum() == 13
  seen = []
  for g in range(4):
    for s in range(4):
      key = batch.keys[g * 4 + s]
      if not batch.query.valid[g, s]:
        continue
      row = int(key[0]) // 2
      seen.append(row)
      for text, source in (
        (batch.query, data.query),
        (batch.positive, data.positive),
      ):
        np.testing.assert_array_equal(
          text.ids[g][text.segment_ids[g] == s], source[row]
        )
  assert sorted(seen) == list(range(13))
  assert loaded.tokens == data.lengths[:13].sum()
  assert loaded.capacity == batch.query.ids.size + batch.positive.ids.size


def test_negatives_and_teacher_move_with_their_pair(rows):
  """Slot i * N + n of the negatives is pair i's; row i of the teacher too."""
  data, rng = rows("code", 40), np.random.default_rng(0)
  text = lambda: rng.integers(4, 500, rng.integers(3, 30), dtype=np.int32)
  none = np.zeros(0, np.int32)
  negative = [[text(), none if n % 3 else text()] for n in range(40)]
  taught = np.arange(160).reshape(40, 4)
  taught[:, 3][[n % 3 != 0 for n in range(40)]] = -1
  data = dataclasses.replace(data, negative=negative, taught=taught)
  vectors = np.arange(160, dtype=np.float16)[:, None] + np.ones(3, np.float16)
  packer = loader.Packer({"code": data}, 16, 4, 0, vectors)
  loaded = packer(mixture.Draw("code", np.arange(13)))
  batch, taught_by = loaded.batch, loaded.batch.teacher
  assert loaded.tokens == data.lengths[:13].sum()
  for g in range(4):
    for s in range(4):
      if not batch.query.valid[g, s]:
        assert not batch.negative.valid[g, 2 * s : 2 * s + 2].any()
        continue
      row = int(batch.keys[g * 4 + s][0]) // 2
      assert taught_by.query[g * 4 + s][0] == 4 * row + 1
      assert taught_by.positive[g * 4 + s][0] == 4 * row + 2
      for n in range(2):
        there = len(negative[row][n]) > 0
        segment_ids = batch.negative.segment_ids[g] == 2 * s + n
        assert batch.negative.valid[g, 2 * s + n] == there
        np.testing.assert_array_equal(
          batch.negative.ids[g][segment_ids], negative[row][n]
        )
        expected = 4 * row + 3 + n if there else 0
        assert taught_by.negative[g * 4 + s, n][0] == expected


def test_negatives_are_prompted_with_their_titles():
  pairs = [
    pair("q", "p")._replace(negatives=("a", "b"), negative_titles=("", "T")),
    pair("r", "s"),
  ]
  found, _ = mixture.tokenise(pairs, Letters(), 64, 3)
  (data,) = found.values()
  assert data.negatives == 2  # no more than any pair has
  assert data.lengths.shape == (2, 4)
  said = ["title: none | text: a", "title: T | text: b"]
  for text, expected in zip(
    data.negative[0], Letters().encode_batch(said, 64)[0]
  ):
    np.testing.assert_array_equal(text, expected)
  assert [len(text) for text in data.negative[1]] == [0, 0]
  assert mixture.tokenise(pairs, Letters(), 64)[0][data.task].negatives == 0


def test_few_shapes_and_little_padding(rows):
  tasks = {
    "code": rows("code", 1600, longest=120),
    "qa": rows("qa", 1600, 1, 120),
  }
  packer = loader.Packer(tasks, 256, 1, seed=0)
  dataset = loader.load(tasks, {"code": 0.5, "qa": 0.5}, 256, 0, packer)
  loaded = [dataset[i] for i in range(60)]
  shapes = {
    (x.batch.query.ids.shape, x.batch.positive.ids.shape) for x in loaded
  }
  assert len(shapes) <= 2
  assert sum(x.tokens for x in loaded) > 0.9 * sum(x.capacity for x in loaded)


def test_tasks_of_alike_sizes_share_a_shape():
  shape = lambda *sizes: tuple(map(loader.Side, sizes[::2], sizes[1::2]))
  shared = loader.share_shapes(
    {
      "a": shape(10, 64, 40, 64),
      "b": shape(11, 64, 39, 64),
      "c": shape(2, 64, 9, 64),
    }
  )
  assert shared["a"] == shared["b"] == shape(11, 64, 40, 64)
  assert shared["c"] == shape(2, 64, 9, 64)


def test_a_batch_that_groups_do_not_divide_is_refused(rows):
  with pytest.raises(BadInput, match="batch_size=16 does not divide into 3"):
    loader.Packer({"code": rows("code", 40)}, 16, 3, seed=0)
