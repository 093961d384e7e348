"""Running text from seqio's tasks and mixtures, which users of T5X have.

Only shards are prepared from it, once and in order: in training a batch is a
pure function of (seed, step), which no tf.data pipeline is. The only file that
imports seqio, and with it TensorFlow.
"""

import contextlib
import functools
import hashlib
import importlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from embeddinggemma.config import suggest
from embeddinggemma.data.text import Source
from embeddinggemma.types import BadInput

# Features in which seqio tasks keep text, in the order in which they are tried.
FEATURES = (
  "text",
  "targets_pretokenized",
  "targets",
  "inputs_pretokenized",
  "inputs",
)
_SPLIT = "train"
_BATCH = 256  # texts that are read from TensorFlow at a time
# The sequence length given to preprocessors: too large to cut any text.
_LONG = 2**20


def sources(name: str, module: str, feature: str) -> list[Source]:
  """The texts of a seqio task, or of a mixture's tasks weighted by its rates.

  Each source reads the `train` split once, in order, after the task's own
  preprocessors up to its tokenisation, which is for another vocabulary.

  Args:
    name: of the task or mixture.
    module: the Python module that registers it; "" for none.
    feature: the feature to read; "" for the first of FEATURES that is text.

  Raises:
    BadInput: the module cannot be imported, the name is unknown, all rates are
      0, or a task lacks the split, the feature or any text.
  """
  seqio = _seqio()
  _import(module)
  found = _registered(seqio, name)
  if isinstance(found, seqio.Task):
    return [_source(seqio, found, 1.0, feature)]
  rates = {task: _rate(found, task) for task in found.tasks}
  # As in seqio, tasks for evaluation alone are no part of the training.
  kept = [t for t, rate in rates.items() if rate and _SPLIT in _splits(t)]
  if not kept:
    raise BadInput(
      f"seqio mixture {name!r}: no task has a rate above 0 and a {_SPLIT!r}"
      f" split; its tasks are {', '.join(task.name for task in rates)}"
    )
  return [_source(seqio, task, rates[task], feature) for task in kept]


def fingerprint(name: str, module: str) -> dict[str, Any]:
  """What the text of a task depends on: its module and the files that it reads.

  Files are compared by size and time of modification; data that a function
  fetches from elsewhere is not noticed. Raises BadInput as `sources` does.
  """
  seqio = _seqio()
  _import(module)
  found = _registered(seqio, name)
  tasks = [found] if isinstance(found, seqio.Task) else found.tasks
  files = [file for task in tasks for file in _files(task)]
  stats = [file.stat() for file in files if file.is_file()]
  code = getattr(sys.modules.get(module), "__file__", None)
  return {
    "name": name,
    "module": hashlib.sha256(pathlib.Path(code).read_bytes()).hexdigest()
    if code
    else "",
    "rates": [] if len(tasks) == 1 else [_rate(found, t) for t in tasks],
    "files": [(stat.st_size, stat.st_mtime_ns) for stat in stats],
  }


@functools.cache
def _seqio() -> Any:
  """seqio, with a quiet TensorFlow that leaves the GPUs to JAX."""
  with _quiet_stderr():
    import tensorflow as tf

    # Too late where the user's own code has started TensorFlow.
    with contextlib.suppress(RuntimeError):
      tf.config.set_visible_devices([], "GPU")
  import seqio

  return seqio


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
  """Hold back what the block writes to stderr; show it only if the block fails.

  TensorFlow prints lines from C++ that no environment variable silences.
  """
  sys.stderr.flush()
  kept = os.dup(2)
  with tempfile.TemporaryFile() as held:
    os.dup2(held.fileno(), 2)
    try:
      yield
    except BaseException:
      held.seek(0)
      os.write(kept, held.read())
      raise
    finally:
      sys.stderr.flush()
      os.dup2(kept, 2)
      os.close(kept)


def _import(module: str) -> None:
  """Import the user's module, which may be in the current folder."""
  if not module:
    return
  here = str(pathlib.Path.cwd())
  if here not in sys.path:
    sys.path.append(here)
  try:
    importlib.import_module(module)
  except Exception as error:  # it is the user's code
    raise BadInput(
      f"data.seqio_module={module}: {_first_line(error)}; give a module that can"
      " be imported from here and registers the task"
    ) from error


def _registered(seqio: Any, name: str) -> Any:
  known = sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
  if name not in known:
    raise BadInput(
      f"seqio knows no task or mixture {name!r}; name the module that registers"
      f" it in data.seqio_module{suggest(name, known)}"
      if known
      else f"seqio knows no task at all, so not {name!r}; name the module that"
      " registers it in data.seqio_module"
    )
  return seqio.get_mixture_or_task(name)


def _rate(mixture: Any, task: Any) -> float:
  """The mixing rate of a task; BadInput if it cannot be had or is negative."""
  try:
    rate = float(mixture.get_rate(task))
  except Exception as error:
    raise _failed(task, "its mixing rate", error) from error
  if not 0 <= rate < float("inf"):
    raise BadInput(
      f"seqio mixture {mixture.name!r}: the rate of {task.name!r} is {rate};"
      " rates are >= 0"
    )
  return rate


def _splits(task: Any) -> list[str]:
  try:
    return sorted(task.source.splits)
  except Exception as error:
    raise _failed(task, "its splits", error) from error


def _files(task: Any) -> list[pathlib.Path]:
  """The files that a task reads, as far as its source names them."""
  if _SPLIT not in _splits(task):
    return []
  try:
    return sorted(map(pathlib.Path, task.source.list_shards(_SPLIT)))
  except Exception as error:
    raise _failed(task, "its list of files", error) from error


def _source(seqio: Any, task: Any, weight: float, feature: str) -> Source:
  splits = _splits(task)
  if _SPLIT not in splits:
    raise BadInput(
      f"seqio task {task.name!r} has no {_SPLIT!r} split; its splits are"
      f" {', '.join(splits) or 'none'}"
    )
  dataset, name = _text_dataset(seqio, task, feature)
  return Source(task.name, weight, _texts(task, dataset, name))


def _text_dataset(seqio: Any, task: Any, feature: str) -> tuple[Any, str]:
  """The last dataset before tokenisation that has text, and the feature's name.

  The name is "" if an element is itself a text, such as a line of a file.
  """
  wanted = (feature, feature.removesuffix("_pretokenized"))
  wanted = wanted if feature else (*FEATURES, "")
  found, spec = None, {}
  for dataset in _stages(seqio, task):
    spec = dataset.element_spec
    spec = spec if isinstance(spec, Mapping) else {"": spec}
    names = [name for name in wanted if _type(spec.get(name)) == "string"]
    if names:
      found = dataset, names[0]
  if found is None:
    types = ", ".join(f"{name} {_type(spec[name])}" for name in sorted(spec))
    asked = repr(feature) if feature else f"any of {', '.join(FEATURES)}"
    raise BadInput(
      f"seqio task {task.name!r} has no text in {asked}; name a feature that is"
      f" a string in data.seqio_feature. Its features: {types.strip()}"
    )
  return found


def _stages(seqio: Any, task: Any) -> Iterator[Any]:
  """The task's dataset as read from its source, and after each preprocessor.

  It ends before seqio's own tokenisation; a task may use another.
  """
  try:
    dataset = task.source.get_dataset(split=_SPLIT, shuffle=False)
  except Exception as error:
    raise _failed(task, "its source", error) from error
  yield dataset
  tokenise = (
    seqio.preprocessors.tokenize,
    seqio.preprocessors.tokenize_and_append_eos,
  )
  lengths = dict.fromkeys(task.output_features, _LONG)
  for number, step in enumerate(task.preprocessors):
    if isinstance(step, seqio.CacheDatasetPlaceholder):
      continue
    plain = step.func if isinstance(step, functools.partial) else step
    if plain in tokenise:
      return
    step = seqio.utils.add_kwargs_to_transform(
      step, sequence_length=lengths, output_features=task.output_features
    )
    try:
      with seqio.utils.map_seed_manager(number):
        dataset = step(dataset)
    except Exception as error:
      raise _failed(task, f"preprocessor {_name(plain)}", error) from error
    yield dataset


def _name(function: Any) -> str:
  return getattr(function, "__name__", type(function).__name__)


def _type(spec: Any) -> str:
  """A feature's type as text, such as "string" or "int32[?, 4]"."""
  if not hasattr(spec, "dtype"):
    return type(spec).__name__
  if spec.shape.rank == 0:
    return spec.dtype.name
  if spec.shape.rank is None:
    return f"{spec.dtype.name}[...]"
  sizes = ", ".join("?" if n is None else str(n) for n in spec.shape)
  return f"{spec.dtype.name}[{sizes}]"


def _texts(task: Any, dataset: Any, name: str) -> Iterator[tuple[str, str]]:
  """(TASK:NUMBER, text) of a dataset, read lazily."""
  number = 0
  only = dataset.map(lambda example: example[name]) if name else dataset
  try:
    for batch in only.batch(_BATCH).as_numpy_iterator():
      for text in batch:
        number += 1
        origin = f"{task.name}:{number}"
        yield origin, _decoded(text, origin)
  except (BadInput, GeneratorExit):
    raise
  except Exception as error:
    raise _failed(task, f"example {number + 1}", error) from error
  if not number:
    raise BadInput(
      f"seqio task {task.name!r}: its {_SPLIT!r} split holds no example"
    )


def _decoded(text: bytes, origin: str) -> str:
  try:
    return text.decode("utf-8")
  except UnicodeDecodeError as error:
    raise BadInput(f"{origin}: not UTF-8 (byte {error.start + 1})") from None


def _failed(task: Any, what: str, error: Exception) -> BadInput:
  """A BadInput with the first line of what the user's code or files raised."""
  said = _first_line(error)
  return BadInput(f"seqio task {task.name!r}: {what} fails: {said}")


def _first_line(error: Exception) -> str:
  said = str(error).strip()
  name = type(error).__name__
  return f"{name}: {said.splitlines()[0]}" if said else name
