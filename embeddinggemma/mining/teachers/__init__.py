"""The kinds of teachers whose vectors a student matches; TEACHERS lists them."""

import dataclasses

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
  model = next(k for k in TEACHERS if k.recognises(config)).open(config)
  names = ("name", "licence", "terms")
  stated = {n: value for n in names if (value := getattr(config, n))}
  about = model.origin
  return dataclasses.replace(model, origin=lambda: {**about(), **stated})
