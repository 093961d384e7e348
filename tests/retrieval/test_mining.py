"""Mined negatives against brute force; every reason; chunks, kills, memory."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from embeddinggemma import lexical
from embeddinggemma.mining import neighbours, per_task
from embeddinggemma.mining.candidates import REASONS, MiningConfig, Sides
from embeddinggemma.types import BadInput, Pair

WORDS = "river stone copper lantern garden winter harbour signal".split()
CONFIG = MiningConfig(
  search="dense",
  negatives=2,
  top_k=8,
  choose="lowest",
  margin=None,
  ratio=None,
  near_cosine=None,
  near_words=None,
  seed=0,
)


def config(**changes):
  return dataclasses.replace(CONFIG, **changes)


def pair(query, positive, title=""):
  return Pair(query, positive, (), title, "qa", "", "here:1")


def unit(x):
  x = np.asarray(x, np.float32)
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def random_task(count=60, width=12, seed=0):
  """Pairs of few words, so that queries and positives repeat."""
  rng = np.random.default_rng(seed)
  text = lambda k: " ".join(rng.choice(WORDS, k))
  pairs = [pair(text(2), text(3)) for _ in range(count)]
  known = {}
  vector = lambda text: known.setdefault(text, rng.normal(size=width))
  query = unit([vector("q" + p.query) for p in pairs])
  # About the query, so that positives score well.
  positive = unit([vector("d" + p.positive) for p in pairs])
  return pairs, Sides(query, positive)


def brute(pairs, sides, c):
  """The rules, one query after the other."""
  query, positive = (np.float64(side) for side in sides)
  to_query = scores = np.float32(query @ positive.T)
  to_positive = np.float32(positive @ positive.T)
  first = {}
  for row, p in enumerate(pairs):
    first.setdefault(p.positive, row)
  if c.search != "dense":
    documents = [f" {text}" for text in first]
    found = lexical.bm25(documents, c.search)([p.query for p in pairs])
    scores = np.zeros_like(to_query)
    scores[:, list(first.values())] = found
  texts = {text for p in pairs for text in (p.query, p.positive)}
  words = {text: set(lexical.tokens(text)) for text in texts}
  jaccard = lambda a, b: len(words[a] & words[b]) / len(words[a] | words[b])
  chosen, fates = [], []
  for i, p in enumerate(pairs):
    order = sorted(first.values(), key=lambda j: (-scores[i, j], j))
    if c.search != "dense":
      order = [j for j in order if scores[i, j] > 0]
    own, fate = scores[i, first[p.positive]], {}
    answers = {o.positive for o in pairs if o.query == p.query}
    for j in order[: c.top_k]:
      text = pairs[j].positive
      off = lambda x, y: x is not None and y > x
      fate[j] = next(
        code
        for code, holds in (
          (2, text == p.positive),
          (3, text in answers),
          (4, text == p.query),
          (5, off(c.near_cosine, to_positive[i, j])),
          (6, off(c.near_words, jaccard(text, p.positive))),
          (7, off(c.near_cosine, to_query[i, j])),
          (8, off(c.near_words, jaccard(text, p.query))),
          (9, c.margin is not None and scores[i, j] > own + c.margin),
          (10, c.ratio is not None and scores[i, j] > c.ratio * own),
          (1, True),
        )
        if holds
      )
    left = [j for j in fate if fate[j] == 1]
    taken = left[::-1][: c.negatives]
    for j in taken:
      fate[j] = 0
    chosen.append(taken + [-1] * (c.negatives - len(taken)))
    fates.append(fate)
  return chosen, fates, scores


@pytest.mark.parametrize("search", ["dense", "plain", "stemmed"])
@pytest.mark.parametrize(
  "rules",
  [
    {},
    {"top_k": 1000, "negatives": 5},
    {"margin": 0.05, "near_words": 0.4},
    {"margin": -0.1, "near_cosine": 0.3},
    {"top_k": 20, "near_words": 0.4, "near_cosine": 0.5, "negatives": 1},
  ],
)
def test_it_is_what_brute_force_finds(tmp_path, search, rules):
  pairs, sides = random_task()
  c = config(search=search, **rules)
  per_task.mine(pairs, sides, c, tmp_path)
  mined = per_task.open_mined(tmp_path)
  chosen, fates, scores = brute(pairs, sides, c)
  np.testing.assert_array_equal(mined.negatives, chosen)
  for row, fate in enumerate(fates):
    entries = mined.ledger[row][mined.ledger[row]["candidate"] >= 0]
    found = dict(zip(entries["candidate"].tolist(), entries["reason"].tolist()))
    assert found == fate
    assert list(found) == list(fate)  # best first
    np.testing.assert_allclose(
      entries["score"], scores[row, list(fate)], rtol=1e-6
    )


def test_the_ratio_is_of_the_positive_s_score(tmp_path):
  pairs = [pair(f"q{i}", f"d{i}") for i in range(4)]
  angle = lambda *degrees: unit(
    [[np.cos(np.deg2rad(x)), np.sin(np.deg2rad(x))] for x in degrees]
  )
  sides = Sides(angle(0, 0, 0, 0), angle(30, 34, 60, 100))
  c = config(ratio=0.95, negatives=1)
  per_task.mine(pairs, sides, c, tmp_path)
  # 34 degrees score 0.829 of 0.866: too near. The lowest left is 100 degrees;
  # of a positive's negative score (the last), a part lies below it.
  mined = per_task.open_mined(tmp_path)
  assert mined.negatives[:, 0].tolist() == [3, 3, 3, -1]
  assert mined.ledger[0]["reason"].tolist() == [2, 10, 1, 0]


ORDINARY = [pair(f"what is {w}", f"{w} is a thing") for w in WORDS]


@pytest.mark.parametrize(
  ("extra", "vectors", "changes", "row", "candidate", "reason"),
  [
    ([], {}, {}, 0, 0, "is its positive"),
    (
      [pair("What is  RIVER", "water that flows")],
      {},
      {},
      0,
      8,
      "is a positive of an equal query",
    ),
    ([pair("x", "what is river")], {}, {}, 0, 8, "is the query's own text"),
    (
      [pair("x", "something else")],
      {8: 0},
      {"near_cosine": 0.9},
      0,
      8,
      "near-duplicate of the positive, by cosine",
    ),
    (
      [pair("x", "a thing is river!")],
      {},
      {"near_words": 0.9},
      0,
      8,
      "near-duplicate of the positive, by words",
    ),
    (
      [pair("x", "what, is: river?")],
      {},
      {"near_words": 0.9},
      0,
      8,
      "near-duplicate of the query, by words",
    ),
    (
      [],
      {},
      {"margin": -3.0},
      0,
      1,
      "scores above the positive and the margin",
    ),
    ([], {}, {"ratio": -9.0}, 0, 1, "scores above the ratio of the positive's"),
    ([], {}, {"negatives": 8}, 0, 1, "chosen"),
    ([], {}, {"negatives": 1}, 0, 1, "left over, others were chosen"),
  ],
)
def test_reasons(tmp_path, extra, vectors, changes, row, candidate, reason):
  pairs = [*ORDINARY, *extra]
  width = len(pairs)
  positive = np.eye(width, dtype=np.float32) + 0.1
  for target, source in vectors.items():
    positive[target] = positive[source] + 0.01 * np.eye(width)[target]
  query = positive.copy()
  query[0, 1] += 0.2
  c = config(top_k=width, **changes)
  per_task.mine(pairs, Sides(unit(query), unit(positive)), c, tmp_path)
  entry = per_task.open_mined(tmp_path).ledger[row]
  found = entry["reason"][entry["candidate"] == candidate]
  assert [REASONS[code] for code in found] == [reason]


def test_a_document_like_the_query_is_dropped(tmp_path):
  """Cosine to the query is the score itself, in dense search."""
  pairs = ORDINARY[:3]
  query = unit([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
  positive = unit([[0, 1, 0.2], [1, 0, 0.1], [0, 0.2, 1]])
  c = config(near_cosine=0.99)
  about = per_task.mine(pairs, Sides(query, positive), c, tmp_path)
  reason = "near-duplicate of the query, by cosine"
  assert about["candidates"][reason] == 1
  assert per_task.open_mined(tmp_path).ledger[0]["reason"][0] == (
    REASONS.index(reason)
  )


@pytest.mark.parametrize("task", ["bitext", "qa"])
def test_what_pairs_of_a_symmetric_task_join_is_no_negative(tmp_path, task):
  """Three languages of two sentences: Dutch is never a negative of German."""
  words = ("stone", "Stein", "steen"), ("river", "Fluss", "rivier")
  pairs = [
    pair(a, b)._replace(task=task)
    for en, de, nl in words
    for a, b in ((en, de), (nl, en))
  ]
  sides = Sides(*unit(np.random.default_rng(0).normal(size=(2, 4, 8))))
  per_task.mine(pairs, sides, CONFIG, tmp_path)
  negatives = per_task.open_mined(tmp_path).negatives
  sentence = [{i // 2 for i in row if i >= 0} for row in negatives.tolist()]
  joined = [i // 2 in found for i, found in enumerate(sentence)]
  assert joined == ([task == "qa"] * 4 if task == "bitext" else joined)
  assert any(joined) == (task == "qa")
  reasons = per_task.open_mined(tmp_path).ledger["reason"]
  assert (
    reasons == REASONS.index("is joined to the query by pairs of its task")
  ).any() == (task == "bitext")


def test_equal_positives_are_one_candidate(tmp_path):
  pairs = [pair(f"q{i}", "Yes" if i % 2 else "no  way") for i in range(6)]
  rng = np.random.default_rng(0)
  sides = Sides(*unit(rng.normal(size=(2, 6, 4))))
  per_task.mine(pairs, sides, CONFIG, tmp_path)
  mined = per_task.open_mined(tmp_path)
  assert mined.ledger.shape == (6, 2)
  want = [[1, -1] if i % 2 == 0 else [0, -1] for i in range(6)]
  assert mined.negatives.tolist() == want


@pytest.mark.parametrize("search", ["dense", "plain"])
@pytest.mark.parametrize("choose", ["lowest", "random"])
def test_the_size_of_a_chunk_changes_nothing(
  tmp_path, monkeypatch, search, choose
):
  pairs, sides = random_task(40, width=96)
  c = config(search=search, choose=choose, near_words=0.8, near_cosine=0.9)
  hashes = set()
  for number, size in enumerate((1, 7, 40)):
    monkeypatch.setattr(neighbours, "MAX_QUERIES", size)
    monkeypatch.setattr(neighbours, "BLOCK", 97 * size)
    about = per_task.mine(pairs, sides, c, tmp_path / str(number))
    hashes.add(about["hash"])
  assert len(hashes) == 1


def test_random_choices_follow_seed_and_row(tmp_path):
  pairs, sides = random_task()
  hashes = [
    per_task.mine(pairs, sides, config(choose="random", seed=s), tmp_path / f)[
      "hash"
    ]
    for s, f in ((0, "a"), (0, "b"), (1, "c"))
  ]
  assert hashes[0] == hashes[1] != hashes[2]
  mined = per_task.open_mined(tmp_path / "a")
  ranks = [
    np.flatnonzero(row["reason"] == 0)[0]
    for row in mined.ledger
    if 0 in row[2:]["reason"]
  ]
  assert len(set(ranks)) > 3


def test_a_kill_loses_a_chunk_and_no_bit(tmp_path, monkeypatch):
  pairs, sides = random_task()
  monkeypatch.setattr(neighbours, "MAX_QUERIES", 16)
  whole = per_task.mine(pairs, sides, CONFIG, tmp_path / "whole")
  seen = []

  class Killed(BaseException):
    pass

  def kill(done, total):
    assert total == len(pairs)
    seen.append(done)
    if len(seen) in (1, 2):
      raise Killed

  for _ in range(2):
    with pytest.raises(Killed):
      per_task.mine(pairs, sides, CONFIG, tmp_path / "x", progress=kill)
    assert not (tmp_path / "x" / "negatives.npy").exists()
    with pytest.raises(BadInput, match="holds no negatives"):
      per_task.open_mined(tmp_path / "x")
  assert (
    per_task.mine(pairs, sides, CONFIG, tmp_path / "x", progress=kill) == whole
  )
  assert seen == [16, 32, 48, 60]
  names = sorted(p.name for p in (tmp_path / "x").iterdir())
  assert names == ["ledger.npy", "mining.json", "negatives.npy", "own.npy"]
  for name in names:
    one, other = ((tmp_path / d / name).read_bytes() for d in ("x", "whole"))
    assert one == other
  per_task.mine(pairs, sides, CONFIG, tmp_path / "x", progress=kill)
  assert len(seen) == 4  # it was done


def test_other_inputs_start_anew(tmp_path):
  pairs, sides = random_task()
  first = per_task.mine(pairs, sides, CONFIG, tmp_path)
  moved = Sides(sides.query[::-1].copy(), sides.positive)
  for changed in (
    (pairs, moved, CONFIG),
    (pairs, sides, config(margin=0.0)),
    ([*pairs[:-1], pairs[-1]._replace(query="new")], sides, CONFIG),
  ):
    again = per_task.mine(*changed, tmp_path)
    assert again["key"] != first["key"]
  assert per_task.mine(pairs, sides, CONFIG, tmp_path) == first


def test_queries_without_a_negative_are_kept_and_counted(tmp_path):
  pairs = [
    pair("river stone", "river bed"),
    pair("copper", "stone age"),
    pair("winter", "winter"),
    pair("zebra", "garden"),
  ]
  about = per_task.mine(pairs, None, config(search="plain"), tmp_path)
  mined = per_task.open_mined(tmp_path)
  assert mined.negatives.tolist() == [[1, -1], [-1, -1], [-1, -1], [-1, -1]]
  assert about["without"] == {"no neighbours": 2, "is its positive": 1}
  assert (about["pairs"], about["negatives"]) == (4, 1)
  assert about["candidates"]["chosen"] == 1


def test_explain_names_every_candidate(tmp_path):
  pairs = [
    pair("river stone", "river bed"),
    pair("copper", "stone age " + "long " * 60),
    pair("zebra", "garden"),
  ]
  per_task.mine(pairs, None, config(search="plain"), tmp_path)
  mined = per_task.open_mined(tmp_path)
  lines = per_task.explain(mined, 0, pairs)
  assert lines[0] == "query 0: river stone"
  assert lines[1].endswith(": river bed")
  assert any(x.endswith("row 0: is its positive") for x in lines)
  assert any(x.endswith("row 1: chosen") for x in lines)
  assert max(map(len, lines)) < 120
  assert per_task.explain(mined, 2, pairs)[-1].strip() == "no neighbours"
  for row in (-1, 3):
    with pytest.raises(BadInput, match="rows 0 to 2 were mined"):
      per_task.explain(mined, row, pairs)
  with pytest.raises(BadInput, match="2 pairs"):
    per_task.explain(mined, 0, pairs[:2])


def test_memory_is_bounded(monkeypatch):
  """Far less than the scores of all queries, whatever the ties."""
  monkeypatch.setattr(neighbours, "CHUNK_BYTES", 2**20)
  monkeypatch.setattr(neighbours, "BLOCK", 2**14)
  rng = np.random.default_rng(0)
  size = 4000
  query, positive = unit(rng.normal(size=(2, size, 16)))
  search = neighbours.by_vectors(query, positive, 20)
  tracemalloc.start()
  for part in neighbours.chunks(0, size, size):
    found = search(part, np.arange(part.start, part.stop))
    assert len(found.score) == 20 * (part.stop - part.start)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 5 * 2**20 < 4 * size * size / 10


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"search": "sparse"}, "search='sparse' is unknown; use dense or plain"),
    ({"choose": "best"}, "choose='best' is unknown; use lowest or random"),
    ({"negatives": 0}, "use 1 <= negatives <= top_k"),
    ({"negatives": 9}, "negatives=9 top_k=8"),
    ({"margin": np.nan}, "margin=nan is no number"),
  ],
)
def test_bad_rules_are_named(change, message):
  with pytest.raises(BadInput, match=message):
    config(**change)


def test_bad_vectors_are_named(tmp_path):
  pairs, sides = random_task(5)
  broken = sides.positive.copy()
  broken[3] = np.nan
  for vectors, message in (
    (None, "dense mining needs vectors"),
    (Sides(sides.query[:4], sides.positive[:4]), "4 query vectors for 5 pairs"),
    (Sides(sides.query * 2, sides.positive), "query vector 0 has length 2"),
    (Sides(sides.query, broken), "positive vector 3 has length nan"),
  ):
    with pytest.raises(BadInput, match=message):
      per_task.mine(pairs, vectors, CONFIG, tmp_path)
  mixed = [pairs[0], pairs[1]._replace(task="code")]
  with pytest.raises(BadInput, match="pairs of code and qa; mine one task"):
    per_task.mine(mixed, None, config(search="plain"), tmp_path)
  with pytest.raises(BadInput, match="no pairs to mine"):
    per_task.mine([], None, config(search="plain"), tmp_path)
  assert not list(tmp_path.iterdir())
