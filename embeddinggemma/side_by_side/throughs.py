"""The ways to run a model that is scored; THROUGHS is their table."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from embeddinggemma import quantize, saved
from embeddinggemma.convert.certify import runtimes
from embeddinggemma.convert.read import families, gguf
from embeddinggemma.convert.read import sentence_transformers as public
from embeddinggemma.loading import load
from embeddinggemma.losses import matryoshka
from embeddinggemma.mining.services.config import ServiceConfig
from embeddinggemma.mining.teacher import TeacherModel
from embeddinggemma.mining.teachers import (
  endpoint,
  gemini,
  llama_cpp,
  sentence_transformers,
  vectors,
)
from embeddinggemma.mining.teachers.kind import TeachConfig
from embeddinggemma.mining.teachers.prompting import given
from embeddinggemma.side_by_side import (
  apart,
  contender,
  library_folder,
  prompting,
)
from embeddinggemma.side_by_side.contender import (
  Contender,
  Opener,
  Setting,
  Through,
)
from embeddinggemma.side_by_side.names import Asked
from embeddinggemma.side_by_side.prompting import Reading
from embeddinggemma.types import IDENTITY, BadInput

OURS = "this project"
LIBRARY, LLAMA_CPP = "sentence-transformers", "llama.cpp"
_OF_LIBRARY, _OF_LLAMA_CPP = f"{LIBRARY}:", f"{LLAMA_CPP}:"
_ADDRESSES = ("http://", "https://")

Dims = Callable[[int], tuple[int, ...]]  # full dimension -> all, it first


def through_of(asked: Asked) -> Through:
  """The way to run a model, by its name; BadInput if its files are damaged."""
  return next(way for way in THROUGHS if way.recognises(asked.model))


def label_of(asked: Asked) -> str:
  """What a model is called in tables."""
  return asked.label or through_of(asked).label(asked)


def _ours(asked: Asked, setting: Setting) -> Opener:
  """A model of this project, or public weights that it reads."""
  _require_unset(asked, ("prompts", "dims", "ids", "threads", "service"), OURS)
  precision = asked.precision or setting.precision
  if precision:
    quantize.known(precision)
  place = pathlib.Path(asked.model)
  if families.is_public(place):
    try:
      families.read(place)
    except BadInput as error:
      if not public.is_folder(place):
        raise
      raise BadInput(
        f"{error}; to run it in its own library: {_OF_LIBRARY}{place}"
      ) from None
  else:
    saved.read(place)

  @contextlib.contextmanager
  def opener() -> Iterator[Contender]:
    model = load(place, precision=precision)
    yield Contender(
      OURS,
      matryoshka.dims_of(model.config.embed_dim),
      model.precision,
      lambda task: model,
      lambda task, name: model.prompt(name),
      about=lambda: {
        "weights": model.hash,
        IDENTITY: model.identity.as_json(),
      },
    )

  return opener


def _library(asked: Asked, setting: Setting) -> Opener:
  """A model of the package sentence-transformers, in a process of its own."""
  _require_unset(asked, ("precision", "ids", "threads", "service"), LIBRARY)
  folder = library_folder.find(asked.model.removeprefix(_OF_LIBRARY))
  library_folder.check(folder)
  if runtimes.find(LIBRARY) is None:
    raise BadInput(f"{folder} is run by {runtimes.how_to_install(LIBRARY)}")
  if named := library_folder.similarity(folder):
    setting.say(
      f"{label_of(asked)}: it compares by {named!r}; here all models are compared"
      " by cosines"
    )
  is_ours = public.is_embeddinggemma(folder)
  dims = _dims(asked, asked.dims or library_folder.dims(folder), is_ours)
  default = library_folder.default_prompt(folder)
  open_model = functools.partial(
    sentence_transformers.opened, str(folder), given
  )

  @contextlib.contextmanager
  def opener() -> Iterator[Contender]:
    with apart.opened(open_model) as (model, said):
      if missing := library_folder.missing(said):
        setting.say(
          f"warning: {label_of(asked)}: {len(missing)} tensors, the first"
          f" {missing[0]!r}, are not in its files; its library has drawn them at"
          " random"
        )
      reading = _reading(asked, model.prompts, is_ours, setting, default)
      version = importlib.metadata.version(LIBRARY)
      through = f"{LIBRARY} {version}"
      yield contender.of_teacher(model, through, dims, reading, setting)

  return opener


def _llama_cpp(asked: Asked, setting: Setting) -> Opener:
  """An EmbeddingGemma in a GGUF file, run by llama.cpp."""
  _require_unset(asked, ("precision", "ids", "service"), LLAMA_CPP)
  path = pathlib.Path(asked.model.removeprefix(_OF_LLAMA_CPP))
  place = gguf.chosen(path) or path
  model = llama_cpp.opened(_config(asked, str(place)), given)
  reading = _reading(asked, model.prompts, True, setting)
  package = llama_cpp.THROUGH
  version = f"{package} {importlib.metadata.version(package)}"

  @contextlib.contextmanager
  def opener() -> Iterator[Contender]:
    through = f"{LLAMA_CPP} ({version})"
    dims = _dims(asked, asked.dims, True)
    yield contender.of_teacher(model, through, dims, reading, setting)

  return opener


def _endpoint(asked: Asked, setting: Setting) -> Opener:
  """A model behind an address of /v1/embeddings."""
  _require_unset(asked, ("precision", "ids", "threads"), "an endpoint")
  bare = dataclasses.replace(asked.service, prompts=ServiceConfig().prompts)
  config = _config(dataclasses.replace(asked, service=bare), asked.model)
  model = endpoint.opened(config, given)
  reading = _reading(asked, {}, False, setting)
  return _service(asked, model, asked.model, reading, setting)


def _gemini(asked: Asked, setting: Setting) -> Opener:
  """A model of the Gemini API, which is told what texts are for."""
  own = ("precision", "prompts", "ids", "threads")
  _require_unset(asked, own, "the Gemini API")
  model = gemini.opened(_config(asked, asked.model))
  return _service(asked, model, "the Gemini API", prompting.by_name(), setting)


def _service(
  asked: Asked,
  model: TeacherModel,
  through: str,
  reading: Reading,
  setting: Setting,
) -> Opener:
  """A model that is asked over a network; a person is asked first."""
  items = [
    item for task in setting.tasks for item in contender.items_of(task, reading)
  ]
  if model.prepare is not None:
    model.prepare(items, setting.directory, setting.say)

  @contextlib.contextmanager
  def opener() -> Iterator[Contender]:
    if model.verify is not None:
      model.verify(items, setting.directory)
    dims = _dims(asked, asked.dims, False)
    yield contender.of_teacher(model, through, dims, reading, setting)

  return opener


def _vectors(asked: Asked, setting: Setting) -> Opener:
  """A file of vectors that were made elsewhere."""
  own = ("precision", "prompts", "threads", "service")
  _require_unset(asked, own, "a file of vectors")
  model = vectors.opened(_config(asked, asked.model))

  @contextlib.contextmanager
  def opener() -> Iterator[Contender]:
    dims, reading = _dims(asked, asked.dims, False), prompting.by_name()
    yield contender.of_teacher(model, "its file", dims, reading, setting)

  return opener


def _config(asked: Asked, name: str) -> TeachConfig:
  """What opens a model as a teacher."""
  # Width and seed are those of a teacher that is no model.
  return TeachConfig(
    name, 0, "float32", 0, asked.ids, asked.threads, service=asked.service
  )


def _reading(
  asked: Asked,
  own: Mapping[str, str],
  is_ours: bool,
  setting: Setting,
  default: str = "",
) -> Reading:
  """How a model is told what its texts are for.

  Prompts that were asked for take the place of its `own`. That there are none,
  though nobody asked for that, is said. `is_ours` is whether it is of our
  architecture, `default` the name of that of its prompts for want of another.
  """
  wanted = asked.own_words
  words = own if wanted is None else wanted
  if wanted is None and not any(words.values()):
    setting.say(
      f"{label_of(asked)}: no prompts are known, so its texts go without; if it"
      ' was trained with some, name a file.json {"model": ..., "prompts":'
      ' {"query": ..., "document": ...}} instead'
    )
  if is_ours and wanted is None:
    return prompting.as_ours(words)
  return prompting.in_order(words, default if wanted is None else "")


def _dims(asked: Asked, known: tuple[int, ...], is_ours: bool) -> Dims:
  """The dimensions of a model that was trained for some, or as ours is."""

  def dims(width: int) -> tuple[int, ...]:
    if is_ours and not known:
      return matryoshka.dims_of(width)
    if wrong := [dim for dim in asked.dims if not 0 < dim <= width]:
      raise BadInput(f"dims: {wrong[0]} is not between 1 and {width}")
    shorter = {dim for dim in known if 0 < dim < width}
    return (width, *sorted(shorter, reverse=True))

  return dims


def _require_unset(asked: Asked, fields: tuple[str, ...], who: str) -> None:
  """Raise BadInput for a setting that says nothing of this kind of model."""
  usual: dict[str, Any] = dataclasses.asdict(Asked(asked.model))
  usual["service"]["yes"] = asked.service.yes
  values = dataclasses.asdict(asked)
  for field in fields:
    if values[field] != usual[field]:
      raise BadInput(
        f"{asked.model}: {field!r} is not for a model that {who} runs"
      )


def _short(name: str) -> str:
  return pathlib.PurePath(name).name or name


def _host(asked: Asked) -> str:
  """A service's model and host, or the host alone, without a password."""
  host = asked.model.split("/")[2].rpartition("@")[2]
  named = asked.service.model
  return f"{named} at {host}" if named else host or asked.model


def _is_library_s(name: str) -> bool:
  """Whether a path is a folder of the library that is no EmbeddingGemma."""
  folder = pathlib.Path(name)
  return public.is_folder(folder) and not public.is_embeddinggemma(folder)


def _our_label(asked: Asked) -> str:
  return f"{_short(asked.model)} {asked.precision}".strip()


def _library_label(asked: Asked) -> str:
  return f"{_short(asked.model.removeprefix(_OF_LIBRARY))} ({LIBRARY})"


def _llama_label(asked: Asked) -> str:
  return f"{_short(asked.model.removeprefix(_OF_LLAMA_CPP))} ({LLAMA_CPP})"


# The first that recognises a name runs it, the last takes all others.
THROUGHS: tuple[Through, ...] = (
  Through(lambda name: name.startswith(_OF_LIBRARY), _library, _library_label),
  Through(
    lambda name: name.startswith(_OF_LLAMA_CPP), _llama_cpp, _llama_label
  ),
  Through(lambda name: name.startswith(_ADDRESSES), _endpoint, _host),
  Through(
    lambda name: name.startswith(gemini.PREFIX),
    _gemini,
    lambda asked: asked.model.removeprefix(gemini.PREFIX),
  ),
  Through(
    lambda name: name.endswith(vectors.ENDING),
    _vectors,
    lambda asked: _short(asked.model),
  ),
  Through(_is_library_s, _library, lambda asked: _short(asked.model)),
  Through(lambda name: True, _ours, _our_label),
)
IN_OURS = THROUGHS[-1]
