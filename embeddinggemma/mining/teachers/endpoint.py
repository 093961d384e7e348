"""A model behind a /v1/embeddings endpoint as a teacher.

It is OpenAI's protocol, which llama-server, vLLM, TEI, Ollama and many services
speak: {"input": [...], "model"?, "dimensions"?} is answered by {"data":
[{"index", "embedding"}, ...], "model"?}.
"""

import dataclasses
import functools
import json
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from embeddinggemma.data import prompts
from embeddinggemma.mining.services import faults, http, keys
from embeddinggemma.mining.services.answers import Sent
from embeddinggemma.mining.services.asking import Reply, Service
from embeddinggemma.mining.services.config import ServiceConfig
from embeddinggemma.mining.services.teaching import teacher_model
from embeddinggemma.mining.teacher import TeacherModel
from embeddinggemma.mining.teachers.kind import Kind, TeachConfig
from embeddinggemma.mining.teachers.prompting import Chosen, prompted
from embeddinggemma.types import BadInput

_END = "/embeddings"
_MOST = 2048  # texts of a request, as OpenAI allows


def opened(config: TeachConfig, chosen: Chosen = prompted) -> TeacherModel:
  """The model that `config.service` names, behind the address of the teacher.

  `chosen` says which of `config.service.prompts` a text has. Raises BadInput
  for an address that is none of /v1/embeddings, that holds a secret, or to which
  a key would go in the open.
  """
  address, own = config.teacher, config.service
  keys.require_variable(own.key)
  keys.require_safe(address, bool(own.key))
  parts = urllib.parse.urlsplit(address)
  if not parts.hostname or not parts.path.rstrip("/").endswith(_END):
    better = urllib.parse.urlunsplit(
      parts._replace(path=f"{parts.path.rstrip('/')}{_END}")
    )
    raise BadInput(
      f"{address} is no address of embeddings; do you mean {better}?"
    )
  words = prompts_of(own.prompts)
  service = Service(
    f"{own.model or 'the model'} at {parts.hostname}",
    {"address": address, "model": own.model, "dimensions": own.dimensions},
    functools.partial(_ask, address, own),
    own.key,
    _MOST,
  )
  about = {"teacher": "endpoint", "prompts": dict(words)}
  origin = {
    "kind": "endpoint",
    "name": own.model or parts.hostname,
    "service": parts.hostname,
  }
  sent_of = lambda item: Sent("", "".join(chosen(words, item)))
  model = teacher_model(service, own, sent_of, about, origin)
  return dataclasses.replace(model, prompts=words)


def _ask(
  address: str,
  config: ServiceConfig,
  key: str,
  texts: Sequence[str],
  kind: str,
) -> Reply:
  """The endpoint's vectors of texts; raises `faults`."""
  del kind
  asked: dict[str, Any] = {"input": list(texts), "encoding_format": "float"}
  if config.model:
    asked["model"] = config.model
  if config.dimensions:
    asked["dimensions"] = config.dimensions
  headers = {"Authorization": f"Bearer {key}"} if key else {}
  return reply_of(http.post(address, asked, headers, config.timeout))


def reply_of(answer: Any) -> Reply:
  """The vectors of an answer, in the order of `index`; Nonsense for none."""
  rows = answer.get("data") if isinstance(answer, Mapping) else None
  if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
    said = faults.words_of(json.dumps(answer))
    raise faults.Nonsense(f"the answer has no list 'data' of objects: {said}")
  lacking = [row for row in rows if "embedding" not in row]
  if lacking:
    raise faults.Nonsense("the answer has 'data' without an 'embedding'")
  places = [row.get("index", place) for place, row in enumerate(rows)]
  if sorted(map(str, places)) != sorted(map(str, range(len(rows)))):
    raise faults.Nonsense(
      f"the answer has the indices {str(places)[:60]}, not each of 0 to"
      f" {len(rows) - 1} once"
    )
  by_place = {int(place): row for place, row in zip(places, rows)}
  named = answer.get("model")
  return Reply(
    [by_place[place]["embedding"] for place in range(len(rows))],
    named if isinstance(named, str) else "",
  )


def prompts_of(given: str) -> Mapping[str, str]:
  """The prompts that a setting means, by name; BadInput if unreadable.

  It is "none", "embeddinggemma" for our own, or a JSON file of them.
  """
  if given == "none":
    return {}
  if given == "embeddinggemma":
    return prompts.PROMPTS
  path = pathlib.Path(given)
  try:
    tree = json.loads(path.read_text("utf-8"))
  except (OSError, ValueError) as error:
    raise BadInput(
      f"prompts={given} is neither none, embeddinggemma nor a JSON file"
      f" ({error})"
    ) from None
  found = tree.get("prompts", tree) if isinstance(tree, dict) else None
  texts = isinstance(found, dict) and all(
    isinstance(words, str) for words in found.values()
  )
  if not isinstance(found, dict) or not texts:
    raise BadInput(
      f"{path}: no prompts, which are a text by name, as"
      ' {"query": "query: ", "document": "passage: "}'
    )
  return found


KIND = Kind(
  lambda config: config.teacher.startswith(("http://", "https://")), opened
)
