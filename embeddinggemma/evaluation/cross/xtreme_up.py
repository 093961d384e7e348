"""XTREME-UP's cross-lingual retrieval (Ruder et al. 2023): MRR@10 by language.

Questions of XOR-TyDi, translated into languages with few resources, are asked
of English passages. A question's right answer is the passage of the index that
has its id, as in the published `compute_mrr`; the paper's mean is over twenty
languages, Hindi among them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from embeddinggemma.data import jsonl
from embeddinggemma.evaluation.cross import passages as passages_lib
from embeddinggemma.evaluation.cross import scores
from embeddinggemma.evaluation.cross.benchmark import (
  Benchmark,
  Found,
  Judged,
  about_languages,
  require_known,
)
from embeddinggemma.evaluation.cross.passages import Passage
from embeddinggemma.types import BadInput

LANGUAGES = (
  *("as", "bho", "brx", "gbm", "gom", "gu", "hi", "hne", "kn", "mai"),
  *("ml", "mni", "mr", "mwr", "or", "pa", "ps", "sa", "ta", "ur"),
)
METRIC = "mrr@10"
METRICS = scores.names(METRIC)
DEPTH = 10
INDEX = "index.jsonl"
FOLDER = "retrieval_cross_lang"  # of the release
SPLITS = ("test", "validation", "dev")  # the first that is there is scored
OWN_FOLDERS = ("train", *SPLITS)


def recognises(folder: Path) -> bool:
  """Whether a folder is named as in the release, or has an index and splits."""
  if not folder.is_dir():
    return False
  has_split = any((folder / name).is_dir() for name in SPLITS)
  return folder.name == FOLDER or (has_split and (folder / INDEX).is_file())


def is_questions(path: Path) -> bool:
  """Whether a file is one of a split, beside whose folder the index is."""
  in_split = path.is_file() and path.parent.name in OWN_FOLDERS
  return in_split and recognises(path.parent.parent)


def read(folder: Path) -> Benchmark:
  """The questions of all languages of a split, and the index.

  Raises BadInput for a file that is missing, a language that is unknown, ids of
  which no passage has one, and for a broken line, as FILE:LINE.
  """
  index, split = folder / INDEX, _split(folder)
  if not index.is_file():
    raise BadInput(f"{folder}: no {INDEX}, which holds the passages")
  ids: dict[str, list[int]] = {}
  see = lambda number, passage: ids.setdefault(passage.id, []).append(number)
  found = passages_lib.checked(index, passages, see)
  asked, langs, right, lost = [], [], [], {}
  for file in sorted(split.glob("*.jsonl")):
    require_known(str(file), file.stem)
    rows = list(passages_lib.json_rows(file, "question"))
    places = [tuple(ids.get(row["id"], ())) for _, row in rows]
    if rows and not any(places):
      origin, row = rows[0]
      raise BadInput(
        f"{origin}: no passage of {INDEX} has the id {row['id']!r}, nor that of"
        " any other line; is it the index of another release?"
      )
    asked += [row["question"] for _, row in rows]
    langs += [file.stem] * len(rows)
    right += places
    lost[file.stem] = places.count(())
  if not asked:
    raise BadInput(f"{split}: no questions; expected LANGUAGE.jsonl")
  notes = [*about_languages(set(langs), LANGUAGES), *_about(split, lost)]
  return Benchmark(
    tuple(asked),
    tuple(langs),
    tuple(right),
    found,
    split.name,
    DEPTH,
    tuple(notes),
  )


def passages(path: Path) -> Iterator[Passage]:
  """The passages of an index: rows of {"id", "title", "context"}."""
  for origin, row in passages_lib.json_rows(path, "context"):
    try:
      title = jsonl.optional_text("title", row.get("title"))
    except ValueError as error:
      raise BadInput(f"{origin}: {error}") from None
    yield Passage(row["id"], title, row["context"], origin)


def judged(benchmark: Benchmark, found: Found) -> Judged:
  """The reciprocal rank of each question at each dimension."""
  return {
    dim: {
      METRIC: np.array(
        [
          reciprocal_rank(row, right)
          for row, right in zip(numbers, benchmark.right, strict=True)
        ]
      )
    }
    for dim, numbers in found.items()
  }


def reciprocal_rank(found: Int[np.ndarray, "k"], right: Sequence[int]) -> float:
  """1 / the rank of the first right passage among the first ten, or 0."""
  for place, number in enumerate(found[:DEPTH].tolist(), 1):
    if number in right:
      return 1 / place
  return 0.0


def _split(folder: Path) -> Path:
  for name in SPLITS:
    if (folder / name).is_dir() and any((folder / name).glob("*.jsonl")):
      return folder / name
  raise BadInput(f"{folder}: no {SPLITS[0]}/LANGUAGE.jsonl with questions")


def _about(split: Path, lost: dict[str, int]) -> Iterator[str]:
  if split.name != SPLITS[0]:
    yield f"the questions are those of {split.name}; the paper scores the test"
  gone = {name: count for name, count in lost.items() if count}
  if gone:
    counts = ", ".join(f"{name} {count}" for name, count in gone.items())
    yield f"questions without a passage in {INDEX}, which count 0: {counts}"
