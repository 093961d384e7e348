"""Summarisation: how well likeness to human summaries rates those of machines.

Rows of {"text", "human_summaries", "machine_summaries", "relevance"}, the last the
human rating of each machine's summary. The queries are the machines' summaries,
the documents the humans', of all texts; `gold` is, per text, (how many human
summaries, the ratings).
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from embeddinggemma.data import jsonl
from embeddinggemma.evaluation import metrics
from embeddinggemma.evaluation.kinds import rows
from embeddinggemma.evaluation.kinds.task import EvalTask, Kind, named_in
from embeddinggemma.evaluation.scoring.scored import Scored, of_units
from embeddinggemma.types import BadInput

NAME = "summarization"
PROMPT = "Summarization"  # published, of both sides
FIELDS = ("human_summaries", "machine_summaries", "relevance")


def _read(path: Path, name: str) -> list[EvalTask]:
  left: list[str] = []
  right: list[str] = []
  gold = []
  for origin, row in jsonl.read_rows(path, ()):
    human = rows.texts(origin, row, "human_summaries", 1)
    machine = rows.texts(origin, row, "machine_summaries", 1)
    ratings = _ratings(origin, row["relevance"] if "relevance" in row else None)
    if len(ratings) != len(machine):
      raise BadInput(
        f"{origin}: {len(machine)} machine_summaries have {len(ratings)} values"
        " of 'relevance'; give one for each"
      )
    left += machine
    right += human
    gold.append((len(human), ratings))
  if all(len(set(ratings)) == 1 for _, ratings in gold):
    raise BadInput(
      f"{path}: no text has summaries of different 'relevance'; nothing to"
      " correlate with"
    )
  task, sides = named_in(path.parent, PROMPT), (tuple(left), tuple(right))
  return [EvalTask(name, NAME, task, *sides, gold=tuple(gold))]


def _ratings(origin: str, values: object) -> tuple[float, ...]:
  if not isinstance(values, list):
    raise BadInput(f"{origin}: 'relevance' is not a list of numbers")
  return tuple(rows.number(origin, "relevance", value) for value in values)


def _score(task: EvalTask, left: np.ndarray, right: np.ndarray) -> Scored:
  """Correlations of the ratings with the cosine of the nearest human summary.

  Means over texts. As in mteb a text counts only if neither its ratings nor its
  cosines are all equal; if none is left, as of a collapsed model, they are 0.
  """
  from scipy import stats

  metrics.require_directions(left, right)
  found: dict[str, list[float]] = {"cosine_spearman": [], "cosine_pearson": []}
  own = human = 0
  for count, ratings in task.gold:
    nearest = _nearest(
      left[own : own + len(ratings)], right[human : human + count]
    )
    own, human = own + len(ratings), human + count
    if np.ptp(nearest) and len(set(ratings)) > 1:
      rank = stats.spearmanr(ratings, nearest).statistic
      found["cosine_spearman"].append(rank)
      found["cosine_pearson"].append(stats.pearsonr(ratings, nearest).statistic)
  by_text = {name: np.array(values) for name, values in found.items()}
  if not len(by_text["cosine_spearman"]):
    return Scored(dict.fromkeys(found, 0.0))
  return of_units(by_text)


def _nearest(
  machine: Float[np.ndarray, "m M"], human: Float[np.ndarray, "h M"]
) -> Float[np.ndarray, "m"]:
  return (machine @ human.T).max(axis=1)


def _notes(task: EvalTask) -> list[str]:
  equal = sum(len(set(ratings)) == 1 for _, ratings in task.gold)
  if equal:
    return [
      f"{equal} of {len(task.gold)} texts have one rating and are left out"
    ]
  return []


KIND = Kind(
  lambda path, keys: rows.holds(keys, *FIELDS),
  _read,
  _score,
  ("cosine_spearman", "cosine_pearson"),
  called="summarization",
  notes=_notes,
  rows="human_summaries, machine_summaries and relevance (summarization)",
)
