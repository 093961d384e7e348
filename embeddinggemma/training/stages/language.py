"""Language models of running text: next-token prediction and UL2 denoising.

`pretrain` serves where no Gemma checkpoint is available; `adapt` turns a
decoder into an encoder-decoder (paper section 2.1; T5Gemma 2, arXiv
2512.14856), whose encoder is kept.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import grain
from jax.sharding import Mesh
from jaxtyping import Array
from rich.console import Console

from embeddinggemma import cache, checkpoint, sharding, soups
from embeddinggemma.checkpoint import TOKENIZER_FILE
from embeddinggemma.config import TextConfig, at_least
from embeddinggemma.data import (
  corpus,
  denoisers,
  loader,
  packing,
  sources,
  text,
)
from embeddinggemma.data.denoisers import Denoiser
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.losses import denoise, objectives
from embeddinggemma.model import adapt as surgery
from embeddinggemma.model import decoder as decoder_lib
from embeddinggemma.model import flops
from embeddinggemma.model.config import (
  SEPARATE,
  EncoderDecoderConfig,
  ModelConfig,
)
from embeddinggemma.training import inputs, memory, optimizer, tied
from embeddinggemma.training.config import TrainConfig
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.training.memory import Calls
from embeddinggemma.training.stages import common, shapes
from embeddinggemma.training.stages.kind import (
  Documents,
  Kind,
  Result,
  Say,
  Shown,
  last_step,
)
from embeddinggemma.types import (
  BadInput,
  DenoiseBatch,
  Key,
  Params,
  Stage,
  Text,
)


@dataclasses.dataclass(frozen=True)
class LanguageConfig(TrainConfig):
  """Config of next-token prediction on running text."""

  data: TextConfig
  vocab_block: int  # vocabulary entries whose logits are computed at once

  def __post_init__(self) -> None:
    super().__post_init__()
    at_least("vocab_block", self.vocab_block, 1)

  @property
  def fewest(self) -> int:
    """Tokens of the shortest usable text, which predicts one from the other."""
    return 2


@dataclasses.dataclass(frozen=True)
class AdaptConfig(LanguageConfig):
  """Config of UL2 denoising by an encoder-decoder; `model` is its encoder."""

  decoder: ModelConfig
  decoder_from: str  # a causal checkpoint for the decoder; empty: init_from
  tied: bool  # whether both sides share one embedding table
  cross_attention: str  # "separate", or "merged" with self-attention
  hold_steps: int  # first steps, in which only fresh cross-attention learns
  denoisers: tuple[tuple[float, ...], ...]  # (mean span, rate, weight)
  average: int  # number of last checkpoints whose mean is the result
  # Compute the tied table's gradients from lookups and from logits separately.
  separate_gradients: bool = dataclasses.field(default=False, kw_only=True)

  def __post_init__(self) -> None:
    super().__post_init__()
    at_least("hold_steps", self.hold_steps, 0)
    at_least("average", self.average, 1)
    if self.keep_checkpoints < self.average:
      raise BadInput(
        f"keep_checkpoints={self.keep_checkpoints} is below average="
        f"{self.average}; keep as many as the mean takes"
      )
    if self.separate_gradients and not self.tied:
      raise BadInput(
        "separate_gradients=True is for one table of both sides, but tied is"
        " False; their gradients are apart already"
      )
    if self.decoder_from and not self.init_from:
      raise BadInput(
        f"decoder_from={self.decoder_from} is set, but init_from, which the"
        " encoder starts from, is not; set both or neither"
      )
    if self.holds and self.hold_steps >= self.steps:
      raise BadInput(
        f"hold_steps={self.hold_steps} is not below steps={self.steps}: only"
        " cross-attention would learn; lower it"
      )
    if self.fewest > self.max_length - 2:
      raise BadInput(
        f"max_length={self.max_length} leaves {self.max_length - 2} tokens"
        f" between BOS and EOS, but the shortest span and one more take"
        f" {self.fewest}; raise it, or give denoisers of shorter spans"
      )
    _ = self.both

  @property
  def holds(self) -> bool:
    """Whether cross-attention starts fresh and first learns alone.

    It does if encoder and decoder differ in width (T5Gemma, arXiv 2504.06225,
    section 2).
    """
    return bool(self.hold_steps) and (
      self.cross_attention == SEPARATE
      and self.model.width != self.decoder.width
    )

  @property
  def fewest(self) -> int:
    """Tokens of the shortest usable text: a span and one token more."""
    spans = [d.span for d in self.mixture if d.weight and d.span]
    return int(min(spans, default=1)) + 1

  @property
  def both(self) -> EncoderDecoderConfig:
    """The config of the encoder-decoder; BadInput if its sides do not fit."""
    return EncoderDecoderConfig(
      self.model, self.decoder, self.tied, self.cross_attention
    )

  @property
  def mixture(self) -> tuple[Denoiser, ...]:
    """The denoisers; BadInput if they are not valid."""
    for row in self.denoisers:
      if len(row) != 3:
        raise BadInput(
          f"denoisers holds {row}; each is (mean span, rate, weight)"
        )
    found = tuple(Denoiser(*row) for row in self.denoisers)
    denoisers.check(found)
    return found


def pretrain(config: LanguageConfig, mesh: Mesh) -> Stage:
  """The stage that trains a causal language model."""
  decode = decoder_lib.causal_group(config.model)

  def losses(
    params: Params, ids: Array, segment_ids: Array, valid: Array
  ) -> Any:
    hidden, table = decode(params, ids, segment_ids)
    return denoise.next_token(
      hidden,
      table,
      ids,
      segment_ids,
      valid,
      config.model.logit_softcap,
      config.vocab_block,
    )

  return common.stage(
    config, _init_causal(config), _objective(config, losses, mesh)
  )


def adapt(config: AdaptConfig, mesh: Mesh) -> Stage:
  """The stage that adapts a decoder to an encoder-decoder by UL2.

  Paper section 2.1; T5Gemma 2, arXiv 2512.14856.
  """
  decode = decoder_lib.encoder_decoder_group(config.both)
  if config.separate_gradients:
    decode = tied.apart(decode, "encoder")

  # For one group, so that the arrays of a Text lack their first axis.
  def losses(params: Params, inputs: Any, targets: Any) -> Any:
    ids, segment_ids, valid = targets
    hidden, table = decode(
      params, inputs.ids, inputs.segment_ids, ids, segment_ids
    )
    return denoise.next_token(
      hidden,
      table,
      ids,
      segment_ids,
      valid,
      config.decoder.logit_softcap,
      config.vocab_block,
    )

  objective = _objective(config, losses, mesh)
  stage = common.stage(config, _init_both(config), objective)
  if not config.holds:
    return stage
  held = optimizer.hold(stage.optimizer, config.hold_steps, surgery.is_cross)
  return dataclasses.replace(stage, optimizer=held)


def _init_causal(config: LanguageConfig) -> Callable[[Key], Params]:
  return decoder_lib.init_causal(config.model)


def _init_both(config: AdaptConfig) -> Callable[[Key], Params]:
  return decoder_lib.init_encoder_decoder(config.both)


def _objective(
  config: LanguageConfig, losses: Callable[..., Any], mesh: Mesh
) -> objectives.Objective:
  whole = sharding.data_parallel(losses, mesh, config.mesh.rules)
  return objectives.language_objective(whole)


def shards_of(config: LanguageConfig) -> pathlib.Path | None:
  """The folder of prepared shards at data.path or inside of it; None if none.

  data.path may be the folder itself, a workdir, or a workdir's inputs.
  """
  if not config.data.path:
    return None
  path = pathlib.Path(config.data.path)
  places = (path, path / "text", path / "inputs" / "text")
  return next((p for p in places if text.is_prepared(p)), None)


def from_pairs(config: LanguageConfig) -> bool:
  """Whether running text is that of pairs."""
  if config.data.seqio:
    return False
  path = config.data.path
  return not path or (
    not shards_of(config)
    and sources.has_pairs(pathlib.Path(path), config.data.fields)
  )


def _fingerprint(config: LanguageConfig) -> Any:
  data: dict[str, Any] = {"fewest": config.fewest}
  if config.data.seqio:
    from embeddinggemma.data import seqio_tasks

    found = seqio_tasks.fingerprint(config.data.seqio, config.data.seqio_module)
    return data | {"feature": config.data.seqio_feature, **found}
  if shards := shards_of(config):
    return {"prepared": text.about(shards)["hash"]}
  if from_pairs(config):
    return data | corpus.fingerprint(config.data.path, config.data.fields)
  return data | {"texts": text.fingerprint(pathlib.Path(config.data.path))}


def _read(
  config: LanguageConfig, made: Inputs, console: Console
) -> dict[str, Any]:
  """Make the corpus of pairs, if the running text is that of pairs."""
  return (
    inputs.write_corpus(config, made, console) if from_pairs(config) else {}
  )


def write_text(
  config: LanguageConfig,
  made: Inputs,
  directory: pathlib.Path,
  console: Console,
) -> dict[str, Any]:
  """Write tokenised shards of the configured text, beside their tokenizer.

  Shards that the verb `prepare` made are only checked, and used in place.
  """
  tokenizer = made.tokenizer()
  if shards := shards_of(config):
    text.Windows(shards, tokenizer, config.max_length - 2, config.fewest)
    return {}
  skipped: list[str] = []
  found = running_text(config, made, skipped)
  about = text.write(found, tokenizer, directory, config.fewest)
  (directory / TOKENIZER_FILE).write_bytes(tokenizer.model)
  inputs.say_skipped(skipped, console)
  tokens = sum(task["tokens"] for task in about["tasks"])
  texts = sum(task["texts"] for task in about["tasks"])
  short = about["short"]
  console.print(
    f"text: {texts} texts, {tokens} tokens"
    + (f"; left out {short} shorter than {config.fewest}" if short else ""),
    highlight=False,
  )
  return {"texts": texts, "text_tokens": tokens, "short_texts": short}


def about(config: LanguageConfig, made: Inputs) -> dict[str, Any]:
  """Description of the running text, and what its sources say of themselves."""
  found = text.about(made.shards)
  if config.data.seqio:
    told = {"sources": [{"name": task["name"]} for task in found["tasks"]]}
  elif from_pairs(config):
    told = corpus.sources_told(made.corpus)
  else:
    told = {"sources": corpus.sheets_of(config.data.path)}
  return {**found, **told}


def running_text(
  config: LanguageConfig, made: Inputs, skipped: list[str]
) -> list[text.Source]:
  """The sources of running text; messages of skipped rows go into `skipped`."""
  data = config.data
  if data.seqio:
    from embeddinggemma.data import seqio_tasks

    return seqio_tasks.sources(
      data.seqio, data.seqio_module, data.seqio_feature
    )
  if from_pairs(config):
    pairs = corpus.read_train(made.corpus)
    return [text.Source("text", 1.0, text.pair_texts(pairs))]
  texts = text.read_texts(pathlib.Path(data.path), data.skip_bad_rows, skipped)
  return [text.Source("text", 1.0, texts)]


def _texts(config: LanguageConfig, made: Inputs) -> Iterator[str]:
  if from_pairs(config):
    yield from inputs.side_texts(made)
    return
  for source in running_text(config, made, []):
    for _, content in source.texts:
      yield content


def _documents(
  config: LanguageConfig, made: Inputs, tokenizer: Tokenizer
) -> Documents:
  """Token ids of documents for the LSA table: pairs, or windows of text."""
  longest = config.model.max_length
  if from_pairs(config):
    return inputs.pair_documents(made, tokenizer, longest)
  windows = text.Windows(made.shards, tokenizer, longest)
  return [windows.tokens(row) for row in range(len(windows))]


def read_windows(config: LanguageConfig, made: Inputs) -> text.Windows:
  """Windows of running text that leave room for BOS and EOS."""
  longest = config.max_length - 2
  return text.Windows(made.shards, made.tokenizer(), longest, config.fewest)


def _causal(config: LanguageConfig, made: Inputs) -> loader.Example:
  """A function (tokens, row id) -> the example of a causal language model."""
  del config, made
  return denoisers.causal


def _denoised(config: AdaptConfig, made: Inputs) -> loader.Example:
  """A function (tokens, row id) -> (inputs, targets) of UL2 denoising."""
  sentinels = denoisers.sentinels_of(made.tokenizer())
  return lambda tokens, row: denoisers.denoise(
    tokens, row, config.seed, config.mixture, sentinels
  )


def _load(
  config: LanguageConfig,
  made: Inputs,
  groups: int,
  example_of: Callable[[Any, Inputs], loader.Example],
  depends: Any = None,
) -> tuple[grain.MapDataset, int]:
  """The dataset step -> Loaded; no text is truncated: it has more windows.

  Runs that differ only in weights share it. `depends` is what the examples
  depend on besides.
  """
  key = {
    "inputs": text.about(made.shards),
    "tokenizer": made.tokenizer().hash,
    "groups": groups,
    "size": [config.batch_size, config.max_length, config.seed],
    "stage": config.stage,
    "examples": depends,
  }
  load = lambda: loader.load_text(
    read_windows(config, made),
    example_of(config, made),
    config.batch_size,
    groups,
    config.seed,
  )
  return cache.share("text", key, load), 0


def _show(
  config: LanguageConfig, made: Inputs, example: loader.Example
) -> Shown:
  """A function (task, row) -> (row id, input, target if there is one)."""
  decode, windows = made.tokenizer().decode, read_windows(config, made)
  tokens = lambda row: windows.tokens(row % len(windows))
  return lambda _, row: (
    f"row {row}",
    *map(decode, example(tokens(row), row)),
  )


def _texts_of(config: LanguageConfig, groups: int) -> Text:
  """Shapes of a batch in which every text fills a row of its own."""
  length = packing.rung(config.max_length)
  return shapes.texts(groups, config.batch_size // groups, length)


def _denoise_batch(config: AdaptConfig, groups: int) -> DenoiseBatch:
  one = _texts_of(config, groups)
  return DenoiseBatch(one, one)


def _work(config: LanguageConfig, devices: int) -> tuple[Calls, int]:
  del devices
  return ((memory.Side(config.model, config.max_length),),), 0


def _denoise_work(config: AdaptConfig, devices: int) -> tuple[Calls, int]:
  """What a device computes in a step of adaptation, and the losses' bytes."""
  del devices
  side = memory.Side(config.model, config.max_length)
  reading = memory.Side(config.decoder, side.length, read=side.length)
  return ((side, reading),), 0


def _check(config: LanguageConfig, tokenizer: Tokenizer | None) -> None:
  """Raise BadInput for an unknown seqio task."""
  del tokenizer
  if config.data.seqio:
    running_text(config, Inputs(pathlib.Path(), pathlib.Path()), [])


def _check_adapt(config: AdaptConfig, tokenizer: Tokenizer | None) -> None:
  """Like `_check`; BadInput also for a tokenizer without sentinels."""
  _check(config, tokenizer)
  if tokenizer:
    denoisers.sentinels_of(tokenizer)


def _result(
  config: AdaptConfig,
  params: Params,
  steps: int,
  content: checkpoint.Files,
  workdir: pathlib.Path,
  say: Say,
) -> Result:
  """The last step, or the mean of the last checkpoints."""
  if config.average > 1:
    return _averaged(config, steps, content, workdir, say)
  return last_step(config, params, steps, content, workdir, say)


def _averaged(
  config: AdaptConfig,
  steps: int,
  content: checkpoint.Files,
  workdir: pathlib.Path,
  say: Say,
) -> Result:
  """Write the mean of the last regular checkpoints as the result."""
  there = checkpoint.steps(workdir)
  regular = [n for n in there if common.is_regular(config, steps, n)]
  last = regular[-config.average :]
  places = [workdir / checkpoint.CHECKPOINTS / str(n) for n in last]
  try:
    params = soups.mean(places)
  except BadInput as error:
    raise BadInput(
      f"{error}; the result is a mean that takes it: delete it and the later"
      " steps beside it, and start again"
    ) from error
  place = workdir / checkpoint.AVERAGE
  common.write(params, content, {"mean_of_steps": last}, steps, place)
  say(f"the mean of steps {', '.join(map(str, last))}")
  return f"{checkpoint.AVERAGE}/{checkpoint.CHECKPOINTS}/{steps}", params


PRETRAIN = Kind(
  config=LanguageConfig,
  make=pretrain,
  init=_init_causal,
  adopt=lambda config, given, other: surgery.to_causal(given),
  read=_read,
  write=lambda config, made, console: write_text(
    config, made, made.shards, console
  ),
  fingerprint=_fingerprint,
  about=about,
  texts=_texts,
  documents=_documents,
  dataset=lambda config, made, groups, say: _load(
    config, made, groups, _causal
  ),
  show=lambda config, made: _show(config, made, _causal(config, made)),
  batch=_texts_of,
  sides=lambda config: {"text": 1},
  work=_work,
  flops=lambda config: (
    config.batch_size * flops.decoder(config.model, config.max_length)
  ),
  shards=shards_of,
  check=_check,
)
ADAPT = PRETRAIN._replace(
  config=AdaptConfig,
  make=adapt,
  init=_init_both,
  adopt=lambda config, given, other: surgery.to_encoder_decoder(
    given, config.both, other
  ),
  dataset=lambda config, made, groups, say: _load(
    config, made, groups, _denoised, config.denoisers
  ),
  show=lambda config, made: _show(config, made, _denoised(config, made)),
  batch=_denoise_batch,
  sides=lambda config: {"input": 1, "target": 1},
  work=_denoise_work,
  flops=lambda config: (
    config.batch_size * flops.encoder_decoder(config.both, config.max_length)
  ),
  models=("model", "decoder"),
  folders=("init_from", "decoder_from"),
  same=("separate_gradients",),
  parents=lambda config: {"decoder": config.decoder_from},
  depends=lambda config: {"decoder_from": inputs.parent(config.decoder_from)},
  # When checkpoints are averaged, the result depends on which there are.
  decides=lambda config: {"every_checkpoint"} if config.average > 1 else set(),
  check=_check_adapt,
  result=_result,
)
