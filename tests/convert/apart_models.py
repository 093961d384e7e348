"""Models that are opened in processes of their own, and what they do there."""

import os
import signal

import numpy as np

from embeddinggemma.mining.teacher import Item, TeacherModel
from embeddinggemma.types import BadInput


def well(width: int) -> TeacherModel:
  """A model that does what its texts say."""
  print("opened", flush=True)
  return TeacherModel(
    {"teacher": "apart", "process": os.getpid()},
    width,
    lambda items, own: (
      lambda chunk: np.stack([_vector(x, width) for x in chunk])
    ),
    origin=lambda: {"name": "a model"},
    prompts={"query": "q: "},
    precision="float32",
  )


def _vector(item: Item, width: int) -> np.ndarray:
  if item.text == "raise":
    raise RuntimeError("out of memory\nand more")
  if item.text == "refuse":
    raise BadInput("no such text; write another")
  if item.text == "die":
    print("allocation failed", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
  return np.full(width, float(len(item.prompt + item.text)), np.float32)


def missing() -> TeacherModel:
  """A model that is not there."""
  raise BadInput("not there; give another")
