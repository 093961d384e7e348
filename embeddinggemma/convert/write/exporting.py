"""What all exports share: reading, refusing and writing a model.

A format is a `Format`: a name, the types of its weights, and functions that
refuse, write and read back. `export` calls them in order, in a folder that
appears complete or not at all.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from embeddinggemma import cache, checkpoint, quantize, saved
from embeddinggemma.checkpoint import Name
from embeddinggemma.convert import origin, tensors
from embeddinggemma.convert.card import claim
from embeddinggemma.convert.card.loading import Loading
from embeddinggemma.convert.card.stated import NOTHING, Stated
from embeddinggemma.convert.folder import MARK
from embeddinggemma.convert.write.output import whole
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.lineage import stages
from embeddinggemma.model import embedder, identity, pooling
from embeddinggemma.model.arithmetic import EXACT, Arithmetic
from embeddinggemma.model.config import LOCAL, ModelConfig
from embeddinggemma.saved import Saved
from embeddinggemma.types import IDENTITY, BadInput

OnTensor = Callable[[int, int], Any]  # (tensors written, of how many)
FLOAT32, BFLOAT16 = "float32", "bfloat16"


class Dtype(NamedTuple):
  """A type of written weights."""

  bound: float  # least cosine that passes, to JAX with the written weights
  rounds: str = quantize.FLOAT  # the grid to which float weights are rounded
  packs: tuple[str, ...] = ()  # trained precisions whose integers it holds


FLOATS = {FLOAT32: Dtype(0.9999), BFLOAT16: Dtype(0.999)}


@dataclasses.dataclass(frozen=True)
class Job:
  """A checkpoint that is being exported, without its tensors."""

  directory: pathlib.Path
  files: checkpoint.Files
  shapes: checkpoint.Shapes
  config: ModelConfig
  prompts: Mapping[str, str]
  # The precision that its weights were trained for, or lie on; or "float".
  trained: str
  dtype: str
  precision: str  # that of the written weights
  title: str  # what the model is called
  # Matrices that are stored as values on the grid, not as integers.
  unpacked: tuple[Name, ...] = ()
  stated: Stated = NOTHING  # by its publisher, for the model card

  @property
  def rounded(self) -> bool:
    """Whether weights that were trained in float are rounded to a grid."""
    return self.trained != self.precision

  @property
  def packs(self) -> bool:
    """Whether integers are stored, not the values for which they stand."""
    return self.precision != quantize.FLOAT and self.dtype != FLOAT32


class Written(NamedTuple):
  """What a format wrote into the folder."""

  artefact: pathlib.Path  # what its runtime opens
  digest: str  # hash of the weights, as seen in the written precision
  about: Mapping[str, Any] = {}  # further facts that the export records


class Format(NamedTuple):
  """A kind of folder or file that another runtime reads."""

  name: str
  dtypes: Mapping[str, Dtype]
  faults: Callable[[Job], Mapping[str, bool]]  # what it lacks -> is it needed
  settle: Callable[[Job], Job]  # decides what depends on the weights
  size: Callable[[Job], int]  # bytes of its weights; may raise BadInput
  write: Callable[[Job, pathlib.Path, OnTensor], Written]
  verify: Callable[[Job, pathlib.Path], None]  # Stopped: the files differ
  loads: bool  # whether `load` reads the folder
  # For the model card: how programs load what was written.
  loading: Callable[[Job, Written], Loading]
  # How its runtime rounds while it computes; by default not at all.
  arithmetic: Callable[[Job], Arithmetic] = lambda job: EXACT
  # The config that its files are read back with.
  holds: Callable[[ModelConfig], ModelConfig] = lambda config: config


def export(
  form: Format,
  path: str,
  output: pathlib.Path,
  dtype: str | None = None,
  examine: Callable[[pathlib.Path], Any] = lambda place: None,
  certify: Callable[[Job, pathlib.Path, Written], Any] = lambda *_: None,
  on_tensor: OnTensor = lambda done, total: None,
  stated: Stated = NOTHING,
  require: Callable[[Job], Any] = lambda job: None,
) -> Written:
  """Write a model in a format, to a folder that appears complete.

  Args:
    form: the format.
    path: a checkpoint or a workdir.
    output: the folder.
    dtype: of the stored weights; None: that of the integers for which the
      model was trained, else float32.
    examine: called with what `load` reads: the written folder, or the
      checkpoint.
    certify: called with the written folder before it gets its name.
    on_tensor: called with the number of tensors written, and of all.
    stated: what the publisher states of the model, for its card.
    require: called with the job before anything is written; it may refuse it.

  Raises:
    BadInput: the path is no embedder, the format cannot hold it, or the output
      exists and is no export.
    Stopped: what was written differs from the model.
  """
  job = dataclasses.replace(opened(form, path, dtype), stated=stated)
  for fault, found in form.faults(job).items():
    if found:
      raise BadInput(f"{job.directory}: {form.name} cannot hold {fault}")
  form.size(job)  # refuses what the format cannot hold, before any work
  claim.of(job.files, stated)  # and this, what contradicts its records
  require(job)
  with whole(output) as folder:
    job = form.settle(job)
    checkpoint.require_room(folder, form.size(job))
    written = form.write(job, folder, on_tensor)
    (folder / MARK).write_bytes(cache.to_json(about(form, job, written)))
    form.verify(job, folder)
    examine(folder if form.loads else job.directory)
    certify(job, folder, written)
  return written


def about(form: Format, job: Job, written: Written) -> dict[str, Any]:
  """What an export records about itself."""
  return {
    "format": form.name,
    "dtype": job.dtype,
    "precision": job.precision,
    "rounded_after_training": job.rounded,
    "weights": written.digest,
    IDENTITY: identity.of_model(
      form.holds(job.config),
      written.digest,
      job.precision,
      Tokenizer(job.files[checkpoint.TOKENIZER_FILE]).identity,
      job.prompts,
    ).as_json(),
    **checkpoint.with_teachers(checkpoint.teachers_of(job.files)),
    **stages.entry(
      stages.of_training(stages.of(checkpoint.recipe_of(job.files)))
    ),
    **({checkpoint.CUTS: cuts} if (cuts := checkpoint.cuts(job.files)) else {}),
    **written.about,
  }


def opened(form: Format, path: str, dtype: str | None) -> Job:
  """The job of an embedder's checkpoint; BadInput if the path is none."""
  if dtype is not None and dtype not in form.dtypes:
    known = " or ".join(form.dtypes)
    raise BadInput(f"--dtype={dtype} is unknown; use {known}")
  found = saved.read(path)
  _check_shapes(found)
  dtype = dtype or _natural(form, found.precision)
  precision = _precision(form, found, dtype)
  title = origin.title(path, found.files)
  return Job(*found, dtype, precision, title)


def _check_shapes(found: Saved) -> None:
  wanted = tensors.shapes_of(embedder.init(found.config))
  for name in sorted({*wanted, *found.shapes}):
    ours = found.shapes[name].shape if name in found.shapes else "missing"
    if wanted.get(name, "unknown") != ours:
      raise BadInput(
        f"checkpoint {found.directory}: tensor {'/'.join(name)!r} is {ours}, its"
        f" model.json asks for {wanted.get(name, 'none')}"
      )


def _natural(form: Format, trained: str) -> str:
  """The type that holds a trained precision without rounding."""
  found = (name for name, d in form.dtypes.items() if trained in d.packs)
  return next(found, FLOAT32)


def _precision(form: Format, found: Saved, dtype: str) -> str:
  """The precision of the written weights; those on a grid stay on it."""
  trained = found.precision
  if trained == quantize.FLOAT:
    return form.dtypes[dtype].rounds
  if dtype != FLOAT32 and trained not in form.dtypes[dtype].packs:
    natural = _natural(form, trained)
    others = f"{natural} or {FLOAT32}" if natural != FLOAT32 else FLOAT32
    raise BadInput(
      f"--dtype={dtype} would move weights off the {trained} grid that those of"
      f" {found.directory} are on; use --dtype={others}"
    )
  return trained


def common_faults(config: ModelConfig, form: str) -> dict[str, bool]:
  """What no runtime of a format computes, for messages.

  Returns descriptions, and whether each holds for this config.
  """
  local = LOCAL in identity.layer_kinds(config)
  return {
    f"model.pooling={config.pooling!r}; it pools by the"
    f" {pooling.all_held_by(form)}": (
      config.pooling not in pooling.held_by(form).values()
    ),
    f"model.window_rule={config.window_rule!r}; its window is symmetric": (
      local and config.window_rule != "symmetric"
    ),
    "model.window=1, of which it takes half": local and config.window < 2,
    "model.qk_norm=false; its attention norms queries and keys": (
      not config.qk_norm
    ),
    f"model.attention_softcap={config.attention_softcap}; it has none": bool(
      config.attention_softcap
    ),
    f"model.logit_softcap={config.logit_softcap}; it has none": bool(
      config.logit_softcap
    ),
  }
