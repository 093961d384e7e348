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
  name: str  # path of the checkpoint
  hash: str  # content hash of the weights, rounded to `precision`
  precision: str = quantize.FLOAT  # of the weights: "float", or a spec

  def encode_query(
    self,
    sentences: str | Sequence[str],
    prompt_name: str = "query",
    **options: Any,
  ) -> Float[np.ndarray, "*n M"]:
    """Embeddings of queries; `options` are those of `encode`."""
    return self.encode(sentences, prompt_name, **options)

  def encode_document(
    self,
    sentences: str | Sequence[str],
    prompt_name: str = "document",
    **options: Any,
  ) -> Float[np.ndarray, "*n M"]:
    """Embeddings of documents; `options` are those of `encode`."""
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
    """Unit float32 embeddings in the order of the texts; one text gives one.

    Args:
      sentences: a text or several; an empty list gives (0, M).
      prompt_name: one of `prompts`, or None for the bare text.
      prompt: words to put before each text, instead of a named prompt.
      titles: of documents, one for each text; () for no titles.
      batch_size: at most so many texts in one call of the device, to save
        memory. By default a call has a few thousand tokens.
      truncate_dim: keep this many leading coordinates and renormalise.
      show_progress_bar: draw one on the terminal.

    Raises:
      BadInput: an unknown prompt, a dimension that the model lacks, or another
        number of titles than of texts.
      Stopped: an embedding is not finite.
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
    """The model's prompt of this name, or the query prompt of a known task."""
    return prompts.prompt_named(name, self.prompts)

  def get_sentence_embedding_dimension(self) -> int:
    """M, the full dimension, which is the largest `truncate_dim`."""
    return self.config.embed_dim

  def similarity(
    self, a: Float[np.ndarray, "*n M"], b: Float[np.ndarray, "*m M"]
  ) -> Float[np.ndarray, "_ _"]:
    """Cosine similarities of all pairs."""
    return _unit(a) @ _unit(b).T

  def similarity_pairwise(
    self, a: Float[np.ndarray, "*n M"], b: Float[np.ndarray, "*n M"]
  ) -> Float[np.ndarray, "_"]:
    """Cosine similarity of each row of `a` with the same row of `b`."""
    return np.sum(_unit(a) * _unit(b), axis=-1)

  def __call__(
    self, texts: Sequence[str], prompt_name: str, titles: Sequence[str] = ()
  ) -> Float[np.ndarray, "n M"]:
    """Embed texts as a TextEncoder, which evaluation and retrieval use."""
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
    """Print the number of texts that were cut, once for each model."""
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
  """A jitted encoder, shared by all models of one config and mesh."""
  return jax.jit(encode.encoder(config, mesh))


def _unit(vectors: Float[np.ndarray, "*n M"]) -> Float[np.ndarray, "_ M"]:
  norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
  return np.atleast_2d(vectors / norms)


def _check_finite(vectors: np.ndarray, texts: Sequence[str]) -> None:
  """Raise Stopped for embeddings that are not finite.

  Many libraries would rank a NaN score first.
  """
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
  """The model of a checkpoint, workdir, sentence-transformers folder or GGUF.

  Args:
    path: a checkpoint directory, a workdir (its final checkpoint), an
      EmbeddingGemma folder of sentence-transformers, public or exported, or a
      GGUF file.
    dtype: type of activations, "float32" or "bfloat16"; None: as the model was
      trained. Embeddings are float32 in any case.
    precision: to which weights are rounded: a key of quantize.SPECS such as
      "int4", or "float"; None: the one that the model was trained for.

  Raises:
    BadInput: there is no model; its weights, config and tokenizer disagree; its
      weights need a view that this version lacks; or the precision is unknown,
      or has blocks that do not divide the model's sizes.
  """
  if families.is_public(pathlib.Path(path)):
    found = families.read(pathlib.Path(path))
    if not found.is_embedder:
      raise BadInput(
        f"{path} is a language model, which has no embedding head; import it"
        " and train one: --config=configs/prefinetune.py"
      )
    seen = quantize.known(precision or quantize.FLOAT)
    for line in found.warned:
      print(f"{path}: {line}", file=sys.stderr)
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
  """A Model, after checks against silent errors; BadInput if one fails."""
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
