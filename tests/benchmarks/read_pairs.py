"""Seconds and memory of reading pairs, beside those of `datasets`.

  python tests/benchmarks/read_pairs.py [--pairs=1000000] [--folder=DIR]

Writes as many pairs as Parquet and as JSONL, and reads each file in processes of
their own: `embeddinggemma` checks every row, then reads all pairs once more;
`datasets` builds its cache, then reads all rows once. Prints a line for each,
and the ratio of the seconds. Needs pip install '.[data]'.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

OURS = """
import pathlib, sys, time
from embeddinggemma.data import sources
before, started = time.perf_counter(), time.process_time()
pairs, _ = sources.read_pairs(pathlib.Path(sys.argv[1]))
checked = time.perf_counter()
letters = sum(len(pair.query) + len(pair.positive) for pair in pairs)
"""
THEIRS = """
import sys, tempfile, time
import datasets
datasets.disable_progress_bars()
name = {"parquet": "parquet", "jsonl": "json"}[sys.argv[1].rsplit(".")[-1]]
before, started = time.perf_counter(), time.process_time()
with tempfile.TemporaryDirectory() as cache:
  rows = datasets.load_dataset(
    name, data_files=sys.argv[1], split="train", cache_dir=cache
  )
  checked = time.perf_counter()
  letters = sum(len(row["query"]) + len(row["positive"]) for row in rows)
"""
SAYS = """
import json, resource
print(json.dumps({
  "first": checked - before,
  "all": time.perf_counter() - before,
  "cpu": time.process_time() - started,
  "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
  "letters": letters,
}))
"""


def write(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
  """The same pairs as Parquet and as JSONL: 8 words and 40 words."""
  import pyarrow as pa
  import pyarrow.parquet

  draw = random.Random(0)
  words = [f"word{n}" for n in range(5000)]
  paths = [folder / "pairs.parquet", folder / "pairs.jsonl"]
  schema = pa.schema([("query", pa.string()), ("positive", pa.string())])
  with (
    pyarrow.parquet.ParquetWriter(paths[0], schema) as table,
    paths[1].open("w") as lines,
  ):
    for start in range(0, count, 50_000):
      rows = [
        {
          "query": f"{number} " + " ".join(draw.choices(words, k=8)),
          "positive": " ".join(draw.choices(words, k=40)),
        }
        for number in range(start, min(start + 50_000, count))
      ]
      table.write_table(pa.Table.from_pylist(rows, schema))
      lines.writelines(json.dumps(row) + "\n" for row in rows)
  return paths


def measured(program: str, path: pathlib.Path) -> dict[str, float]:
  """What a process of its own says of reading a file."""
  argv = [sys.executable, "-c", program + SAYS, str(path)]
  done = subprocess.run(argv, capture_output=True, text=True, check=True)
  return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
  """Measure and print."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--pairs", type=int, default=1_000_000)
  parser.add_argument("--folder", default=None, help="where files are written")
  given = parser.parse_args()
  with tempfile.TemporaryDirectory(dir=given.folder) as name:
    for path in write(pathlib.Path(name), given.pairs):
      ours, theirs = measured(OURS, path), measured(THEIRS, path)
      assert ours["letters"] == theirs["letters"]
      for who, found in ("embeddinggemma", ours), ("datasets", theirs):
        print(
          f"{path.suffix[1:]:8} {who:15} first {found['first']:6.1f} s, all read"
          f" {found['all']:6.1f} s, processor {found['cpu']:6.1f} s,"
          f" {found['mb']:5.0f} MB"
        )
      ratio = {key: ours[key] / theirs[key] for key in ("all", "cpu")}
      print(
        f"{path.suffix[1:]:8} ratio {ratio['all']:.2f}, of the processor's time"
        f" {ratio['cpu']:.2f}"
      )


if __name__ == "__main__":
  main()
