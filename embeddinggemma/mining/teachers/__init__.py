"""The kinds of teachers whose vectors a student matches; TEACHERS lists them."""

import dataclasses

from embeddinggemma.mining.services.config import ServiceConfig
from embeddinggemma.mining.teacher import TeacherModel
from embeddinggemma.mining.teachers import (
  checkpoint,
  endpoint,
  gemini,
  llama_cpp,
  sentence_transformers,
  tfidf,
  vectors,
)
from embeddinggemma.mining.teachers.kind import Kind, TeachConfig
from embeddinggemma.types import BadInput

# The first that recognises a config teaches; so the last takes all other names.
TEACHERS: tuple[Kind, ...] = (
  tfidf.KIND,
  gemini.KIND,
  endpoint.KIND,
  llama_cpp.KIND,
  vectors.KIND,
  checkpoint.KIND,
  sentence_transformers.KIND,
)


def teacher_of(config: TeachConfig) -> TeacherModel:
  """The teacher that a config names; BadInput if there is none.

  What the config states of its name, licence and terms takes precedence.
  """
  kind = next(k for k in TEACHERS if k.recognises(config))
  if kind not in (gemini.KIND, endpoint.KIND):
    _require_no_service(config)
  model = kind.open(config)
  names = ("name", "licence", "terms")
  stated = {n: value for n in names if (value := getattr(config, n))}
  about = model.origin
  return dataclasses.replace(model, origin=lambda: {**about(), **stated})


def _require_no_service(config: TeachConfig) -> None:
  """Raise BadInput for settings of a service, where the teacher is none."""
  usual = dataclasses.asdict(ServiceConfig(yes=config.service.yes))
  for name, value in dataclasses.asdict(config.service).items():
    if value != usual[name]:
      raise BadInput(
        f"service.{name}={value} is for a model behind an API, and"
        f" teacher={config.teacher} is none; give teacher=gemini:MODEL or"
        " https://HOST/v1/embeddings"
      )
