"""Evaluation tasks from files: BEIR folders, STS, labels, bitext and pairs.

Formats are those of public collections; a task.json {"task": NAME} beside the
data, or else the folder's name, decides the prompts.
"""

import collections
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embeddinggemma.data import beir, jsonl, prompts, sources
from embeddinggemma.types import BadInput, Pair

CODE_WORDS = {"code", "python", "java", "javascript", "typescript", "cpp"}
CODE_WORDS |= {"csharp", "go", "php", "ruby", "rust", "kotlin", "bash", "sql"}
PAIR_QUERIES = 1000  # a task of a pairs.jsonl
FITTED = ("train.jsonl", "labeled.jsonl")  # what a probe is fitted on
IGNORED = frozenset(["val.jsonl", "valid.jsonl", "dev.jsonl", *FITTED])


@dataclasses.dataclass(frozen=True)
class EvalTask:
  """Texts and the right answers; what the fields hold depends on `kind`.

  retrieval: gold is a dict {document index: grade} a query, `same` the index
  of the document that is the query itself, or -1. sts: gold is a score for
  each (query, document). bitext: document i translates query i.
  classification: documents train the probe, gold is (their labels, the
  queries' labels). clustering: gold is the queries' labels.
  """

  name: str
  kind: str
  task: str
  queries: tuple[str, ...]
  documents: tuple[str, ...] = ()
  titles: tuple[str, ...] = ()
  gold: tuple[Any, ...] = ()
  same: tuple[int, ...] = ()

  @property
  def type(self) -> str:
    """What the mean over types counts it as."""
    if self.kind == "retrieval":
      return prompts.TASKS[self.task].type
    return self.kind


def read_suite(directory: Path) -> list[EvalTask]:
  """Every task in a folder, recursively, in the order of their paths.

  BadInput names a JSONL file of no known format, a broken line as FILE:LINE,
  and a folder without any task.
  """
  if not directory.is_dir():
    raise BadInput(f"{directory}: no such folder of evaluation tasks")
  folders = [directory, *sorted(directory.rglob("*"))]
  tasks = [
    task
    for folder in folders
    if folder.is_dir()
    for task in _read_folder(folder, directory)
  ]
  if not tasks:
    raise BadInput(
      f"{directory}: no evaluation task; expected BEIR folders "
      "(corpus.jsonl, queries.jsonl, qrels/test.tsv), STS, classification "
      "or bitext JSONL, or pairs.jsonl"
    )
  return tasks


def from_pairs(name: str, task: str, pairs: Sequence[Pair]) -> EvalTask:
  """Pairs of one task as retrieval among their positives."""
  return _retrieval(name, task, beir.as_retrieval(pairs, PAIR_QUERIES))


def _read_folder(folder: Path, root: Path) -> list[EvalTask]:
  name = folder.relative_to(root).as_posix() if folder != root else root.name
  if (folder / "corpus.jsonl").exists():
    task = _task(folder, name, "retrieval")
    return [_retrieval(name, task, beir.read_retrieval(folder))]
  files = sorted(folder.glob("*.jsonl"))
  if len(files) > 1:
    files = [path for path in files if path.name not in IGNORED] or files
  return [
    task
    for path in files
    for task in _read_file(path, _file_name(path, name, len(files)))
  ]


def _file_name(path: Path, folder_name: str, num_files: int) -> str:
  alone = num_files == 1 and path.stem in ("test", "valid", "val", "dev")
  return folder_name if alone else f"{folder_name}/{path.stem}"


def _read_file(path: Path, name: str) -> list[EvalTask]:
  if path.name == "pairs.jsonl":
    return _read_pairs(path, name.removesuffix("/pairs"))
  _, row = next(jsonl.read_rows(path, ()), ("", {}))
  if {"sentence1", "sentence2"} <= row.keys():
    return [_read_sentences(path, name, "score" in row)]
  if {"text", "label"} <= row.keys():
    return _read_labels(path, name)
  if {"query", "positive"} <= row.keys():
    raise BadInput(f"{path}: pairs are read from a file named pairs.jsonl")
  raise BadInput(
    f"{path}: no known format; expected sentence1 and sentence2 (with score: "
    "STS, without: bitext) or text and label"
  )


def _read_pairs(path: Path, name: str) -> list[EvalTask]:
  pairs: dict[str, list[Pair]] = collections.defaultdict(list)
  for pair in sources.read_file(path):
    pairs[pair.task].append(pair)
  return [
    from_pairs(f"{name}/{task}" if len(pairs) > 1 else name, task, rows)
    for task, rows in pairs.items()
  ]


def _read_sentences(path: Path, name: str, scored: bool) -> EvalTask:
  left, right, scores = [], [], []
  for origin, row in jsonl.read_rows(path, ("sentence1", "sentence2")):
    left.append(row["sentence1"])
    right.append(row["sentence2"])
    if scored:
      scores.append(_number(origin, row.get("score")))
  kind = "sts" if scored else "bitext"
  if scored and len(set(scores)) < 2:
    raise BadInput(f"{path}: all scores are equal; nothing to correlate with")
  task = _task(path.parent, name, kind)
  return EvalTask(
    name, kind, task, tuple(left), tuple(right), (), tuple(scores)
  )


def _read_labels(path: Path, name: str) -> list[EvalTask]:
  texts, labels = read_labels(path)
  clustering = EvalTask(
    f"{name}/clustering", "clustering", "clustering", texts, gold=labels
  )
  fitted = [path.parent / other for other in FITTED]
  train = next((other for other in fitted if other.is_file()), None)
  task = _task(path.parent, name, "classification")
  if train is None or train == path or task == "clustering":
    return [dataclasses.replace(clustering, name=name)]
  train_texts, train_labels = read_labels(train)
  gold = (train_labels, labels)
  classification = EvalTask(
    name, "classification", task, texts, train_texts, (), gold
  )
  return [classification, clustering]


def read_labels(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Texts and labels of a JSONL; BadInput for a bad line or a single label."""
  texts, labels = [], []
  for origin, row in jsonl.read_rows(path, ("text",)):
    label = row.get("label")
    if isinstance(label, bool) or not isinstance(label, str | int):
      raise BadInput(f"{origin}: 'label' is neither text nor a whole number")
    try:
      labels.append(jsonl.checked("label", str(label)).strip())
    except ValueError as error:
      raise BadInput(f"{origin}: {error}") from None
    texts.append(row["text"])
  if len(set(labels)) < 2:
    raise BadInput(f"{path}: needs at least two different labels")
  return tuple(texts), tuple(labels)


def _retrieval(name: str, task: str, data: beir.Retrieval) -> EvalTask:
  places = {key: index for index, key in enumerate(data.corpus)}
  gold, same = [], []
  for key, relevant in data.qrels.items():
    gold.append({places[doc]: grade for doc, grade in relevant.items()})
    itself = key in places and key not in relevant
    itself = itself and _equal(data.queries[key], data.corpus[key][1])
    same.append(places[key] if itself else -1)
  return EvalTask(
    name,
    "retrieval",
    task,
    tuple(data.queries[key] for key in data.qrels),
    tuple(text for _, text in data.corpus.values()),
    tuple(title for title, _ in data.corpus.values()),
    tuple(gold),
    tuple(same),
  )


def _equal(first: str, second: str) -> bool:
  return beir.normalised(first) == beir.normalised(second)


def _number(origin: str, value: object) -> float:
  if isinstance(value, int | float) and abs(value) < float("inf"):
    return float(value)
  raise BadInput(f"{origin}: 'score' is not a finite number")


def _task(folder: Path, name: str, default: str) -> str:
  """The task whose prompts fit: task.json, else the name, else the kind's."""
  path = folder / "task.json"
  if path.is_file():
    return _named_in(path)
  if default != "retrieval":
    return default
  words = re.split(r"[/_\-. ]+", name.lower())
  for word in (name.rsplit("/", 1)[-1].lower(), *words):
    if word in prompts.TASKS:
      return word
  if CODE_WORDS.intersection(words):
    return "code"
  if any(word.endswith(("qa", "quad")) for word in words):
    return "qa"
  return default


def _named_in(path: Path) -> str:
  try:
    about: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    name = about["task"]
  except (ValueError, KeyError, TypeError):
    raise BadInput(f'{path}: expected {{"task": NAME}}') from None
  prompts.task_named(name)
  return name
