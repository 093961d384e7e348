"""Names, documents and values from anywhere add nothing to a page but text."""

import html.parser
import re
from typing import Any

import pytest

from embeddinggemma.report import plots, report
from embeddinggemma.sweep import table as sweeps
from embeddinggemma.terminal.printable import lines

HOSTILE = (
  '<script>alert("1")</script>',
  '"><img src=x onerror=alert(1)>',
  "'><svg/onload=alert(1)>",
  "</style></title></pre><b>",
  "</text></svg><iframe src='//a'>",
  "javascript:alert(1) &lt;b&gt; &#60;i>",
  "<!-- ]]> <![CDATA[ <?php -->",
  'a" xmlns="b" xlink:href="#c" #010203',
  "$\\alpha$ _x^2 \\frac{1}{",
  "_hidden",
  "\x1b[2J\x07\x00\x9b1m \u202e\u2066\u200b",
  "日本語 العربية " + "long " * 20,
)


class Reader(html.parser.HTMLParser):
  """The elements, attributes and texts of a page."""

  def __init__(self) -> None:
    super().__init__()
    self.tags: set[str] = set()
    self.attributes: set[tuple[str, str]] = set()
    self.links: set[str | None] = set()
    self.other: list[str] = []
    self.text = ""

  def handle_starttag(self, tag: str, attrs: Any) -> None:
    self.tags.add(tag)
    self.attributes |= {(tag, name) for name, _ in attrs}
    self.links |= {value for name, value in attrs if name in ("href", "src")}

  def handle_data(self, data: str) -> None:
    self.text += data

  def handle_comment(self, data: str) -> None:
    self.other.append(data)

  unknown_decl = handle_pi = handle_comment


def read(page: str) -> Reader:
  reader = Reader()
  reader.feed(page)
  reader.close()
  return reader


def summary(name: str) -> dict[str, Any]:
  """What a run's page is made of, with a name wherever a text may stand."""
  scores = {"ndcg@10": 0.5}
  quality = {s: {name: {d: scores for d in ("1", "2")}} for s in (name, "b")}
  by_stage = {
    side: {m: {"mean": 0.5, name: 0.4} for m in (name, "soup", "finetune 1")}
    for side in ("validation", "test", name)
  }
  suite = {
    "mean": 0.5,
    "tasks": {name: {"metric": name, "score": 0.5, "queries": 3}},
  }
  rows = [
    {
      "weights": weights,
      "precision": name,
      "bytes": 10,
      "scores": {name: 0.5, "mean": 0.5},
    }
    for weights in ("as trained", "rounded", "trained for it")
  ]
  trial = {"source": name, "weights": {name: 1.0}, "scores": {name: 0.5}}
  trial |= {"score": 0.5, "infeasible": name}
  score = {"ndcg@10": 0.5, "accuracy@1": 0.4}
  score |= {"intervals": dict.fromkeys(score, (0.3, 0.6))}
  every = {"all": score, "positions": {name: score}}
  start = {"init": name, "seed": 0, "validation": 0.4, "test": None}
  return {
    "stages": [
      {"name": name, "seconds": 1.0, "hash": name, "metrics": {name: 1.0}}
    ],
    "final": {name: name},
    "seconds": 3.0,
    "command": f"embeddinggemma query '{name}'",
    "data_hash": name,
    "versions": {name: name},
    "quality": quality,
    "souped": by_stage,
    "precision": {name: rows},
    "exports": [
      {"model": name, "format": name, "dtype": name, "bytes": 1}
      | {"verdict": name, "cosine": None}
    ],
    "forgetting": {
      "before": {name: suite},
      "after": {name: suite},
      "points": [{"name": name, name: 0.5}],
      "chosen": name,
      "reason": name,
    },
    "long_context": {
      "documents": 12,
      "uses": 2.0,
      "trained_length": 64,
      "trained_known_from": name,
      "max_length": 64,
      "precision": name,
      "chance": score,
      "rows": [
        {"task": name, "length": length, "beyond": length > 64, "cut_at": cut}
        | dict.fromkeys(("model", "words"), every)
        for length, cut in ((64, None), (128, 64), (256, None))
      ],
    },
    "mixtures": {
      "trials": [trial | {"number": n} for n in range(2)],
      "picked": [{"reason": name}],
    },
    "ablation": {"seeds": [0], "scores": {name: {name: [{"mean": 0.5}]}}},
    "initialisation": {
      "metric": name,
      "task": name,
      "steps": 1,
      "of": 2,
      "chosen": name,
      "rows": [start, start | {"init": "b"}],
    },
    "curves": {
      name: [
        {"step": n, "loss": 1.0, "grad_norm": 1.0, "task": (name, "b")[n % 2]}
        for n in range(9)
      ]
    },
  }


def checked(page: str, plain: str, name: str) -> Reader:
  """A page, held against the same page with a plain name."""
  found, known = read(page), read(plain)
  assert found.tags <= known.tags
  assert found.attributes <= known.attributes
  assert all(str(link).startswith("#") for link in found.links)
  assert found.other == []
  shown = "".join(lines(name).split())
  assert shown in "".join(found.text.split())
  assert re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page) is None
  return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
  """The page with a name that nobody minds."""
  path = tmp_path_factory.mktemp("plain") / "report.html"
  report.write_report(path, summary("a long and harmless name " * 3))
  return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_nothing_but_text(tmp_path, plain, name):
  path = tmp_path / "report.html"
  report.write_report(path, summary(name))
  found = checked(path.read_text(encoding="utf-8"), plain, name)
  assert not found.tags & {"script", "img", "iframe", "b", "link", "a"}


def test_a_page_may_fetch_and_run_nothing(plain):
  assert (
    'http-equiv="Content-Security-Policy" content="default-src \'none\';'
    in plain
  )
  assert plain.index("Content-Security-Policy") < plain.index("<style")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_sweep_of_hostile_values(name):
  def page(name: str) -> str:
    result = sweeps.Result(
      name, {name: name}, [name], "", 1, 1.0, name, {name: 0.5}
    )
    return sweeps.document([result], name)

  checked(page(name), page("a long and harmless name " * 3), name)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", [*HOSTILE, "", "x" * 300])
def test_a_label_is_drawn_as_it_is(name):
  """Of no font, of any length, and where matplotlib leaves a label out."""
  svg = plots.lines("a", {name: ([1, 2], [1, 2])}, name, "y", {"b": 1.5})
  drawn = read(svg)
  want = "".join(lines(name).split())
  assert "".join(drawn.text.split()).count(want) >= 2
  svg = plots.dots("a", {"s": {name: (1, 2)}, name: {name: (1,)}}, "x")
  assert "".join(read(svg).text.split()).count(want) >= 2
