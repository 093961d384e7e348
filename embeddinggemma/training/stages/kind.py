"""The interface of a kind of stage: everything in which stages differ.

A kind is one file of this folder, with its config. All other code asks
`stages.kind_of(config)` and never examines the type of a config. Below,
`config` is one of the kind's own.
"""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int
from rich.console import Console

from embeddinggemma import checkpoint
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.training.config import TrainConfig
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.training.memory import Calls
from embeddinggemma.types import Key, Params, Stage

Say = Callable[[str], None]
Shown = Callable[[str, int], tuple[str, ...]]  # (task, row) -> texts
Documents = list[Int[np.ndarray, "_"]]
# The final checkpoint, relative to the workdir, and its parameters.
Result = tuple[str, Params]


def last_step(
  config: TrainConfig,
  params: Params,
  steps: int,
  content: checkpoint.Files,
  workdir: pathlib.Path,
  say: Say,
) -> Result:
  """The parameters after the last step, as its checkpoint holds them."""
  del config, content, workdir, say
  return f"{checkpoint.CHECKPOINTS}/{steps}", jax.device_get(params)


class Kind(NamedTuple):
  """One kind of stage; a field with a default is optional."""

  config: type[TrainConfig]
  # (config, mesh) -> the stage: objective, optimizer, view of the weights.
  make: Callable[[Any, Mesh], Stage]
  # config -> (key -> fresh parameters).
  init: Callable[[Any], Callable[[Key], Params]]
  # (config, parameters of a parent, those of a second parent or None) -> the
  # same tensors under the names that they have in this stage's model.
  adopt: Callable[[Any, Params, Params | None], Mapping[str, Any]]

  # The inputs, made in a folder: `read` copies and splits pairs, if there are
  # any; `write` then tokenises running text. Both return what they report.
  # `fingerprint` is all that they depend on, known before; `about` is their
  # description in checkpoints, known after. `texts` are those on which a
  # tokenizer is trained, `documents` those from which the LSA table is made.
  read: Callable[[Any, Inputs, Console], dict[str, Any]]
  write: Callable[[Any, Inputs, Console], dict[str, Any]]
  fingerprint: Callable[[Any], Any]
  about: Callable[[Any, Inputs], dict[str, Any]]
  texts: Callable[[Any, Inputs], Iterator[str]]
  documents: Callable[[Any, Inputs, Tokenizer], Documents]

  # The batches. `dataset`: (config, inputs, groups of all devices, say) -> a
  # dataset of Loaded, and the number of cut texts. `show`: (config, inputs)
  # -> (task, row) -> the origin of a row and its sides as text.
  dataset: Callable[[Any, Inputs, int, Say], tuple[grain.MapDataset, int]]
  show: Callable[[Any, Inputs], Shown]
  # `batch`: (config, number of groups) -> shapes of the largest batch. `sides`:
  # config -> name of each side and its number of texts per example.
  batch: Callable[[Any, int], Any]
  sides: Callable[[Any], Mapping[str, int]]
  # (config, devices) -> what a device computes in a step, and the bytes of its
  # losses, for an estimate of memory.
  work: Callable[[Any, int], tuple[Calls, int]]
  # Floating-point operations of a forward pass of the whole batch.
  flops: Callable[[Any], int]

  # Whether the result is an embedder, trained on pairs.
  embeds: bool = False
  # Keys of the config that hold a ModelConfig.
  models: Sequence[str] = ("model",)
  # Copies of the weights that a step holds, without the optimizer's moments.
  copies: int = 1
  # Folder of shards that the verb `prepare` made and that are used in place.
  shards: Callable[[Any], pathlib.Path | None] = lambda config: None
  # Keys that name a folder of weights or of vectors. Which folder it is decides
  # nothing: what it holds counts.
  folders: Sequence[str] = ("init_from",)
  # Further keys that change no weights.
  same: Sequence[str] = ()
  # Steps between looks of the stage's probe; 0: it has none, or looks never.
  probed: Callable[[Any], int] = lambda config: 0
  # Further parents: key of the config with a model -> the path of its weights.
  parents: Callable[[Any], Mapping[str, str]] = lambda config: {}
  # Who taught it, besides those that taught the weights that it starts from:
  # the origins in their teacher.json.
  teachers: Callable[[Any], Sequence[Mapping[str, Any]]] = lambda config: ()
  # Further dependencies of its inputs.
  depends: Callable[[Any], Mapping[str, Any]] = lambda config: {}
  # Config keys that influence the weights in this kind, but not in others.
  decides: Callable[[Any], set[str]] = lambda config: set()
  # The name of the view through which a checkpoint's weights are to be used.
  view: Callable[[Any], str] = lambda config: "identity"
  # Checks that raise BadInput before any work: of the config, and the tokenizer
  # if one is given; of a stage that is not part of a recipe; and of a parent,
  # given its folder and whether its weights are quantised.
  check: Callable[[Any, Tokenizer | None], None] = lambda config, given: None
  check_alone: Callable[[Any], None] = lambda config: None
  check_parent: Callable[[Any, pathlib.Path], None] = lambda config, place: None
  # (config, inputs, say): raises BadInput for inputs, once they are made, from
  # which nothing can be learned; `say` is called with what is odd about them.
  examine: Callable[[Any, Inputs, Say], None] = lambda config, made, say: None
  # (config, inputs, folder, console) -> the config, completed by what must be
  # made from the parent first, such as a teacher's vectors.
  taught: Callable[[Any, Inputs, pathlib.Path, Console], Any] = (
    lambda config, made, folder, console: config
  )
  # (config, params, steps, files, workdir, say) -> the result of a training.
  result: Callable[..., Result] = last_step
