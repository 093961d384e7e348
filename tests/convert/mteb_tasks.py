"""Tasks of mteb with data that are made here: of each type of its suites.

They are subclasses of its own classes, as those of the Hub are. Their texts are
few and never equal, so that a score depends on the vectors.
"""

from datasets import Dataset, DatasetDict
from mteb.abstasks import (
  AbsTaskBitextMining,
  AbsTaskClassification,
  AbsTaskClustering,
  AbsTaskClusteringLegacy,
  AbsTaskMultilabelClassification,
  AbsTaskPairClassification,
  AbsTaskRetrieval,
  AbsTaskSTS,
  AbsTaskSummarization,
)
from mteb.abstasks.aggregate_task_metadata import AggregateTaskMetadata
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

NOUNS = ("river", "house", "garden", "road", "lamp", "ship")
ADJECTIVES = ("red", "old", "quiet", "wide", "small")
PLACES = ("north", "town", "valley", "winter")
SUBSETS = {"en": ["eng-Latn"], "fr": ["fra-Latn"]}
ABOUT = {
  "description": "A task of few texts.",
  "reference": "https://example.org/tasks",
  "dataset": {"path": "local", "revision": "1"},
  "category": "t2t",
  "eval_splits": ["test"],
  "eval_langs": ["eng-Latn"],
  "date": ("2026-01-01", "2026-01-01"),
  "dialect": [],
  "domains": ["Written"],
  "task_subtypes": [],
  "license": "cc-by-4.0",
  "annotations_creators": "derived",
  "modalities": ["text"],
  "sample_creation": "found",
  "bibtex_citation": "",
}


def about(kind, name, main_score, **more):
  """The metadata of a task."""
  fields = {**ABOUT, **more}
  return TaskMetadata(type=kind, name=name, main_score=main_score, **fields)


def text(n, words="was seen at"):
  """The n-th of many texts; no two are equal, a few longer than is read."""
  noun, adjective = NOUNS[n % 6], ADJECTIVES[n // 6 % 5]
  tail = f" by the {PLACES[n % 4]}" * (40 if n % 23 == 5 else n % 3)
  return f"the {adjective} {noun} {words} {n} o'clock{tail}"


def labelled(count, start=0):
  """Texts about a few nouns, labelled by these."""
  numbers = range(start, start + count)
  return Dataset.from_dict(
    {
      "text": [text(n) for n in numbers],
      "label": [n % 3 for n in numbers],
    }
  )


def search(instructions=False, rerank=False):
  """A corpus with titles, questions, and perhaps which documents to rank."""
  documents = [
    {"id": f"d{n}", "text": text(n), "title": f"{PLACES[n % 4]} {n}"}
    for n in range(30)
  ]
  documents[3]["title"] = ""
  questions = [
    {
      "id": f"q{n}",
      "text": f"where was the {ADJECTIVES[n // 6]} {NOUNS[n % 6]}",
    }
    for n in range(12)
  ]
  if instructions:
    for n, row in enumerate(questions):
      row["instruction"] = f"only of the {PLACES[n % 4]}, before {n + 3}"
  return RetrievalSplitData(
    corpus=Dataset.from_list(documents),
    queries=Dataset.from_list(questions),
    relevant_docs={f"q{n}": {f"d{n}": 1, f"d{n + 9}": 1} for n in range(12)},
    top_ranked={
      f"q{n}": [f"d{(n + k) % 30}" for k in range(12)] for n in range(12)
    }
    if rerank
    else None,
  )


class Local:
  """A task whose data are those of `made`."""

  def load_data(self, num_proc=None, **options):
    """What mteb calls instead of a download."""
    self.dataset = self.made()
    self.data_loaded = True


class Sts(Local, AbsTaskSTS):
  metadata = about("STS", "LocalSTS", "cosine_spearman")
  min_score, max_score = 0, 5

  def made(self):
    rows = {
      "sentence1": [text(n) for n in range(24)],
      "sentence2": [text(n * 5 % 24, "stood there at") for n in range(24)],
      "score": [n * 7 % 6 for n in range(24)],
    }
    return DatasetDict({"test": Dataset.from_dict(rows)})


class Pairs(Local, AbsTaskPairClassification):
  metadata = about("PairClassification", "LocalPairs", "max_ap")

  def made(self):
    rows = {
      "sentence1": [text(n) for n in range(24)],
      "sentence2": [text(n * 5 % 24, "stood there at") for n in range(24)],
      "labels": [n * 5 % 24 % 6 == n % 6 or n % 4 == 0 for n in range(24)],
    }
    rows["labels"] = [int(label) for label in rows["labels"]]
    return DatasetDict({"test": Dataset.from_dict(rows)})


class Bitext(Local, AbsTaskBitextMining):
  metadata = about("BitextMining", "LocalBitext", "f1")

  def made(self):
    rows = {
      "sentence1": [text(n) for n in range(24)],
      "sentence2": [text(n, "stood there until") for n in range(24)],
    }
    return DatasetDict({"test": Dataset.from_dict(rows)})


class Labels(Local, AbsTaskClassification):
  metadata = about(
    "Classification", "LocalLabels", "accuracy", eval_langs=SUBSETS
  )

  def made(self):
    return {
      name: DatasetDict(
        {"train": labelled(48, start), "test": labelled(18, start + 60)}
      )
      for name, start in (("en", 0), ("fr", 100))
    }


class ManyLabels(Local, AbsTaskMultilabelClassification):
  metadata = about("MultilabelClassification", "LocalManyLabels", "lrap")

  def made(self):
    both = {}
    for split, start, count in (("train", 0, 48), ("test", 60, 18)):
      rows = labelled(count, start).remove_columns("label")
      labels = [sorted({n % 3, n % 4}) for n in range(start, start + count)]
      both[split] = rows.add_column("label", labels)
    return DatasetDict(both)


class Clusters(Local, AbsTaskClustering):
  """With labels of two levels, as the hierarchical tasks have."""

  metadata = about("Clustering", "LocalClusters", "v_measure")
  max_fraction_of_documents_to_embed = None
  max_documents_per_cluster = 40

  def made(self):
    rows = {
      "sentences": [text(n) for n in range(60)],
      "labels": [[f"a{n % 3}", f"b{n % 6}"] for n in range(60)],
    }
    return DatasetDict({"test": Dataset.from_dict(rows)})


class ClusterSets(Local, AbsTaskClusteringLegacy):
  metadata = about("Clustering", "LocalClusterSets", "v_measure")

  def made(self):
    rows = {
      "sentences": [[text(n) for n in range(s, s + 24)] for s in (0, 30)],
      "labels": [[n % 3 for n in range(s, s + 24)] for s in (0, 30)],
    }
    return DatasetDict({"test": Dataset.from_dict(rows)})


class Retrieval(Local, AbsTaskRetrieval):
  metadata = about("Retrieval", "LocalRetrieval", "ndcg_at_10")

  def made(self):
    return {"default": {"test": search()}}


class Dialogues(Local, AbsTaskRetrieval):
  """Its queries are conversations, as those of one task of code are."""

  metadata = about("Retrieval", "LocalDialogues", "ndcg_at_10")

  def made(self):
    data = search()
    turns = [
      [
        {"role": "user", "content": t}
        for t in (words, "and then?")[: 1 + n % 2]
      ]
      for n, words in enumerate(data["queries"]["text"])
    ]
    data["queries"] = Dataset.from_dict(
      {"id": list(data["queries"]["id"]), "text": turns}
    )
    return {"default": {"test": data}}


class Reranking(Local, AbsTaskRetrieval):
  metadata = about("Reranking", "LocalReranking", "map_at_1000")

  def made(self):
    return {"default": {"test": search(rerank=True)}}


class InstructionRetrieval(Local, AbsTaskRetrieval):
  metadata = about("InstructionRetrieval", "LocalInstructions", "ndcg_at_5")

  def made(self):
    return {"default": {"test": search(instructions=True)}}


class InstructionReranking(Local, AbsTaskRetrieval):
  metadata = about(
    "InstructionReranking", "LocalInstructionReranking", "ndcg_at_5"
  )

  def made(self):
    return {"default": {"test": search(instructions=True, rerank=True)}}


class Summaries(Local, AbsTaskSummarization):
  metadata = about("Summarization", "LocalSummaries", "cosine_spearman")
  min_score, max_score = 0, 5

  def made(self):
    several = lambda n, words: [text(n + 11 * k, words) for k in range(5)]
    rows = {
      "text": [text(n) for n in range(8)],
      "human_summaries": [several(n, "was seen by")[:2] for n in range(8)],
      "machine_summaries": [several(n, "stood until") for n in range(8)],
      "relevance": [[(n * 3 + k * 2) % 5 for k in range(5)] for n in range(8)],
    }
    return DatasetDict({"test": Dataset.from_dict(rows)})


class Together(AbsTaskAggregate):
  """Two tasks whose mean is the score, as some benchmarks have."""

  metadata = AggregateTaskMetadata(
    type="Retrieval",
    name="LocalTogether",
    main_score="ndcg_at_10",
    tasks=[Retrieval(), Dialogues()],
    **{k: v for k, v in ABOUT.items() if k != "dataset"},
  )


OF_EACH_TYPE = (
  Sts,
  Pairs,
  Bitext,
  Labels,
  ManyLabels,
  Clusters,
  ClusterSets,
  Retrieval,
  Dialogues,
  Reranking,
  InstructionRetrieval,
  InstructionReranking,
  Summaries,
  Together,
)
