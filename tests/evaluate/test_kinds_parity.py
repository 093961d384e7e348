"""Each kind of tasks gets the score that mteb's own class gives it.

Without the package mteb they are skipped; what of its protocols is transcribed
stands in test_protocols.py.
"""

import json

import kind_files
import numpy as np
import pytest
from kind_files import beir, jsonl, settings

from embeddinggemma.evaluation import suite

mteb = pytest.importorskip("mteb")

ABOUT = {
  "description": "made by a test",
  "reference": None,
  "dataset": {"path": "none", "revision": "none"},
  "category": "t2t",
  "modalities": ["text"],
  "eval_splits": ["test"],
  "eval_langs": ["eng-Latn"],
  "date": None,
  "domains": [],
  "task_subtypes": [],
  "license": None,
  "annotations_creators": None,
  "dialect": [],
  "sample_creation": None,
  "bibtex_citation": "",
}
TOPICS = "apple river stone cloud tiger piano sugar train".split()


class Model:
  """Vectors of texts, as a model of mteb."""

  def __init__(self, name):
    from mteb.models.model_meta import ModelMeta

    self._name = name
    self.mteb_model_meta = ModelMeta.create_empty({"name": "made/vectors"})

  def encode(self, inputs, **kwargs):
    texts = [text for batch in inputs for text in batch["text"]]
    return kind_files.vectors(self._name, texts)

  def similarity(self, left, right):
    from mteb.similarity_functions import cos_sim

    return cos_sim(left, right)

  def similarity_pairwise(self, left, right):
    from mteb.similarity_functions import pairwise_cos_sim

    return pairwise_cos_sim(left, right)


def theirs(kind, type_, main, data, model, **fields):
  """The scores that a class of mteb gives the data."""
  from mteb.abstasks.task_metadata import TaskMetadata

  about = TaskMetadata(name="Made", type=type_, main_score=main, **ABOUT)

  def load_data(self, num_proc=None, **kwargs):
    self.dataset, self.data_loaded = data, True

  made = type("Made", (kind,), {"metadata": about, "load_data": load_data})
  for name, value in fields.items():
    setattr(made, name, value)
  task = made()
  return task.evaluate(Model(model), encode_kwargs={"batch_size": 64})[
    "default"
  ]


def ours(folder, model, name=""):
  """The scores of the one task of a folder, or of the one that is named."""
  tasks = [t for t in suite.read_suite(folder) if not name or t.name == name]
  (task,) = tasks
  found = suite.evaluate(kind_files.encoder(model), [task], [kind_files.WIDTH])
  json.dumps(found)
  return found["tasks"][task.name][str(kind_files.WIDTH)]


def same(own, their, **names):
  """Whether metrics are equal, named as here=as in mteb."""
  found = {name: own[name.replace("_at_", "@")] for name in names}
  wanted = {name: their[other] for name, other in names.items()}
  assert found == pytest.approx(wanted, abs=1e-4)


def table(**columns):
  from datasets import Dataset

  return Dataset.from_dict(columns)


def splits(**tables):
  from datasets import DatasetDict

  return DatasetDict(tables)


def rows_of(columns):
  return [dict(zip(columns, row)) for row in zip(*columns.values())]


def topical(rng, count):
  """Texts whose first word is their topic, and the topics' numbers."""
  labels = rng.integers(len(TOPICS), size=count).tolist()
  return [f"{TOPICS[x]} text {rng.integers(10**6)}" for x in labels], labels


def search_data(rng, queries, documents, ids=("q", "d")):
  """A corpus of falling ids, which is the order in which mteb breaks ties."""
  texts, topics = topical(rng, documents)
  keys = [f"{ids[1]}{n:05}" for n in range(documents)][::-1]
  corpus = dict(zip(keys, texts))
  asked, about = topical(rng, queries)
  qrels = {}
  for n, topic in enumerate(about):
    alike = [key for key, other in zip(keys, topics) if other == topic]
    chosen = rng.permutation(alike or keys)[:3].tolist()
    other = rng.permutation(keys)[0]
    qrels[f"{ids[0]}{n}"] = {other: 0} | {
      key: int(rng.integers(1, 3)) for key in chosen
    }
  return corpus, {f"{ids[0]}{n}": t for n, t in enumerate(asked)}, qrels


def split_of(corpus, queries, qrels, ranked=None, instructions=None):
  texts = {"id": list(queries), "text": list(queries.values())}
  if instructions:
    texts["instruction"] = [instructions[key] for key in queries]
  return {
    "default": {
      "test": {
        "corpus": table(
          id=list(corpus), text=list(corpus.values()), title=[""] * len(corpus)
        ),
        "queries": table(**texts),
        "relevant_docs": qrels,
        "top_ranked": ranked,
      }
    }
  }


RANKED = {"ndcg_at_10": "ndcg_at_10", "mrr_at_10": "mrr_at_10"}


@pytest.mark.parametrize("model", kind_files.MODELS)
@pytest.mark.parametrize("seed", range(3))
def test_retrieval(tmp_path, model, seed):
  data = search_data(np.random.default_rng(seed), 20, 90)
  theirs_ = theirs(
    mteb.abstasks.AbsTaskRetrieval,
    "Retrieval",
    "ndcg_at_10",
    split_of(*data),
    model,
  )
  own = ours(beir(tmp_path / "x", *data), model)
  recalls = {"recall_at_10": "recall_at_10", "recall_at_100": "recall_at_100"}
  same(own, theirs_, **RANKED, **recalls)


@pytest.mark.parametrize("model", kind_files.MODELS)
@pytest.mark.parametrize("seed", range(3))
def test_reranking(tmp_path, model, seed):
  rng = np.random.default_rng(seed)
  corpus, queries, qrels = search_data(rng, 15, 60)
  ranked = {
    query: list(
      dict.fromkeys([*judged, *rng.permutation(list(corpus))[:12].tolist()])
    )[int(rng.integers(2)) :]
    for query, judged in qrels.items()
  }
  data = split_of(corpus, queries, qrels, ranked)
  theirs_ = theirs(
    mteb.abstasks.AbsTaskRetrieval, "Reranking", "map_at_1000", data, model
  )
  folder = beir(tmp_path / "x", corpus, queries, qrels)
  rows = [{"query-id": q, "corpus-ids": ids} for q, ids in ranked.items()]
  jsonl(folder / "top_ranked.jsonl", rows)
  same(ours(folder, model), theirs_, map_at_1000="map_at_1000", **RANKED)


@pytest.mark.parametrize("model", kind_files.MODELS)
def test_reranking_of_rows(tmp_path, model):
  from mteb.abstasks.text import reranking

  rng = np.random.default_rng(5)
  rows = []
  for _ in range(12):
    query, positive, negative = (topical(rng, n)[0] for n in (1, 2, 6))
    rows.append({"query": query[0], "positive": positive, "negative": negative})
  rows.append({"query": "apple", "positive": ["apple"], "negative": []})
  columns = {name: [row[name] for row in rows] for name in rows[0]}

  class Old(reranking.AbsTaskReranking):
    def load_data(self, num_proc=None, **kwargs):
      self.transform_old_dataset_format(
        {"default": splits(test=table(**columns))}
      )
      self.data_loaded = True

  reranking.OLD_FORMAT_RERANKING_TASKS.append("Made")
  try:
    from mteb.abstasks.task_metadata import TaskMetadata

    Old.metadata = TaskMetadata(
      name="Made", type="Reranking", main_score="map_at_1000", **ABOUT
    )
    task = Old()
    found = task.evaluate(Model(model), encode_kwargs={"batch_size": 64})
  finally:
    reranking.OLD_FORMAT_RERANKING_TASKS.remove("Made")
  jsonl(tmp_path / "x" / "test.jsonl", rows)
  same(
    ours(tmp_path, model),
    found["default"],
    map_at_1000="map_at_1000",
    **RANKED,
  )


@pytest.mark.parametrize("model", kind_files.MODELS)
@pytest.mark.parametrize("candidates", [True, False])
def test_instructions_that_change(tmp_path, model, candidates):
  from mteb._evaluators.retrieval_metrics import evaluate_p_mrr_change

  rng = np.random.default_rng(7)
  corpus, queries, qrels = search_data(rng, 10, 40)
  asked, judged, told, changed = {}, {}, {}, {}
  for key, text in queries.items():
    for end, word in ("og", "broad"), ("changed", "narrow"):
      asked[f"{key}-{end}"], judged[f"{key}-{end}"] = text, qrels[key]
      told[f"{key}-{end}"] = f"{word} {TOPICS[rng.integers(8)]}"
    changed[key] = [d for d, grade in qrels[key].items() if grade][:2]
  ranked = {q: rng.permutation(list(corpus))[:25].tolist() for q in asked}
  ranked = ranked if candidates else None

  def extra(self, scores, qrels, results, hf_split, hf_subset):
    return evaluate_p_mrr_change(qrels, results, changed, self.k_values)

  found = theirs(
    mteb.abstasks.AbsTaskRetrieval,
    "InstructionReranking",
    "p-MRR",
    split_of(corpus, asked, judged, ranked, told),
    model,
    task_specific_scores=extra,
  )
  folder = beir(tmp_path / "x", corpus, asked, judged)
  rows = [{"query-id": q, "instruction": text} for q, text in told.items()]
  jsonl(folder / "instruction.jsonl", rows)
  rows = [{"query-id": q, "corpus-ids": ids} for q, ids in changed.items()]
  jsonl(folder / "qrel_diff.jsonl", rows)
  if ranked:
    rows = [{"query-id": q, "corpus-ids": ids} for q, ids in ranked.items()]
    jsonl(folder / "top_ranked.jsonl", rows)
  own = ours(folder, model)
  assert own["p-mrr"] == pytest.approx(found["p-MRR"], abs=1e-4)
  names = ("ndcg_at_5", "ndcg_at_10", "ndcg_at_20", "map_at_1000", "mrr_at_10")
  same(own, found, **{name: name for name in names})


def test_instructions_in_the_queries(tmp_path):
  corpus, queries, qrels = search_data(np.random.default_rng(9), 10, 40)
  told = {q: f"word {n}" for n, q in enumerate(queries)}
  found = theirs(
    mteb.abstasks.AbsTaskRetrieval,
    "InstructionRetrieval",
    "ndcg_at_10",
    split_of(corpus, queries, qrels, None, told),
    "chance",
  )
  folder = beir(tmp_path / "x", corpus, queries, qrels)
  rows = [
    {"_id": q, "text": queries[q], "instruction": told[q]} for q in queries
  ]
  jsonl(folder / "queries.jsonl", rows)
  same(ours(folder, "chance"), found, **RANKED, ndcg_at_20="ndcg_at_20")


@pytest.mark.parametrize("model", ["topics", "chance", "few"])
def test_sts(tmp_path, model):
  rng = np.random.default_rng(3)
  left, right = topical(rng, 60)[0], topical(rng, 60)[0]
  right[:10] = left[:10]  # equal texts tie
  columns = {
    "sentence1": left,
    "sentence2": right,
    "score": rng.integers(6, size=60).tolist(),
  }
  found = theirs(
    mteb.abstasks.AbsTaskSTS,
    "STS",
    "cosine_spearman",
    splits(test=table(**columns)),
    model,
  )
  jsonl(tmp_path / "x" / "test.jsonl", rows_of(columns))
  same(ours(tmp_path, model), found, spearman="cosine_spearman")


@pytest.mark.parametrize("model", kind_files.MODELS)
@pytest.mark.parametrize("seed", range(3))
def test_pair_classification(tmp_path, model, seed):
  rng = np.random.default_rng(seed)
  (left, one), (right, two) = topical(rng, 80), topical(rng, 80)
  alike = [int(a == b or rng.random() < 0.2) for a, b in zip(one, two)]
  columns = {"sentence1": left, "sentence2": right, "labels": alike}
  found = theirs(
    mteb.abstasks.AbsTaskPairClassification,
    "PairClassification",
    "max_ap",
    splits(test=table(**columns)),
    model,
  )
  jsonl(tmp_path / "x" / "test.jsonl", rows_of(columns))
  names = ("max_ap", "max_accuracy", "max_f1", "cosine_ap", "cosine_accuracy")
  same(
    ours(tmp_path, model),
    found,
    cosine_f1="cosine_f1",
    **{name: name for name in names},
  )


@pytest.mark.parametrize(
  ("model", "count"),
  [*((model, 150) for model in kind_files.MODELS), ("topics", 20)],
)
def test_bitext(tmp_path, model, count):
  rng = np.random.default_rng(count)
  left, right = topical(rng, count)[0], topical(rng, count)[0]
  right[: count // 2] = left[: count // 2]
  if count >= 64:  # of fewer, torch takes any of those that are equally near
    right[5] = right[3]
  columns = {"sentence1": left, "sentence2": right}
  found = theirs(
    mteb.abstasks.AbsTaskBitextMining,
    "BitextMining",
    "f1",
    splits(test=table(**columns)),
    model,
  )
  jsonl(tmp_path / "x" / "test.jsonl", rows_of(columns))
  same(ours(tmp_path, model), found, f1="f1", accuracy="accuracy")


def labelled(rng, count):
  texts, labels = topical(rng, count)
  return {"text": texts, "label": labels}


@pytest.mark.parametrize("model", kind_files.MODELS)
@pytest.mark.parametrize("named", [{}, {"samples_per_label": 3, "seed": 7}])
def test_classification(tmp_path, model, named):
  rng = np.random.default_rng(1)
  train, test = labelled(rng, 200), labelled(rng, 70)
  if model == "chance":  # a label that is not tested, and one never seen
    test["label"] = [9 if x == 0 else x for x in test["label"]]
  data = splits(train=table(**train), test=table(**test))
  seed = named.get("seed", 42)
  fields = {k: v for k, v in named.items() if k != "seed"}
  kind = mteb.abstasks.AbsTaskClassification
  if seed != 42:
    kind = type(
      "Seeded",
      (kind,),
      {"__init__": lambda self: super(kind, self).__init__(seed)},
    )
  found = theirs(kind, "Classification", "accuracy", data, model, **fields)
  jsonl(tmp_path / "x" / "train.jsonl", rows_of(train))
  jsonl(tmp_path / "x" / "test.jsonl", rows_of(test))
  if named:
    settings(tmp_path / "x", **named)
  own = ours(tmp_path, model, "x")
  same(own, found, accuracy="accuracy", f1="f1", f1_weighted="f1_weighted")


@pytest.mark.parametrize("model", kind_files.MODELS)
@pytest.mark.parametrize("most", [None, 35])
def test_multilabel_classification(tmp_path, model, most):
  rng = np.random.default_rng(2)

  def several(count):
    columns = labelled(rng, count)
    more = rng.integers(9, size=count).tolist()
    own = [
      [] if n % 10 == 9 else sorted({a, b})
      for n, (a, b) in enumerate(zip(columns["label"], more))
    ]
    return {"text": columns["text"], "label": own}

  train, test = several(150), several(60)
  found = theirs(
    mteb.abstasks.AbsTaskMultilabelClassification,
    "MultilabelClassification",
    "accuracy",
    splits(train=table(**train), test=table(**test)),
    model,
    max_eval_samples=most,
  )
  jsonl(tmp_path / "x" / "train.jsonl", rows_of(train))
  jsonl(tmp_path / "x" / "test.jsonl", rows_of(test))
  settings(tmp_path / "x", max_eval_samples=most)
  names = ("accuracy", "lrap", "f1", "hamming")
  same(ours(tmp_path, model), found, **{name: name for name in names})


@pytest.mark.parametrize("model", kind_files.MODELS)
@pytest.mark.parametrize(
  "named",
  [
    {"max_documents_per_cluster": 60, "n_clusters": 3},
    {"max_documents_per_cluster": 60, "max_document_to_embed": 50},
    {
      "max_documents_per_cluster": 60,
      "max_fraction_of_documents_to_embed": 0.4,
      "max_depth": 1,
    },
  ],
)
@pytest.mark.parametrize("labels", ["whole", "levels", "words"])
def test_clustering(tmp_path, model, named, labels):
  rng = np.random.default_rng(4)
  texts, topics = topical(rng, 120)
  if labels == "levels":
    given = [
      [t, t * 10 + n % 2] if n % 7 else [t] for n, t in enumerate(topics)
    ]
  elif labels == "words":
    given = [[TOPICS[t]] * (1 + n % 2) for n, t in enumerate(topics)]
  else:
    given = topics
  columns = {"sentences": texts, "labels": given}
  limits = {"max_fraction_of_documents_to_embed": None}
  found = theirs(
    mteb.abstasks.AbsTaskClustering,
    "Clustering",
    "v_measure",
    splits(test=table(**columns)),
    model,
    **(limits | named),
  )
  jsonl(tmp_path / "x" / "test.jsonl", rows_of(columns))
  settings(tmp_path / "x", **named)
  same(ours(tmp_path, model), found, v_measure="v_measure")


@pytest.mark.parametrize("model", kind_files.MODELS)
def test_clustering_of_sets(tmp_path, model):
  rng = np.random.default_rng(6)
  parts = [topical(rng, n) for n in (40, 25, 60)]
  columns = {
    "sentences": [*(texts for texts, _ in parts), ["apple one", "apple two"]],
    "labels": [*(labels for _, labels in parts), [3, 3]],
  }
  found = theirs(
    mteb.abstasks.AbsTaskClusteringLegacy,
    "Clustering",
    "v_measure",
    splits(test=table(**columns)),
    model,
  )
  jsonl(tmp_path / "x" / "test.jsonl", rows_of(columns))
  same(ours(tmp_path, model), found, v_measure="v_measure")


@pytest.mark.parametrize("model", ["topics", "chance", "few"])
def test_summarization(tmp_path, model):
  rng = np.random.default_rng(8)
  columns = {name: [] for name in ("text", "human_summaries")}
  columns |= {"machine_summaries": [], "relevance": []}
  for n in range(15):
    columns["text"].append(f"text {n}")
    columns["human_summaries"].append(topical(rng, 3 + n % 2)[0])
    columns["machine_summaries"].append(topical(rng, 6)[0])
    rated = [2.0] * 6 if n == 4 else rng.integers(1, 6, size=6).tolist()
    columns["relevance"].append([float(x) for x in rated])
  found = theirs(
    mteb.abstasks.AbsTaskSummarization,
    "Summarization",
    "cosine_spearman",
    splits(test=table(**columns)),
    model,
    min_score=0,
    max_score=5,
  )
  jsonl(tmp_path / "x" / "test.jsonl", rows_of(columns))
  names = ("cosine_spearman", "cosine_pearson")
  same(ours(tmp_path, model), found, **{name: name for name in names})
