"""A model of ours and its export get the same scores from mteb.

The export is scored by mteb's own wrapper of sentence-transformers, as the
published EmbeddingGemma was.
"""

# ruff: noqa: E402  (what may be missing comes first)

import dataclasses
import shutil

import jax
import numpy as np
import pytest

mteb = pytest.importorskip("mteb")
st = pytest.importorskip("sentence_transformers", minversion="6")

import mteb_tasks
from mteb.models.search_wrappers import create_dataloader
from mteb.types import PromptType
from rich.console import Console

import embeddinggemma as eg
from embeddinggemma.data.prompts import DOCUMENT, PROMPTS
from embeddinggemma.evaluation import suite
from embeddinggemma.evaluation.kinds import retrieval
from embeddinggemma.evaluation.kinds.task import EvalTask
from embeddinggemma.evaluation.mteb_suite import about, running
from embeddinggemma.evaluation.mteb_suite.encoder import Encoder, prompts_of
from embeddinggemma.evaluation.mteb_suite.hybrid import Hybrid
from embeddinggemma.types import BadInput

QUIET = Console(quiet=True)
DIM = 16


@pytest.fixture(scope="module")
def ours(model):
  return eg.load(model)


@pytest.fixture(scope="module")
def theirs(exported):
  return st.SentenceTransformer(str(exported), device="cpu")


def by_us(model, task, folder, **setup):
  """The row of a task."""
  setup = about.Setup(**setup)
  found = running.evaluate(model, [task], setup, folder, QUIET)
  assert not found["failed"]
  return found["tasks"][task.metadata.name]


def by_them(model, task, **options):
  """{split: {subset: main score}} from mteb's wrapper."""
  found = mteb.evaluate(
    model,
    task,
    cache=None,
    encode_kwargs={"batch_size": 8, **options},
    show_progress_bar=False,
  ).task_results[0]
  return {
    split: {one["hf_subset"]: one["main_score"] for one in rows}
    for split, rows in found.scores.items()
  }


def encoder(model, kind=Encoder, **setup):
  return kind(model, about.Setup(**setup))


def flat(scores):
  return {
    (split, subset): score
    for split, subsets in scores.items()
    for subset, score in subsets.items()
  }


@pytest.mark.parametrize("kind", mteb_tasks.OF_EACH_TYPE)
def test_score_of_each_type(kind, ours, theirs, tmp_path):
  row = by_us(ours, kind(), tmp_path)
  found = flat(row["scores"])
  assert found == pytest.approx(flat(by_them(theirs, kind())), abs=1e-4)
  # A score at an end of the scale would be the same for other vectors.
  assert all(abs(score) > 0.01 and score < 0.99 for score in found.values())
  assert row["main_score"] == pytest.approx(np.mean(list(found.values())))


@pytest.mark.parametrize(
  "kind", [mteb_tasks.Retrieval, mteb_tasks.Labels, mteb_tasks.Clusters]
)
def test_score_of_a_dimension(kind, ours, exported, tmp_path):
  cut = st.SentenceTransformer(str(exported), device="cpu", truncate_dim=DIM)
  options = {"normalize_embeddings": True}
  wanted = by_them(cut, kind(), **options)
  row = by_us(ours, kind(), tmp_path, dim=DIM)
  assert flat(row["scores"]) == pytest.approx(flat(wanted), abs=1e-4)


def test_prompts_are_those_of_the_wrapper(ours, theirs, tmp_path):
  """Reported for each task, whether it was scored now or read from a file."""
  wrapper = mteb.SentenceTransformerEncoderWrapper(theirs)
  for kind in mteb_tasks.OF_EACH_TYPE[:-1]:
    row = by_us(ours, kind(), tmp_path)
    sides = {"query": PromptType.query, "document": PromptType.document}
    for side, prompt in row["prompts"].items():
      name = wrapper.get_prompt_name(kind.metadata, sides.get(side))
      assert prompt == theirs.prompts[name], (kind, side)
    assert prompts_of(encoder(ours), kind()) == row["prompts"]
  assert by_us(ours, mteb_tasks.Together(), tmp_path)["prompts"] == {
    "query": PROMPTS["Retrieval-query"],
    "document": DOCUMENT,
  }


def test_prompts_by_priority(ours):
  """TASK-SIDE, TASK, TYPE-SIDE, TYPE, SIDE: the first that the model has."""
  names = (
    "LocalRetrieval-query",
    "LocalRetrieval",
    "Retrieval-query",
    "Retrieval",
    "query",
  )
  for first in range(len(names)):
    own = {name: f"{name}: " for name in names[first:]}
    model = dataclasses.replace(ours, prompts=own)
    chosen = encoder(model).prompt(
      mteb_tasks.Retrieval.metadata, PromptType.query
    )
    assert chosen == f"{names[first]}: "
  assert (
    encoder(dataclasses.replace(ours, prompts={"document": "d: "})).prompt(
      mteb_tasks.Retrieval.metadata, PromptType.query
    )
    is None
  )


def test_a_task_without_a_prompt_says_so(ours, tmp_path):
  own = {name: PROMPTS[name] for name in ("query", "document")}
  model = dataclasses.replace(ours, prompts=own)
  row = by_us(model, mteb_tasks.Sts(), tmp_path)
  assert row["prompts"] == {"text": None}
  assert row["notes"] == ["the model has no prompt for this text"]


def loader(kind=PromptType.document):
  rows = mteb_tasks.search()["corpus"]
  return create_dataloader(
    rows,
    task_metadata=mteb_tasks.Retrieval.metadata,
    prompt_type=kind,
    batch_size=7,
  )


def vectors(entered, kind=PromptType.document, **options):
  return entered.encode(
    loader(kind),
    task_metadata=mteb_tasks.Retrieval.metadata,
    hf_split="test",
    hf_subset="default",
    prompt_type=kind,
    **options,
  )


def test_titles(ours):
  """Before the text as mteb joins them, or in the prompt's own place."""
  rows = mteb_tasks.search()["corpus"]
  joined = [f"{row['title']} {row['text']}".strip() for row in rows]
  np.testing.assert_allclose(
    vectors(encoder(ours)), ours.encode_document(joined), atol=1e-5
  )
  own = ours.encode_document(list(rows["text"]), titles=list(rows["title"]))
  np.testing.assert_allclose(
    vectors(encoder(ours, titles=about.OWN)), own, atol=1e-5
  )
  # A prompt without a place for a title has the joined text.
  other = dataclasses.replace(ours, prompts={"document": "doc: "})
  np.testing.assert_allclose(
    vectors(encoder(other, titles=about.OWN)),
    ours.encode(joined, prompt="doc: "),
    atol=1e-5,
  )


def test_an_option_that_changes_vectors_is_refused(ours):
  with pytest.raises(BadInput, match="'precision' is not supported"):
    vectors(encoder(ours), precision="int8")


def test_no_text_has_no_vector(ours):
  for dim in (DIM, None):
    found = encoder(ours, dim=dim).vectors("", [], [])
    assert found.shape == (0, dim or ours.config.embed_dim)


def test_hybrid_ranks_as_evaluate_does(ours, tmp_path):
  data = mteb_tasks.search()
  documents, queries = data["corpus"], data["queries"]
  places = {name: n for n, name in enumerate(documents["id"])}
  task = EvalTask(
    "task",
    retrieval.NAME,
    "retrieval",
    tuple(queries["text"]),
    tuple(f"{r['title']} {r['text']}".strip() for r in documents),
    ("",) * len(documents),
    tuple(
      {places[d]: g for d, g in data["relevant_docs"][q].items()}
      for q in queries["id"]
    ),
    (-1,) * len(queries),
  )
  dim = ours.config.embed_dim
  fused = suite.fused(ours, [task], dim)["task"][str(dim)]
  wanted = fused.values["ndcg@10"]
  row = by_us(ours, mteb_tasks.Retrieval(), tmp_path, search=about.HYBRID)
  assert row["main_score"] == pytest.approx(wanted, abs=1e-4)
  dense = by_us(ours, mteb_tasks.Retrieval(), tmp_path)
  assert abs(row["main_score"] - dense["main_score"]) > 0.01


def test_hybrid_ranks_only_what_it_is_given(ours):
  data = mteb_tasks.search(rerank=True)
  more = {
    "task_metadata": mteb_tasks.Reranking.metadata,
    "hf_split": "test",
    "hf_subset": "default",
    "encode_kwargs": {"batch_size": 8},
  }
  entered = encoder(ours, Hybrid, search=about.HYBRID)
  assert isinstance(entered, mteb.SearchProtocol)
  with pytest.raises(BadInput, match="call index"):
    entered.search(data["queries"], top_k=5, **more)
  entered.index(data["corpus"], **more)
  only = {**data["top_ranked"], "q3": []}
  del only["q4"]
  found = entered.search(data["queries"], top_k=5, top_ranked=only, **more)
  for query, ranking in found.items():
    given = only.get(query, [])
    assert len(ranking) == min(5, len(given)) and set(ranking) <= set(given)
  every = entered.search(data["queries"], top_k=5, **more)
  assert all(len(ranking) == 5 for ranking in every.values())


def test_hybrid_is_an_encoder_elsewhere(ours, theirs, tmp_path):
  row = by_us(ours, mteb_tasks.Sts(), tmp_path, search=about.HYBRID)
  wanted = by_them(theirs, mteb_tasks.Sts())
  assert flat(row["scores"]) == pytest.approx(flat(wanted), abs=1e-4)


def test_what_mteb_keeps_of_the_model(ours, model):
  meta = encoder(ours).mteb_model_meta
  assert meta.name == f"local/{model.name}"
  assert meta.n_parameters == sum(
    p.size for p in jax.tree.leaves(ours.params["model"])
  )
  assert meta.embed_dim == ours.config.embed_dim
  assert meta.max_tokens == ours.config.max_length
  assert meta.similarity_fn_name == "cosine"
  assert meta.experiment_kwargs is None
  cut = encoder(ours, dim=DIM).mteb_model_meta
  assert cut.embed_dim == DIM
  assert cut.experiment_kwargs == {"embed_dim": DIM}
  hybrid = encoder(ours, Hybrid, search=about.HYBRID).mteb_model_meta
  assert hybrid.model_type == ["hybrid"]


def test_revision_changes_with_all_that_changes_scores(ours, model, exported):
  """And with nothing else: a copy elsewhere has the results of the first."""
  usual = about.Setup().checked(ours)
  revision = about.revision(ours, usual)
  others = [
    about.revision(ours, about.Setup(**setup).checked(ours))
    for setup in (
      {"dim": DIM},
      {"titles": about.OWN},
      {"search": about.HYBRID},
    )
  ]
  prompts = {**ours.prompts, "STS": "other: "}
  others += [
    about.revision(other, usual)
    for other in (
      dataclasses.replace(ours, prompts=prompts),
      eg.load(model, precision="int8"),
      eg.load(exported),  # the same
    )
  ]
  assert others.pop() == revision
  assert len({revision, *others}) == 6
  assert about.Setup(ours.config.embed_dim).checked(ours) == usual


def test_a_copy_has_the_results_of_the_first(model, tmp_path):
  copy = tmp_path / "elsewhere" / model.name
  shutil.copytree(model, copy)
  first = encoder(eg.load(model)).mteb_model_meta
  assert first == encoder(eg.load(copy)).mteb_model_meta


@pytest.mark.parametrize(
  ("files", "licence"),
  [
    ({"LICENSE": b"Apache License, Version 2.0"}, "apache-2.0"),
    ({"LICENSE": b"Gemma Terms of Use"}, "gemma"),
    (
      {"LICENSE": b"license: other\nlicense_link: https://a.b/c\n"},
      "https://a.b/c",
    ),
    ({}, None),
  ],
)
def test_licence(files, licence, write_checkpoint, config, tmp_path):
  place = write_checkpoint(tmp_path / "a model", config, files)
  meta = encoder(eg.load(place)).mteb_model_meta
  assert meta.license == licence
  assert meta.name == "local/a-model"


def test_a_dimension_that_the_model_lacks(ours, tmp_path):
  for dim in (0, -1, ours.config.embed_dim + 1):
    with pytest.raises(
      BadInput, match=f"--dim={dim}: the model has dimensions"
    ):
      by_us(ours, mteb_tasks.Sts(), tmp_path, dim=dim)
