"""eg.load: a checkpoint, workdir or folder as a model that embeds text.

The names and meanings are those that sentence-transformers users know.
"""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from rich.console import Console

from embeddinggemma import checkpoint, config, encode, quantize, saved, sharding
from embeddinggemma.convert import tensors
from embeddinggemma.convert.read import families
from embeddinggemma.data import prompts
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.model import adapt, embedder
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.progress import Progress
from embeddinggemma.types import BadInput, Encode, Params, Stopped


@dataclasses.dataclass(frozen=True)
class Model:
  """An embedding model: text in, unit vectors out."""

  config: ModelConfig
  params: Params
  tokenizer: Tokenizer
  prompts: dict[str, str]
  name: str  # the checkpoint it came from
  hash: str  # of its weights, as they are seen
  precision: str = quantize.FLOAT  # that they are seen in: float, or a spec

  def encode_query(
    self,
    sentences: str | Sequence[str],
    prompt_name: str = "query",
    **options: Any,
  ) -> Float[np.ndarray, "*n M"]:
    """Vectors of questions; `options` are those of `encode`."""
    return self.encode(sentences, prompt_name, **options)

  def encode_document(
    self,
    sentences: str | Sequence[str],
    prompt_name: str = "document",
    **options: Any,
  ) -> Float[np.ndarray, "*n M"]:
    """Vectors of passages; `options` are those of `encode`."""
    return self.encode(sentences, prompt_name, **options)

  def encode(
    self,
    sentences: str | Sequence[str],
    prompt_name: str | None = None,
    *,
    prompt: str | None = None,
    titles: Sequence[str] = (),
    batch_size: int | None = None,
    truncate_dim: int | None = None,
    show_progress_bar: bool = False,
  ) -> Float[np.ndarray, "*n M"]:
    """Unit float32 vectors in the order of the texts; one text gives one.

    Args:
      sentences: a text or several; none give (0, M).
      prompt_name: one of `prompts`, or None for the bare text.
      prompt: words to put before each text, instead of a named prompt.
      titles: of documents, one a text; none for no titles.
      batch_size: at most so many texts in one call of the device, to save
        memory. By default as many as make a few thousand tokens.
      truncate_dim: keep so many leading coordinates, at unit norm again.
      show_progress_bar: draws one on the terminal.

    Raises:
      BadInput: an unknown prompt, or a dimension that the model lacks.
      Stopped: a vector is not finite.
    """
    texts = [sentences] if isinstance(sentences, str) else list(sentences)
    if titles and len(titles) != len(texts):
      raise BadInput(f"{len(titles)} titles for {len(texts)} texts")
    if batch_size is not None:
      config.at_least("batch_size", batch_size, 1)
    dim = self.config.embed_dim if truncate_dim is None else truncate_dim
    if not 0 < dim <= self.config.embed_dim:
      raise BadInput(
        f"truncate_dim={dim}: the model has dimensions 1 to"
        f" {self.config.embed_dim}"
      )
    if prompt is None and prompt_name is not None:
      prompt = self.prompt(prompt_name)
    if prompt is not None:
      padded = titles or [""] * len(texts)
      texts = [
        prompts.with_prompt(prompt, *item)
        for item in zip(texts, padded, strict=True)
      ]
    vectors = self._encode_texts(texts, batch_size, show_progress_bar)
    _check_finite(vectors, texts)
    if dim < self.config.embed_dim:
      vectors = encode.truncate(vectors, dim)
    return vectors[0] if isinstance(sentences, str) else vectors

  def prompt(self, name: str) -> str:
    """The checkpoint's prompt of a name, or that of one of our tasks."""
    return prompts.prompt_named(name, self.prompts)

  def get_sentence_embedding_dimension(self) -> int:
    """M, the most that `truncate_dim` may be."""
    return self.config.embed_dim

  def similarity(
    self, a: Float[np.ndarray, "*n M"], b: Float[np.ndarray, "*m M"]
  ) -> Float[np.ndarray, "_ _"]:
    """Cosines of all pairs."""
    return _unit(a) @ _unit(b).T

  def similarity_pairwise(
    self, a: Float[np.ndarray, "*n M"], b: Float[np.ndarray, "*n M"]
  ) -> Float[np.ndarray, "_"]:
    """Cosines of each row of `a` and the same row of `b`."""
    return np.sum(_unit(a) * _unit(b), axis=-1)

  def __call__(
    self, texts: Sequence[str], prompt_name: str, titles: Sequence[str] = ()
  ) -> Float[np.ndarray, "n M"]:
    """The TextEncoder that evaluation and retrieval call."""
    return self.encode(list(texts), prompt_name, titles=titles)

  def _encode_texts(
    self, texts: Sequence[str], batch_size: int | None, bar: bool
  ) -> Float[np.ndarray, "n M"]:
    ids, cut = self.tokenizer.encode_batch(texts, self.config.max_length)
    if cut:
      self._say_cut(cut)
    console = Console(stderr=True, quiet=not bar)
    with Progress(console, "encode", len(texts)) as progress:
      show = lambda done: progress.show(done, "")
      return self._program(ids, self.config.max_length, show, batch_size)

  def _say_cut(self, count: int) -> None:
    """Once a model: a later call would only repeat it."""
    if not self._said:
      self._said.append(count)
      are, were = ("text is", "was") if count == 1 else ("texts are", "were")
      print(
        f"{count} {are} longer than max_length={self.config.max_length}"
        f" tokens and {were} cut",
        file=sys.stderr,
      )

  @functools.cached_property
  def _said(self) -> list[int]:
    return []

  @functools.cached_property
  def _program(self) -> Any:
    mesh = sharding.make_mesh(-1, 1, jax.local_devices())
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return encode.make_encode_ids(
      _program(self.config, mesh),
      jax.device_put(self.params, replicated),
      mesh,
      self.config.embed_dim,
    )


@functools.cache
def _program(config: ModelConfig, mesh: jax.sharding.Mesh) -> Encode:
  """Compiled once for each shape, whichever weights it is called with."""
  return jax.jit(encode.encoder(config, mesh))


def _unit(vectors: Float[np.ndarray, "*n M"]) -> Float[np.ndarray, "_ M"]:
  norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
  return np.atleast_2d(vectors / norms)


def _check_finite(vectors: np.ndarray, texts: Sequence[str]) -> None:
  """A NaN score would rank first in many libraries, so it never leaves."""
  bad = ~np.isfinite(vectors).all(axis=1)
  if bad.any():
    text = texts[int(np.argmax(bad))][:60]
    raise Stopped(
      f"{int(bad.sum())} vectors are not finite, the first of {text!r}"
    )


def load(
  path: str | pathlib.Path,
  dtype: str | None = None,
  precision: str | None = None,
) -> Model:
  """The model of a checkpoint directory or of a workdir (its final one).

  Or of an EmbeddingGemma folder of sentence-transformers, public or exported,
  or of a GGUF file.

  Args:
    path: the directory, or a GGUF file.
    dtype: what activations are computed in, "float32" or "bfloat16"; None: as
      the model was trained. Vectors are float32 either way.
    precision: what weights are rounded to, a spec of quantize.SPECS such as
      "int4", or "float"; None: what the model was trained for.

  Raises:
    BadInput: there is none, its weights, config and tokenizer disagree, or
      its weights need a view that this version does not have; an unknown
      precision, or one whose blocks do not divide the model's sizes.
  """
  if families.is_public(pathlib.Path(path)):
    found = families.read(pathlib.Path(path))
    if not found.is_embedder:
      raise BadInput(
        f"{path} is a language model, which has no embedding head; import it"
        " and train one: --config=configs/prefinetune.py"
      )
    seen = quantize.known(precision or quantize.FLOAT)
    return assemble(
      dataclasses.replace(found.config, dtype=dtype or found.config.dtype),
      tensors.params(found, seen),
      Tokenizer(found.tokenizer, str(path)),
      str(path),
      found.prompts,
      seen,
    )
  found = saved.read(path)
  model = dataclasses.replace(found.config, dtype=dtype or found.config.dtype)
  seen = quantize.known(precision or found.precision)
  name = str(found.directory)
  if not checkpoint.keeps_white_space(found.files):
    print(
      f"{name} was made by a version that ignored white space around a text; it"
      " counts now, so vectors of such texts differ from those made then",
      file=sys.stderr,
    )
  tokenizer = Tokenizer(found.files["tokenizer.model"], name)
  params = tensors.placed(checkpoint.stream(found.directory), seen)
  stored = dict(found.prompts)
  return assemble(model, params, tokenizer, name, stored, seen)


def assemble(
  model: ModelConfig,
  params: Params,
  tokenizer: Tokenizer,
  name: str,
  stored_prompts: Mapping[str, str] = prompts.PROMPTS,
  precision: str = quantize.FLOAT,
) -> Model:
  """A Model after the checks that keep it from being silently wrong."""
  if tokenizer.vocab_size > model.vocab_size:
    raise BadInput(
      f"{name}: the tokenizer has {tokenizer.vocab_size} pieces, the table"
      f" {model.vocab_size} rows; they are not of one model"
    )
  shapes = jax.eval_shape(embedder.init(model), jax.random.key(0))
  _, missing = adapt.graft(
    {"model": shapes["model"]}, {"model": params["model"]}
  )
  if missing:
    raise BadInput(f"{name}: tensor {missing[0]!r} is missing")
  for path, leaf in jax.tree_util.tree_leaves_with_path(params["model"]):
    if not tensors.all_finite(leaf):
      tensor = sharding.path_name(path)
      raise BadInput(f"{name}: tensor {tensor!r} holds NaN or infinity")
  return Model(
    model,
    params,
    tokenizer,
    dict(stored_prompts),
    name,
    checkpoint.content_hash(params),
    precision,
  )
