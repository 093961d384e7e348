"""Read what is to be indexed (a folder, a JSONL or a single file) as chunks.

Nothing in a folder raises an error: a file without readable text is left out
and listed with the reason.
"""

import collections
import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from embeddinggemma.data import jsonl
from embeddinggemma.retrieval import chunks, notebooks, pdf
from embeddinggemma.retrieval.measure import BY_CHARACTERS, Measure
from embeddinggemma.types import BadInput

MAX_BYTES = 4 * 2**20  # larger texts are left out as data
MAX_PICTURED = (
  64 * 2**20
)  # of a notebook or PDF, whose bytes are mostly pictures
GENERATED = frozenset(["__pycache__", "node_modules"])
ENVIRONMENTS = ("pyvenv.cfg", "conda-meta")  # marks of a Python environment


class File(NamedTuple):
  """A file that was read, with the SHA-256 of its bytes."""

  path: str
  digest: str
  chunks: list[chunks.Chunk]
  did: Mapping[
    str, int
  ] = {}  # what was done besides, by the names of `cutting`


Known = Mapping[tuple[str, str], File]  # (path, digest) -> as cut before


class Reading(NamedTuple):
  """The files of an input, and the reason for each that was left out."""

  files: list[File]
  skipped: dict[str, str]

  @property
  def chunks(self) -> list[chunks.Chunk]:
    """The chunks of all files, in order."""
    return [chunk for file in self.files for chunk in file.chunks]

  @property
  def did(self) -> collections.Counter[str]:
    """What was done to cut the files, by the names of `cutting`."""
    total: collections.Counter[str] = collections.Counter()
    for file in self.files:
      total.update(file.did)
    return total

  @property
  def reasons(self) -> dict[str, list[str]]:
    """Reason -> paths of the files left out for it, commonest reason first."""
    found: dict[str, list[str]] = collections.defaultdict(list)
    for path, reason in self.skipped.items():
      found[reason].append(path)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def require(source: Path) -> None:
  """Raise BadInput for an input that does not exist."""
  if not source.exists():
    raise BadInput(f"{source}: no such folder or file to index")


def read(
  source: Path,
  excluded: Sequence[Path] = (),
  known: Known | None = None,
  measure: Measure = BY_CHARACTERS,
) -> Reading:
  """The chunks of a folder (recursively), a JSONL or a single file.

  Args:
    source: what to read.
    excluded: paths that are left out without being listed.
    known: files that were cut before, for the same reader, and are not again.
    measure: of the model that is to read the chunks.

  Raises:
    BadInput: a line of a JSONL is broken, or a single file holds no text.
  """
  require(source)
  known = known or {}
  if source.is_dir():
    return _read_folder(source, excluded, known, measure)
  if source.suffix == ".jsonl":
    return Reading([_read_jsonl(source, measure)], {})
  try:
    return Reading([_read_file(str(source), source.name, known, measure)], {})
  except _LeftOut as left_out:
    raise BadInput(f"{source}: cannot be indexed ({left_out})") from None


class _LeftOut(Exception):
  """Why a file has no text for an index."""


def _read_folder(
  root: Path, excluded: Sequence[Path], known: Known, measure: Measure
) -> Reading:
  files: list[File] = []
  skipped: dict[str, str] = {}
  real = os.path.realpath(root)
  for path, reason in walk(real, {os.path.realpath(p) for p in excluded}):
    try:
      if reason:
        raise _LeftOut(reason)
      place = os.path.join(real, path)
      files.append(_read_file(place, path, known, measure))
    except _LeftOut as left_out:
      skipped[path] = str(left_out)
  return Reading(files, skipped)


def walk(root: str, excluded: Collection[str]) -> Iterator[tuple[str, str]]:
  """Yield (path in the folder, "" or the reason to leave it out) recursively.

  A folder that is left out is listed once. Links to folders are not followed,
  so no path leads in a circle or out of the folder.
  """
  waiting = [""]
  while waiting:
    folder = waiting.pop()
    try:
      entries = sorted(os.scandir(os.path.join(root, folder)), key=_name)
    except OSError:
      yield folder or ".", "unreadable folder"
      continue
    folders = []
    for entry in entries:
      path, kind = os.path.join(folder, entry.name), _kind(entry)
      if entry.path in excluded:
        continue
      if kind == "folder":
        folders.append(path)
      else:
        yield _printable(path), "" if kind == "file" else kind
    waiting += reversed(folders)


def _name(entry: os.DirEntry) -> str:
  return entry.name


def _kind(entry: os.DirEntry) -> str:
  """ "file", "folder", or the reason why the entry is left out."""
  if _printable(entry.name) != entry.name:
    return "name not UTF-8"
  if entry.name.startswith("."):
    return "hidden"
  try:
    mode = entry.stat().st_mode
  except OSError:
    return "broken link" if entry.is_symlink() else "unreadable"
  if stat.S_ISDIR(mode):
    return _kind_of_folder(entry)
  return "file" if stat.S_ISREG(mode) else "not a file"


def _kind_of_folder(entry: os.DirEntry) -> str:
  if entry.is_symlink():
    return "linked folder"
  if entry.name in GENERATED:
    return "generated folder"
  marks = (os.path.join(entry.path, name) for name in ENVIRONMENTS)
  return "virtual environment" if any(map(os.path.lexists, marks)) else "folder"


def _printable(name: str) -> str:
  return os.fsencode(name).decode("utf-8", "replace")


def _read_file(place: str, path: str, known: Known, measure: Measure) -> File:
  data = _data(place)
  digest = hashlib.sha256(data).hexdigest()
  if (path, digest) in known:
    return known[path, digest]
  did: collections.Counter[str] = collections.Counter()
  return File(path, digest, _chunks(path, data, measure, did), _done(did))


def _chunks(
  path: str, data: bytes, measure: Measure, did: collections.Counter[str]
) -> list[chunks.Chunk]:
  """The chunks of a file's bytes, by what they are."""
  try:
    if _is_pdf(path, data):
      pages = pdf.pages(data)
      _require_text(pages)
      return chunks.page_chunks(path, pages, measure, did)
    if _is_notebook(path):
      cells = notebooks.cells(data)
      _require_text([cell.text for cell in cells])
      return chunks.cell_chunks(path, cells, measure, did)
  except ValueError as error:
    raise _LeftOut(str(error)) from None
  return chunks.chunk(path, _text(data), measure, did)


def _is_pdf(path: str, data: bytes) -> bool:
  return data.startswith(pdf.MARK) or path.lower().endswith(".pdf")


def _is_notebook(path: str) -> bool:
  return path.lower().endswith(".ipynb")


def _require_text(texts: Sequence[str]) -> None:
  if sum(map(len, texts)) > MAX_BYTES:
    raise _LeftOut("too large")
  if not texts:
    raise _LeftOut("empty")


def _done(did: Mapping[str, int]) -> dict[str, int]:
  return {name: count for name, count in did.items() if count}


def _data(place: str) -> bytes:
  try:
    with open(place, "rb") as file:
      data = file.read(MAX_BYTES + 1)
      most = MAX_BYTES
      if _is_notebook(place) or _is_pdf(place, data):
        most = MAX_PICTURED
        data += file.read(most + 1 - len(data))
  except OSError:
    raise _LeftOut("unreadable") from None
  if len(data) > most:
    raise _LeftOut("too large")
  return data


def _text(data: bytes) -> str:
  """The content of a file with "\n" line ends; _LeftOut if it is no text."""
  if b"\0" in data[:8192]:
    raise _LeftOut("binary")
  try:
    text = data.decode("utf-8-sig")
  except UnicodeDecodeError:
    raise _LeftOut("not UTF-8") from None
  if not text.strip():
    raise _LeftOut("empty")
  return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_jsonl(path: Path, measure: Measure) -> File:
  rows = jsonl.read_rows(path, ("text",), ("title",))
  numbered = enumerate((row for _, row in rows), 1)
  return of_rows(
    path, ((n, row["title"], row["text"]) for n, row in numbered), measure
  )


def of_rows(
  path: Path, rows: Iterable[tuple[int, str, str]], measure: Measure
) -> File:
  """A file of rows (number, title, text); a long text's chunks have its row."""
  with path.open("rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  did: collections.Counter[str] = collections.Counter()
  found: list[chunks.Chunk] = []
  for number, title, text in rows:
    found += chunks.row_chunks(str(path), number, title, text, measure, did)
  return File(str(path), digest, found, _done(did))
