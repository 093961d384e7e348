"""The Hugging Face Hub, from which the data of mteb's tasks come.

Without a network, `datasets` and huggingface_hub try for minutes, for each file
anew. So they are told, and then read what they have on this machine.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

_SECONDS = 10.0  # in which it must answer
# Where mteb's own functions that load data are; other tasks have local data.
_LOADERS = ("mteb.abstasks.", "mteb.tasks.")


@contextlib.contextmanager
def reached(tasks: Sequence[Any]) -> Iterator[bool]:
  """Whether the Hub answers; where it does not, none in the block asks it.

  It is only asked if one of the tasks has data there.
  """
  first = next((task for task in _single(tasks) if is_source(task)), None)
  if first is None or _answers(first.metadata.dataset["path"]):
    yield True
    return
  import datasets  # type: ignore
  import huggingface_hub

  name = "HF_HUB_OFFLINE"
  places = (datasets.config, huggingface_hub.constants)
  before = [getattr(place, name) for place in places]
  for place in places:
    setattr(place, name, True)
  try:
    yield False
  finally:
    for place, value in zip(places, before, strict=True):
      setattr(place, name, value)


def is_source(task: Any) -> bool:
  """Whether a task's data come from the Hub."""
  return type(task).load_data.__module__.startswith(_LOADERS)


def _single(tasks: Sequence[Any]) -> Iterator[Any]:
  for task in tasks:
    yield from task.tasks if task.is_aggregate else (task,)


def _answers(repository: str) -> bool:
  import huggingface_hub
  from huggingface_hub.errors import HfHubHTTPError

  try:
    huggingface_hub.HfApi().dataset_info(repository, timeout=_SECONDS)
  except HfHubHTTPError:  # it has no such data, or not for us
    return True
  except Exception:  # of many libraries, down to the network
    return False
  return True
