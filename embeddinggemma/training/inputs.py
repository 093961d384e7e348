"""The files that training reads: pairs, tokenizer, LSA table, text shards."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from rich.console import Console

from embeddinggemma import checkpoint
from embeddinggemma.checkpoint import TOKENIZER_FILE
from embeddinggemma.data import corpus, prompts
from embeddinggemma.data.single_texts import Texts
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.mining import negatives, teacher
from embeddinggemma.training.config import TrainConfig
from embeddinggemma.types import Pair


@dataclasses.dataclass(frozen=True)
class Inputs:
  """A folder of inputs, filled by `prepare.make`."""

  directory: pathlib.Path
  shards: pathlib.Path  # of running text, for language-model stages
  mined: pathlib.Path | None = None  # hard negatives of its training pairs

  @functools.cached_property
  def pairs(self) -> Sequence[Pair]:
    """The training pairs, without mined negatives; checked once."""
    return corpus.read_train(self.corpus)

  @functools.cached_property
  def texts(self) -> Texts:
    """The single texts of the corpus; often none."""
    return corpus.read_texts(self.corpus)

  @property
  def corpus(self) -> pathlib.Path:
    """The folder of pairs and evaluations (`data.corpus`)."""
    return self.directory / "corpus"

  @property
  def table(self) -> pathlib.Path:
    """The workdir of a checkpoint with the LSA table, if one was made."""
    return self.directory / "table"

  def tokenizer(self) -> Tokenizer:
    """The tokenizer that was given or trained."""
    return Tokenizer(self.directory / TOKENIZER_FILE)


def prompts_of(files: checkpoint.Files) -> dict[str, str]:
  """The prompts in a checkpoint's files, by name; {} if there are none."""
  return json.loads(files.get("prompts.json", b"{}"))


def other_prompts(known: Mapping[str, str]) -> str:
  """The first name whose prompt differs from the one used here, or ""."""
  ours = prompts.PROMPTS
  return next((k for k in known if k in ours and known[k] != ours[k]), "")


def parent(path: str) -> str:
  """The content hash of the weights at a path; "" for an empty path."""
  return checkpoint.hash_of(checkpoint.find(path)) if path else ""


class Corpus(NamedTuple):
  """Number of pairs, their content hash, and the number of rows left out."""

  pairs: int
  data_hash: str
  skipped_rows: int
  texts: int = 0  # single ones


def write_corpus(
  config: TrainConfig, made: Inputs, console: Console, texts: bool = False
) -> dict[str, Any]:
  """Split the pairs of data.path into training and held-out parts.

  `texts` says whether single texts are taken too. Returns the fields of
  `Corpus` and prints the number of pairs and tasks.
  """
  data = config.data
  say = lambda line: console.print(
    line, highlight=False, markup=False, soft_wrap=True
  )
  about = corpus.write(
    data.path, data.skip_bad_rows, made.corpus, data.fields, say, texts
  )
  say_skipped(about["skipped"], console)
  count, single = sum(about["tasks"].values()), about.get("texts", 0)
  more = f", {single} single texts" if single else ""
  console.print(
    f"corpus: {count} pairs, {len(about['tasks'])} tasks{more}", highlight=False
  )
  skipped = len(about["skipped"])
  return Corpus(count, about["hash"], skipped, single)._asdict()


def say_skipped(skipped: list[str], console: Console) -> None:
  """Print the rows that were left out, and their number."""
  for line in skipped:
    console.print(
      f"skipped {line}", highlight=False, markup=False, soft_wrap=True
    )
  if skipped:
    console.print(f"skipped {len(skipped)} bad rows", highlight=False)


def side_texts(made: Inputs) -> Iterator[str]:
  """Both sides of every training pair, and then the single texts."""
  for pair in made.pairs:
    yield pair.query
    yield pair.positive
  for single in made.texts:
    yield single.text


def pair_documents(
  made: Inputs, tokenizer: Tokenizer, longest: int
) -> list[Int[np.ndarray, "_"]]:
  """Token ids of every training pair, both sides as one document.

  So the LSA table relates the words of queries to those of positives. A single
  text is a document as well.
  """
  ids, _ = tokenizer.encode_batch(list(side_texts(made)), longest)
  sides = ids[: 2 * len(made.pairs)]
  pairs = [np.concatenate(pair) for pair in zip(sides[::2], sides[1::2])]
  return pairs + ids[len(sides) :]


def about_pairs(made: Inputs) -> dict[str, Any]:
  """Description of a folder of pairs, with content hashes."""
  about = corpus.about(made.corpus)
  if made.mined:
    about["mined"] = negatives.opened(made.mined)["hash"]
  return about


def hash_of_vectors(path: str) -> str:
  """The content hash of a teacher's vectors; "" for an empty path."""
  return teacher.open_vectors(pathlib.Path(path)).about["hash"] if path else ""


def teachers(path: str) -> list[dict[str, Any]]:
  """Who made a folder of a teacher's vectors; none for an empty path.

  Of a folder from before that was recorded, only the kind is known.
  """
  if not path:
    return []
  about = teacher.open_vectors(pathlib.Path(path)).about
  return [about.get("origin") or {"kind": about["teacher"].get("teacher", "")}]
