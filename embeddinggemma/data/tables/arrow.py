"""The rows of Parquet and Arrow files, by pyarrow."""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from embeddinggemma.data.tables import columns, opening
from embeddinggemma.data.tables.fields import Fields
from embeddinggemma.data.tables.rows import Read, Say
from embeddinggemma.types import BadInput

_ROWS = 2048  # of a batch


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
  """Errors of pyarrow as BadInput that names the file."""
  pyarrow = opening.library()
  try:
    yield
  except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
    reason = (str(error).splitlines() or ["?"])[0].rstrip(".")
    raise BadInput(f"{path}: cannot be read ({reason})") from None


def parquet(path: Path, fields: Fields, say: Say) -> Iterator[Read]:
  """The rows of a Parquet file; only the columns that are used are read."""
  del say
  opening.library()
  import pyarrow.parquet

  with (
    _named(path),
    contextlib.closing(
      pyarrow.parquet.ParquetFile(path, memory_map=True)
    ) as file,
  ):
    schema = file.schema_arrow
    first = next(_rows(schema, file.iter_batches(1), schema.names), None)
    used = _used(path, schema.names, first, fields)
    batches = file.iter_batches(_ROWS, columns=used)
    yield from _numbered(_rows(schema, batches, used))


def arrow(path: Path, fields: Fields, say: Say) -> Iterator[Read]:
  """The rows of an Arrow file: a stream, as `datasets` saves it, or Feather."""
  del say
  pyarrow = opening.library()
  with _named(path), pyarrow.memory_map(str(path)) as mapped:
    batches, schema = _batches(pyarrow, mapped)
    first = next(batches, None)
    ahead = [] if first is None else [first]
    shown = next(_rows(schema, ahead, schema.names), None)
    used = _used(path, schema.names, shown, fields)
    pieces = (
      batch.slice(start, _ROWS)
      for batch in itertools.chain(ahead, batches)
      for start in range(0, batch.num_rows, _ROWS)
    )
    yield from _numbered(_rows(schema, pieces, used))


def _batches(pyarrow: Any, mapped: Any) -> tuple[Iterator[Any], Any]:
  try:
    reader = pyarrow.ipc.open_file(mapped)
  except pyarrow.ArrowInvalid:
    mapped.seek(0)
    reader = pyarrow.ipc.open_stream(mapped)
    return iter(reader), reader.schema
  count = reader.num_record_batches
  return (reader.get_batch(n) for n in range(count)), reader.schema


def _used(
  path: Path,
  names: Sequence[str],
  first: Mapping[str, Any] | None,
  fields: Fields,
) -> list[str]:
  """The columns to read; BadInput if they are not understood, or twice there."""
  for name in names:
    if names.count(name) > 1:
      raise BadInput(f"{path}: two columns are called {name!r}; rename one")
  row = first or dict.fromkeys(names)
  try:
    used = columns.plan(row, fields).used
  except ValueError as error:
    raise BadInput(f"{path}: {error}") from None
  tops = {name if name in row else name.partition(".")[0] for name in used}
  return [name for name in names if name in tops]


def _rows(
  schema: Any, batches: Iterable[Any], used: Sequence[str]
) -> Iterator[dict[str, Any]]:
  """Rows with the names of the schema; columns that are not used are None."""
  names = schema.names
  classes = _classes(schema)
  for batch in batches:
    there = {
      name: _values(
        batch.column(batch.schema.get_field_index(name)), classes.get(name)
      )
      for name in used
    }
    none = itertools.repeat(None)
    for cells in zip(*(there.get(name, none) for name in names)):
      yield dict(zip(names, cells))


def _values(column: Any, classes: Sequence[str] | None) -> list[Any]:
  """The Python values; a label that stands for a class is the class's name."""
  found = column.to_pylist()
  if not classes:
    return found
  inside = lambda n: isinstance(n, int) and 0 <= n < len(classes)
  return [classes[n] if inside(n) else n for n in found]


def _classes(schema: Any) -> dict[str, list[str]]:
  """The names of classes that `datasets` keeps beside a schema, by column."""
  try:
    about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = about.get("info", {}).get("features", {})
    return {
      name: feature["names"]
      for name, feature in features.items()
      if isinstance(feature, dict) and isinstance(feature.get("names"), list)
    }
  except (ValueError, AttributeError):
    return {}


def _numbered(rows: Iterable[dict[str, Any]]) -> Iterator[Read]:
  return (Read(number, -1, row) for number, row in enumerate(rows, 1))


READERS: Mapping[str, Callable[[Path, Fields, Say], Iterator[Read]]] = {
  ".parquet": parquet,
  ".arrow": arrow,
  ".feather": arrow,
}
