"""Report on small models cut out of a base: what they keep, what they cost."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from embeddinggemma.report import page
from embeddinggemma.terminal.table import Table

# {"rows": [{"name", "bytes", "figures": {suite: mean, "cosine@DIM", "overlap"},
# "timing": {"query_ms", "passage_ms", "bulk_ms", "tokens_per_s", "peak_bytes"}
# or {}}], "own": the figure that stands for own data, "base": a row's name,
# "chosen": why the student is distilled, finetuned or a mean; "" without pairs,
# "teacher": its name where it is not the base, else ""}
Found = Mapping[str, Any]

CALLED = {
  "base": "base",
  "cut": "cut, untrained",
  "head": "cut, head fitted",
  "distilled": "distilled",
  "student": "student",
  "int4": "student, int4",
}
COSTS = (
  "MB of weights",
  "MB to encode",
  "ms a query",
  "ms a passage",
  "of many",
  "tokens/s",
)
PAPER = (
  "In the paper a model of 308M parameters is distilled from a larger embedding"
  " model, and loses .53 of 61.15 on MTEB multilingual in int4 by block."
)


def section(found: Found) -> Iterable[str]:
  """The section as parts of HTML."""
  if not found:
    return
  yield "<h2>Base and students</h2>"
  header, rows = quality(found)
  yield page.table(header, rows)
  if found["chosen"]:
    yield f"<p>{page.escape(found['chosen'])}</p>"
  yield page.note(about_quality(found))
  yield "<h3>Size, memory and time</h3>"
  yield page.table(("", *COSTS), costs(found))
  yield page.note(ABOUT_COSTS)
  yield page.note(PAPER)


ABOUT_COSTS = (
  "Weights: as float32, of int4 the exported file. To encode: the most that a"
  " process of its own held, program and loading included. A query and a passage"
  " are encoded alone, then many passages together. This program holds int4"
  " weights as float32 while it computes, so only the exported file is smaller"
  " in use."
)


def about_quality(found: Found) -> str:
  """What the columns mean, as a sentence."""
  likeness = (
    "Cosine: of a text's vector and the base's, on average, at the full and at a"
    " smaller dimension. Neighbours: the share of a query's ten nearest held-out"
    " passages that are the base's too."
  )
  if found.get("teacher"):
    likeness += (
      f" The teacher was {found['teacher']}, which is not scored:"
      " likeness is to the base, from which the student was cut."
    )
  if found["own"] == "overlap":
    return (
      f"{likeness} Queries are the first sentences of passages that were not"
      " taught. Own test: whether a first sentence finds its passage."
    )
  return f"No text of the own test part was taught. {likeness}"


def quality(found: Found) -> tuple[list[str], list[list[str]]]:
  """Header and rows of the table of quality."""
  figures = [row["figures"] for row in found["rows"]]
  base = next(r["figures"] for r in found["rows"] if r["name"] == found["base"])
  names = list(dict.fromkeys(name for row in figures for name in row))
  judged = _judged(found, names)
  called = {"overlap": "neighbours"}
  header = [
    "",
    *(called.get(name, name) for name in names),
    *(f"{called.get(name, name)}, of the base's" for name in judged),
  ]
  rows = [
    [
      CALLED.get(row["name"], row["name"]),
      *(page.figure(row["figures"].get(name)) for name in names),
      *(_share(row["figures"].get(name), base.get(name)) for name in judged),
    ]
    for row in found["rows"]
  ]
  return header, rows


def _judged(found: Found, names: Sequence[str]) -> list[str]:
  """The figures of which the share of the base's is given, own data first.

  The overlap is such a share itself.
  """
  wanted = (found["own"], "general")
  return [name for name in wanted if name in names and name != "overlap"]


def _share(value: float | None, base: float | None) -> str:
  return f"{value / base:.0%}" if base and value is not None else "-"


def costs(found: Found) -> list[list[str]]:
  """Rows of the table of costs; a dash where a model was not timed."""
  rows = []
  for row in found["rows"]:
    timing = row["timing"]
    peak = timing.get("peak_bytes")
    rows.append(
      [
        CALLED.get(row["name"], row["name"]),
        f"{row['bytes'] / 1e6:,.1f}" if row["bytes"] else "-",
        "-" if peak is None else f"{peak / 1e6:,.0f}",
        *(
          f"{timing[name]:.1f}" if timing else "-"
          for name in ("query_ms", "passage_ms", "bulk_ms")
        ),
        f"{timing['tokens_per_s']:,.0f}" if timing else "-",
      ]
    )
  return rows


def verdict(found: Found) -> str:
  """A sentence on what the smallest student keeps of its base."""
  by_name = {row["name"]: row for row in found["rows"]}
  base, small = by_name[found["base"]], by_name["int4"]
  said = []
  if small["bytes"]:
    sizes = (small["bytes"] / 1e6, base["bytes"] / 1e6)
    said.append("{:.1f} MB instead of {:,.1f}".format(*sizes))
  if base["timing"]:
    faster = base["timing"]["bulk_ms"] / small["timing"]["bulk_ms"]
    said.append(f"{faster:.1f} times as fast")
  names = list(small["figures"])
  for name in _judged(found, names):
    share = _share(small["figures"][name], base["figures"].get(name))
    said.append(f"{share} of the base's quality on {name}")
  if found["own"] == "overlap" and "overlap" in small["figures"]:
    said.append(
      f"{small['figures']['overlap']:.0%} of the base's nearest neighbours"
    )
  return f"student in int4: {'; '.join(said) or 'nothing to compare'}."


def forecast(found: Mapping[str, Any]) -> str:
  """The forecast time beside the time it took."""
  off = found["took"] / max(found["seconds"], 1e-9) - 1
  return (
    f"forecast {page.duration(found['seconds'])}, took"
    f" {page.duration(found['took'])} ({100 * off:+.0f}%)"
  )


def tables(found: Found) -> Iterator[Table]:
  """The same tables for the terminal."""
  yield Table(*quality(found), "Base and students")
  yield Table(("", *COSTS), costs(found), "Size, memory and time")
