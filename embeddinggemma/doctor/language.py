"""Checks of a language model: a decoder, alone or reading an encoder.

It has no head and no prompts; checked are its causal attention, the windows of
its layers, its logits and its tokenizer.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from embeddinggemma import checkpoint, saved
from embeddinggemma import config as config_lib
from embeddinggemma.convert import tensors
from embeddinggemma.data import packing, samples
from embeddinggemma.data.tokenizer import UNK, Tokenizer
from embeddinggemma.doctor.opened import Finding
from embeddinggemma.doctor.vectors import FLOAT16
from embeddinggemma.model import decoder as decoder_lib
from embeddinggemma.model import trace
from embeddinggemma.model.config import (
  LOCAL,
  EncoderDecoderConfig,
  ModelConfig,
)
from embeddinggemma.types import BadInput, Params

_UNLIMITED = 64  # tokens on which a layer without a window is tried
_AGREE = 0.5  # least share of equal likeliest tokens in bfloat16 and float32
_NEAR = 1e-3  # change, relative to the largest logit, that rounding explains
_TEXTS = sorted(filter(str.strip, samples.BRIEF), key=len)[-4:]
_ANEW = "import or train again; this copy is damaged"


class Ran(NamedTuple):
  """The output of a model for a few texts, one a row."""

  ids: Int[np.ndarray, "R L"]
  lengths: Int[np.ndarray, "R"]
  logits: Float[np.ndarray, "R L V"]
  largest: float  # largest absolute activation


@dataclasses.dataclass(frozen=True)
class Language:
  """An opened language model; values for several checks are computed once."""

  directory: pathlib.Path
  config: ModelConfig  # of its decoder
  both: EncoderDecoderConfig | None  # None: a decoder alone
  tokenizer: Tokenizer
  shapes: checkpoint.Shapes

  @functools.cached_property
  def tensors(self) -> dict[checkpoint.Name, np.ndarray]:
    """The model's tensors by name."""
    return dict(checkpoint.stream(self.directory))

  @functools.cached_property
  def params(self) -> Params:
    """The same tensors as a tree on the device."""
    return jax.device_put({"model": checkpoint.nest(self.tensors)})

  @functools.cached_property
  def brief(self) -> Ran:
    """The output for the shortest texts, in float32."""
    return self.run()

  def run(
    self,
    dtype: str = "float32",
    ids: Int[np.ndarray, "R L"] | None = None,
  ) -> Ran:
    """Run the model on the shortest texts, or on other ids of their lengths.

    An encoder always reads the ids of these texts, even if the decoder gets
    others.
    """
    rows = [self.tokenizer.encode(text) for text in _TEXTS]
    lengths = np.array([len(row) for row in rows])
    own = np.zeros((len(rows), packing.rung(int(lengths.max()))), np.int32)
    for place, row in zip(own, rows):
      place[: len(row)] = row
    ids = own if ids is None else ids
    inside = np.arange(own.shape[1]) < lengths[:, None]
    segment_ids = np.where(inside, np.arange(len(rows))[:, None], len(rows))
    segment_ids = segment_ids.astype(np.int32)
    set_ = lambda config: dataclasses.replace(config.portable, dtype=dtype)
    if self.both:
      both = dataclasses.replace(
        self.both,
        encoder=set_(self.both.encoder),
        decoder=set_(self.both.decoder),
      )
      decode = decoder_lib.encoder_decoder_group(both)
      given = (own, segment_ids, ids, segment_ids)
    else:
      decode = decoder_lib.causal_group(set_(self.config))
      given = (ids, segment_ids)
    watched = jax.jit(trace.with_largest(decode, inside))
    (hidden, table), largest = watched(self.params, *given)
    logits = np.asarray(hidden, np.float32) @ np.asarray(table).T
    return Ran(ids, lengths, logits, float(largest))


def open_language(path: pathlib.Path) -> Language | None:
  """The language model of a checkpoint or workdir; None if it is an embedder.

  Raises BadInput if there is no checkpoint, or its files are damaged.
  """
  directory = checkpoint.find(path)
  shapes = checkpoint.read_shapes(directory)
  if not any(name[0] == "decoder" for name in shapes):
    return None
  files = checkpoint.read_files(directory)
  for name in ("model.json", checkpoint.TOKENIZER_FILE):
    if name not in files:
      raise BadInput(f"checkpoint {directory} has no {name}; import it again")
  config, both = saved.model_of(directory, files), None
  if any(name[0] == "encoder" for name in shapes):
    tree = checkpoint.json_of(files, "recipe.json").get("config", {})
    try:
      decoder = config_lib.build(ModelConfig, tree["decoder"])
      rest = tree["tied"], tree["cross_attention"]
    except (KeyError, BadInput) as error:
      raise BadInput(
        f"checkpoint {directory}: recipe.json does not say what the decoder is"
        f" ({error}); train or import it again"
      ) from None
    both, config = EncoderDecoderConfig(config, decoder, *rest), decoder
  tokenizer = Tokenizer(files[checkpoint.TOKENIZER_FILE], str(directory))
  return Language(directory, config, both, tokenizer, shapes)


def diagnose(
  model: Language, show: Callable[[int, str], Any] = lambda done, name: None
) -> list[Finding]:
  """Every check, in order; those that run the model need sound parts."""
  found = []
  with jax.default_matmul_precision("highest"):  # else TPUs round to bfloat16
    for done, (name, check) in enumerate((PARTS | RUNS).items()):
      show(done, name)
      needed = {*PARTS, "finite"}
      lacking = [f.check for f in found if not f.passed and f.check in needed]
      if name in RUNS and lacking:
        reason = f"needs {' and '.join(lacking)}"
        found.append(Finding(name, None, reason))
      else:
        found.append(check(model))
  return found


def check_tokenizer(model: Language) -> Finding:
  """Check that pieces fit the table and no piece of many texts is unknown."""
  pieces, rows = model.tokenizer.vocab_size, model.config.vocab_size
  fix = "take tokenizer and weights from one model"
  if pieces > rows:
    said = f"{pieces} pieces, but the table has {rows} rows"
    return Finding("tokenizer", False, said, fix)
  first, second = samples.sides()
  texts = (*samples.BRIEF, *first, *second)
  for text in texts:
    if UNK in model.tokenizer.encode(text):
      said = f"{text[:20]!r} has pieces that are unknown"
      return Finding("tokenizer", False, said, fix)
  return Finding("tokenizer", True, f"none of {len(texts)} texts is unknown")


def check_weights(model: Language) -> Finding:
  """Check that every tensor of the config exists, in shape, and is finite."""
  init = (
    decoder_lib.init_encoder_decoder(model.both)
    if model.both
    else decoder_lib.init_causal(model.config)
  )
  wanted = tensors.shapes_of(init)
  for name in sorted({*wanted, *model.shapes}):
    found = model.shapes[name].shape if name in model.shapes else "missing"
    if found != wanted.get(name):
      asked = wanted.get(name, "none")
      said = f"tensor {'/'.join(name)!r} is {found}, the config says {asked}"
      return Finding("weights", False, said, _ANEW)
  count = 0
  for name, tensor in model.tensors.items():
    count += tensor.size
    if not tensors.all_finite(tensor):
      said = f"tensor {'/'.join(name)!r} holds NaN or infinity"
      return Finding("weights", False, said, _ANEW)
  said = f"{count:,} numbers in {len(wanted)} tensors, all finite"
  return Finding("weights", True, said)


def check_finite(model: Language) -> Finding:
  """Check that the logits of every position are finite in float32."""
  logits = model.brief.logits
  if np.isfinite(logits).all():
    return Finding("finite", True, f"logits of {len(logits)} texts in float32")
  return Finding("finite", False, "in float32, a logit is not finite", _ANEW)


def check_causal(model: Language) -> Finding:
  """Check that a token changes its own logits and none before it."""
  run = model.brief
  changed, last = run.ids.copy(), run.lengths - 1
  rows = np.arange(len(last))
  changed[rows, last] = 4 + (changed[rows, last] - 3) % (
    model.tokenizer.vocab_size - 4
  )
  after = model.run(ids=changed).logits
  moved = np.abs(after - run.logits).max(axis=-1) / np.abs(run.logits).max()
  before = [moved[n, :end].max(initial=0) for n, end in enumerate(last)]
  if max(before) > _NEAR:
    said = f"a later token changes earlier logits by {max(before):.1%}"
    fix = "a decoder is causal; set use_bidirectional_attention to false"
    return Finding("causal", False, said, fix)
  if not moved[rows, last].any():
    return Finding("causal", False, "no token changes its own logits", _ANEW)
  said = "the last token changes its own logits and none before"
  return Finding("causal", True, said)


def check_reach(model: Language) -> Finding:
  """Check that one layer of each kind attends back over its window, not ahead.

  One changed token shows it: the layer runs alone with zero queries, so that
  all tokens in its window have the same weight and none is rounded away.
  """
  config, said = model.config, []
  kinds = [config.attention_kind(n) for n in range(config.num_layers)]
  for kind in dict.fromkeys(kinds):
    back = config.window - 1 if kind == LOCAL else _UNLIMITED
    length = min(back + 3, config.max_length)
    wanted = min(back, length - 2)
    moved = _moved(model, kinds.index(kind), kind, length)
    found = (int(moved.max()) - 1, 1 - int(moved.min()))
    if found != (wanted, 0):
      return Finding(
        "reach",
        False,
        f"a {kind} layer sees {found[0]} tokens before and {found[1]} after, its"
        f" rule says {wanted} and 0",
        "a decoder's local layer sees its window, its own place included; a"
        " converted config may hold another one",
      )
    far = "all" if kind != LOCAL else str(wanted)
    said.append(f"{kind} layers see {far} before")
  return Finding("reach", True, ", ".join(said))


def _moved(
  model: Language, layer: int, kind: str, length: int
) -> Int[np.ndarray, "_"]:
  """The positions whose output changes with the token at position 1."""
  own = model.params["model"]["decoder"]
  attention = own[f"layer_{layer}"]["attention"]
  alone = {
    "embedding": np.eye(2, model.config.width, dtype=np.float32),
    "layer_0": {
      **{k: v for k, v in own[f"layer_{layer}"].items() if "cross" not in k},
      "attention": {**attention, "q": np.zeros(attention["q"].shape, "f4")},
    },
    "final_norm": own["final_norm"],
  }
  config = dataclasses.replace(
    model.config.portable, num_layers=1, pattern=(kind,), vocab_size=2
  )
  decode = jax.jit(decoder_lib.causal_group(config))
  ids, segment_ids = (
    np.zeros((2, length), np.int32),
    np.zeros((2, length), np.int32),
  )
  ids[1, 1] = 1
  hidden, _ = decode({"model": {"decoder": alone}}, ids, segment_ids)
  return np.flatnonzero((hidden[0] != hidden[1]).any(axis=-1))


def check_bfloat16(model: Language) -> Finding:
  """Check that bfloat16 mostly gives the likeliest next tokens of float32."""
  exact, coarse = model.brief, model.run("bfloat16")
  inside = np.arange(exact.ids.shape[1]) < exact.lengths[:, None]
  same = exact.logits.argmax(axis=-1) == coarse.logits.argmax(axis=-1)
  share = float(same[inside].mean())
  said = f"the likeliest next token is the same at {share:.0%} of positions"
  if np.isfinite(coarse.logits).all() and share >= _AGREE:
    return Finding("bfloat16", True, said)
  return Finding("bfloat16", True, said, "run it in float32")


def check_float16(model: Language) -> Finding:
  """Note whether an activation exceeds the largest float16; it is no fault."""
  largest = model.brief.largest
  said = f"the largest activation is {largest:,.0f}; float16 ends at"
  said += f" {FLOAT16:,}"
  fix = "" if largest <= FLOAT16 else "never run it in float16"
  return Finding("float16", True, said, fix)


PARTS: dict[str, Callable[[Language], Finding]] = {
  "tokenizer": check_tokenizer,
  "weights": check_weights,
}
RUNS: dict[str, Callable[[Language], Finding]] = {
  "finite": check_finite,
  "causal": check_causal,
  "reach": check_reach,
  "bfloat16": check_bfloat16,
  "float16": check_float16,
}
