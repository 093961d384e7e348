"""The results of a mixture search: its trials, in one SQLite file.

A trial is written when it begins and when it ends, each time in a transaction
that is on disk before the search continues. So after a kill at any moment the
file holds all trials that ended, and the weights of the one that did not.

Trials belong to a key, the hash of all that a score depends on: data, base
checkpoint, settings, tasks. Trials of other keys stay in the file unused and
unchanged, and serve again when the user returns to that data.
"""

import dataclasses
import json
import math
import pathlib
import sqlite3
from collections.abc import Mapping
from typing import Any

from embeddinggemma.cache import key_of
from embeddinggemma.types import BadInput, Weights

STUDY_FILE = "study.sqlite"
_VERSION = 1
_TABLES = """
  CREATE TABLE IF NOT EXISTS studies (key TEXT PRIMARY KEY, inputs TEXT);
  CREATE TABLE IF NOT EXISTS trials (
    key TEXT, number INTEGER, source TEXT, weights TEXT, suggest_seconds REAL,
    scores TEXT, infeasible TEXT, seconds REAL, PRIMARY KEY (key, number));
"""


@dataclasses.dataclass(frozen=True)
class Trial:
  """One mixture and its scores."""

  number: int  # from 1, in the order they began
  source: str  # given, dirichlet, or the optimizer's name
  weights: Weights  # of all tasks, summing to 1
  folder: pathlib.Path
  suggest_seconds: float  # seconds that the optimizer took to propose it
  scores: Mapping[str, float] | None  # by task type; None: it has not ended
  infeasible: str  # the reason if it ended without a score; else ""
  seconds: float  # of training and scoring

  @property
  def score(self) -> float:
    """The mean over task types; NaN if there is no score."""
    if not self.scores:
      return math.nan
    return math.fsum(self.scores.values()) / len(self.scores)

  @property
  def feasible(self) -> bool:
    """Whether it ended with a score."""
    return bool(self.scores)


class Study:
  """The trials of one key in a study file."""

  def __init__(self, directory: pathlib.Path, inputs: Mapping[str, Any]):
    """Open or create DIRECTORY/study.sqlite; BadInput if it is another file.

    `inputs` is all that a score depends on; its hash is the key.
    """
    self._key, self._directory = key_of(inputs), directory
    self._inputs = json.dumps(inputs, sort_keys=True)
    directory.mkdir(parents=True, exist_ok=True)
    self.path = directory / STUDY_FILE
    self._connection = sqlite3.connect(self.path)
    try:
      self._open()
    except sqlite3.DatabaseError as error:
      self.close()
      raise BadInput(
        f"{self.path} is no study of mixtures ({error}); move it away"
      ) from None

  def _open(self) -> None:
    version = self._connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, _VERSION):
      raise sqlite3.DatabaseError(f"version {version}, not {_VERSION}")
    self._connection.executescript(_TABLES)
    with self._connection as connection:
      connection.execute(f"PRAGMA user_version = {_VERSION}")
      connection.execute(
        "INSERT OR IGNORE INTO studies VALUES (?, ?)", (self._key, self._inputs)
      )

  def trials(self) -> list[Trial]:
    """All trials of the key, by number."""
    rows = self._connection.execute(
      "SELECT number, source, weights, suggest_seconds, scores, infeasible,"
      " seconds FROM trials WHERE key = ? ORDER BY number",
      (self._key,),
    )
    return [self._trial(*row) for row in rows]

  def _trial(
    self,
    number: int,
    source: str,
    weights: str,
    suggest_seconds: float,
    scores: str | None,
    infeasible: str,
    seconds: float,
  ) -> Trial:
    return Trial(
      number,
      source,
      json.loads(weights),
      self._directory / self._key[:16] / f"trial-{number:02d}",
      suggest_seconds,
      None if scores is None else json.loads(scores),
      infeasible,
      seconds,
    )

  def begin(
    self, weights: Weights, source: str, suggest_seconds: float
  ) -> Trial:
    """Add a trial that has not ended yet."""
    with self._connection as connection:
      (number,) = connection.execute(
        "SELECT 1 + COALESCE(MAX(number), 0) FROM trials WHERE key = ?",
        (self._key,),
      ).fetchone()
      row = (number, source, json.dumps(dict(weights)), suggest_seconds)
      connection.execute(
        "INSERT INTO trials VALUES (?, ?, ?, ?, ?, NULL, '', 0)",
        (self._key, *row),
      )
    return self._trial(*row, None, "", 0.0)

  def end(
    self,
    trial: Trial,
    scores: Mapping[str, float],
    infeasible: str,
    seconds: float,
  ) -> Trial:
    """Record the scores of a trial, or with {} the reason for having none."""
    with self._connection as connection:
      connection.execute(
        "UPDATE trials SET scores = ?, infeasible = ?, seconds = ?"
        " WHERE key = ? AND number = ?",
        (
          json.dumps(dict(scores)),
          infeasible,
          seconds,
          self._key,
          trial.number,
        ),
      )
    return dataclasses.replace(
      trial, scores=dict(scores), infeasible=infeasible, seconds=seconds
    )

  def others(self) -> dict[str, int]:
    """Number of trials of other keys, by the names of inputs that differ."""
    rows = self._connection.execute(
      "SELECT inputs, COUNT(*) FROM studies JOIN trials USING (key)"
      " WHERE key != ? GROUP BY key",
      (self._key,),
    )
    ours, found = json.loads(self._inputs), {}
    for inputs, count in rows:
      theirs = json.loads(inputs)
      names = sorted(
        name
        for name in ours.keys() | theirs.keys()
        if ours.get(name) != theirs.get(name)
      )
      label = ", ".join(names)
      found[label] = found.get(label, 0) + count
    return found

  def close(self) -> None:
    """Close the file."""
    self._connection.close()
