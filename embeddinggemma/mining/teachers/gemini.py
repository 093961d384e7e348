"""A model of the Gemini API as a teacher, by Google's package google-genai.

gemini-embedding-001 is told by a task type what a text is for. Later models read
it in the text, in EmbeddingGemma's own words.
"""

import functools
import importlib
import importlib.util
import os
import pathlib
import urllib.parse
from collections.abc import Sequence
from typing import Any

from embeddinggemma.data import prompts
from embeddinggemma.mining.services import faults, keys
from embeddinggemma.mining.services.answers import Sent
from embeddinggemma.mining.services.asking import Reply, Service
from embeddinggemma.mining.services.config import ServiceConfig
from embeddinggemma.mining.services.teaching import teacher_model
from embeddinggemma.mining.teacher import Item, TeacherModel
from embeddinggemma.mining.teachers.kind import Kind, TeachConfig
from embeddinggemma.types import BadInput

PREFIX = "gemini:"
KEY = "GEMINI_API_KEY"
TERMS = (
  "the Gemini API Additional Terms of Service"
  " (https://ai.google.dev/gemini-api/terms) forbid its use to develop models"
  " that compete with it; whether a model trained on its vectors does is for"
  " you to settle before you train or publish one"
)
_MOST = 100  # texts of a request
_ADDRESS = (
  "GOOGLE_GEMINI_BASE_URL"  # of the environment, which the package reads
)
# Models that take a task type begin so.
_TYPED = ("gemini-embedding-001", "gemini-embedding-exp", "text-embedding-")
# The words of our prompts -> the API's task type.
_TYPES = {
  "search result": "RETRIEVAL_QUERY",
  "question answering": "QUESTION_ANSWERING",
  "fact checking": "FACT_VERIFICATION",
  "code retrieval": "CODE_RETRIEVAL_QUERY",
  "classification": "CLASSIFICATION",
  "clustering": "CLUSTERING",
  "sentence similarity": "SEMANTIC_SIMILARITY",
  "summarization": "SEMANTIC_SIMILARITY",  # which it has no type for
}
_DOCUMENT = "RETRIEVAL_DOCUMENT"
_BY_PROMPT = {prompts.DOCUMENT: _DOCUMENT} | {
  f"task: {words} | query: ": name for words, name in _TYPES.items()
}


def opened(config: TeachConfig) -> TeacherModel:
  """The model of the API that stands behind `gemini:`.

  Raises BadInput where none does, or where a key would go in the open.
  """
  name, own = config.teacher.removeprefix(PREFIX).strip(), config.service
  model = name.removeprefix("models/")
  if not model or (own.model and own.model != model):
    other = f", and service.model={own.model} names another" if model else ""
    raise BadInput(
      f"{config.teacher}{other}; name the model as in"
      " gemini:gemini-embedding-001"
    )
  if not _is_installed():  # before a person is asked what it may cost
    raise BadInput(
      "a model of the Gemini API needs google-genai; pip install"
      " 'embeddinggemma[gemini]'"
    )
  keys.require_variable(own.key)
  address = os.environ.get(_ADDRESS, "")
  keys.require_safe(address, has_key=True)
  about = {"api": "gemini", "model": model, "dimensions": own.dimensions}
  service = Service(
    f"{model} of the Gemini API",
    {**about, **({"address": address} if address else {})},
    functools.partial(_ask, model, address, own),
    own.key or KEY,
    _MOST,
  )
  origin = {
    "kind": "gemini",
    "name": model,
    "service": urllib.parse.urlsplit(address).hostname or "Gemini API",
    "terms": TERMS,
  }
  sent_of = typed if model.startswith(_TYPED) else worded
  return teacher_model(service, own, sent_of, {"teacher": "gemini"}, origin)


def typed(item: Item) -> Sent:
  """A text with the task type of its prompt; a title goes before the text.

  The package sends one title for all texts of a request, as it does the type.
  """
  kind = _BY_PROMPT[prompts.prompt_named(item.prompt)]
  titled = item.title and kind == _DOCUMENT
  return Sent(kind, f"{item.title}\n{item.text}" if titled else item.text)


def worded(item: Item) -> Sent:
  """A text with our own prompt before it, which is that of later models."""
  return Sent("", prompts.prompted(*item))


def _ask(
  model: str,
  address: str,
  config: ServiceConfig,
  key: str,
  texts: Sequence[str],
  kind: str,
) -> Reply:
  """The API's vectors of texts of one task type; raises `faults`."""
  client, types, errors = _client(key, address, config.timeout)
  options = types.EmbedContentConfig(
    task_type=kind or None, output_dimensionality=config.dimensions or None
  )
  # As texts alone, later models would take them for the parts of one.
  contents = [types.Content(parts=[types.Part(text=text)]) for text in texts]
  try:
    answer = client.models.embed_content(
      model=model, contents=contents, config=options
    )
  except errors.APIError as error:
    headers = dict(getattr(error.response, "headers", None) or {})
    said = str(error.message or error.details)
    wait = faults.wait_of(headers, str(error.details))
    words = faults.words_of(said)
    raise faults.Refused(int(error.code or 0), words, wait) from None
  except Exception as error:  # of its HTTP client, or of what it cannot read
    raise _fault(error) from None
  found = answer.embeddings or []
  return Reply([one.values or [] for one in found])


def _fault(error: Exception) -> Exception:
  """Which fault an exception of the package is.

  It speaks by one of two HTTP clients, whose exceptions have the same names.
  """
  names = {kind.__name__ for kind in type(error).__mro__}
  said = faults.words_of(str(error) or type(error).__name__)
  if "RemoteProtocolError" in names and "complete message body" in said:
    return faults.Nonsense(f"the answer breaks off ({said})")
  if "TransportError" in names or isinstance(error, OSError):
    return faults.Unreachable(f"no answer ({type(error).__name__}: {said})")
  return faults.Nonsense(f"the answer cannot be read ({said})")


@functools.cache
def _client(key: str, address: str, timeout: float) -> tuple[Any, Any, Any]:
  """The package's client, which does not try again by itself; its modules."""
  genai: Any = importlib.import_module("google.genai")
  errors, types = genai.errors, genai.types

  options = types.HttpOptions(
    base_url=address or None, timeout=int(1000 * timeout)
  )
  client = genai.Client(api_key=key, vertexai=False, http_options=options)
  return client, types, errors


def _is_installed() -> bool:
  try:
    return importlib.util.find_spec("google.genai") is not None
  except ModuleNotFoundError:  # there is no package google at all
    return False


def _recognises(config: TeachConfig) -> bool:
  """Whether the teacher is named with the prefix, or as only the API's are."""
  name = config.teacher
  bare = (
    name.startswith("gemini-embedding-") and not pathlib.Path(name).exists()
  )
  return name.startswith(PREFIX) or bare


KIND = Kind(_recognises, opened)
