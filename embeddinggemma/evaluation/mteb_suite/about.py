"""What mteb keeps of a model: its ModelMeta, with a revision of our own.

mteb knows results by name and revision, and never scores again what it has. So
the revision is a hash of all that decides vectors and rankings.
"""

import pathlib
import re
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from embeddinggemma import cache, checkpoint
from embeddinggemma.config import suggest
from embeddinggemma.convert import origin
from embeddinggemma.convert.read import families
from embeddinggemma.loading import Model
from embeddinggemma.types import BadInput

# To be raised with any change after which a task would get another score.
VERSION = 1
DENSE, HYBRID = "dense", "hybrid"
JOINED, OWN = "joined", "own"
_OWNER = "local"  # mteb wants OWNER/NAME
_DIGITS = 40  # of a revision, as Git has


class Setup(NamedTuple):
  """How a model is scored; each setup has results of its own."""

  dim: int | None = None  # leading coordinates that are kept; None: all
  # Titles of documents stand before the text, as mteb joins them and as the
  # published scores of EmbeddingGemma have them; or in the prompt's own place.
  titles: str = JOINED
  search: str = DENSE  # or HYBRID: with BM25, in tasks that search

  def checked(self, model: Model) -> "Setup":
    """The setup with its dimension; BadInput for what the model cannot do."""
    most = model.config.embed_dim
    dim = most if self.dim is None else self.dim
    if not 0 < dim <= most:
      raise BadInput(f"--dim={dim}: the model has dimensions 1 to {most}")
    for value, known in (
      (self.titles, [JOINED, OWN]),
      (self.search, [DENSE, HYBRID]),
    ):
      if value not in known:
        raise BadInput(f"{value!r} is no such setup{suggest(value, known)}")
    return self._replace(dim=dim)

  def unusual(self, model: Model) -> dict[str, Any]:
    """What differs from the usual setup, by the names that mteb shows."""
    usual = Setup(model.config.embed_dim)
    names = {"dim": "embed_dim"}
    return {
      names.get(name, name): value
      for name, value in self._asdict().items()
      if value != getattr(usual, name)
    }


USUAL = Setup()  # as published scores have it


def revision(model: Model, setup: Setup) -> str:
  """A hash of the weights, precision, tokenizer, prompts and the setup."""
  inputs = {"version": VERSION, "model": model.identity.hash}
  return cache.key_of({**inputs, **setup._asdict()})[:_DIGITS]


def meta(model: Model, setup: Setup) -> Any:
  """mteb's ModelMeta of a model, as far as its checkpoint knows it.

  Args:
    setup: a checked one.
  """
  from mteb.models import ModelMeta  # type: ignore

  files = _files(model)
  leaves = jax.tree.leaves(model.params["model"])
  return ModelMeta(
    loader=None,
    name=f"{_OWNER}/{_name(model, files)}",
    revision=revision(model, setup),
    release_date=None,
    languages=None,
    n_parameters=sum(leaf.size for leaf in leaves),
    n_embedding_parameters=model.config.vocab_size * model.config.width,
    memory_usage_mb=round(sum(leaf.nbytes for leaf in leaves) / 2**20),
    max_tokens=model.config.max_length,
    embed_dim=setup.dim,
    license=_licence(files),
    open_weights=None,
    public_training_code=None,
    public_training_data=None,
    framework=["JAX"],
    similarity_fn_name="cosine",
    use_instructions=any(model.prompts.values()),
    training_datasets=None,
    adapted_from=_base(model, files),
    model_type=["hybrid" if setup.search == HYBRID else "dense"],
    experiment_kwargs=setup.unusual(model) or None,
  )


def _files(model: Model) -> checkpoint.Files:
  """The small files of a model's checkpoint; none of public weights."""
  path = pathlib.Path(model.name)
  return {} if families.is_public(path) else checkpoint.read_files(path)


def _name(model: Model, files: checkpoint.Files) -> str:
  """What to call it, of letters that a file's name may have."""
  published = origin.repository(model.name).rpartition("/")[2]
  title = published or origin.title(model.name, files)
  plain = re.sub(r"[^\w.-]+", "-", title)
  return plain.strip("-.") or "model"


def _licence(files: checkpoint.Files) -> str | None:
  """The licence as mteb names it, or its address; None: neither is known."""
  from mteb.types import Licenses  # type: ignore

  found: Mapping[str, str] = origin.licence(files) if files else {}
  known = {
    name
    for option in typing.get_args(Licenses)
    for name in (typing.get_args(option) or (option,))
  }
  if found.get("license") in known:
    return found["license"]
  link = found.get("license_link", "")
  return link if link.startswith(("http://", "https://")) else None


def _base(model: Model, files: checkpoint.Files) -> str | None:
  """The published model that it is, or descends from, as far as is known."""
  base = origin.base(files) if files else origin.Base("", "")
  return base.repository or base.name or origin.repository(model.name) or None
