"""A table of any verb keeps its figures and names at any width."""

import io

import pytest
from rich.console import Console

from embeddinggemma import doctor
from embeddinggemma.cli import models
from embeddinggemma.doctor.opened import Finding
from embeddinggemma.evaluation.published import compare, scores
from embeddinggemma.report import (
  forgetting,
  languages,
  long_context,
  precision,
  prompting,
  published,
  report,
  side_by_side,
  students,
)
from embeddinggemma.sweep import table as sweeps
from embeddinggemma.terminal import console as console_lib
from embeddinggemma.terminal.printable import printable
from embeddinggemma.terminal.table import Table

WIDTHS = (12, 20, 40, 60, 80, 200)
SYSTEMS = ("BM25 plain", "char TF-IDF", "model", "model + BM25")
QUALITY = {
  system: {
    f"task-{task}": {
      dim: {"ndcg@10": (100 * place + 10 * task + int(dim)) / 1000}
      for dim in ("1", "2")
    }
    for task in range(3)
  }
  for place, system in enumerate(SYSTEMS)
}
SURE = {
  "quality": QUALITY,
  "intervals": {"model": {"task-1": {"1": [0.19, 0.22]}}},
  "summary": {
    "mean_task": {"1": 0.25},
    "mean_type": {"1": 0.26},
    "intervals": {"mean_task": {"1": [0.23, 0.27]}},
  },
}
POINT = {"name": "step 20", "share": 0.5, "step": 20}
SUITE = {"mean": 0.512, "tasks": {"qa": {"metric": "ndcg@10", "score": 0.512}}}
SUITE["tasks"]["qa"]["queries"] = 1234
OLD = {"mean": 0.412, "tasks": {"qa": {"score": 0.412}}}
FORGETTING = {
  "before": {"own test": OLD},
  "after": {"own test": SUITE},
  "points": [POINT | {"own validation": 0.613, "general suite": 0.714}],
}
RESULTS = [
  sweeps.Result(
    f"seed={seed},optimizer.lr=0.001",
    {"seed": seed},
    [],
    "",
    exit_code,
    12.3 + seed,
    "exit 2: error: [red]no[/] such folder" if exit_code else "",
    {} if exit_code else {"loss": 1.25, "mean_type.ndcg@10": 0.375},
  )
  for seed, exit_code in ((0, 0), (1, 2))
]
FINDINGS = [
  Finding("opens", True, "an/embedding/model/with/a/long/name"),
  Finding("bidirectional", False, "12 of 103 tokens", "set attention to full"),
  Finding("reach", None, "needs bidirectional"),
]
PATH = [
  {"share": share, "scores": {"suites/own": 0.25 + share, "/data/b": 0.125}}
  for share in (0.0, 0.5)
]
STUDENTS = {
  "own": "own test",
  "base": "base",
  "chosen": "",
  "rows": [
    {
      "name": "base",
      "bytes": 1_234_500_000,
      "figures": {"own test": 0.8, "general": 0.7, "cosine@768": 1.0},
      "timing": {
        "query_ms": 41.25,
        "passage_ms": 60.5,
        "bulk_ms": 50.5,
        "tokens_per_s": 1234.0,
        "peak_bytes": 2_345_000_000,
      },
    },
    {
      "name": "int4",
      "bytes": 39_900_000,
      "figures": {"own test": 0.6, "general": 0.65, "cosine@768": 0.91},
      "timing": {},
    },
  ],
}
LANGUAGES = {
  "parts": {
    "xor": {
      "mean": {
        "members": ["fi", "ru"],
        "questions": 1928,
        "scores": {"768": {"recall@5kt": 0.8414, "recall@2kt": 0.7798}},
      },
      "families": {
        "Uralic": {
          "members": ["fi"],
          "questions": 314,
          "scores": {"768": {"recall@5kt": 0.7834, "recall@2kt": 0.7197}},
        },
      },
      "languages": {
        "fi": {
          "name": "Finnish (fi)",
          "questions": 313,
          "scores": {"768": {"recall@5kt": 0.7835, "recall@2kt": 0.7198}},
        },
        "bn": {
          "name": "Bengali (bn)",
          "questions": 304,
          "scores": {"768": {"recall@5kt": 0.9145, "recall@2kt": 0.8586}},
        },
      },
    }
  }
}
COMPARED = compare.compare(
  scores.of_json({"tasks": {"RTE3": 0.5, "XNLI": 0.9}, "dimension": 768})
)
CHECKED = {
  kind: {"mean_task": 0.5, "mean_type": 0.25, "tasks": {"a/task": 0.75}}
  for kind in ("right", "none", "of another task")
}
_SCORE = {"ndcg@10": 0.712, "accuracy@1": 0.534}
_SCORE |= {"intervals": {"ndcg@10": [0.6, 0.8], "accuracy@1": [0.4, 0.6]}}
LENGTHS = {
  "dim": 768,
  "rows": [
    {
      "task": task,
      "length": 4096,
      "beyond": True,
      "cut_at": 2048,
      "model": {
        "all": _SCORE,
        "positions": {"start": {"ndcg@10": 0.801}, "end": {"ndcg@10": 0.623}},
      },
      "words": {"all": {"ndcg@10": 0.345}},
    }
    for task in ("needle", "passage")
  ],
}
# Two models, one of which failed at a task, and a third that failed as a whole.
BESIDE = {
  "models": {
    "ours": {
      "through": "this project",
      "dims": [32, 16],
      "precision": "float",
      "truncated": {"a-task": {"cut": 3, "of": 41}},
      "prompts": {"a-task": {"query": "q: "}, "b-task": {"query": "q: "}},
    },
    "e5": {
      "through": "sentence-transformers 6.2.0",
      "dims": [24],
      "precision": "",
      "truncated": None,
      "prompts": {"a-task": {"query": "q: "}, "b-task": {"query": "q: "}},
    },
    "gone": {"given": "http://h/v1/embeddings"},
  },
  "quality": {
    "BM25 plain": {"a-task": {"": {"ndcg@10": 0.111}}},
    "char TF-IDF": {},
    "ours": {
      "a-task": {"32": {"ndcg@10": 0.222}, "16": {"ndcg@10": 0.212}},
      "b-task": {"32": {"spearman": 0.333}, "16": {"spearman": 0.323}},
    },
    "e5": {"a-task": {"24": {"ndcg@10": 0.444}}},
    "gone": {},
  },
  "main": {"a-task": "ndcg@10", "b-task": "spearman"},
  "common": ["a-task"],
  "summary": {
    "ours": {
      "mean_task": {"32": 0.225, "16": 0.215},
      "mean_type": {"32": 0.226, "16": 0.216},
    },
    "e5": {"mean_task": {"24": 0.445}, "mean_type": {"24": 0.446}},
  },
  "failed": {"e5": {"b-task": "NaN"}, "gone": {"": "no connection"}},
  "notes": {"a-task": ["one query: no mean"]},
}
NAMES = ["a-task ndcg@10", "b-task spearman", "mean over tasks", "BM25 plain"]
BESIDE_TABLES = [
  [
    *NAMES,
    *("mean over types", "ours", "e5", "gone", "failed"),
    *("0.222", "0.444", "0.333", "0.111", "0.225", "0.445", "0.226", "0.446"),
  ],
  ["dimension", "ours", "e5", "32", "16", "24", "0.225", "0.215", "0.445"],
  ["this project", "6.2.0", "float", "not known", "3 of 41", "failed"],
  ["'q: '", "a-task", "b-task", "ours", "e5"],
]
# Table -> the names and figures that must be seen, whatever the width.
TABLES = {
  **{
    f"side by side {n}": (
      lambda n=n: list(side_by_side.tables(BESIDE))[n],
      parts,
    )
    for n, parts in enumerate(BESIDE_TABLES)
  },
  "quality": (
    lambda: report.terminal_table({"quality": QUALITY}),
    [f"{system} @ {dim}" for system in SYSTEMS for dim in (1, 2)]
    + [f"task-{n} ndcg@10" for n in range(3)]
    + [
      f"{score['ndcg@10']:.3f}"
      for tasks in QUALITY.values()
      for dims in tasks.values()
      for score in dims.values()
    ],
  ),
  "intervals": (
    lambda: report.terminal_table(SURE),
    [
      "± half of the 95% interval",
      "0.211 ±.015",
      "mean over tasks",
      "0.250 ±.020",
      "mean over task types",
      "0.260",
    ],
  ),
  "before and after": (
    lambda: next(iter(forgetting.tables(FORGETTING))),
    [
      "own test",
      "qa, ndcg@10",
      "queries",
      "1234",
      "before",
      "0.412",
      "after",
      "0.512",
      "change",
      "+0.100",
    ],
  ),
  "candidates": (
    lambda: list(forgetting.tables(FORGETTING))[1],
    [
      "candidate",
      "step 20",
      "own validation",
      "0.613",
      "general suite",
      "0.714",
    ],
  ),
  "students": (
    lambda: next(iter(students.tables(STUDENTS))),
    ["student, int4", "own test, of the base's", "75%", "93%", "0.910"],
  ),
  "costs": (
    lambda: list(students.tables(STUDENTS))[1],
    [
      "MB of weights",
      "1,234.5",
      "2,345",
      "41.2",
      "ms a query",
      "39.9",
      "1,234",
    ],
  ),
  "precision": (
    lambda: precision.table(
      [
        {
          "weights": precision.ROUNDED,
          "precision": "int4",
          "bytes": 12_300_000,
          "scores": {"mean": 0.4321},
        }
      ]
    ),
    ["precision", "int4", "weights", "rounded", "MB", "12.3", "mean", "0.4321"],
  ),
  "languages": (
    lambda: next(languages.tables(LANGUAGES)),
    [
      "questions",
      "recall@5kt",
      "mean of 2",
      "1928",
      "0.8414",
      "Uralic of 1",
      "314",
      "0.7834",
      "Finnish (fi)",
      "313",
      "0.7198",
      "Bengali (bn)",
      "0.8586",
    ],
  ),
  "lengths": (
    lambda: long_context.table(LENGTHS),
    [
      "needle 4096 *, cut at 2048",
      "passage 4096 *, cut at 2048",
      "nDCG@10",
      "0.712 ±.100",
      "accuracy@1",
      "0.534 ±.100",
      "start",
      "0.801",
      "end",
      "0.623",
      "BM25",
      "0.345",
    ],
  ),
  "sweep": (
    lambda: sweeps.table(RESULTS, "loss"),
    [
      "run",
      "seed=0,optimizer.lr=0.001",
      "loss",
      "1.250",
      "mean_type.ndcg@10",
      "0.375",
      "time",
      "12.3 s",
      "13.3 s",
      "done",
      "[red]no[/]",
    ],
  ),
  "doctor": (
    lambda: doctor.as_table(FINDINGS),
    [
      "check",
      "reason and fix",
      "opens",
      "pass",
      "with/a/long/name",
      "FAIL",
      "12 of 103 tokens",
      "fix: set attention to full",
      "not run",
    ],
  ),
  "beside the paper": (
    lambda: next(published.tables(COMPARED)),
    [
      "ours",
      "paper",
      "difference",
      "PairClassification, 2 of 11",
      "RTE3",
      "89.67",
      "-39.67",
      "XNLI",
      "+8.27",
      "mean over 2 of 131 tasks",
      "mean over 1 of 9 types",
    ],
  ),
  "published means": (
    lambda: list(published.tables(COMPARED))[1],
    [
      "model",
      "mean over tasks",
      "EmbeddingGemma 308M, 768 dimensions, int8_block",
      "60.93",
      "Gecko 278M",
      "46.23",
    ],
  ),
  "published types": (
    lambda: list(published.tables(COMPARED))[2],
    ["MultilabelClassification", "BGE-M3 568M", "-3.11", "65.20"],
  ),
  "prompts": (
    lambda: prompting.used({"a/task": {"query": "task: x | query: "}}),
    ["before queries", "'task: x | query: '", "as queries", "a/task"],
  ),
  "prompts checked": (
    lambda: prompting.checked(CHECKED),
    ["right", "none", "of another task", "a/task", "0.750", "0.250"],
  ),
  "soup --path": (
    lambda: models._path_table(PATH),
    [
      "weights",
      "1.000 0.000",
      "0.500 0.500",
      "suites/own",
      "0.2500",
      "0.7500",
      "/data/b",
      "0.1250",
    ],
  ),
}


def render(table: Table, width: int) -> list[str]:
  """The lines of a table on a console of a width."""
  out = io.StringIO()
  Console(file=out, width=width, color_system=None).print(table)
  return out.getvalue().splitlines()


def squeezed(text: str) -> str:
  """A text without white space: what is folded is there all the same."""
  return "".join(text.split())


def test_what_failed_is_told_below_the_tables():
  assert list(side_by_side.lines(BESIDE)) == [
    "note: a-task: one query: no mean",
    "failed: e5: b-task: NaN",
    "failed: gone: no connection",
  ]
  [title, *_] = render(next(iter(side_by_side.tables(BESIDE))), 200)
  assert "means over the 1 of 2 tasks that all models have" in title


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", TABLES)
def test_nothing_is_lost(name, width):
  make, parts = TABLES[name]
  shown = render(make(), width)
  seen = squeezed("".join(shown))
  if name in (
    "sweep",
    "doctor",
    "prompts",
  ):  # whose sentences are folded in columns
    parts = [word for part in parts for word in part.split()]
  assert [part for part in parts if squeezed(part) not in seen] == [], shown
  assert all(len(line) <= width for line in shown)
  assert "…" not in seen


@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_a_name_that_fits_a_line_is_on_one(width):
  make, parts = TABLES["quality"]
  shown = "\n".join(render(make(), width))
  assert all(part in shown for part in parts if len(part) < width - 2)


def test_a_table_is_turned_where_that_fits():
  few = {name: {"t": tasks["task-0"]} for name, tasks in QUALITY.items()}
  table = report.terminal_table({"quality": few})
  wide, narrow = render(table, 200), render(table, 40)
  assert len(wide) == 4 and "model + BM25 @ 2" in wide[1]
  assert len(narrow) == 3 + 2 * len(SYSTEMS)
  assert narrow[-1].startswith("model + BM25 @ 2 ")
  assert narrow[-1].rstrip().endswith("0.302")


def test_names_are_shown_as_they_are():
  name = "[red]\x1b[2J\u202e:smile:\n日本語"
  table = Table(["", name], [[name, "1.0"], ["b", [(name, "bold")]]], name)
  for width in (16, 40, 100):
    shown = squeezed("".join(render(table, width)))
    assert shown.count(squeezed(printable(name))) >= 4
    assert "\x1b" not in shown


def test_a_reason_is_one_line_and_its_fix_another():
  found = [Finding("opens", False, "no\nfix: none \x1b", "give\nanother")]
  for width in (40, 80):
    shown = "\n".join(render(doctor.as_table(found), width))
    assert r"no\nfix: none \x1b" in shown and r"fix: give\nanother" in shown


def test_a_table_of_nothing_is_its_title():
  assert render(Table([], [], "Quality"), 40) == ["Quality"]
  assert render(Table(["", "a"], []), 40)[0].split() == ["a"]


@pytest.mark.parametrize(
  ("columns", "bounded"),
  [("40", True), ("", False), ("0", False), ("\N{SUPERSCRIPT TWO}", False)],
)
def test_a_pipe_gets_whole_rows(monkeypatch, columns, bounded):
  """rich takes a pipe for a terminal of 80 columns."""
  monkeypatch.setenv("COLUMNS", columns)
  console = console_lib.Terminal(stderr=False)
  out = console.file = io.StringIO()
  table = Table(["", *("name " * 6 + str(n) for n in range(9))], [["a"] * 10])
  console.print(table)
  shown = out.getvalue().splitlines()
  assert (max(map(len, shown)) <= 40) == bounded
  if not bounded:
    assert len(shown) == 3
    assert all("name " * 6 + str(n) in shown[0] for n in range(9))
