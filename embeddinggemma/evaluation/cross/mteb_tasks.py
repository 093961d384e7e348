"""XOR-Retrieve and XTREME-UP as tasks of the package mteb, which has neither.

They read the same folders as our own runner and score the same. mteb asks for
one language after the other and would encode the passages for each; these
tasks search once for all of them.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embeddinggemma.data.prompts import document_prompt
from embeddinggemma.evaluation.cross import (
  languages,
  scores,
  xor_retrieve,
  xtreme_up,
)
from embeddinggemma.evaluation.cross.benchmark import PROMPTS, Benchmark
from embeddinggemma.types import BadInput

XOR, XTREME = "XORRetrieve", "XTREMEUPCrossLingualRetrieval"  # mteb's style
_DIM = 0  # under which scores are asked: mteb knows no dimensions
_INSTRUCTION = "Given a question, retrieve passages in English that answer it"


def prompts_of(named: Callable[[str], str]) -> dict[str, str]:
  """The prompts of these tasks by the name that mteb asks for first, TASK-SIDE.

  `named` gives a model's prompt of a name. They are those of our own runner.
  """
  sides = {"query": PROMPTS, "document": document_prompt(PROMPTS)}
  return {
    f"{task}-{side}": named(prompt)
    for task in (XOR, XTREME)
    for side, prompt in sides.items()
  }


def tasks(folder: str | Path) -> list[Any]:
  """The mteb tasks of a folder of XOR-Retrieve or XTREME-UP.

  Raises BadInput if it is neither, or is broken as `read` of its module says.
  """
  folder = Path(folder)
  xor, xtreme = classes()
  if xor_retrieve.recognises(folder):
    return [xor(folder)]
  if xtreme_up.recognises(folder):
    return [xtreme(folder)]
  raise BadInput(
    f"{folder}: neither XOR-Retrieve nor XTREME-UP; expected"
    f" {xor_retrieve.DEV[0]}, or {xtreme_up.INDEX} beside {xtreme_up.SPLITS[0]}/"
  )


@functools.cache
def classes() -> tuple[type, type]:
  """The classes XORRetrieve and XTREMEUPCrossLingualRetrieval.

  An object is made of a folder. They are made here since mteb, of whose classes
  they are subclasses, is imported only where it is used.
  """
  base = _base()

  class XORRetrieve(base):
    """recall@5kt of XOR-Retrieve's development set."""

    metadata = _xor_metadata()
    read = staticmethod(xor_retrieve.read)
    judged = staticmethod(xor_retrieve.judged)
    paper = xor_retrieve.LANGUAGES

  class XTREMEUPCrossLingualRetrieval(base):
    """MRR@10 of XTREME-UP's cross-lingual retrieval."""

    metadata = _xtreme_metadata()
    read = staticmethod(xtreme_up.read)
    judged = staticmethod(xtreme_up.judged)
    paper = xtreme_up.LANGUAGES

  return XORRetrieve, XTREMEUPCrossLingualRetrieval


def _base() -> type:
  from mteb.abstasks import AbsTaskRetrieval  # pyrefly: ignore[missing-import]

  class CrossLingualRetrieval(AbsTaskRetrieval):
    """Questions in several languages, a subset each, over the same passages."""

    read: Any  # of a folder
    judged: Any  # of a Benchmark and what was found
    paper: Sequence[str]  # the languages that its mean is over

    def __init__(self, folder: Path, **options: Any) -> None:
      self._source: Benchmark = self.read(Path(folder))
      self.metadata = _of_these_files(self.metadata, self._source)
      super().__init__(**options)
      asked = set(self._source.languages)
      self.hf_subsets = [name for name in self.hf_subsets if name in asked]
      self._top_k = min(self._source.depth, self._source.passages.count)
      self._scored: tuple[Any, Mapping[str, dict[str, float]]] | None = None

    def load_data(self, *args: Any, **options: Any) -> None:
      """Makes datasets of the folder's questions and passages."""
      del args, options
      if not self.data_loaded:
        self.dataset = _dataset(self._source, self.metadata)
        self.data_loaded = True

    def evaluate(
      self,
      model: Any,
      split: str = "test",
      subsets_to_run: Sequence[str] | None = None,
      *,
      encode_kwargs: Mapping[str, Any],
      **options: Any,
    ) -> dict[str, dict[str, float]]:
      """Language -> scores, of those that are asked for.

      The first call searches for all languages; later ones for the same model
      and settings have its results.
      """
      self.load_data()
      asked = model, split, dict(encode_kwargs)
      if self._scored is None or self._scored[0] != asked:
        found = _searched(self, model, split, encode_kwargs, options)
        judged = self.judged(self._source, found)[_DIM]
        scored = scores.of_questions(self._source.languages, judged, self.paper)
        self._scored = asked, _by_subset(scored.values)
      wanted = self.hf_subsets if subsets_to_run is None else subsets_to_run
      result = {}
      for name in self.hf_subsets:
        if name in wanted:
          result[name] = dict(self._scored[1][name])
          self._add_main_score(result[name])
      return result

    def unload_data(self) -> None:
      """Lets go of the datasets and of what was found."""
      self._scored = None
      super().unload_data()

  return CrossLingualRetrieval


def _searched(
  task: Any,
  model: Any,
  split: str,
  encode_kwargs: Mapping[str, Any],
  options: Mapping[str, Any],
) -> dict[int, np.ndarray]:
  """The numbers of the passages nearest to each question, by mteb's search."""
  from datasets import concatenate_datasets
  from mteb.models import (  # pyrefly: ignore[missing-import]
    EncoderProtocol,
    SearchEncoderWrapper,
    SearchProtocol,
  )

  search: Any = model
  if not isinstance(model, SearchProtocol):
    if not isinstance(model, EncoderProtocol):
      raise TypeError(
        f"{task.metadata.name}: neither encodes nor searches: {model}"
      )
    search = SearchEncoderWrapper(model)
  parts = [found[split] for found in task.dataset.values()]
  about = {
    "task_metadata": task.metadata,
    "hf_split": split,
    "hf_subset": "default",
    "encode_kwargs": encode_kwargs,
    "num_proc": options.get("num_proc"),
  }
  search.index(corpus=parts[0]["corpus"], **about)
  questions = concatenate_datasets([part["queries"] for part in parts])
  found = search.search(queries=questions, top_k=task._top_k, **about)
  if folder := options.get("prediction_folder"):
    for name, part in task.dataset.items():
      own = {key: found[key] for key in part[split]["queries"]["id"]}
      place = {"hf_split": split, "hf_subset": name}
      task._save_task_predictions(own, model, folder, **place)
  return {_DIM: _numbers(found, len(task._source.questions))}


def _numbers(
  found: Mapping[str, Mapping[str, float]], count: int
) -> np.ndarray:
  """What mteb found as an array; the best first, and of equals the first."""
  ranked = [
    sorted((-score, int(key)) for key, score in found[str(number)].items())
    for number in range(count)
  ]
  numbers = np.full((count, max(map(len, ranked))), -1, np.int64)
  for row, best in zip(numbers, ranked, strict=True):
    row[: len(best)] = [key for _, key in best]
  return numbers


def _by_subset(scored: Mapping[str, float]) -> dict[str, dict[str, float]]:
  """Language -> metric, as mteb writes it -> value."""
  found: dict[str, dict[str, float]] = {}
  for name, value in scored.items():
    metric, _, part = name.partition("/")
    if languages.is_known(part):
      found.setdefault(part, {})[metric.replace("@", "_at_")] = value
  return found


def _dataset(source: Benchmark, metadata: Any) -> dict[str, Any]:
  """Subset -> split -> mteb's data; ids are numbers in the files' order.

  XOR-Retrieve judges by answers, so its questions have no relevant documents.
  """
  from datasets import Dataset

  corpus = Dataset.from_generator(
    _rows,
    gen_kwargs={
      "path": str(source.passages.path),
      "read": source.passages.read,
      "hash": source.passages.hash,  # else another file's rows may be cached
    },
  )
  result: dict[str, Any] = {}
  for number, name in enumerate(source.languages):
    part = result.setdefault(name, {"id": [], "text": [], "right": {}})
    part["id"].append(str(number))
    part["text"].append(source.questions[number])
    right = source.right[number]
    part["right"][str(number)] = {
      str(place): 1 for place in right if isinstance(place, int)
    }
  return {
    name: {
      metadata.eval_splits[0]: {
        "corpus": corpus,
        "queries": Dataset.from_dict({k: part[k] for k in ("id", "text")}),
        "relevant_docs": part["right"],
        "top_ranked": None,
      }
    }
    for name, part in result.items()
  }


def _rows(path: str, read: Any, hash: str) -> Iterator[dict[str, str]]:
  del hash
  for number, passage in enumerate(read(Path(path))):
    yield {"id": str(number), "title": passage.title, "text": passage.text}


def _of_these_files(metadata: Any, source: Benchmark) -> Any:
  """The metadata with the split that was read, and a hash as its revision."""
  questions = repr((source.questions, source.languages, source.right))
  whole = hashlib.blake2b(
    (source.passages.hash + questions).encode(), digest_size=16
  )
  dataset = {**metadata.dataset, "revision": whole.hexdigest()}
  update = {"dataset": dataset, "eval_splits": [source.split]}
  return metadata.model_copy(update=update)


def _subsets(names: Sequence[str]) -> dict[str, list[str]]:
  """Subset -> the language of its questions and that of the passages."""
  return {name: [languages.LANGUAGES[name].code, "eng-Latn"] for name in names}


def _metadata(**about: Any) -> Any:
  from mteb.abstasks.task_metadata import TaskMetadata  # pyrefly: ignore[missing-import]

  return TaskMetadata(
    type="Retrieval",
    category="t2t",
    modalities=["text"],
    domains=["Encyclopaedic", "Written"],
    task_subtypes=["Question answering"],
    annotations_creators="human-annotated",
    dialect=[],
    prompt={"query": _INSTRUCTION},
    **about,
  )


def _xor_metadata() -> Any:
  return _metadata(
    name=XOR,
    description=(
      "Questions in seven languages are asked of English Wikipedia. Scored is"
      " the share of questions of which an answer stands in the first 5,000 (or"
      " 2,000) words of the passages found."
    ),
    reference="https://arxiv.org/abs/2010.11856",
    dataset={"path": "AkariAsai/XORQA", "revision": "v1.1"},
    eval_splits=["dev"],
    eval_langs=_subsets(xor_retrieve.LANGUAGES),
    main_score="recall_at_5kt",
    date=("2020-01-01", "2020-10-22"),
    license="mit",
    sample_creation="found",
    bibtex_citation=r"""@inproceedings{asai-etal-2021-xor,
  author = {Asai, Akari and Kasai, Jungo and Clark, Jonathan and Lee, Kenton and Choi, Eunsol and Hajishirzi, Hannaneh},
  booktitle = {Proceedings of NAACL-HLT},
  title = {{XOR} {QA}: Cross-lingual Open-Retrieval Question Answering},
  year = {2021},
}""",
  )


def _xtreme_metadata() -> Any:
  return _metadata(
    name=XTREME,
    description=(
      "Questions in twenty languages, most of them with few resources, are asked"
      " of English passages."
    ),
    reference="https://arxiv.org/abs/2305.11938",
    dataset={"path": "google-research/xtreme-up", "revision": "v1.1"},
    eval_splits=["test"],
    eval_langs=_subsets(xtreme_up.LANGUAGES),
    main_score="mrr_at_10",
    date=("2020-01-01", "2023-05-19"),
    license="not specified",
    sample_creation="human-translated",
    bibtex_citation=r"""@inproceedings{ruder-etal-2023-xtreme,
  author = {Ruder, Sebastian and Clark, Jonathan H. and Gutkin, Alexander and others},
  booktitle = {Findings of the Association for Computational Linguistics: EMNLP 2023},
  pages = {1856--1884},
  title = {{XTREME-UP}: A User-Centric Scarce-Data Benchmark for Under-Represented Languages},
  year = {2023},
}""",
  )
