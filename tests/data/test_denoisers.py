"""UL2's examples: the rates they promise, and no token lost or doubled."""

import collections
import inspect
import io

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddinggemma.data import denoisers
from embeddinggemma.data.denoisers import UL2, Denoiser
from embeddinggemma.data.tokenizer import BOS, EOS, Tokenizer, train_tokenizer
from embeddinggemma.types import BadInput

SENTINELS = np.arange(5, 105, dtype=np.int32)
FIRST = 1000  # no token of a text is a sentinel
NAMES = ["3/.15", "12/.5", "32/.15", "32/.5", "prefix"]


def text(n: int) -> np.ndarray:
  """n different tokens."""
  return np.arange(FIRST, FIRST + n, dtype=np.int32)


def example(n, row, seed=0, mixture=UL2, sentinels=SENTINELS):
  return denoisers.denoise(text(n), row, seed, mixture, sentinels)


def spans_of(targets: np.ndarray) -> list[np.ndarray]:
  """The hidden spans, in order."""
  inner = targets[1:-1]
  starts = np.flatnonzero(inner < FIRST)
  return [part[1:] for part in np.split(inner, starts)[1:]]


def restored(inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
  """Puts each span where its sentinel stands."""
  assert inputs[0] == targets[0] == BOS
  assert inputs[-1] == targets[-1] == EOS
  spans = iter(spans_of(targets))
  out = []
  for token in inputs[1:-1]:
    out += [token] if token >= FIRST else list(next(spans))
  assert next(spans, None) is None
  return np.array(out, np.int32)


DENOISERS = st.lists(
  st.builds(
    Denoiser,
    st.one_of(st.just(0.0), st.floats(1, 64)),
    st.floats(0.01, 0.99),
    st.floats(0.1, 4),
  ),
  min_size=1,
  max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(
  st.integers(0, 200),
  st.integers(0, 2**31),
  st.integers(0, 2**40),
  DENOISERS,
  st.integers(1, 20),
)
def test_both_sides_hold_every_token_once(n, seed, row, mixture, sentinels):
  denoisers.check(mixture)
  marks = SENTINELS[:sentinels]
  inputs, targets = example(n, row, seed, mixture, marks)
  assert inputs.dtype == targets.dtype == np.int32
  np.testing.assert_array_equal(restored(inputs, targets), text(n))
  # A window of max_length - 2 tokens fits, whatever is drawn.
  assert max(len(inputs), len(targets)) <= n + 2
  spans = spans_of(targets)
  assert all(len(span) for span in spans)
  assert len(spans) >= 1 or n < 2
  # The k-th span has the k-th sentinel on both sides; they take turns again.
  wanted = [int(marks[k % sentinels]) for k in range(len(spans))]
  for side in (inputs[1:-1], targets[1:-1]):
    assert list(side[side < FIRST]) == wanted


@pytest.fixture
def unchecked(monkeypatch):
  """Statistics take thousands of rows, and checked types a while for each."""
  for name in ("denoise", "drawn", "_draw", "_spans", "_parts"):
    plain = inspect.unwrap(getattr(denoisers, name))
    monkeypatch.setattr(denoisers, name, plain)


def test_denoisers_are_drawn_by_weight(unchecked):
  counts = collections.Counter(
    denoisers.drawn(0, row, UL2) for row in range(10_000)
  )
  assert sum(counts.values()) == 10_000
  wanted = np.array([1, 1, 1, 1, 4]) * 10_000 / 8
  found = np.array([counts[n] for n in range(5)])
  # Chi-square of four degrees of freedom: 18.5 is exceeded once in 1,000.
  assert ((found - wanted) ** 2 / wanted).sum() < 18.5


@pytest.mark.parametrize("number", range(4), ids=NAMES[:4])
def test_rate_and_mean_span_are_exact_on_average(number, unchecked):
  denoiser = UL2[number]
  n, rows = 512, 3_000
  hidden, spans = [], []
  for row in range(rows):
    inner = example(n, row, mixture=(denoiser,))[1][1:-1]
    spans.append(int((inner < FIRST).sum()))
    hidden.append(len(inner) - spans[-1])
  # Rounding is stochastic: hidden tokens differ by one at most.
  assert max(hidden) - min(hidden) <= 1
  assert np.mean(hidden) / n == pytest.approx(denoiser.rate, rel=0.001)
  assert sum(hidden) / sum(spans) == pytest.approx(denoiser.span, rel=0.01)


def test_a_prefix_keeps_exactly_the_beginning(unchecked):
  rates = []
  for row in range(500):
    n = 400 + row
    inputs, targets = example(n, row, mixture=UL2[4:])
    (span,) = spans_of(targets)
    kept = n - len(span)
    np.testing.assert_array_equal(inputs[1:-2], text(n)[:kept])
    np.testing.assert_array_equal(span, text(n)[kept:])
    rates.append(len(span) / n)
  assert np.mean(rates) == pytest.approx(0.75, rel=0.001)


def test_a_text_too_short_for_its_span_has_one_shorter_span(unchecked):
  for row in range(200):
    (span,) = spans_of(example(20, row, mixture=(Denoiser(32, 0.5, 1),))[1])
    assert len(span) == 10


def test_any_place_may_be_hidden(unchecked):
  """The ends too: the kept parts outside of the spans may be empty."""
  count = np.zeros(24)
  for row in range(1_000):
    for span in spans_of(example(24, row, mixture=(Denoiser(3, 0.5, 1),))[1]):
      count[span - FIRST] += 1
  assert count.min() > 300 and count.max() < 700


def test_compositions_are_uniform(unchecked):
  rng = np.random.default_rng(0)
  counts = collections.Counter(
    tuple(denoisers._parts(rng, 6, 3)) for _ in range(5_000)
  )
  assert len(counts) == 10  # 5 choose 2
  assert all(sum(parts) == 6 and min(parts) > 0 for parts in counts)
  found = np.array(list(counts.values()))
  assert ((found - 500) ** 2 / 500).sum() < 27.9  # nine degrees: 1 in 1,000


def test_an_example_is_a_function_of_seed_and_row(unchecked):
  same = lambda a, b: all(map(np.array_equal, a, b))
  for row in range(50):
    assert same(example(200, row), example(200, row))
  changed = [
    sum(not same(example(200, row), other(row)) for row in range(50))
    for other in (
      lambda row: example(200, row, seed=1),
      lambda row: example(200, row + 50),
    )
  ]
  # Prefixes of one rate on the same text may agree by chance.
  assert min(changed) > 30


def test_drawn_is_what_denoise_draws(unchecked):
  mixture = (Denoiser(1, 0.1, 1), Denoiser(1, 0.5, 2), Denoiser(0, 0.9, 1))
  for row in range(100):
    _, targets = example(100, row, mixture=mixture)
    hidden = sum(map(len, spans_of(targets)))
    drawn = denoisers.drawn(0, row, mixture)
    assert hidden == {0: 10, 1: 50, 2: 90}[drawn]


def test_a_denoiser_without_weight_is_never_drawn(unchecked):
  mixture = (Denoiser(3, 0.1, 0), Denoiser(3, 0.5, 1), Denoiser(0, 0.9, 0))
  assert {denoisers.drawn(0, row, mixture) for row in range(200)} == {1}


def test_causal_stands_between_bos_and_eos():
  (only,) = denoisers.causal(text(3), 7)
  assert only.dtype == np.int32
  assert list(only) == [BOS, FIRST, FIRST + 1, FIRST + 2, EOS]


def test_the_published_mixture_is_sound():
  denoisers.check(UL2)


@pytest.mark.parametrize(
  ("mixture", "message"),
  [
    ((), "none has a weight above 0"),
    ((Denoiser(3, 0.0, 1),), r"denoisers\[0\]: rate 0.0 is not between"),
    ((Denoiser(3, 0.5, 1), Denoiser(3, 1.0, 1)), r"denoisers\[1\]: rate 1.0"),
    ((Denoiser(3, float("nan"), 1),), "rate nan"),
    ((Denoiser(-1, 0.5, 1),), "mean span of -1 tokens"),
    ((Denoiser(0.5, 0.5, 1),), "mean span of 0.5 tokens"),
    ((Denoiser(float("nan"), 0.5, 1),), "mean span of nan tokens"),
    ((Denoiser(float("inf"), 0.5, 1),), "mean span of inf tokens"),
    ((Denoiser(3, 0.5, -1),), "weight -1"),
    ((Denoiser(3, 0.5, float("nan")),), "weight nan"),
    ((Denoiser(3, 0.5, 0), Denoiser(0, 0.5, 0)), "none has a weight above 0"),
  ],
)
def test_a_mixture_that_cannot_be_drawn_is_refused(mixture, message):
  with pytest.raises(BadInput, match=message):
    denoisers.check(mixture)


def test_sentinels_are_spare_pieces(tmp_path):
  path = tmp_path / "tokenizer.model"
  train_tokenizer(["some words to make a vocabulary of"] * 3, path, 420)
  tokenizer = Tokenizer(path)
  found = denoisers.sentinels_of(tokenizer)
  assert [tokenizer.pieces[n] for n in found[:2]] == ["<unused0>", "<unused1>"]


def test_a_tokenizer_without_spare_pieces_is_refused():
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["some words to make a vocabulary of"] * 3),
    model_writer=model,
    model_type="bpe",
    vocab_size=285,
    pad_id=0,
    eos_id=1,
    bos_id=2,
    unk_id=3,
    byte_fallback=True,
    minloglevel=2,
  )
  with pytest.raises(BadInput, match="no spare <unusedN> piece"):
    denoisers.sentinels_of(Tokenizer(model.getvalue()))
