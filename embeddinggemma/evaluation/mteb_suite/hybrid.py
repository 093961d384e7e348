"""Hybrid search as mteb asks a search engine: its SearchProtocol.

It ranks by the sum of the model's cosines and BM25's scores, as `evaluate` does
on tasks of files. Tasks that do not search ask it as an encoder.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from embeddinggemma import lexical
from embeddinggemma.evaluation.mteb_suite.encoder import Encoder, side_of
from embeddinggemma.types import BadValue

Ranking = dict[str, float]  # document id -> score


class _Corpus(NamedTuple):
  ids: Sequence[str]
  vectors: Float[np.ndarray, "C M"]
  words: lexical.BM25


class Hybrid(Encoder):
  """A model and BM25, stemmed, over the corpus that `index` was given."""

  _corpus: _Corpus | None = None

  def index(
    self,
    corpus: Any,
    *,
    task_metadata: Any,
    hf_split: str,
    hf_subset: str,
    encode_kwargs: Mapping[str, Any],
    num_proc: int | None = None,
    **options: Any,
  ) -> None:
    """Keep the vectors and the words of a corpus, instead of the one before."""
    del hf_split, hf_subset, num_proc, options
    self._corpus = None
    texts, vectors = self._side(
      corpus, task_metadata, "document", encode_kwargs
    )
    words = lexical.bm25(texts, "stemmed")
    self._corpus = _Corpus(list(corpus["id"]), vectors, words)

  def search(
    self,
    queries: Any,
    *,
    task_metadata: Any,
    hf_split: str,
    hf_subset: str,
    top_k: int,
    encode_kwargs: Mapping[str, Any],
    top_ranked: Mapping[str, Sequence[str]] | None = None,
    num_proc: int | None = None,
    **options: Any,
  ) -> dict[str, Ranking]:
    """The best documents of each query: {query: {document: score}}.

    Args:
      top_ranked: the only documents that are ranked for a query, of a task that
        ranks anew what another search found.

    Raises BadValue where no corpus was indexed.
    """
    del hf_split, hf_subset, num_proc, options
    if self._corpus is None:
      raise BadValue("there is no corpus to search; call index before search")
    texts, vectors = self._side(queries, task_metadata, "query", encode_kwargs)
    return _ranked(
      self._corpus, list(queries["id"]), texts, vectors, top_ranked, top_k
    )

  def _side(
    self,
    rows: Any,
    task_metadata: Any,
    side: str,
    encode_kwargs: Mapping[str, Any],
  ) -> tuple[list[str], Float[np.ndarray, "n M"]]:
    """The texts, with their titles, and the vectors of queries or documents."""
    from mteb.models.search_wrappers import create_dataloader  # type: ignore
    from mteb.types import PromptType  # type: ignore

    kind = PromptType(side)
    batches = list(
      create_dataloader(
        rows, task_metadata=task_metadata, prompt_type=kind, **encode_kwargs
      )
    )
    prompt = self.prompt(task_metadata, kind)
    self.used[side_of(kind)] = prompt
    vectors = self.vectors(prompt, *self.read(batches, prompt))
    return [text for batch in batches for text in batch["text"]], vectors


def _ranked(
  corpus: _Corpus,
  queries: Sequence[str],
  texts: Sequence[str],
  vectors: Float[np.ndarray, "Q M"],
  only: Mapping[str, Sequence[str]] | None,
  top_k: int,
) -> dict[str, Ranking]:
  """The rankings of queries; the scores of a few of them are in memory.

  `only` has the documents that are ranked for a query; None: all of them.
  """
  everything = np.arange(len(corpus.ids))
  places = dict(zip(corpus.ids, everything, strict=True))
  found: dict[str, Ranking] = {}
  for part in lexical.query_chunks(len(queries), len(corpus.ids)):
    dense = vectors[part] @ corpus.vectors.T
    words = corpus.words(texts[part])
    for row, query in enumerate(queries[part]):
      some = everything
      if only is not None:
        some = np.array([places[n] for n in only.get(query, ())], np.int64)
      found[query] = _best(corpus, some, dense[row], words[row], top_k)
  return found


def _best(
  corpus: _Corpus,
  some: np.ndarray,
  dense: Float[np.ndarray, "C"],
  words: Float[np.ndarray, "C"],
  top_k: int,
) -> Ranking:
  """The best of some documents, by their places, with their fused scores."""
  if not len(some):
    return {}
  fused = lexical.fuse(dense[some][None], words[some][None])
  best, values = lexical.top_k(fused, top_k)
  return {
    corpus.ids[some[place]]: float(value)
    for place, value in zip(best[0], values[0], strict=True)
  }
