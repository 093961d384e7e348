"""Batches of running text: packed, mixed, resumed, the same on any mesh."""

import functools

import jax
import numpy as np
import pytest

from embeddinggemma import sharding
from embeddinggemma.data import denoisers, loader, mixture
from embeddinggemma.data import text as text_lib
from embeddinggemma.data.text import Source, Windows
from embeddinggemma.data.tokenizer import BOS, EOS, Tokenizer, train_tokenizer
from embeddinggemma.types import BadInput, DenoiseBatch, Text

WORDS = "river stone copper lantern garden winter harbour signal".split()
MAX_TOKENS = 30


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
  rng = np.random.default_rng(seed)
  pick = lambda: " ".join(rng.choice(WORDS, rng.integers(3, 50)))
  return [(f"f:{n}", pick()) for n in range(count)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A folder of shards of two sources, and their tokenizer."""
  folder = tmp_path_factory.mktemp("text")
  train_tokenizer([" ".join(WORDS)] * 4, folder / "tokenizer.model", 440)
  tokenizer = Tokenizer(folder / "tokenizer.model")
  sources = [
    Source("a", 3.0, sentences(200, 0)),
    Source("b", 1.0, sentences(100, 1)),
  ]
  text_lib.write(sources, tokenizer, folder / "shards", 2)
  return folder / "shards", tokenizer


@pytest.fixture(scope="module")
def windows(prepared) -> Windows:
  return Windows(*prepared, MAX_TOKENS)


@pytest.fixture(scope="module")
def ul2(prepared) -> loader.Example:
  return functools.partial(
    denoisers.denoise,
    seed=0,
    denoisers=denoisers.UL2,
    sentinels=denoisers.sentinels_of(prepared[1]),
  )


@pytest.fixture(scope="module", params=["causal", "ul2"])
def example(request, ul2) -> loader.Example:
  return {"causal": denoisers.causal, "ul2": ul2}[request.param]


@pytest.fixture(scope="module")
def load(windows, example):
  """groups -> step -> Loaded, batches of 16."""
  return functools.cache(
    lambda groups: loader.load_text(windows, example, 16, groups, seed=0)
  )


def sides_of(batch) -> tuple[Text, ...]:
  return (batch,) if isinstance(batch, Text) else tuple(batch)


def unpacked(batch) -> list[tuple[tuple[int, ...], ...]]:
  """The examples of a batch, in group order; each keeps its row."""
  sides = sides_of(batch)
  out = []
  for g, s in np.ndindex(sides[0].valid.shape):
    places = [side.segment_ids[g] == s for side in sides]
    assert len({int(r) for p in places for r in np.argwhere(p)[:, 0]}) == 1
    texts = zip(sides, places)
    out.append(tuple(tuple(x.ids[g][p].tolist()) for x, p in texts))
  return out


def made(windows, example, rows) -> list[tuple[tuple[int, ...], ...]]:
  """The examples that row ids stand for."""
  tokens = lambda row: windows.tokens(row % len(windows))
  sides = [example(tokens(int(row)), int(row)) for row in rows]
  return [tuple(tuple(side.tolist()) for side in pair) for pair in sides]


def test_a_batch_holds_the_examples_of_its_rows(windows, example, load):
  for step in (0, 70):
    loaded = load(8)[step]
    found = unpacked(loaded.batch)
    assert sorted(found) == sorted(made(windows, example, loaded.rows))
    sides = sides_of(loaded.batch)
    assert all(side.valid.all() for side in sides)
    assert loaded.task == "text"
    assert loaded.tokens == sum(len(x) for pair in found for x in pair)
    assert loaded.tokens == sum(int((x.segment_ids < 2).sum()) for x in sides)
    assert loaded.capacity == sum(x.ids.size for x in sides)
    for pair in found:
      assert all((x[0], x[-1]) == (BOS, EOS) for x in pair)


def test_one_side_is_a_text_and_two_are_a_denoise_batch(example, load):
  batch = load(1)[0].batch
  kind = Text if example is denoisers.causal else DenoiseBatch
  assert isinstance(batch, kind)
  assert len({side.ids.shape for side in sides_of(batch)}) == 1


def test_groups_change_no_example(load):
  for step in (0, 9):
    one, other = load(1)[step], load(8)[step]
    np.testing.assert_array_equal(one.rows, other.rows)
    assert sorted(unpacked(one.batch)) == sorted(unpacked(other.batch))
    assert one.tokens == other.tokens
    shapes = [sides_of(x.batch)[0].ids.shape[0] for x in (one, other)]
    assert shapes == [1, 8]


@pytest.fixture(scope="module")
def draws(windows) -> mixture.TextDraws:
  weights = {"a": 0.75, "b": 0.25}
  return mixture.TextDraws(windows.task_rows, windows.lengths, weights, 16, 0)


def test_noise_is_fresh_in_every_pass(windows, ul2, load, draws):
  """The same window, another row id: another example."""
  count = len(windows)
  np.testing.assert_array_equal(load(1)[3].rows, draws[3].rows)
  rows = np.concatenate([draws[step].rows for step in range(64)])
  assert len(set(rows // count)) > 1
  passes = rows[0] % count + count * np.arange(5)
  assert len(set(made(windows, ul2, passes))) > 1


def test_the_sources_weights_hold(windows):
  split = windows.task_rows["a"].stop
  share = lambda data: np.mean(
    [(data[step].rows % len(windows) < split).mean() for step in range(8)]
  )
  load = functools.partial(
    loader.load_text, windows, denoisers.causal, 32, 1, seed=0
  )
  assert share(load()) == pytest.approx(0.75, abs=0.08)
  assert share(load(weights={"a": 1, "b": 1})) == pytest.approx(0.5, abs=0.08)
  assert share(load(weights={"a": 0.0, "b": 2})) == 0


def test_few_shapes_and_little_padding(windows, example):
  data = loader.load_text(windows, example, 32, 1, seed=0)
  loaded = [data[step] for step in range(12)]
  shapes = {tuple(side.ids.shape for side in sides_of(x.batch)) for x in loaded}
  assert len(shapes) <= 2
  fill = sum(x.tokens for x in loaded) / sum(x.capacity for x in loaded)
  assert fill > {1: 0.85, 2: 0.65}[len(sides_of(loaded[0].batch))]


def test_a_fuller_batch_has_the_next_number_of_rows(windows, draws):
  packer = loader.TextPacker(windows, denoisers.causal, draws, 16, 1)
  usual = packer(draws[0]).batch.ids.shape
  longest = np.argsort(-windows.lengths, kind="stable")[:16]
  loaded = packer(mixture.Draw("text", longest))
  groups, rows, length = loaded.batch.ids.shape
  assert (groups, length) == (usual[0], usual[2])
  assert rows > usual[1]
  assert sorted(unpacked(loaded.batch)) == sorted(
    made(windows, denoisers.causal, longest)
  )


def test_more_rows_come_in_few_numbers():
  assert [loader._enough(9, n) for n in (8, 9, 10, 12)] == [9, 9, 10, 12]
  steps = {loader._enough(100, n) for n in range(1, 119)}
  assert steps == {100, 106, 112, 118}


def test_less_data_than_a_batch_leaves_no_place_empty(prepared, tmp_path):
  folder, tokenizer = tmp_path / "few", prepared[1]
  source = Source("a", 1.0, sentences(3, 2))
  text_lib.write([source], tokenizer, folder, 2)
  few = Windows(folder, tokenizer, 1000)
  loaded = loader.load_text(few, denoisers.causal, 16, 2, seed=0)[0]
  assert loaded.batch.valid.all()
  assert len(set(loaded.rows.tolist())) == 16


def test_a_restored_stream_goes_on_where_it_was(windows, ul2):
  mesh = sharding.make_mesh(-1, 1)
  load = lambda: loader.load_text(windows, ul2, 16, mesh.size, seed=0)
  first, states, wanted = loader.Stream(load(), mesh), [], []
  for _ in range(5):
    states.append(first.state())
    wanted.append(next(first))
  again = loader.Stream(load(), mesh)
  for step in (3, 1):
    again.restore(states[step])
    for other in wanted[step:]:
      loaded = next(again)
      np.testing.assert_array_equal(loaded.rows, other.rows)
      for x, y in zip(
        jax.tree.leaves(loaded.batch), jax.tree.leaves(other.batch)
      ):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)
        assert len(x.sharding.device_set) == mesh.size


def test_another_seed_is_another_stream(windows):
  load = lambda seed: loader.load_text(windows, denoisers.causal, 16, 1, seed)
  assert not np.array_equal(load(0)[0].rows, load(1)[0].rows)


def test_a_batch_that_groups_do_not_divide_is_refused(windows):
  with pytest.raises(BadInput, match="batch_size=16 does not divide into 3"):
    loader.load_text(windows, denoisers.causal, 16, 3, seed=0)


def test_weights_that_mix_nothing_are_refused(windows):
  for weights in ({"a": 0.0, "b": 0.0}, {"c": 1.0}):
    with pytest.raises(BadInput, match="all weights of the mixture are zero"):
      loader.load_text(windows, denoisers.causal, 16, 1, 0, weights)
