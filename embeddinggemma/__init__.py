"""embeddinggemma: trains, checks and ships EmbeddingGemma-class models.

  import embeddinggemma as eg

  model = eg.load("runs/laptop")
  vectors = model.encode(["how do I parse a date"], "query")

What is named here is what a Python user needs, and stays as it is; every other
module is the program's own. Nothing heavy is imported before it is used.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
  from rich.console import Console

  from embeddinggemma.loading import Model
  from embeddinggemma.retrieval.search import Hit
  from embeddinggemma.training.config import TrainConfig
  from embeddinggemma.types import BadInput, Notice, Stopped, Truncated

__version__ = "0.1.0"
__all__ = [
  "BadInput",
  "Model",
  "Notice",
  "Stopped",
  "Truncated",
  "evaluate",
  "export",
  "index",
  "load",
  "search",
  "soup",
  "stage",
  "train",
]

PathLike = str | os.PathLike[str]


def load(path: PathLike, precision: str | None = None) -> "Model":
  """A model, ready to `encode`: of a checkpoint, a workdir, or an import.

  Args:
    precision: "float", "int8", "int4", "mixed", ...: rounds the weights to it;
      None: what the checkpoint was trained for.

  Raises BadInput where there is no model at `path`, or it is damaged.
  """
  from embeddinggemma import loading, quantize
  from embeddinggemma.data import arguments

  place = arguments.path("path", path)
  if precision is not None:
    precision = quantize.known(arguments.text("precision", precision))
  return loading.load(place, precision=precision)


def stage(
  config: str, overrides: Mapping[str, Any] | None = None
) -> "TrainConfig":
  """The config of one stage of training, checked.

  Args:
    config: as on the command line: "configs/finetune.py:laptop,data=PAIRS".
    overrides: {"optimizer.lr": 1e-5, "steps": 100, ...}.

  Raises BadInput for a file, key or value that is not there.
  """
  from embeddinggemma.data import arguments

  config = arguments.text("config", config)
  given = {} if overrides is None else overrides
  given = arguments.values("overrides", given)

  from embeddinggemma.cli import flags, training
  from embeddinggemma.cli.verbs import VERBS

  set_to = (f"--config.{key}={value}" for key, value in given.items())
  argv = [f"--config={config}", "--workdir=unused", *set_to]
  values, _ = flags.parse("train", VERBS["train"], argv)
  return training.train_config(values)


def train(config: "TrainConfig", workdir: PathLike) -> dict[str, Any]:
  """Trains a stage in a workdir, or continues it there.

  Returns {"checkpoint": relative to the workdir, "hash": of its weights,
  "loss", "tokens", "tokens_per_s", ...}. Raises BadInput for a config that
  cannot run, Stopped where training or its result is at fault.
  """
  from embeddinggemma.data import arguments
  from embeddinggemma.training import alone
  from embeddinggemma.training.config import TrainConfig

  arguments.instance("config", config, TrainConfig, "stage(...) gives one")
  place = pathlib.Path(arguments.path("workdir", workdir))
  return alone.train(config, place, _console())


def evaluate(model: "Model", data: PathLike) -> dict[str, Any]:
  """Scores a model on a folder of tasks, at each Matryoshka dimension.

  Args:
    data: a folder of tasks in the formats of docs/evaluation.md; or one file.

  Returns {"quality": {system: {task: {dimension: {metric: value}}}},
  "intervals": {system: {task: {dimension: ends of the main metric's 95%
  interval}}}, "summary": means over tasks and over task types, "prompts": {task:
  {side: the words before it}}, "protocols": {task: the settings that its scores
  depend on}, "truncated": {task: {side: how many texts were cut, of how many, and
  the longest in tokens}}, "parts": {task: scores by language and language family,
  where it has them}, "notes": {task: what its scores say less than they seem to},
  "failed": {task: why it has no scores}}. Of failed tasks there is a warning.
  """
  from embeddinggemma.data import arguments
  from embeddinggemma.evaluation import quality, suite
  from embeddinggemma.terminal.warn import warn
  from embeddinggemma.types import Notice

  _require_model(model)
  tasks = suite.read_suite(pathlib.Path(arguments.path("data", data)))
  found = quality.evaluate(model, tasks, _console())
  for name, why in found["failed"].items():
    warn(f"{name} has no scores: {why}", Notice)
  return found


def soup(
  checkpoints: Sequence[PathLike],
  workdir: PathLike,
  weights: Sequence[float] | None = None,
) -> pathlib.Path:
  """The mean of checkpoints, tensor by tensor, as a checkpoint in `workdir`.

  Args:
    weights: a share for each; None: equal ones (paper, section 3.4).
  """
  from embeddinggemma import soups
  from embeddinggemma.data import arguments
  from embeddinggemma.distributed import forks

  places = arguments.paths("checkpoints", checkpoints)
  shares = None if weights is None else arguments.numbers("weights", weights)
  output = arguments.output("workdir", workdir, folder=True)
  forks.require_own_jax()
  return soups.soup(places, shares, output)


def export(
  model: PathLike,
  format: Literal["sentence-transformers", "gguf"],
  output: PathLike,
  dtype: str | None = None,
  card: PathLike | None = None,
  scores: Sequence[PathLike] = (),
) -> dict[str, Any]:
  """Writes a checkpoint in another runtime's format; returns its certificate.

  Args:
    dtype: "float32", "bfloat16"; for gguf also "q8_0", "q4_0", "mixed"; None:
      what the model was trained for.
    card: a YAML file with what no record knows, for the model card.
    scores: files of what `evaluate` returned of this model, for its card.

  Raises Stopped, and leaves nothing, where the runtime gives other vectors.
  """
  from embeddinggemma import doctor
  from embeddinggemma.convert import formats, verbs
  from embeddinggemma.data import arguments
  from embeddinggemma.distributed import forks

  source = arguments.path("model", model)
  form = arguments.choice("format", format, formats.FORMATS)
  if dtype is not None:
    dtype = arguments.choice("dtype", dtype, formats.FORMATS[form].dtypes)
  place = arguments.output("output", output, folder=False)
  forks.require_own_jax()
  shown = _console()
  examine = lambda place: doctor.check_or_stop(place, shown)
  stated = None if card is None else arguments.path("card", card)
  files = arguments.paths("scores", scores) if scores else []
  return verbs.export_model(
    source, form, place, dtype, False, examine, shown, stated, files
  )


def index(
  model: "Model",
  source: PathLike,
  output: PathLike,
  dim: int | None = None,
  vectors: Literal["int8", "binary"] | None = None,
) -> dict[str, Any]:
  """Makes a folder or a JSONL searchable, or brings its index up to date.

  Args:
    dim: leading dimensions to keep; None: as the index has them, else 256.
    vectors: how they are stored; None: as the index has them, else int8.

  Returns counts: {"chunks", "files", "new", "removed", "embedded", ...}.
  """
  from embeddinggemma.data import arguments
  from embeddinggemma.distributed import forks
  from embeddinggemma.recipes.index import build_index
  from embeddinggemma.retrieval import codes

  _require_model(model)
  forks.require_own_jax()
  places = (
    pathlib.Path(arguments.path("source", source)),
    arguments.output("output", output, folder=True),
  )
  if dim is not None:
    dim = arguments.whole("dim", dim, 1, model.config.embed_dim)
  if vectors is not None:
    vectors = arguments.choice("vectors", vectors, get_args(codes.Kind))
  return build_index(model, *places, _console(), dim=dim, vectors=vectors)


def search(
  model: "Model",
  index: PathLike,
  query: str,
  k: int = 5,
  mode: Literal["hybrid", "dense", "lexical"] = "hybrid",
) -> "list[Hit]":
  """The best chunks of an index: (score, path, line, title, snippet) each.

  Args:
    mode: by meaning and words, by meaning alone, or by words alone (BM25).

  Raises BadInput for an index that another model made.
  """
  from embeddinggemma.data import arguments
  from embeddinggemma.retrieval import index as indexes
  from embeddinggemma.retrieval import search as searching

  _require_model(model)
  query = arguments.text("query", query)
  mode = arguments.choice("mode", mode, get_args(searching.Mode))
  k = arguments.whole("k", k, 1)
  opened = indexes.open_index(pathlib.Path(arguments.path("index", index)))
  return searching.search(
    opened, model, query, model=model.identity, mode=mode, k=k
  )


def _require_model(value: Any) -> None:
  """Raise BadInput for what is no model, such as the path of one."""
  from embeddinggemma.data import arguments
  from embeddinggemma.loading import Model

  arguments.instance("model", value, Model, "load(path) gives one")


def _console() -> "Console":
  """Where long work tells how it goes."""
  from embeddinggemma.terminal.console import Terminal

  return Terminal(stderr=True)


def __getattr__(name: str) -> Any:
  """Classes on first use: they cost an import of JAX."""
  if name == "Model":
    from embeddinggemma.loading import Model

    return Model
  if name in ("BadInput", "Notice", "Stopped", "Truncated"):
    from embeddinggemma import types

    return getattr(types, name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
