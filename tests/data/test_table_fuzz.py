"""Random edits of files of pairs: the rows that the library of the format reads,
or file, place and reason.

TABLE_EDITS=200 makes as many edits of a file in each format; the default tests
make a few.
"""

import csv
import gzip
import io
import json
import os
import pathlib
import random
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.parquet
import pytest

from embeddinggemma.data import sources
from embeddinggemma.types import BadInput

EDITS = int(os.environ.get("TABLE_EDITS", "12"))
ROWS = [
  {
    "query": f'what "is" {i}, then\nor {i}?',
    "positive": f"it is {i} \u00fc\u4e16\U0001f600",
    "negative": f"no {i}" if i % 3 else "",
  }
  for i in range(12)
]
TEXTS = [
  "", " ", '"', ",", "\n", "\0", "\\", "null", "[", "]", "{", "}", ":", "\t",
  ";", "query", "\r", "\r\n", "\ufeff", "\u2028", "0", '""', "NaN", "'",
]  # fmt: skip
Row = tuple[str, str, str]


def as_table(delimiter: str) -> bytes:
  file = io.StringIO()
  writer = csv.DictWriter(file, ROWS[0], delimiter=delimiter)
  writer.writeheader()
  writer.writerows(ROWS)
  return file.getvalue().encode()


def as_parquet() -> bytes:
  file = pa.BufferOutputStream()
  table = pa.Table.from_pylist(ROWS)
  pyarrow.parquet.write_table(table, file, row_group_size=4, compression="none")
  return file.getvalue().to_pybytes()


def of_objects(found: list) -> list[Row]:
  """Rows of objects; ValueError for one that is none of a pair."""
  rows = []
  for row in found:
    if isinstance(row, dict):  # names are known in any case and spacing
      row = {name.strip().casefold(): value for name, value in row.items()}
    if not isinstance(row, dict) or not {"query", "positive"} <= row.keys():
      raise ValueError("no pair")
    texts = row["query"], row["positive"], row.get("negative") or ""
    if not all(isinstance(text, str) for text in texts):
      raise ValueError("no text")
    if not (texts[0].strip() and texts[1].strip()):
      raise ValueError("no text")
    rows.append((*texts[:2], texts[2] if texts[2].strip() else ""))
  return rows


def json_lines(data: bytes) -> list[Row]:
  text = data.decode("utf-8-sig")
  return of_objects([json.loads(line) for line in text.split("\n") if line])


def json_array(data: bytes) -> list[Row]:
  return of_objects(json.loads(data.decode("utf-8-sig")))


def table(delimiter: str) -> Callable[[bytes], list[Row]]:
  def read(data: bytes) -> list[Row]:
    text = io.StringIO(data.decode("utf-8-sig"), newline="")
    rows = [row for row in csv.reader(text, delimiter=delimiter) if row]
    names, *rest = rows
    if any(len(row) != len(names) for row in rest):
      raise ValueError("width")
    return of_objects([dict(zip(names, row)) for row in rest])

  return read


def parquet(data: bytes) -> list[Row]:
  found = pyarrow.parquet.read_table(pa.BufferReader(data))
  return of_objects(found.to_pylist())


# The end of the name, a whole file, and what reads it.
FORMATS = {
  "jsonl": ("".join(json.dumps(r) + "\n" for r in ROWS).encode(), json_lines),
  "json": (json.dumps(ROWS, indent=1).encode(), json_array),
  "csv": (as_table(","), table(",")),
  "tsv": (as_table("\t"), table("\t")),
  "parquet": (as_parquet(), parquet),
  "jsonl.gz": (
    gzip.compress("".join(json.dumps(r) + "\n" for r in ROWS).encode()),
    lambda data: json_lines(gzip.decompress(data)),
  ),
}


def edits(data: bytes, seed: int) -> Iterator[bytes]:
  """The file with one to three random edits, again and again."""
  draw = random.Random(seed)
  while True:
    found = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
      at = draw.randrange(len(found) + 1)
      length = draw.choice([1, 1, 4, 40])
      match draw.randrange(6):
        case 0:
          found[at:at] = draw.choice(TEXTS).encode()
        case 1:
          del found[at : at + length]
        case 2:
          found[at : at + 1] = bytes([draw.randrange(256)])
        case 3:
          found[at:at] = found[at : at + length]
        case 4:
          found[at : at + 1] = draw.choice(TEXTS).encode()
        case 5:
          found = found[:at] if draw.random() < 0.2 else found
      found = found or bytearray(b" ")
    yield bytes(found)


def ours(path: pathlib.Path) -> list[Row]:
  pairs, _ = sources.read_pairs(path)
  return [
    (pair.query, pair.positive, pair.negatives[0] if pair.negatives else "")
    for pair in pairs
  ]


@pytest.mark.parametrize("name", FORMATS)
def test_an_edited_file_gives_the_librarys_rows_or_a_reason(tmp_path, name):
  data, library = FORMATS[name]
  path = tmp_path / f"pairs.{name}"
  read = 0
  for number, edited in zip(range(EDITS), edits(data, len(name))):
    path.write_bytes(edited)
    try:
      found = ours(path)
    except BadInput as error:
      said = str(error)
      assert said.startswith(f"{path}: ") or said.startswith(f"{path}:"), said
      assert "\n" not in said
      continue
    read += 1
    assert found == library(edited), f"edit {number}"
  path.write_bytes(data)
  assert ours(path) == library(data)
  assert read or EDITS < 10
