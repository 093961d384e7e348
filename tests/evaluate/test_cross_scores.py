"""The metrics of XOR-Retrieve and XTREME-UP, against what was published."""

import numpy as np
import pytest
from cross_files import (
  DEV,
  PASSAGES,
  question,
  scored,
  write_jsonl,
  write_tsv,
  write_xor,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from embeddinggemma.evaluation.cross import (
  languages,
  scores,
  words,
  xor_retrieve,
  xtreme_up,
)

# Table 12 of the paper.
XOR = {"ar": 83.50, "bn": 91.45, "fi": 78.34, "ja": 81.33, "ko": 83.86}
XOR |= {"ru": 82.70, "te": 87.82}
XTREME = dict(
  zip(
    xtreme_up.LANGUAGES,
    [
      *(48.44, 56.21, 12.14, 55.71, 44.65, 52.95, 63.19, 58.96, 54.04, 60.74),
      *(55.46, 22.16, 58.27, 54.81, 21.21, 45.50, 35.21, 55.81, 50.34, 48.61),
    ],
    strict=True,
  )
)


def published(results, gold, limit, tokenize):
  """What eval_xor_retrieve.py computes: {language: per cent}, and their mean."""
  counts = {}
  for item in results:
    counts.setdefault(item["lang"], [0, 0])
    if item["id"] not in gold:
      continue
    spans = [a for a in gold[item["id"]] if a not in ["yes", "no"]]
    if len(spans) == 0:
      continue
    counts[item["lang"]][1] += 1
    tokens = []
    for text in item["ctxs"]:
      tokens += tokenize(text)
      if len(tokens) >= limit:
        break
    text = " ".join(tokens[:limit])
    counts[item["lang"]][0] += any(answer in text for answer in spans)
  by = {lang: 100 * h / n for lang, (h, n) in counts.items() if n > 0}
  return by, sum(by.values()) / len(by)


PIECES = [
  "New",
  "York",
  "1642",
  "1,000",
  "St.",
  "Louis.",
  "Anna",
  '"a',
  "東京都",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join)
SPANS = ["New York", "York 1642", "1642", "1,000", "St. Louis", "東京"]
SPANS += ["yes", "no", "", "Yes", "1642, New", "Louis", "anna"]
ANSWERS = st.lists(st.sampled_from(SPANS), max_size=3)


@settings(deadline=None, max_examples=150)
@given(
  st.lists(TEXTS, min_size=1, max_size=8),
  st.lists(
    st.tuples(st.sampled_from(xor_retrieve.LANGUAGES), ANSWERS),
    min_size=1,
    max_size=6,
  ),
  st.randoms(use_true_random=False),
  st.integers(1, 20),
)
def test_recall_is_the_published_scripts(
  tmp_path_factory, texts, asked, random, limit
):
  """Of any passages, answers, ranking and limit."""
  folder = tmp_path_factory.mktemp("xor")
  rows = [(str(n), text, "") for n, text in enumerate(texts)]
  write_tsv(folder / "psgs_w100.tsv", rows)
  rows = [
    question(0, lang, answers) | {"id": str(n)}
    for n, (lang, answers) in enumerate(asked)
  ]
  write_jsonl(folder / DEV, rows)
  spans = [row for row in rows if set(row["answers"]) - {"yes", "no"}]
  if not spans:
    return
  source = xor_retrieve.read(folder)
  order = [random.sample(range(len(texts)), len(texts)) for _ in spans]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(xor_retrieve, "LIMITS", {"recall@5kt": limit})
    found = scored(xor_retrieve, source, order)
  results = [
    {"id": row["id"], "lang": row["lang"], "ctxs": [texts[n] for n in places]}
    for row, places in zip(spans, order, strict=True)
  ]
  gold = {row["id"]: row["answers"] for row in rows}
  by, mean = published(results, gold, limit, words.words().split)
  assert 100 * found["recall@5kt"] == pytest.approx(mean)
  for lang, value in by.items():
    assert 100 * found[f"recall@5kt/{lang}"] == pytest.approx(value)


@pytest.mark.parametrize(
  ("passages", "answer", "hit"),
  [
    (["born in New", "York City"], "New York", True),  # across two passages
    (["in new york"], "New York", False),
    (["a NewYork b"], "York", True),  # a part of a word
    (["(1642)"], "1642", True),
    (["December 25, 1642"], "25, 1642", False),  # its words are 25 , 1642
    (["1,000 m"], "1,000", True),
    (["in St. Louis."], "St. Louis", True),
    (["by J. R. R. Tolkien."], "J. R. R. Tolkien", True),
    (["it ended. Then"], "ended . Then", True),
    (["首都は東京都です"], "東京", True),  # without spaces
    (["  two   spaces "], "two spaces", True),
    ([""], "x", False),
    (["anything"], "", True),  # as the script has it
  ],
)
def test_an_answer_is_found_in_words_joined_by_spaces(passages, answer, hit):
  split = words.words().split
  first = [word for text in passages for word in split(text)]
  assert xor_retrieve.is_hit(first, [answer]) is hit
  results = [{"id": "q", "lang": "fi", "ctxs": passages}]
  by, _ = published(results, {"q": [answer]}, 5000, split)
  assert by == {"fi": 100.0 * hit}


def test_the_limits_are_2000_and_5000_words(tmp_path):
  """The last word that counts is the limit's."""
  texts = ["w " * 1999 + "two", "three " + "w " * 2998 + "five", "six"]
  rows = [(str(n), text, "") for n, text in enumerate(texts)]
  asked = ["two", "three", "five", "six"]
  write_xor(tmp_path, [question(0, "fi", [answer]) for answer in asked])
  write_tsv(tmp_path / "psgs_w100.tsv", rows)
  source = xor_retrieve.read(tmp_path)
  found = scored(xor_retrieve, source, [[0, 1, 2]] * 4)
  assert found["recall@2kt"] == 1 / 4 and found["recall@5kt"] == 3 / 4


def test_languages_count_the_same_and_yes_or_no_does_not(tmp_path):
  source = xor_retrieve.read(write_xor(tmp_path))
  assert source.languages == ("fi", "fi", "ru", "ja")
  assert source.right == (("1900",), ("1066",), ("1902",), ("1904",))
  order = np.array([list(range(len(PASSAGES)))] * 4)
  found = scored(xor_retrieve, source, order)
  assert found["recall@5kt/fi"] == 0.5 and found["recall@5kt/ru"] == 1.0
  assert found["recall@5kt"] == pytest.approx((0.5 + 1 + 1) / 3)
  assert "recall@5kt/ar" not in found
  assert set(found) <= set(xor_retrieve.METRICS)


def test_fewer_passages_may_be_found(tmp_path):
  """-1 stands for none."""
  source = xor_retrieve.read(write_xor(tmp_path))
  order = np.full((4, 3), -1)
  order[2:, 0] = 2, 4
  found = scored(xor_retrieve, source, order)
  assert found["recall@5kt/fi"] == 0 and found["recall@5kt/ru"] == 1
  assert xtreme_up.reciprocal_rank(order[0], (0,)) == 0.0


def test_the_papers_means_are_those_of_its_languages():
  """47.72 and 84.14, of which 5 of 20 languages are not Indo-European."""
  found = scores.of_languages("r", XOR, xor_retrieve.LANGUAGES)
  assert round(found["r"], 2) == 84.14
  assert found["r/Indo-European"] == pytest.approx((91.45 + 82.70) / 2)
  found = scores.of_languages("r", XTREME, xtreme_up.LANGUAGES)
  assert round(found["r"], 2) == 47.72
  sizes = {
    family: len(members)
    for family, members in scores.groups(XTREME, xtreme_up.LANGUAGES).items()
  }
  assert sizes == {"Indo-European": 15, "Dravidian": 3, "Sino-Tibetan": 2}
  assert list(sizes) == ["Indo-European", "Dravidian", "Sino-Tibetan"]
  assert round(found["r/Indo-European"], 2) == 50.68
  assert round(found["r/Dravidian"], 2) == 53.28
  assert round(found["r/Sino-Tibetan"], 2) == 17.15


def test_other_languages_are_beside_the_mean():
  values = {"hi": 0.5, "ta": 0.7, "bn": 0.1, "hi_cs": 0.2}
  found = scores.of_languages("mrr@10", values, xtreme_up.LANGUAGES)
  assert found["mrr@10"] == pytest.approx(0.6)
  assert found["mrr@10/Indo-European"] == 0.5
  assert found["mrr@10/code-switching"] == found["mrr@10/hi_cs"] == 0.2
  assert found["mrr@10/bn"] == 0.1
  assert set(found) <= set(xtreme_up.METRICS)
  assert scores.counted(["bn", "te"], xtreme_up.LANGUAGES) == ["bn", "te"]
  assert scores.counted(["hi_cs"], xtreme_up.LANGUAGES) == ["hi_cs"]


def test_every_language_has_a_code_and_a_family():
  for name in (*xor_retrieve.LANGUAGES, *xtreme_up.LANGUAGES):
    assert languages.is_known(name) and languages.is_known(f"{name}_cs")
    iso, script = languages.LANGUAGES[name].code.split("-")
    assert len(iso) == 3 and len(script) == 4
    assert languages.family_of(name) in languages.FAMILIES
  assert len(xor_retrieve.LANGUAGES) == 7 and len(xtreme_up.LANGUAGES) == 20
  assert languages.called("hi_cs") == "Hindi with English (hi_cs)"


def test_the_reciprocal_rank_ends_at_ten():
  """As compute_mrr of the release: the first of ten that is right."""
  row = np.arange(20)
  ranks = [xtreme_up.reciprocal_rank(row, (n,)) for n in (0, 3, 9, 10)]
  assert ranks == [1.0, 0.25, 0.1, 0.0]
  assert xtreme_up.reciprocal_rank(row, (7, 4)) == 0.2
  assert xtreme_up.reciprocal_rank(row, ()) == 0.0


def test_nltks_own_sentences_are_used_where_they_are(tmp_path, monkeypatch):
  """With a model in NLTK's layout, words are those of its word_tokenize."""
  import nltk
  from nltk.tokenize import word_tokenize

  folder = tmp_path / "tokenizers" / "punkt_tab" / "english"
  folder.mkdir(parents=True)
  files = {"abbrev_types.txt": "zz", "sent_starters.txt": "the"}
  files |= {"collocations.tab": "", "ortho_context.tab": "the\t46"}
  for name, text in files.items():
    (folder / name).write_text(text)
  text = "At zz. The end. It was St. Louis."
  monkeypatch.setattr(nltk.data, "path", [])
  _forget()
  own = words.words()
  assert not own.as_published
  assert own.split(text)[-2:] == ["Louis", "."] and "St." in own.split(text)
  monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
  _forget()
  theirs = words.words()
  assert theirs.as_published and theirs.split(text) == word_tokenize(text)
  assert "St." not in theirs.split(text)
  _forget()


def _forget():
  import nltk.tokenize

  words.words.cache_clear()
  kept = getattr(nltk.tokenize, "_get_punkt_tokenizer", None)
  if kept is not None:
    kept.cache_clear()
