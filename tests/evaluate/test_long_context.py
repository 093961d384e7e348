"""Documents of several lengths: how they are made, and what scores say of them."""

import json
import pathlib
import re
import shutil
from collections import Counter

import numpy as np
import pytest

from embeddinggemma import lexical
from embeddinggemma.evaluation import metrics, suite
from embeddinggemma.evaluation.long_context import (
  curve,
  documents,
  facts,
  made,
  questions,
  reach,
  spec,
  texts,
)
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.presets import preset
from embeddinggemma.retrieval.measure import BY_CHARACTERS, Measure
from embeddinggemma.types import BadInput

SPEC = spec.Spec((128, 256, 512), 24, 0)
WORDS = [
  first + middle + last
  for first in ("ba", "ke", "lo", "mi", "nu", "ra", "so", "ti")
  for middle in ("dor", "fen", "gal", "hum", "lin", "per")
  for last in ("ak", "es", "im", "ol", "ut")
]


def by_words(limit: int) -> Measure:
  """A tokenizer whose tokens are words, under a prompt of one word."""
  return Measure(
    limit,
    "words",
    lambda text, title: f"document: {text}",
    lambda texts: [len(text.split()) + 2 for text in texts],
    lambda text: [m.end() for m in re.finditer(r"\S+\s*", text)],
    3,
    False,
  )


MEASURE = by_words(SPEC.lengths[-1])


def sentence(rng: np.random.Generator) -> str:
  return " ".join(rng.choice(WORDS, 10)).capitalize() + "."


def write_text(folder: pathlib.Path, files: int, paragraphs: int) -> None:
  """Files of paragraphs of three sentences, no two of which are alike."""
  rng = np.random.default_rng(5)
  folder.mkdir(parents=True, exist_ok=True)
  for number in range(files):
    text = [
      " ".join(sentence(rng) for _ in range(3)) for _ in range(paragraphs)
    ]
    (folder / f"{number:02d}.txt").write_text("\n\n".join(text) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
  """Local text: 30 files of 600 words."""
  place = tmp_path_factory.mktemp("long") / "text"
  write_text(place, 30, 20)
  return place


@pytest.fixture(scope="module")
def place(folder) -> pathlib.Path:
  """A suite of that text."""
  made.once(SPEC, folder, (), MEASURE, folder.parent / "suite")
  return folder.parent / "suite"


class Reader:
  """An encoder that knows all facts, and reads the beginnings of texts.

  A text's vector says which facts it states, or asks for.
  """

  def __init__(self, words: int):
    self._words = words
    self._facts = facts.make(SPEC.documents, np.random.default_rng(SPEC.seed))

  def __call__(self, texts, prompt_name, titles=()):
    del prompt_name, titles
    vectors = np.full((len(texts), len(self._facts) + 1), 1e-3, np.float32)
    vectors[:, -1] = 1.0
    for row, text in zip(vectors, texts, strict=True):
      read = " ".join(text.split()[: self._words])
      for number, fact in enumerate(self._facts):
        row[number] += fact.statement in read or fact.question == read
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_no_fact_is_twice_and_its_question_has_other_words():
  found = facts.make(facts.MOST, np.random.default_rng(0))
  assert len({fact.question for fact in found}) == facts.MOST
  assert len({fact.statement for fact in found}) == facts.MOST
  for fact in found[:48]:
    said, asked = (set(lexical.stems(text)) for text in fact)
    assert len(said & asked) == 2, fact  # first and last name


def test_names_and_kinds_of_facts_are_shared():
  found = facts.make(48, np.random.default_rng(3))
  names = [" ".join(re.findall(r"[A-Z]\w+", f.question)[-2:]) for f in found]
  assert set(Counter(names).values()) == {6}
  kinds = [fact.question.replace(name, "") for fact, name in zip(found, names)]
  assert set(Counter(kinds).values()) == {8}


@pytest.mark.parametrize("count", [12, 36, 72])
def test_positions_are_even(count):
  places = documents.positions(count)
  pairs = list(zip(*(places[task] for task in documents.TASKS), strict=True))
  assert set(Counter(pairs).values()) == {count // 6}
  assert all(first != second for first, second in pairs)
  for person in range(0, count, 6):
    assert len(set(pairs[person : person + 6])) == 6


@pytest.mark.parametrize(
  ("text", "question"),
  [
    (
      "One two three four five six seven. Eight nine ten eleven twelve"
      " thirteen? fourteen fifteen sixteen seventeen eighteen and nineteen.",
      "One two three four five six seven.",
    ),
    (
      'Short one. He said "all of this was\nwrapped in two lines of the text."'
      " And these are more words that will be left of it in the end, no less"
      " than ten.",
      'He said "all of this was wrapped in two lines of the text."',
    ),
    (
      "短い。これは十分に長い文であり質問として使えます。残りの部分にも多くの言葉が"
      "必要なのでもう少し書きますが句点はない",
      "これは十分に長い文であり質問として使えます。",
    ),
    (
      "यह वाक्य बहुत छोटा है। इस वाक्य में प्रश्न के लिए पर्याप्त शब्द हैं। और यहाँ बाकी"
      " पाठ के कुछ और शब्द हैं जो बचते हैं",
      "इस वाक्य में प्रश्न के लिए पर्याप्त शब्द हैं।",
    ),
  ],
)
def test_a_sentence_asks_for_what_is_around_it(text, question):
  rng = np.random.default_rng(0)
  passages = [texts.Passage(("a", 0), text, 40)]
  found = {
    asked.question
    for _ in range(8)
    for asked in questions.ask(passages, 1, rng)
  }
  assert question in found
  for asked in questions.ask(passages, 1, rng):
    assert asked.question not in " ".join(asked.text.split())
    kept = "".join((asked.text + asked.question).split())
    assert Counter(kept) == Counter("".join(text.split()))


def test_code_is_asked_by_lines_where_nothing_else_is_there():
  code = "\n".join(
    f"value_{n} = compute(first_{n}, second, third_{n}, fourth)"
    for n in range(4)
  )
  prose = "This sentence is about seven different words. " + "more words " * 6
  passages = [texts.Passage(("a", 0), code, 50)]
  passages.append(texts.Passage(("b", 0), prose, 50))
  rng = np.random.default_rng(0)
  (first,) = questions.ask(passages, 1, rng)
  assert first.question.startswith("This sentence")
  both = questions.ask(passages, 2, rng)
  assert [one.place for one in both] == [1, 0]
  assert both[1].question in code and both[1].question not in both[1].text


@pytest.mark.parametrize(
  "text",
  [
    "all that is here are some words in one line, of which none ends a sentence"
    " before the line does so itself",
    "".join(chr(0x4E00 + n) for n in range(60)),
  ],
)
def test_where_neither_will_do_runs_of_words_ask(text):
  rng = np.random.default_rng(0)
  (asked,) = questions.ask([texts.Passage(("a", 0), text, 30)], 1, rng)
  assert asked.question in text.replace("\n", " ")
  kept = "".join((asked.text + asked.question).split())
  assert Counter(kept) == Counter("".join(text.split()))


def test_what_stands_twice_asks_for_nothing():
  rng = np.random.default_rng(1)
  shared = "Permission is hereby granted to all who read this."
  passages = [
    texts.Passage(
      (f"{n}", 0), f"{shared} {' '.join(rng.choice(WORDS, 12))}", 22
    )
    for n in range(3)
  ]
  assert all(one.question != shared for one in questions.ask(passages, 3, rng))
  assert questions.ask([passages[0]] * 2, 3, rng) == []


def test_every_text_is_asked_before_one_is_asked_twice(folder):
  rng = np.random.default_rng(2)
  read = texts.read(folder, (), by_words(60), 10**9, rng)
  asked = questions.ask(read.passages, 45, rng)
  times = Counter(read.passages[one.place].source for one in asked)
  assert len(times) == 30 and set(times.values()) == {1, 2}


def test_documents_grow_by_running_text_alone(folder):
  rng = np.random.default_rng(0)
  known = facts.make(24, rng)
  read = texts.read(folder, (), by_words(60), 10**9, rng)
  asked = questions.ask(read.passages, 24, rng)
  drafts = list(documents.draft(known, asked, read.passages, 512))
  places = documents.positions(24)
  golden = {one.place for one in asked}
  for number, draft in enumerate(drafts):
    own = read.passages[asked[number].place].source
    for place, passage in enumerate(read.passages):
      if place in golden or passage.source == own:
        assert passage.text not in draft.filler
    before: list[str] = []
    for length in (128, 256, 512):
      text = documents.grown(draft, length, MEASURE)
      assert length - 12 <= MEASURE.lengths([text], "")[0] <= length
      for task, held in (
        (documents.NEEDLE, known[number].statement),
        (documents.PASSAGE, asked[number].text),
      ):
        assert text.count(held) == 1
        share = text.index(held) / (len(text) - len(held))
        low, high = {"start": (0, 0), "middle": (0.2, 0.8), "end": (1, 1)}[
          places[task][number]
        ]
        assert low <= share <= high
        text = text.replace(held, "")
      words = text.split()
      assert words == draft.filler.split()[: len(words)]
      assert len(words) > len(before)
      before = words


def test_texts_are_dealt_evenly(folder):
  """No text is in two documents while there is another."""
  rng = np.random.default_rng(0)
  read = texts.read(folder, (), by_words(60), 10**9, rng)
  asked = questions.ask(read.passages, 24, rng)
  known = facts.make(24, rng)
  drafts = documents.draft(known, asked, read.passages, 1500)
  uses = Counter(
    passage
    for draft in drafts
    for passage in dict.fromkeys(draft.filler.split("\n\n"))
  )
  there = sum(p.tokens for p in read.passages) - sum(
    read.passages[one.place].tokens for one in asked
  )
  assert there < 24 * 1500
  assert max(uses.values()) <= 24 * 1500 // there + 2
  said = documents.require_text("here", asked, read.passages, 24, 1500)
  assert said == pytest.approx(24 * 1500 / there)


def test_a_suite_is_made_once_and_alike(folder, place, tmp_path):
  files = {
    path.relative_to(place): path.read_bytes()
    for path in place.rglob("*")
    if path.is_file()
  }
  about, known = made.once(SPEC, folder, (), MEASURE, place)
  assert known and about == json.loads((place / "suite.json").read_text())
  _, known = made.once(SPEC, folder, (), MEASURE, tmp_path / "again")
  assert not known
  for path, data in files.items():
    assert (tmp_path / "again" / path).read_bytes() == data, path
  other = spec.Spec(SPEC.lengths, SPEC.documents, 1)
  _, known = made.once(other, folder, (), MEASURE, tmp_path / "again")
  assert not known
  corpus = pathlib.Path("needle/128/corpus.jsonl")
  assert (tmp_path / "again" / corpus).read_bytes() != files[corpus]
  assert not list(tmp_path.glob("*.partial"))


def test_a_suite_is_a_folder_of_tasks(place):
  found = {task.name: task for task in suite.read_suite(place)}
  assert set(found) == {
    f"{task}/{length}" for task in documents.TASKS for length in SPEC.lengths
  }
  for name, task in found.items():
    assert task.kind == "retrieval" and len(task.documents) == 24
    assert task.task == ("qa" if name.startswith("needle") else "retrieval")
    assert list(task.gold) == [{n: 1} for n in range(24)]
    twin = name.replace("needle", "passage")
    assert task.documents == found[twin].documents
    same = found[name.split("/")[0] + "/128"]
    assert task.queries == same.queries
  for length, sizes in json.loads((place / "suite.json").read_text())[
    "tokens"
  ].items():
    assert int(length) - 12 <= sizes["least"] <= sizes["most"] <= int(length)


def test_a_suite_is_no_text_of_another(folder, tmp_path):
  """Beside the text, and again beside it: neither is read as text."""
  text = tmp_path / "text"
  write_text(text, 12, 20)
  few = spec.Spec((128,), 12)
  for name in ("one", "two"):
    about, _ = made.once(few, text, [text / "x.json"], MEASURE, text / name)
    assert about["texts"] == 12
  assert made.once(few, text, [text / "x.json"], MEASURE, text / "one")[1]


@pytest.mark.parametrize("name", ["text", "positive"])
def test_rows_of_jsonl_are_texts(tmp_path, name):
  rng = np.random.default_rng(0)
  rows = [{name: " ".join(sentence(rng) for _ in range(4))} for _ in range(99)]
  rows[7] = {name: ""}
  path = tmp_path / "rows.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  about, _ = made.once(
    spec.Spec((128,), 12), path, (), MEASURE, tmp_path / "suite"
  )
  assert about["texts"] == 98


def test_what_is_no_text_is_left_out_and_counted(folder, tmp_path):
  text = tmp_path / "text"
  write_text(text, 14, 20)
  (text / "a.bin").write_bytes(b"\0\1")
  (text / "b.bin").write_bytes(b"\0\1")
  (text / "c.jsonl").write_text('{"query": "x"}\n')
  (text / ".hidden").write_text("x")
  wanted = spec.Spec((128, 256), 24)
  about, _ = made.once(wanted, text, (), MEASURE, tmp_path / "suite")
  assert about["left_out"] == {
    "hidden": 1,
    "no field 'text' or 'positive'": 1,
    "binary": 2,
  }


def test_a_reader_of_beginnings_loses_what_stands_later(place):
  found = made.read(place)
  trained = reach.Trained(256, reach.TRAINING)
  all_of_it = curve.rows(Reader(10**6), found, trained)
  needles = [row for row in all_of_it if row["task"] == documents.NEEDLE]
  assert [row["length"] for row in needles] == [128, 256, 512]
  assert [row["beyond"] for row in needles] == [False, False, True]
  for row in needles:
    score = row["model"]["all"]
    assert score["ndcg@10"] == score["accuracy@1"] == 1
    assert score["intervals"]["ndcg@10"] == [1, 1]
    assert score["queries"] == 24 and row["cut_at"] is None
    assert row["length"] - 12 <= row["tokens"] <= row["length"]
  beginnings = curve.rows(Reader(60), found, trained)
  for row, whole in zip(beginnings, all_of_it, strict=True):
    assert row["words"] == whole["words"]
    if row["task"] == documents.NEEDLE:
      by_place = row["model"]["positions"]
      at = {p: score["accuracy@1"] for p, score in by_place.items()}
      assert at["start"] == 1 and at["end"] <= 0.2
      score = row["model"]["all"]
      low, high = score["intervals"]["accuracy@1"]
      assert 0 < low < score["accuracy@1"] < high < 1
      assert sum(s["queries"] for s in by_place.values()) == 24
  # What it does not know it ranks by chance.
  chance = curve.chance(24)
  for row in all_of_it:
    if row["task"] == documents.PASSAGE:
      for metric, expected in chance.items():
        low, high = row["model"]["all"]["intervals"][metric]
        assert low <= expected <= high


def test_words_find_the_person_and_not_the_place(place):
  """Of the six facts about a person any may be first, wherever it stands."""
  found = made.read(place)
  rows = curve.rows(Reader(1), found, reach.Trained(512, reach.LIMIT))
  for row in rows[:3]:
    assert row["task"] == documents.NEEDLE
    score = row["words"]["all"]
    assert 0.4 < score["ndcg@10"] < 0.8 and score["accuracy@1"] < 0.6


def test_metrics_are_those_of_other_tasks():
  rng = np.random.default_rng(0)
  rankings = [rng.permutation(40)[:30].tolist() for _ in range(25)]
  gold = rng.integers(40, size=25).tolist()
  found = curve.by_query(rankings, gold)
  wanted = metrics.retrieval(rankings, [{right: 1} for right in gold])
  assert found["ndcg@10"].mean() == pytest.approx(wanted["ndcg@10"])
  first = [ranking[0] == right for ranking, right in zip(rankings, gold)]
  assert found["accuracy@1"].tolist() == first
  order = [rng.permutation(40).tolist() for _ in range(4000)]
  by_chance = curve.by_query(order, rng.integers(40, size=4000).tolist())
  for metric, value in curve.chance(40).items():
    assert by_chance[metric].mean() == pytest.approx(value, abs=0.02)


@pytest.mark.parametrize(
  ("wanted", "said"),
  [
    (lambda: spec.lengths_of("256,x"), r"--lengths=256,x: give numbers of"),
    (lambda: spec.lengths_of("0"), r"--lengths=0: give numbers of tokens"),
    (lambda: spec.lengths_of(""), "give numbers of tokens"),
    (lambda: spec.Spec((512, 256)), r"must ascend.*use --lengths=256,512"),
    (lambda: spec.Spec((256, 256)), r"must ascend.*use --lengths=256$"),
    (lambda: spec.Spec((256,), 11), "documents=11 must be at least 12"),
    (lambda: spec.Spec((256,), 4000), "4000 is more than the 3456 different"),
    (lambda: spec.Spec((256,), 12, -1), "seed=-1 must be at least 0"),
  ],
)
def test_sizes_that_cannot_be_are_named(wanted, said):
  with pytest.raises(BadInput, match=said):
    wanted()


def _once(source, place, sizes=SPEC, measure=MEASURE):
  return made.once(sizes, source, (), measure, place)


def test_a_text_that_will_not_do_is_named(folder, tmp_path):
  place = tmp_path / "suite"
  with pytest.raises(BadInput, match="no such folder or file of text"):
    _once(tmp_path / "none", place)
  (tmp_path / "empty").mkdir()
  with pytest.raises(BadInput, match="empty: holds no text to make documents"):
    _once(tmp_path / "empty", place)
  (tmp_path / "data.bin").write_bytes(b"\0\1")
  with pytest.raises(BadInput, match=r"holds no text .* of \(binary\); give"):
    _once(tmp_path / "data.bin", place)
  write_text(tmp_path / "few", 3, 4)
  said = r"few: of 12 of its 12 passages .*; 24 documents need 24 of them: give"
  with pytest.raises(BadInput, match=said):
    _once(tmp_path / "few", place)
  write_text(tmp_path / "some", 12, 5)
  said = (
    r"some: [\d,]+ tokens of text .*; 24 documents of 512 tokens need 3,072"
  )
  with pytest.raises(BadInput, match=said):
    _once(tmp_path / "some", place)
  with pytest.raises(BadInput, match="model has no tokenizer to measure"):
    _once(folder, place, measure=BY_CHARACTERS)
  assert not list(tmp_path.glob("suite*"))


def test_the_least_length_is_one_that_will_do(folder, tmp_path):
  with pytest.raises(BadInput, match=r"--lengths=40: .*a fact \(") as caught:
    _once(folder, tmp_path / "suite", spec.Spec((40, 128), 12))
  found = re.search(r"at least (\d+) tokens", str(caught.value))
  assert found
  least = int(found[1])
  with pytest.raises(BadInput, match=f"at least {least} tokens"):
    _once(folder, tmp_path / "suite", spec.Spec((least - 1,), 12))
  about, _ = _once(folder, tmp_path / "suite", spec.Spec((least,), 12))
  assert about["tokens"][str(least)]["most"] <= least


def test_a_folder_of_somebody_else_is_not_replaced(folder, tmp_path):
  place = tmp_path / "suite"
  place.mkdir()
  (place / "mine.txt").write_text("mine")
  with pytest.raises(BadInput, match="is something else; use another --output"):
    _once(folder, place)
  assert (place / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
  "damage",
  [
    lambda about: about.pop("positions"),
    lambda about: about["positions"]["needle"].pop(),
    lambda about: about["positions"].update(needle=["start"] * 24),
    lambda about: about["tokens"].clear(),
    lambda about: about.pop("uses"),
    lambda about: about.update(lengths=[64]),
    lambda about: about.update(lengths=3),
  ],
)
def test_a_damaged_suite_is_named(place, tmp_path, damage):
  twin = tmp_path / "twin"
  shutil.copytree(place, twin)
  about = json.loads((place / "suite.json").read_text())
  damage(about)
  (twin / "suite.json").write_text(json.dumps(about))
  with pytest.raises(BadInput, match="twin: the suite is damaged; delete it"):
    made.read(twin)


def test_a_suite_of_another_version_is_named(place, tmp_path):
  about = json.loads((place / "suite.json").read_text())
  (tmp_path / "suite.json").write_text(json.dumps({**about, "version": 99}))
  with pytest.raises(BadInput, match="is a suite of version 99, this program"):
    made.read(tmp_path)


def test_attention_that_memory_cannot_hold_is_named():
  config: ModelConfig = preset("embeddinggemma_300m").model
  need = reach.attention_bytes(config, 4096)
  assert need == 3 * 3 * 4096**2 * 4
  reach.require_memory(config, (2048, 4096), need)
  said = r"4096 tokens needs 0.6 GB .*, and 0.6 GB are free; use --lengths=2048"
  with pytest.raises(BadInput, match=said):
    reach.require_memory(config, (2048, 4096), need - 1)
  with pytest.raises(BadInput, match=r"0.0 GB are free; give more memory"):
    reach.require_memory(config, (256,), -1)
