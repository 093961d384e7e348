"""What all exports share: what is read, what is refused, how it is written.

A format is a `Format`: a name, the types of its weights, and functions that
refuse, write and read back. `export` calls them in their order, in a folder
that appears whole or not at all.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from embeddinggemma import cache, checkpoint, quantize, saved
from embeddinggemma.checkpoint import Name
from embeddinggemma.convert import tensors
from embeddinggemma.convert.read import hugging_face
from embeddinggemma.convert.write.output import MARK, whole
from embeddinggemma.model import embedder
from embeddinggemma.model.arithmetic import EXACT, Arithmetic
from embeddinggemma.model.config import LOCAL, ModelConfig
from embeddinggemma.saved import Saved
from embeddinggemma.types import BadInput

OnTensor = Callable[[int, int], Any]  # (tensors written, of how many)
FLOAT32, BFLOAT16 = "float32", "bfloat16"


class Dtype(NamedTuple):
  """A type of written weights."""

  bound: float  # the least cosine to what was written, in JAX, that is right
  rounds: str = quantize.FLOAT  # what weights that are on no grid are put on
  packs: tuple[str, ...] = ()  # trained precisions whose integers it holds


FLOATS = {FLOAT32: Dtype(0.9999), BFLOAT16: Dtype(0.999)}


@dataclasses.dataclass(frozen=True)
class Job:
  """A checkpoint on its way out, but its tensors."""

  directory: pathlib.Path
  files: checkpoint.Files
  shapes: checkpoint.Shapes
  config: ModelConfig
  prompts: Mapping[str, str]
  # The precision that its weights were trained for, or lie on; or "float".
  trained: str
  dtype: str
  precision: str  # the one that what is written has
  # Matrices whose values on the grid are stored, and not their integers.
  unpacked: tuple[Name, ...] = ()

  @property
  def rounded(self) -> bool:
    """Whether weights that were trained in float are put on a grid."""
    return self.trained != self.precision

  @property
  def packs(self) -> bool:
    """Whether integers are stored, not the values that they stand for."""
    return self.precision != quantize.FLOAT and self.dtype != FLOAT32


class Written(NamedTuple):
  """What a format left in the folder."""

  artefact: pathlib.Path  # what its runtime opens
  digest: str  # of the model's weights, as they were seen
  about: Mapping[str, Any] = {}  # more of what the folder says of itself


class Format(NamedTuple):
  """A kind of folder or file that another runtime opens."""

  name: str
  dtypes: Mapping[str, Dtype]
  faults: Callable[[Job], Mapping[str, bool]]  # what it cannot hold: is it so?
  settle: Callable[[Job], Job]  # decides what depends on the weights
  size: Callable[[Job], int]  # bytes of its weights; BadInput as well
  write: Callable[[Job, pathlib.Path, OnTensor], Written]
  verify: Callable[[Job, pathlib.Path], None]  # Stopped: it reads back another
  loads: bool  # whether `load` reads the folder
  # Where its runtime does not compute as we do.
  arithmetic: Callable[[Job], Arithmetic] = lambda job: EXACT


def export(
  form: Format,
  path: str,
  output: pathlib.Path,
  dtype: str | None = None,
  examine: Callable[[pathlib.Path], Any] = lambda place: None,
  certify: Callable[[Job, pathlib.Path, Written], Any] = lambda *_: None,
  on_tensor: OnTensor = lambda done, total: None,
) -> Written:
  """Writes the folder, which appears whole.

  Args:
    form: the format.
    path: a checkpoint or a workdir.
    output: the folder.
    dtype: of the stored weights; None: that of the integers which the model
      was trained for, else float32.
    examine: looks at what `load` reads: the written folder, or the checkpoint.
    certify: looks at the written folder before it takes its name.
    on_tensor: is told how many tensors are written, of how many.

  Raises:
    BadInput: the path is no embedder, the format cannot hold it, or the output
      is something else's.
    Stopped: what was written is not what went in.
  """
  job = opened(form, path, dtype)
  for fault, found in form.faults(job).items():
    if found:
      raise BadInput(f"{job.directory}: {form.name} cannot hold {fault}")
  form.size(job)  # what the format cannot hold is said before any work
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
  """What an export says of itself."""
  return {
    "format": form.name,
    "dtype": job.dtype,
    "precision": job.precision,
    "rounded_after_training": job.rounded,
    "weights": written.digest,
    **written.about,
  }


def opened(form: Format, path: str, dtype: str | None) -> Job:
  """An embedder's checkpoint; BadInput if it is none, or of another type."""
  if dtype is not None and dtype not in form.dtypes:
    known = " or ".join(form.dtypes)
    raise BadInput(f"--dtype={dtype} is unknown; use {known}")
  found = saved.read(path)
  _check_shapes(found)
  dtype = dtype or _natural(form, found.precision)
  precision = _precision(form, found, dtype)
  return Job(*found, dtype, precision)


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
  """The type that holds what was trained, without rounding."""
  found = (name for name, d in form.dtypes.items() if trained in d.packs)
  return next(found, FLOAT32)


def _precision(form: Format, found: Saved, dtype: str) -> str:
  """That of the written weights: nothing that was on a grid leaves it."""
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


def common_faults(config: ModelConfig) -> dict[str, bool]:
  """What other runtimes of EmbeddingGemma would compute otherwise."""
  local = LOCAL in hugging_face.layer_kinds(config)
  return {
    f"model.pooling={config.pooling!r}; it pools by the mean": (
      config.pooling != "mean"
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
