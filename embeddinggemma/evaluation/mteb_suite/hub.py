"""The Hugging Face Hub, from which the data of mteb's tasks come.

Without a network, `datasets` and huggingface_hub try for minutes, for each file
anew. So they are told, and then read what they have on this machine. They take
the newest data there, whatever revision was asked for, and name none of its
parts: mteb would rank all documents where a task says which. Both is seen to
here.
"""

import contextlib
import pathlib
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
  from mteb.abstasks import retrieval_dataset_loaders  # type: ignore

  name = "HF_HUB_OFFLINE"
  changes = [
    (datasets.config, name, True),
    (huggingface_hub.constants, name, True),
    (retrieval_dataset_loaders, "get_dataset_config_names", _configs),
  ]
  before = [getattr(place, name) for place, name, _ in changes]
  for change in changes:
    setattr(*change)
  try:
    yield False
  finally:
    for (place, name, _), value in zip(changes, before, strict=True):
      setattr(place, name, value)


def revisions(repository: str) -> set[str]:
  """The revisions of which data of a repository are on this machine."""
  return {folder.name for folder in _cached(repository)}


def _configs(repository: str, revision: str | None = None) -> list[str]:
  """The parts of a repository, such as "corpus", that are on this machine."""
  return sorted(
    {
      folder.parts[-3]
      for folder in _cached(repository)
      if revision in (None, folder.name)
    }
  )


def _cached(repository: str) -> Iterator[pathlib.Path]:
  """Folders CONFIG/VERSION/REVISION of the cache of `datasets`."""
  import datasets  # type: ignore
  from datasets.naming import camelcase_to_snakecase  # type: ignore

  *owner, name = repository.split("/")
  place = "___".join([*owner, camelcase_to_snakecase(name)])
  root = pathlib.Path(datasets.config.HF_DATASETS_CACHE) / place
  return (path for path in root.glob("*/*/*") if path.is_dir())


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
