"""XOR-Retrieve (Asai et al. 2021): does an answer stand in the first words?

Questions in seven languages are asked of passages of English Wikipedia. There
are no relevance judgements: recall@5kt is the share of questions of which an
answer stands in the first 5,000 words of its passages, best first; the mean is
over languages. What counts is what the published `eval_xor_retrieve.py` counts:
an answer is found as it is written, case included, in words joined by single
spaces; answers "yes" and "no" are none, and a question without any other is
left out.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from pathlib import Path

import numpy as np

from embeddinggemma.data import jsonl
from embeddinggemma.evaluation.cross import passages as passages_lib
from embeddinggemma.evaluation.cross import scores, words
from embeddinggemma.evaluation.cross.benchmark import (
  Benchmark,
  Found,
  Judged,
  about_languages,
  require_known,
)
from embeddinggemma.evaluation.cross.passages import Passages
from embeddinggemma.terminal.warn import warn
from embeddinggemma.types import BadInput, Notice

LANGUAGES = ("ar", "bn", "fi", "ja", "ko", "ru", "te")
LIMITS = {"recall@5kt": 5000, "recall@2kt": 2000}  # words; the main one first
METRICS = scores.names(*LIMITS)
DEV = (
  "xor_dev_retrieve_eng_span_v1_1.jsonl",
  "xor_dev_retrieve_eng_span.jsonl",
)
_SPLITS = ("dev", "train", "test")
_QUESTIONS = "xor_*retrieve_eng_span*.jsonl"
_PASSAGES = ("*.tsv", "*.tsv.gz", "*.tsv.zst", "*.tsv.bz2", "*.tsv.xz")
_EXPECTED = "psgs_w100.tsv or enwiki_20190201_w100.tsv"
_NO_SPANS = ("yes", "no")
# Passages looked at, times their mean length, in limits: those of one question
# may be shorter than others.
_SPARE = 4


def recognises(folder: Path) -> bool:
  """Whether a folder has questions under a name of the release."""
  return folder.is_dir() and any(folder.glob(_QUESTIONS))


def is_questions(path: Path, fields: Set[str]) -> bool:
  """Whether a file whose lines have these fields holds questions of XOR-TyDi.

  Its own files are called xor_*; others count with passages beside them, since
  pairs of questions and answers may have the same fields.
  """
  if not path.is_file() or not {"id", "question", "lang"} <= fields:
    return False
  return path.name.startswith("xor_") or (
    "answers" in fields and bool(_beside(path))
  )


def read(path: Path) -> Benchmark:
  """The questions of a folder or file, and the passages beside them.

  Of a folder they are the development set, whose answers are published.

  Raises BadInput for a file that is missing or is another of the release's, and
  for a broken line, as FILE:LINE.
  """
  file = _questions_file(path) if path.is_dir() else path
  if "_full" in file.name:
    raise BadInput(
      f"{file}: questions of XOR-Full, whose answers are not in English; use"
      f" {DEV[0]}"
    )
  rows = list(_questions(file))
  spans = [(text, lang, _spans(answers)) for text, lang, answers in rows]
  scored = [row for row in spans if row[2]]
  if not scored:
    raise BadInput(f"{file}: no question has an answer other than yes or no")
  asked, langs, right = zip(*scored)
  found = passages_lib.checked(
    _passages_file(file), passages_lib.tsv, lambda number, passage: None
  )
  notes = [
    *about_languages(set(langs), LANGUAGES),
    *_about(len(rows) - len(scored), right, found),
  ]
  split = next(
    (part for part in _SPLITS if f"_{part}_" in file.name), file.stem
  )
  depth = _depth(found)
  return Benchmark(asked, langs, right, found, split, depth, tuple(notes))


def judged(benchmark: Benchmark, found: Found) -> Judged:
  """Whether each question has an answer within each limit, at each dimension.

  Warns if the passages of a question end before the largest limit although
  there are more.
  """
  depth, most = benchmark.depth, max(LIMITS.values())
  joined = _joined(benchmark, found)
  result: dict[int, dict[str, np.ndarray]] = {}
  short = 0
  for dim, numbers in found.items():
    hits: dict[str, list[bool]] = {metric: [] for metric in LIMITS}
    for row, answers in zip(numbers.tolist(), benchmark.right, strict=True):
      first = _first(most, (joined(number) for number in row if number >= 0))
      short += len(first) < most
      for metric, limit in LIMITS.items():
        hits[metric].append(is_hit(first[:limit], answers))
    result[dim] = {name: np.array(own, float) for name, own in hits.items()}
  if short and depth < benchmark.passages.count:
    warn(
      f"{short} times the nearest {depth} passages of a question have fewer than"
      " 5,000 words; recall@5kt may be too low",
      Notice,
    )
  return result


def is_hit(first: Sequence[str], answers: Iterable[str]) -> bool:
  """Whether an answer stands in the words, joined by single spaces."""
  text = " ".join(first)
  return any(answer in text for answer in answers)


def _questions_file(folder: Path) -> Path:
  for name in DEV:
    if (folder / name).is_file():
      return folder / name
  others = sorted(path.name for path in folder.glob(_QUESTIONS))
  raise BadInput(
    f"{folder}: no {DEV[0]}, which the paper scores; to score {others[0]},"
    " name the file itself"
  )


def _questions(path: Path) -> Iterator[tuple[str, str, list[str]]]:
  """(question, language, answers) of each line."""
  for origin, row in passages_lib.json_rows(path, "question", "lang"):
    if "answers" not in row:
      raise BadInput(
        f"{origin}: no field 'answers'; those of the test set are not published,"
        f" use {DEV[0]}"
      )
    require_known(origin, row["lang"])
    answers = row["answers"]
    if not isinstance(answers, list):
      raise BadInput(f"{origin}: 'answers' is not a list of texts")
    try:
      texts = [jsonl.any_text("answers", answer) for answer in answers]
    except ValueError as error:
      raise BadInput(f"{origin}: {error}") from None
    yield row["question"], row["lang"], texts


def _spans(answers: Iterable[str]) -> tuple[str, ...]:
  """The answers that may stand in a passage."""
  return tuple(answer for answer in answers if answer not in _NO_SPANS)


def _passages_file(questions: Path) -> Path:
  """The one TSV beside the questions; BadInput if there is none, or more."""
  folder, found = questions.parent, _beside(questions)
  known = [path for path in found if "w100" in path.name] or found
  if len(known) == 1:
    return known[0]
  if known:
    names = " and ".join(path.name for path in known[:2])
    raise BadInput(f"{folder}: passages in {names}; leave one of them there")
  raise BadInput(
    f"{folder}: no passages beside {questions.name}; put {_EXPECTED} there"
  )


def _beside(questions: Path) -> list[Path]:
  """All TSV files beside a file."""
  folder = questions.parent
  return sorted(path for glob in _PASSAGES for path in folder.glob(glob))


def _depth(passages: Passages) -> int:
  """How many passages surely have as many words as the largest limit."""
  mean = max(passages.words / passages.count, 1)
  return math.ceil(_SPARE * max(LIMITS.values()) / mean)


def _about(
  left_out: int, right: Sequence[Sequence[str]], passages: Passages
) -> Iterator[str]:
  if left_out:
    yield f"questions of yes or no, left out as published: {left_out}"
  empty = sum("" in answers for answers in right)
  if empty:
    yield f"questions with an empty answer, which any passage holds: {empty}"
  if passages.words <= max(LIMITS.values()):
    yield "5,000 words hold all passages: any model has the same recall@5kt"
  elif passages.count < 10**7:
    yield (
      f"{passages.count:,} passages; the paper searches all of Wikipedia, some"
      " 18 million"
    )
  if not words.words().as_published:
    yield (
      "sentences are split without NLTK's punkt_tab (python -m nltk.downloader"
      " punkt_tab); a few words differ from the published count"
    )


def _joined(benchmark: Benchmark, found: Found) -> Callable[[int], str]:
  """A function: number of a passage that was found -> its words, joined."""
  wanted = {n for numbers in found.values() for n in numbers.ravel().tolist()}
  texts = benchmark.passages.texts(wanted - {-1})
  split = words.words().split
  return functools.cache(lambda number: " ".join(split(texts[number])))


def _first(limit: int, passages: Iterable[str]) -> list[str]:
  """The first words of passages whose words are joined by spaces."""
  first: list[str] = []
  for passage in passages:
    first += passage.split()
    if len(first) >= limit:
      break
  return first[:limit]
