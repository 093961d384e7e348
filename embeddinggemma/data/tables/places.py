"""Which files of a path hold the pairs, and what they are called in a hash.

One rule: a file is read; of a folder, what has the first of these.

1. pairs.jsonl and */pairs.jsonl.
2. What `datasets` saved there; of its splits the one called train.
3. pairs.* and */pairs.* of another format.
4. The files of the split train, or else of the only split, where all others
   are called validation, dev, test or eval. Parts of one file, such as
   train-00000-of-00002.parquet, count as one.

texts.jsonl with texts that have no partner is none of them: see `single_texts`.

Anything else stops with the files that were found. OWNER/NAME, where no such
path is there, is a data set of the Hugging Face Hub.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from embeddinggemma.data import single_texts
from embeddinggemma.data.tables import arrow, opening, rows
from embeddinggemma.data.tables.fields import Fields
from embeddinggemma.data.tables.rows import Read, Say
from embeddinggemma.types import BadInput

Reader = Callable[[Path, Fields, Say], Iterator[Read]]

READERS: dict[str, Reader] = {
  ".jsonl": rows.json_lines,
  ".ndjson": rows.json_lines,
  ".json": rows.json_file,
  ".csv": rows.table,
  ".tsv": rows.table,
  ".tab": rows.table,
  **arrow.READERS,
}
FORMATS = (
  "JSONL, .json, CSV, TSV (each also as .gz, .zst, .bz2 or .xz), Parquet, Arrow,"
  " and a folder that `datasets` saved"
)
_HELD_OUT = r"validation|valid|val|dev|test|testing|eval|evaluation|heldout"
_SPLIT = re.compile(rf"(train|training|{_HELD_OUT})(?![a-z])", re.IGNORECASE)
_ABOUT = {"dataset_info.json", "dataset_infos.json", "state.json"}
_ABOUT |= {"dataset_dict.json", "corpus.json", "stage.json"}
_HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?")
_SHOWN = 8  # files in a message
_ANY = Fields()


class Found(NamedTuple):
  """Files of pairs."""

  files: list[Path]  # in the order in which they are read
  root: Path  # their names in a hash are relative to it
  notes: tuple[str, ...] = ()  # for people: what was chosen, what was not


def find(path: Path, fields: Fields = _ANY) -> Found:
  """The files of a path; BadInput, with what is there, if that is unclear.

  `fields` is what --fields says, for what a file without known names holds.
  """
  if path.is_file():
    reader_of(path)
    if single_texts.find(path, fields):
      raise _single(path, [path])
    return Found([path], path.parent)
  if path.is_dir():
    texts = single_texts.find(path, fields)
    if texts and not _files(path, texts):
      raise _single(path, texts)
    found = _in_folder(path, texts)
    note = (
      f"{path}: {_listed([p.relative_to(path).as_posix() for p in texts])} holds"
      " single texts and no pairs, for distillation alone (loss.contrastive=0)"
    )
    return found._replace(notes=(*found.notes, note)) if texts else found
  if path.suffix.lower() not in (*READERS, *opening.PACKED) and _HUB.fullmatch(
    path.as_posix()
  ):
    return _from_hub(path.as_posix())
  if path.exists():
    raise BadInput(
      f"{path}: a pipe or device, which cannot be read twice; write it to a file"
      f" first, as in cat {path} > pairs.jsonl"
    )
  if path.is_symlink():
    raise BadInput(f"{path}: a link to {path.readlink()}, which is not there")
  raise BadInput(
    f"{path}: no such folder or file; give one of pairs: {FORMATS}"
  )


def others(path: Path, texts: Collection[Path]) -> str:
  """The files of a folder that could hold pairs, beside these; "" if none."""
  files = _files(path, texts) if path.is_dir() else []
  return _listed([file.relative_to(path).as_posix() for file in files])


def _single(path: Path, texts: list[Path]) -> BadInput:
  """The error of a path that holds single texts where pairs are needed."""
  return BadInput(
    f"{path}: {_listed([text.name for text in texts])} holds texts without a"
    " partner, from which only distillation alone learns; give pairs, or"
    " --config.loss.contrastive=0 --config.loss.distill=1 --config.teacher=DIR,"
    " which `teach` wrote of them"
  )


def reader_of(path: Path) -> Reader:
  """What reads a file, by the end of its name; BadInput if nothing does."""
  suffix = opening.bare_suffix(path)
  if suffix in READERS and not (
    opening.is_packed(path) and suffix in arrow.READERS
  ):
    return READERS[suffix]
  raise BadInput(
    f"{path}: no format of pairs by the end of its name; known: {FORMATS}; rename"
    " it if it is one of these"
  )


def _in_folder(folder: Path, texts: list[Path]) -> Found:
  own = [folder / "pairs.jsonl", *sorted(folder.glob("*/pairs.jsonl"))]
  own = [path for path in own if path.is_file()]
  if own:
    beside = [p for p in _files(folder, texts) if p.parent == folder]
    return Found(own, folder, _unread(folder, own, [*own, *beside]))
  if (folder / "dataset_dict.json").is_file():
    return _saved_splits(folder)
  if (folder / "state.json").is_file():
    return Found(_saved(folder), folder)
  files = _files(folder, texts)
  if not files:
    there = sorted(path.name + _kind(path) for path in folder.iterdir())
    raise BadInput(
      f"{folder}: holds no pairs.jsonl, no */pairs.jsonl and no other file of"
      f" pairs; it holds {_listed(there) or 'nothing'}; known are {FORMATS}"
    )
  named = [path for path in files if path.name.split(".")[0] == "pairs"]
  near = [path for path in named if len(path.relative_to(folder).parts) <= 2]
  stems = {(path.parent, path.name.split(".")[0]) for path in near}
  if near and len(stems) == len(near):
    return Found(near, folder, _unread(folder, near, files))
  return _one_split(folder, files)


def _kind(path: Path) -> str:
  if path.is_file():
    return ""
  return "/" if path.is_dir() else " (not a file)"


def _files(folder: Path, texts: Collection[Path]) -> list[Path]:
  """The files of a known format in a folder and below, without hidden ones.

  Those of single texts are left out.
  """
  visible = lambda p: (
    not any(part.startswith((".", "_")) for part in p.relative_to(folder).parts)
  )
  return sorted(
    path
    for path in folder.rglob("*")
    if path.is_file()
    and opening.bare_suffix(path) in READERS
    and path.name not in _ABOUT
    and path not in texts
    and visible(path)
  )


def _one_split(folder: Path, files: list[Path]) -> Found:
  """The files of the split train or the only one, if there is one of each."""
  parts: dict[tuple[str, Path, str], list[Path]] = {}
  for path in files:
    name = re.sub(r"\d+", "#", path.name)
    parts.setdefault((_split_of(path, folder), path.parent, name), []).append(
      path
    )
  of = lambda split: [key for key in parts if key[0] == split]
  train, others = of("train"), of("")
  chosen = [*train, *others] or of("held out")
  if len(chosen) != 1:
    names = [path.relative_to(folder).as_posix() for path in files]
    raise BadInput(
      f"{folder}: which of its files hold the pairs is unclear ({_listed(names)});"
      f" name one, such as {files[0]}; parts of one are called alike, as in"
      " part-1.csv, part-2.csv"
    )
  read = parts[chosen[0]]
  return Found(read, folder, _unread(folder, read, files))


def _split_of(path: Path, folder: Path) -> str:
  """ "train", "held out" or "", by the name of the file or of its folder."""
  for part in reversed(path.relative_to(folder).parts):
    match = _SPLIT.match(part)
    if match:
      return "train" if match[1].lower().startswith("train") else "held out"
  return ""


def _unread(
  folder: Path, read: list[Path], files: list[Path]
) -> tuple[str, ...]:
  others = [
    path.relative_to(folder).as_posix() for path in files if path not in read
  ]
  names = [path.relative_to(folder).as_posix() for path in read]
  if not others:
    return ()
  return (f"{folder}: {_listed(names)} is read, {_listed(others)} is not",)


def _listed(names: list[str]) -> str:
  more = len(names) - _SHOWN
  return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _saved_splits(folder: Path) -> Found:
  """The split train of a DatasetDict, or its only one."""
  splits = _json(folder / "dataset_dict.json").get("splits", [])
  chosen = (
    "train" if "train" in splits else splits[0] if len(splits) == 1 else ""
  )
  if not chosen:
    raise BadInput(
      f"{folder}: has the splits {', '.join(splits) or 'none'}, and no train;"
      f" name one, such as {folder / splits[0] if splits else folder}"
    )
  others = [name for name in splits if name != chosen]
  note = f"{folder}: of its splits {chosen} is read, {', '.join(others)} is not"
  return Found(_saved(folder / chosen), folder, (note,) if others else ())


def _saved(folder: Path) -> list[Path]:
  """The Arrow files of a data set that `save_to_disk` wrote, in its order."""
  state = _json(folder / "state.json")
  names = [file.get("filename", "") for file in state.get("_data_files", [])]
  files = [folder / name for name in names]
  missing = [path for path in files if not path.is_file()]
  if missing or not files:
    raise BadInput(
      f"{folder}: its state.json names"
      f" {missing[0].name if missing else 'no files'}, which is not there; save"
      " the data set again"
    )
  if state.get("_indices_data_files") or state.get("_indices_files"):
    raise BadInput(
      f"{folder}: selects rows by a file of indices; call flatten_indices() and"
      " save the data set again"
    )
  return files


def _json(path: Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_bytes())
  except (OSError, ValueError) as error:
    raise BadInput(f"{path}: cannot be read ({error})") from None
  if not isinstance(found, dict):
    raise BadInput(f"{path}: holds no JSON object")
  return found


def _from_hub(name: str) -> Found:
  """The Arrow files of a data set of the Hub, which `datasets` downloads."""
  try:
    import datasets  # type: ignore
    import huggingface_hub
  except ImportError:
    raise BadInput(
      f"{name}: no such folder or file; to fetch it from the Hugging Face Hub,"
      f" pip install datasets"
    ) from None
  repository, _, subset = name.partition(":")
  try:
    # One question first: without a network, `datasets` tries for long.
    revision = huggingface_hub.HfApi().dataset_info(repository, timeout=10).sha
    splits = datasets.get_dataset_split_names(
      repository, subset or None, revision=revision
    )
    split = "train" if "train" in splits else splits[0]
    found = datasets.load_dataset(
      repository, subset or None, split=split, revision=revision
    )
  except Exception as error:  # of many libraries, down to the network
    lines = [line for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    raise BadInput(
      f"{name}: no such folder or file, and the Hugging Face Hub does not give"
      f" it ({reason})"
    ) from None
  files = [Path(file["filename"]) for file in found.cache_files]
  note = f"{name}: its split {split} is read" + (
    f", not {', '.join(s for s in splits if s != split)}"
    if len(splits) > 1
    else ""
  )
  return Found(files, files[0].parent, (note,))
