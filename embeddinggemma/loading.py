"""eg.load: a checkpoint, workdir or folder as a model that embeds text.

The names and meanings are those that sentence-transformers users know.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int
from rich.console import Console

from embeddinggemma import checkpoint, encode, quantize, saved, sharding
from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import tensors
from embeddinggemma.convert.read import families
from embeddinggemma.data import arguments, coverage, prompts, truncation
from embeddinggemma.data.tokenizer import EOS, NO_LIMIT, Tokenizer
from embeddinggemma.distributed import forks
from embeddinggemma.model import adapt, embedder
from embeddinggemma.model import identity as identity_lib
from embeddinggemma.model.config import ModelConfig
from embeddinggemma.progress import Progress
from embeddinggemma.terminal.warn import warn
from embeddinggemma.types import (
  BadInput,
  BadValue,
  Encode,
  Notice,
  Params,
  Stopped,
)

_SHOWN = 3  # differences that a warning names


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model:
  """An embedding model: text in, unit vectors out.

  Threads can share one. It can be pickled, and so sent to processes that were
  started by "spawn"; what it has compiled stays behind.
  """

  config: ModelConfig
  params: Params
  tokenizer: Tokenizer
  prompts: dict[str, str]
  name: str  # path of the checkpoint
  hash: str  # content hash of the weights, rounded to `precision`
  precision: str = quantize.FLOAT  # of the weights: "float", or a spec

  @functools.cached_property
  def identity(self) -> identity_lib.Identity:
    """All that decides its vectors; files of vectors and scores keep it."""
    return identity_lib.of_model(
      self.config,
      self.hash,
      self.precision,
      self.tokenizer.identity,
      self.prompts,
    )

  def encode_query(
    self,
    sentences: str | Iterable[str],
    prompt_name: str | None = "query",
    **options: Any,
  ) -> Float[np.ndarray, "*n M"]:
    """Embeddings of queries; `options` are those of `encode`."""
    return self.encode(sentences, prompt_name, **options)

  def encode_document(
    self,
    sentences: str | Iterable[str],
    prompt_name: str | None = "document",
    **options: Any,
  ) -> Float[np.ndarray, "*n M"]:
    """Embeddings of documents; `options` are those of `encode`."""
    return self.encode(sentences, prompt_name, **options)

  def encode(
    self,
    sentences: str | Iterable[str],
    prompt_name: str | None = None,
    *,
    prompt: str | None = None,
    titles: str | Iterable[str] | None = (),
    batch_size: int | None = None,
    truncate_dim: int | None = None,
    show_progress_bar: bool | None = False,
    truncate: bool = True,
  ) -> Float[np.ndarray, "*n M"]:
    """Unit float32 embeddings in the order of the texts; one text gives one.

    Args:
      sentences: a text or several, in a list or any other iterable; an empty
        list gives (0, M).
      prompt_name: one of `prompts`, or None for the bare text.
      prompt: words to put before each text, instead of a named prompt.
      titles: of documents, one for each text; () for no titles.
      batch_size: at most so many texts in one call of the device, to save
        memory. By default a call has a few thousand tokens.
      truncate_dim: keep this many leading coordinates and renormalise.
      show_progress_bar: draw one on the terminal.
      truncate: cut texts that are longer than the model reads, with a warning
        (Truncated) that counts them; False: refuse them.

    Raises:
      BadInput: an argument has another type; a prompt is unknown; the model
        lacks a dimension; there is another number of titles than of texts; a
        text is too long and `truncate` is False; or the process was forked
        after JAX had been used, and would hang.
      Stopped: an embedding is not finite.
    """
    one = isinstance(sentences, str)
    if batch_size is not None:
      batch_size = arguments.whole("batch_size", batch_size, 1)
    dim = self._dim(truncate_dim)
    bar = show_progress_bar is not None and arguments.switch(
      "show_progress_bar", show_progress_bar
    )
    cuts = arguments.switch("truncate", truncate)
    forks.require_own_jax()
    given = prompt_name, prompt, titles
    texts, untitled = self._prompted("sentences", sentences, *given)
    ids, counts = self._tokens(texts)
    counts.untitled = untitled
    if counts.cut and not cuts:
      _refuse_long(ids, counts, one)
    truncation.report(counts)
    ids = [_cut(row, self.config.max_length) for row in ids]
    vectors = self._encode_ids(ids, batch_size, bar)
    _check_finite(vectors, texts)
    if dim < self.config.embed_dim:
      vectors = encode.truncate(vectors, dim)
    return vectors[0] if one else vectors

  def token_counts(
    self,
    texts: str | Iterable[str],
    prompt_name: str | None = None,
    titles: str | Iterable[str] | None = (),
    *,
    prompt: str | None = None,
  ) -> Int[np.ndarray, "n"]:
    """Tokens of each text as `encode` takes it, before anything is cut.

    Prompt, title and the special tokens at both ends count. Texts with more
    than `config.max_length` are cut when they are encoded.
    """
    given = prompt_name, prompt, titles
    found = self._prompted("texts", texts, *given)[0]
    return np.array(self.tokenizer.counts(found), np.int64)

  def prompt(self, name: str) -> str:
    """The model's prompt of this name, or the query prompt of a known task."""
    name = arguments.text("prompt_name", name)
    return prompts.prompt_named(name, self.prompts)

  def get_sentence_embedding_dimension(self) -> int:
    """M, the full dimension, which is the largest `truncate_dim`."""
    return self.config.embed_dim

  def similarity(
    self, a: Float[np.ndarray, "*n M"], b: Float[np.ndarray, "*m M"]
  ) -> Float[np.ndarray, "_ _"]:
    """Cosine similarities of all pairs.

    Raises BadInput for vectors of different widths, and for one that is zero or
    not finite, which has no direction.
    """
    left, right = arguments.unit("a", a), arguments.unit("b", b)
    _require_equal_widths(left, right)
    return left @ right.T

  def similarity_pairwise(
    self, a: Float[np.ndarray, "*n M"], b: Float[np.ndarray, "*n M"]
  ) -> Float[np.ndarray, "_"]:
    """Cosine similarity of each row of `a` with the same row of `b`.

    A single vector is compared with every row. Raises BadInput as `similarity`
    does, and for different numbers of rows.
    """
    left, right = arguments.unit("a", a), arguments.unit("b", b)
    _require_equal_widths(left, right)
    if len(left) != len(right) and 1 not in (len(left), len(right)):
      raise BadValue(
        f"a has {len(left)} vectors and b {len(right)}; pairs need as many of"
        " both (similarity compares all with all)"
      )
    return np.sum(left * right, axis=-1)

  def __call__(
    self,
    texts: Iterable[str],
    prompt_name: str | None,
    titles: Iterable[str] | None = (),
  ) -> Float[np.ndarray, "n M"]:
    """Embed texts as a TextEncoder, which evaluation and retrieval use."""
    checked = arguments.texts("texts", texts)
    return self.encode(checked, prompt_name, titles=titles)

  def __repr__(self) -> str:
    count = sum(leaf.size for leaf in jax.tree.leaves(self.params["model"]))
    return (
      f"Model({self.name!r}, dimensions={self.config.embed_dim},"
      f" precision={self.precision!r}, parameters={count:,})"
    )

  def __getstate__(self) -> dict[str, Any]:
    """The fields; compiled programs and device copies are made anew."""
    names = {field.name for field in dataclasses.fields(self)}
    return {k: v for k, v in self.__dict__.items() if k in names}

  def _dim(self, truncate_dim: int | None) -> int:
    """The dimension to keep; BadInput for one that the model lacks."""
    most = self.config.embed_dim
    if truncate_dim is None:
      return most
    dim = arguments.whole("truncate_dim", truncate_dim, -(2**62))
    if not 0 < dim <= most:
      raise BadValue(
        f"truncate_dim={dim}: the model has dimensions 1 to {most}"
      )
    return dim

  def _prompted(
    self,
    name: str,
    texts: str | Iterable[str],
    prompt_name: str | None,
    prompt: str | None,
    titles: str | Iterable[str] | None,
  ) -> tuple[list[str], int]:
    """The texts with their prompt and titles, all checked.

    Also how many titles are left out, since the prompt has no place for them.
    `name` is the argument's of the texts.
    """
    if prompt is not None:
      prompt = arguments.text("prompt", prompt)
    elif prompt_name is not None:
      prompt = self.prompt(prompt_name)
    else:
      prompt = ""
    found = arguments.texts(name, texts)
    given = arguments.titles(titles, texts, len(found))
    untitled = 0 if prompt == prompts.DOCUMENT else sum(map(bool, given))
    return [
      prompts.with_prompt(prompt, *item)
      for item in zip(found, given, strict=True)
    ], untitled

  def _tokens(
    self, texts: Sequence[str]
  ) -> tuple[list[Int[np.ndarray, "_"]], truncation.Counts]:
    """All tokens of each text, and how many texts are longer than is read."""
    ids, _ = self.tokenizer.encode_batch(texts, NO_LIMIT)
    lengths = np.array([len(row) for row in ids], np.int64)
    counts = truncation.of_lengths(lengths, self.config.max_length)
    counts.bytes, counts.tokens = coverage.in_bytes(self.tokenizer, ids)
    return ids, counts

  def _encode_ids(
    self,
    ids: Sequence[Int[np.ndarray, "_"]],
    batch_size: int | None,
    bar: bool,
  ) -> Float[np.ndarray, "n M"]:
    console = Console(stderr=True, quiet=not bar)
    with Progress(console, "encode", len(ids)) as progress:
      show = lambda done: progress.show(done, "")
      return self._program(ids, self.config.max_length, show, batch_size)

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


def _cut(ids: Int[np.ndarray, "_"], max_length: int) -> Int[np.ndarray, "_"]:
  """At most `max_length` ids, of which the last is EOS."""
  if len(ids) <= max_length:
    return ids
  cut = ids[:max_length].copy()
  cut[-1] = EOS
  return cut


def _refuse_long(
  ids: Sequence[Int[np.ndarray, "_"]], counts: truncation.Counts, one: bool
) -> None:
  """Raise BadValue that names the first text that is too long."""
  most = counts.max_length
  first = next(n for n, row in enumerate(ids) if len(row) > most)
  place = "sentences" if one else f"sentences[{first}]"
  more = f", as have {counts.cut - 1} more" if counts.cut > 1 else ""
  longest = f" (the longest {counts.longest})" if counts.cut > 1 else ""
  raise BadValue(
    f"{place} has {len(ids[first])} tokens with its prompt, more than"
    f" max_length={most}{more}{longest}; shorten it, or truncate=True cuts"
  )


def _require_equal_widths(
  left: Float[np.ndarray, "n M"], right: Float[np.ndarray, "m K"]
) -> None:
  if left.shape[1] != right.shape[1]:
    raise BadValue(
      f"a has vectors of {left.shape[1]} dimensions and b of {right.shape[1]};"
      " give both the same truncate_dim"
    )


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

  What makes other programs give other vectors, or was changed after the model
  was made, is a warning (types.Notice), a line each.

  Raises:
    BadInput: there is no model; its weights, config and tokenizer disagree; its
      weights need a view that this version lacks; or the precision is unknown,
      or has blocks that do not divide the model's sizes.
  """
  forks.require_own_jax()
  model, found = opened(path, dtype, precision)
  for line in found.warned if found else ():
    warn(f"{path}: {line}", Notice)
  return model


def opened(
  path: str | pathlib.Path,
  dtype: str | None = None,
  precision: str | None = None,
) -> tuple[Model, tensors.Imported | None]:
  """As `load`, and what was read, with its notes, where it is public weights."""
  if families.is_public(pathlib.Path(path)):
    found = families.read(pathlib.Path(path))
    if not found.is_embedder:
      raise BadInput(
        f"{path} is a language model, which has no embedding head; import it"
        " and train one: --config=configs/prefinetune.py"
      )
    seen = quantize.known(precision or quantize.FLOAT)
    model = assemble(
      dataclasses.replace(found.config, dtype=dtype or found.config.dtype),
      tensors.params(found, seen),
      Tokenizer(found.tokenizer, str(path)),
      str(path),
      found.prompts,
      seen,
    )
    _say_changed(model, folders.recorded(pathlib.Path(path)))
    return model, found
  found = saved.read(path)
  shown = dataclasses.replace(found.config, dtype=dtype or found.config.dtype)
  seen = quantize.known(precision or found.precision)
  name = str(found.directory)
  if not checkpoint.keeps_white_space(found.files):
    warn(
      f"{name} was made by a version that ignored white space around a text; it"
      " counts now, so vectors of such texts differ from those made then",
      Notice,
    )
  tokenizer = Tokenizer(found.files["tokenizer.model"], name)
  params = tensors.placed(checkpoint.stream(found.directory), seen)
  stored = dict(found.prompts)
  model = assemble(shown, params, tokenizer, name, stored, seen)
  _say_changed(model, checkpoint.identity_of(found.files))
  return model, None


def _say_changed(model: Model, recorded: Any) -> None:
  """Warn of what of a model is not as it was when its folder was written.

  The weights are left out: an export's are as its precision rounds them, and a
  checkpoint does not record their hash.
  """
  if lines := identity_lib.differences(recorded, model.identity.parts):
    more = len(lines) - _SHOWN
    shown = "; ".join(lines[:_SHOWN]) + (
      f" and {more} more" if more > 0 else ""
    )
    warn(f"{model.name} was changed after it was made: {shown}", Notice)


def assemble(
  model: ModelConfig,
  params: Params,
  tokenizer: Tokenizer,
  name: str,
  stored_prompts: Mapping[str, str] = prompts.PROMPTS,
  precision: str = quantize.FLOAT,
) -> Model:
  """A Model, after checks against silent errors; BadInput if one fails."""
  tokenizer.require_fits(model.vocab_size, name)
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
