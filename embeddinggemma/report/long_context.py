"""Report on quality against the length of documents."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from embeddinggemma.quantize import FLOAT
from embeddinggemma.report import page, plots
from embeddinggemma.terminal.table import Cell, Table

Found = Mapping[str, Any]  # what evaluation.long_context.run has under FOUND
MODEL, WORDS, CHANCE = "model", "BM25", "a random order"
BEYOND = "beyond the trained length"
MARK = "*"  # of a length beyond it
METRICS = ("ndcg@10", "accuracy@1")
HEADER = ("nDCG@10", "accuracy@1")
MEANING = (
  "Each document is running text that holds a fact (needle) and a passage of"
  " another text. Queries ask for the one and the other among the documents of"
  " one length; a document grows by running text alone. By position is nDCG@10 of"
  " the queries whose answer stands there; BM25 does not see where words stand,"
  " and so says how hard these queries are. Intervals are 95%, by the bootstrap"
  " over queries."
)
PAPER = (
  "The paper evaluates with up to 2,048 tokens where texts are long, and prints"
  " nothing by length. On LongEmbed, third parties found 55.3 for"
  " EmbeddingGemma, over lengths of 256 to 32,768."
)


def table(found: Found) -> Table:
  """A table for the terminal, with a row for each task and length."""
  places = list(found["rows"][0]["model"]["positions"])
  shown = []
  for row in found["rows"]:
    cells: list[Cell] = [
      *(_with_half(row["model"]["all"], metric) for metric in METRICS),
      *(page.figure(_ndcg(row, "model", place)) for place in places),
      page.figure(_ndcg(row, "words")),
    ]
    shown.append([_name(row), *cells])
  title = (
    f"Quality against length, {found['dim']} dimensions (± half of the 95%"
    " interval)"
  )
  return Table(["tokens", *HEADER, *places, WORDS], shown, title)


def _ndcg(row: Mapping[str, Any], system: str, place: str = "") -> float:
  """nDCG@10 of all queries, or of those whose answer stands at a place."""
  own = row[system]
  return (own["positions"][place] if place else own["all"])["ndcg@10"]


def _with_half(score: Mapping[str, Any], metric: str) -> list[tuple[str, str]]:
  low, high = score["intervals"][metric]
  half = f"{(high - low) / 2:.3f}".removeprefix("0")
  return [(page.figure(score[metric]), ""), (f" ±{half}", "dim")]


def _name(row: Mapping[str, Any]) -> str:
  """Task and length, with a mark beyond the trained length, and any cut."""
  mark = f" {MARK}" if row["beyond"] else ""
  cut = f", cut at {row['cut_at']}" if row["cut_at"] else ""
  return f"{row['task']} {row['length']}{mark}{cut}"


def notes(found: Found) -> Iterator[str]:
  """What the figures mean, in sentences."""
  by_chance = found["chance"]
  yield (
    f"{found['documents']} documents of each length; {CHANCE} of them has"
    f" nDCG@10 {by_chance['ndcg@10']:.3f} and accuracy@1"
    f" {by_chance['accuracy@1']:.3f}"
  )
  if found["precision"] != FLOAT:
    yield f"with weights rounded to {found['precision']}"
  if any(row["beyond"] for row in found["rows"]):
    yield (
      f"{MARK} {BEYOND} of {found['trained_length']} tokens, known from"
      f" {found['trained_known_from']}"
    )
  most = found["max_length"]
  if any(not row["cut_at"] and row["length"] > most for row in found["rows"]):
    yield (
      f"documents of more than {most} tokens were read whole here; elsewhere the"
      " model cuts them there"
    )
  if any(row["cut_at"] for row in found["rows"]):
    yield "of documents that were cut, a part of the answers is missing"
  if found["uses"] > 1:
    yield (
      f"the text is short: {found['uses']:.1f} of the longest documents hold the"
      " same running text, on average"
    )


def section(found: Found) -> Iterable[str]:
  """The section as parts of HTML; nothing of no results."""
  if not found:
    return
  yield "<h2>Quality against length</h2>"
  places = list(found["rows"][0]["model"]["positions"])
  yield page.table(
    ("tokens", *HEADER, *places, WORDS),
    [
      [
        page.Noted(f"{row['task']} {row['length']}", _said(row)),
        *(_cell(row["model"]["all"], metric) for metric in METRICS),
        *(_at(row, place) for place in places),
        _cell(row["words"]["all"], METRICS[0]),
      ]
      for row in found["rows"]
    ],
  )
  for task in dict.fromkeys(row["task"] for row in found["rows"]):
    yield f"<h3>{page.escape(task)}</h3>"
    yield _plot(found, task)
  for line in (MEANING, *notes(found), PAPER):
    yield page.note(line)


def _cell(score: Mapping[str, Any], metric: str) -> page.Noted:
  low, high = (page.figure(end) for end in score["intervals"][metric])
  return page.Noted(page.figure(score[metric]), f"{low} to {high}")


def _at(row: Mapping[str, Any], place: str) -> page.Noted:
  """The cell of a position, with what search by words finds of the same."""
  cell = _cell(row["model"]["positions"][place], METRICS[0])
  words = page.figure(_ndcg(row, "words", place))
  return page.Noted(cell.text, f"{cell.note}; {WORDS} {words}")


def _said(row: Mapping[str, Any]) -> str:
  beyond = [BEYOND] if row["beyond"] else []
  cut = [f"cut at {row['cut_at']}"] if row["cut_at"] else []
  return ", ".join(beyond + cut)


def _plot(found: Found, task: str) -> str:
  """nDCG@10 of a task against length, in all and by position."""
  rows = [row for row in found["rows"] if row["task"] == task]
  lengths = [row["length"] for row in rows]
  lines = {MODEL: [_ndcg(row, "model") for row in rows]}
  lines |= {
    place: [_ndcg(row, "model", place) for row in rows]
    for place in rows[0]["model"]["positions"]
  }
  lines[WORDS] = [_ndcg(row, "words") for row in rows]
  beyond = [row["length"] for row in rows if row["beyond"]]
  return plots.lines(
    f"long-{task}",
    {name: (lengths, values) for name, values in lines.items()},
    "tokens of a document",
    "nDCG@10",
    {CHANCE: found["chance"]["ndcg@10"]},
    lengths,
    (BEYOND, found["trained_length"]) if beyond else None,
  )


def write_page(path: Path, found: Found, model: str) -> None:
  """A page of its own on one model's quality against length."""
  body = [f"<h1>{page.escape(model)}</h1>", *section(found)]
  whole = page.document("embeddinggemma: quality against length", body)
  path.write_text(whole, encoding="utf-8", newline="\n")
