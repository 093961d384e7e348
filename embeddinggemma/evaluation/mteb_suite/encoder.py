"""A model of ours as mteb asks it for vectors: its EncoderProtocol.

Texts, prompts and scores are those of mteb's wrapper of sentence-transformers,
with which the published scores of EmbeddingGemma were made.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from embeddinggemma.data import prompts
from embeddinggemma.evaluation.cross import mteb_tasks
from embeddinggemma.evaluation.mteb_suite import about
from embeddinggemma.loading import Model
from embeddinggemma.types import BadValue

_SLICE = 4096  # texts after which progress is shown
_HARMLESS = frozenset({"batch_size", "show_progress_bar"})


class Encoder:
  """Vectors of a model under the prompts that mteb's order chooses.

  Args:
    model: the model.
    setup: how it is scored.
    on_texts: called with the number of texts of each piece of work.

  Raises BadInput for a setup that the model cannot do.
  """

  def __init__(
    self,
    model: Model,
    setup: about.Setup = about.USUAL,
    on_texts: Callable[[int], Any] = lambda count: None,
  ):
    self._model, self._on_texts = model, on_texts
    self._setup = setup.checked(model)
    self.mteb_model_meta = about.meta(model, self._setup)
    self.texts = 0  # that were encoded
    self.used: dict[str, str | None] = {}  # side -> its prompt, None: none fits

  def encode(
    self,
    inputs: Iterable[Mapping[str, Any]],
    *,
    task_metadata: Any,
    hf_split: str,
    hf_subset: str,
    prompt_type: Any = None,
    **options: Any,
  ) -> Float[np.ndarray, "n M"]:
    """Unit vectors of the texts in mteb's batches, in their order.

    Raises BadValue for an option that would change vectors, such as precision.
    """
    del hf_split, hf_subset
    if unknown := options.keys() - _HARMLESS:
      raise BadValue(
        f"mteb's option {min(unknown)!r} is not supported; --dim and"
        " --precision change vectors"
      )
    prompt = self.prompt(task_metadata, prompt_type)
    self.used[side_of(prompt_type)] = prompt
    return self.vectors(prompt, *self.read(inputs, prompt))

  def prompt(self, task_metadata: Any, prompt_type: Any) -> str | None:
    """The model's prompt for one side of a task; None: the bare text.

    Of the names TASK-SIDE, TASK, TYPE-SIDE, TYPE and SIDE, the first that the
    model has a prompt of; a SIDE is "query" or "document". XOR-Retrieve and
    XTREME-UP, which no model's prompts name, have those of our own runner.
    """
    from mteb.models.abs_encoder import get_prompt_name  # type: ignore

    model = self._model
    own = {**mteb_tasks.prompts_of(model.prompt), **model.prompts}
    name = get_prompt_name(own, task_metadata, prompt_type)
    return None if name is None else own[name]

  def read(
    self, batches: Iterable[Mapping[str, Any]], prompt: str | None
  ) -> tuple[list[str], list[str]]:
    """The texts of mteb's batches, and their titles, "" for none.

    Titles are part of the texts, as mteb joins them, unless the setup has them
    in a place of their own and the prompt has one.
    """
    own = self._setup.titles == about.OWN and prompt == prompts.DOCUMENT
    texts: list[str] = []
    titles: list[str] = []
    for batch in batches:
      apart = own and "title" in batch
      texts += batch["body" if apart and "body" in batch else "text"]
      titles += batch["title"] if apart else [""] * len(batch["text"])
    return texts, titles

  def vectors(
    self, prompt: str | None, texts: Sequence[str], titles: Sequence[str]
  ) -> Float[np.ndarray, "n M"]:
    """Unit vectors of texts under a prompt, a part of them after the other."""
    found = [np.zeros((0, self._setup.dim or 0), np.float32)]
    for start in range(0, len(texts), _SLICE):
      part = slice(start, start + _SLICE)
      found.append(
        self._model.encode(
          texts[part],
          prompt=prompt,
          titles=titles[part],
          truncate_dim=self._setup.dim,
        )
      )
      self.texts += len(found[-1])
      self._on_texts(len(found[-1]))
    return np.concatenate(found)

  def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
    """Cosines of all pairs, a torch tensor (n, m)."""
    from mteb.similarity_functions import cos_sim  # type: ignore

    return cos_sim(embeddings1, embeddings2)

  def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
    """Cosines of equal rows, a torch tensor (n)."""
    from mteb.similarity_functions import pairwise_cos_sim  # type: ignore

    return pairwise_cos_sim(embeddings1, embeddings2)


def side_of(prompt_type: Any) -> str:
  """What a side of a task is called: "query", "document", else "text"."""
  return "text" if prompt_type is None else str(prompt_type.value)


def prompts_of(encoder: Encoder, task: Any) -> dict[str, str | None]:
  """The prompts with which a task is scored, without scoring it: by side."""
  from mteb.abstasks import AbsTaskRetrieval  # type: ignore
  from mteb.types import PromptType  # type: ignore

  task = task.tasks[0] if task.is_aggregate else task
  if isinstance(task, AbsTaskRetrieval):
    types = [PromptType.query, PromptType.document]
  else:
    names = ("input1_prompt_type", "input2_prompt_type")
    types = list(dict.fromkeys(getattr(task, name, None) for name in names))
  return {side_of(t): encoder.prompt(task.metadata, t) for t in types}
