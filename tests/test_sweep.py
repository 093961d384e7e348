"""Sweeps: what parses, what points there are, and how runs end."""

import io
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from embeddinggemma.cli import flags as command_line
from embeddinggemma.cli.verbs import VERBS
from embeddinggemma.sweep import expression
from embeddinggemma.sweep import points as points_lib
from embeddinggemma.sweep import run as run_lib
from embeddinggemma.sweep import table as page_lib
from embeddinggemma.types import BadInput

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("product(seed=[0, 1])", [{"seed": 0}, {"seed": 1}]),
    (
      "product(seed=[0,1],optimizer.lr=[1e-3,3e-4])",
      [
        {"seed": 0, "optimizer.lr": 1e-3},
        {"seed": 0, "optimizer.lr": 3e-4},
        {"seed": 1, "optimizer.lr": 1e-3},
        {"seed": 1, "optimizer.lr": 3e-4},
      ],
    ),
    (
      "product(seed=[0, 1], zip(steps=[10, 20], batch_size=[8, 16]))",
      [
        {"seed": 0, "steps": 10, "batch_size": 8},
        {"seed": 0, "steps": 20, "batch_size": 16},
        {"seed": 1, "steps": 10, "batch_size": 8},
        {"seed": 1, "steps": 20, "batch_size": 16},
      ],
    ),
    (
      "zip(product(a=[1,2],b=[3,4]),c=[5,6,7,8],)",
      [
        {"a": 1, "b": 3, "c": 5},
        {"a": 1, "b": 4, "c": 6},
        {"a": 2, "b": 3, "c": 7},
        {"a": 2, "b": 4, "c": 8},
      ],
    ),
    (
      "\nproduct(\n\tx = ['a b', \"it's\", True, false, None, -1, +.5, 1_000,],\n)",
      [
        {"x": value}
        for value in ("a b", "it's", True, False, None, -1, 0.5, 1000)
      ],
    ),
    (
      "product(loss.matryoshka=[(8, 16), [32], ()])",
      [{"loss.matryoshka": value} for value in ((8, 16), (32,), ())],
    ),
    (r"product(x=('a\'b', '\n'))", [{"x": "a'b"}, {"x": "\n"}]),
  ],
)
def test_points(text, expected):
  found = points_lib.points(text)
  assert found == expected
  assert [list(point) for point in found] == [list(point) for point in expected]
  types = lambda points: [[type(v) for v in p.values()] for p in points]
  assert types(found) == types(expected)


# The caret stands under the first character of the expression's last «.
@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("«", "expected product(...) or zip(...)"),
    ("«prodct(seed=[0])", "unknown function 'prodct'; did you mean 'product'?"),
    ("«3", "expected product(...) or zip(...), not '3'"),
    ("product«", "expected ( after product"),
    ("product(«", "expected key=[...], product(...) or zip(...)"),
    ("«product()", "product of nothing; give it key=[...]"),
    ("product(seed=«[])", "seed has no values"),
    ("product(seed=«3)", "seed needs a list, such as [0, 1]"),
    ("product(seed«)", "expected = or ( after seed, not ')'"),
    ("product(seed=[0, 1«", "expected , or ]"),
    ("product(seed=[0, 1]«", "expected , or )"),
    ("product(seed=[0 «1])", "expected , or ], not '1'"),
    ("product(seed=[0«)", "expected , or ], not ')'"),
    ("product(seed=[«,])", "expected a value"),
    ("product(seed=[0]) «x", "expected the end, not 'x'"),
    ("product(name=[«abc])", "text needs quotes: 'abc'"),
    ("product(name=[«'abc])", '"\'" does not belong here'),
    (r"product(name=[«'\x'])", "text with a broken escape"),
    ("product(seed=[0], «seed=[1])", "seed is given twice"),
    ("product(seed=[0], «zip(a=[1], seed=[1]))", "seed is given twice"),
    (
      "zip(steps=[1, 2], «size=[1, 2, 3])",
      "zip needs as many values everywhere, not 2 and then 3",
    ),
    (
      "zip(a=[1, 2], «product(b=[1, 2], c=[1, 2]))",
      "zip needs as many values everywhere, not 2 and then 4",
    ),
    (
      "product(«1=[2])",
      "expected key=[...], product(...) or zip(...), not '1'",
    ),
    ("product(a-b=[2])".replace("-", "«-"), "'-' does not belong here"),
    ("product(a.«=[1])", "'.' does not belong here"),
    ("product(a=[1], «grid(b=[2]))", "unknown function 'grid'; known: product"),
    ("product(a=[«__import__('os')])", "text needs quotes: '__import__'"),
  ],
)
def test_what_does_not_parse(text, message):
  place = text.index("«")
  text = text.replace("«", "")
  if message.startswith("'.'"):
    place -= 1  # the dot itself
  with pytest.raises(BadInput) as caught:
    expression.parse(text)
  first, shown, caret = str(caught.value).split("\n")
  assert first.startswith(f"sweep: {message}")
  assert shown == text
  assert caret == " " * place + "^"


@settings(deadline=None, max_examples=60)
@given(st.text("product(zip)=[,] seed.lr'\"0123e-_\\\n", max_size=40))
def test_anything_parses_or_has_a_caret(text):
  try:
    expression.parse(text)
  except BadInput as error:
    lines = str(error).split("\n")
    assert len(lines) == 3
    assert len(lines[1]) == len(text)
    assert len(lines[2]) <= len(text) + 1


values = st.recursive(
  st.none()
  | st.booleans()
  | st.integers()
  | st.floats(allow_nan=False)
  | st.text(max_size=8),
  lambda inner: st.lists(inner, max_size=3).map(tuple),
  max_leaves=4,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(values, min_size=1, max_size=4))
def test_parse_reads_what_python_writes(found):
  if "inf" in repr(found):
    return
  read = expression.parse(f"zip(key={found!r})").parts[0]
  assert isinstance(read, expression.Axis)
  assert repr(list(read.values)) == repr(found)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(values, values), min_size=2, max_size=6))
def test_names_are_unique_and_safe(pairs):
  points = [{"a": a, "b.c": b} for a, b in pairs]
  names: dict[str, str] = {}
  for point in points:
    name = points_lib.name_of(point)
    assert re.fullmatch(r"[A-Za-z0-9_.+=,-]{1,100}", name)
    assert names.setdefault(name, repr(point)) == repr(point)
    assert points_lib.name_of(dict(point)) == name


@pytest.mark.parametrize(
  ("point", "name"),
  [
    ({"seed": 0, "optimizer.lr": 1e-3}, "seed=0,optimizer.lr=0.001"),
    ({"init": "lsa", "x": True, "y": None}, "init=lsa,x=True,y=None"),
    ({"lr": 1e-05, "n": -3}, "lr=1e-05,n=-3"),
    ({}, "base"),
  ],
)
def test_names_read_well(point, name):
  assert points_lib.name_of(point) == name


def test_long_and_strange_names_end_in_a_hash():
  long = {f"key{n}": n for n in range(40)}
  assert re.fullmatch(r"key0=0,.*-[0-9a-f]{8}", points_lib.name_of(long))
  path = points_lib.name_of({"data.path": "../a b"})
  assert re.fullmatch(r"data\.path=\.\.-a-b-[0-9a-f]{8}", path)
  assert path != points_lib.name_of({"data.path": "..-a-b"})


@pytest.mark.parametrize(
  ("points", "message"),
  [
    ([], "there are no points"),
    ([{"a": 1}, {"a": 1}], "the point a=1 comes twice"),
    ("product(a=[1, 2, 1])", "the point a=1 comes twice"),
    ([{"a b": 1}], "'a b' is no config key"),
    ([{"a": {"b": 1}}], r"a=\{'b': 1\}; use numbers"),
    (
      f"product({','.join(f'k{n}={list(range(10))}' for n in range(9))})",
      "1000000000 points; at most 10000",
    ),
  ],
)
def test_bad_points(points, message):
  with pytest.raises(BadInput, match=message):
    points_lib.points(points)


def test_a_config_may_offer_its_points(tmp_path):
  config = tmp_path / "mine.py"
  config.write_text("def sweep():\n  return 'product(seed=[3, 4])'\n")
  assert points_lib.read_config(config) == [{"seed": 3}, {"seed": 4}]
  config.write_text("def sweep():\n  yield {'seed': 5}\n")
  assert points_lib.read_config(config) == [{"seed": 5}]
  config.write_text("x = 1\n")
  with pytest.raises(BadInput, match=r"mine\.py has no sweep\(\)"):
    points_lib.read_config(config)
  with pytest.raises(BadInput, match="does not exist"):
    points_lib.read_config(tmp_path / "none.py")


def test_overrides_reach_the_config(tmp_path):
  expression = (
    "product(seed=[7], optimizer.lr=[1e-05], data.path=['a b'],"
    " data.skip_bad_rows=[True], loss.matryoshka=[(8, 16)],"
    " frozen=[('x', 'y')], data.size_exponent=[0.5])"
  )
  [point] = points_lib.points(expression)
  words = ["train", "--config=configs/prefinetune.py:tiny"]
  verb, *flags = points_lib.with_overrides(words)(point, tmp_path)
  values, rest = command_line.parse(verb, VERBS[verb], flags)
  assert rest == []
  assert values.workdir == str(tmp_path)
  for key, value in point.items():
    tree = values.config
    for part in key.split("."):
      tree = tree[part]
    assert tree == value


def test_commands_are_for_a_shell(tmp_path):
  points = points_lib.points("product(data.path=['a b', \"it's\"])")
  lines = points_lib.commands(
    points, points_lib.with_overrides(["go", "on"]), tmp_path
  )
  for line, point in zip(lines, points, strict=True):
    folder = tmp_path / points_lib.name_of(point)
    assert shlex.split(line) == [
      "go",
      "on",
      f"--workdir={folder}",
      f"--config.data.path={point['data.path']}",
    ]


# A run: notes that it began, does what `do` says, leaves metrics.
SCRIPT = """
import json, pathlib, sys, time
folder, do = pathlib.Path(sys.argv[1]), sys.argv[2]
with (folder.parent / 'began').open('a') as began:
  began.write(f'{time.time()} {folder.name}\\n')
print('working')
if do == 'fail':
  print('error: no such data', file=sys.stderr)
  sys.exit(2)
if do == 'crash':
  raise ValueError('boom')
if do == 'wait':
  time.sleep(60)
if do == 'slow':
  time.sleep(.5)
with (folder.parent / 'ended').open('a') as ended:
  ended.write(f'{time.time()} {folder.name}\\n')
rows = [{'step': n, 'loss': float(len(do) + 20 - n)} for n in range(1, 21)]
text = ''.join(json.dumps(row) + '\\n' for row in rows)
(folder / 'metrics.jsonl').write_text(text + '{"step": 21, "lo')
"""


def script(point: points_lib.Point, folder: pathlib.Path) -> list[str]:
  return [sys.executable, "-c", SCRIPT, str(folder), point["do"]]


def run(workdir, expression, jobs=1, command=script, metric=""):
  out = io.StringIO()
  console = Console(file=out, width=120)
  results = run_lib.run(
    points_lib.points(expression), command, workdir, jobs, console, metric
  )
  return results, out.getvalue()


def lines(path: pathlib.Path) -> list[list[str]]:
  return [line.split() for line in path.read_text().splitlines()]


def test_runs_end_in_a_table_a_file_and_a_page(tmp_path):
  results, out = run(tmp_path, "product(do=['ok', 'fine'])", jobs=2)
  assert [r.name for r in results] == ["do=ok", "do=fine"]
  # The mean of the last tenth: of steps 19 and 20.
  assert [r.metrics for r in results] == [{"loss": 2.5}, {"loss": 4.5}]
  assert page_lib.exit_code(results) == 0
  assert "do=ok" in out
  assert "2.500" in out
  saved = json.loads((tmp_path / run_lib.SWEEP_FILE).read_text())
  assert saved["metric"] == "loss"
  assert [run["name"] for run in saved["runs"]] == ["do=ok", "do=fine"]
  page = (tmp_path / run_lib.PAGE_FILE).read_text()
  assert "<svg" in page
  assert "do=fine" in page
  assert not re.search(r"(?:src|href)=.?https?:", page)
  log = (tmp_path / "do=ok" / run_lib.LOG_FILE).read_text()
  assert log.splitlines()[-1] == "working"


def test_a_failure_is_one_red_row(tmp_path):
  out = io.StringIO()
  console = Console(
    file=out, width=120, force_terminal=True, color_system="standard"
  )
  points = points_lib.points("product(do=['fail', 'ok', 'crash'])")
  results = run_lib.run(points, script, tmp_path, 1, console)
  assert [r.exit for r in results] == [2, 0, 1]
  assert results[0].error == "exit 2: error: no such data"
  assert results[2].error == "exit 1: ValueError: boom"
  assert page_lib.exit_code(results) == 1
  red = [line for line in out.getvalue().splitlines() if "\x1b[31m" in line]
  assert any("do=fail" in line and "no such data" in line for line in red)
  assert not any("do=ok" in line for line in red)


def test_all_fail(tmp_path):
  results, out = run(tmp_path, "product(do=['fail', 'crash'])")
  assert page_lib.exit_code(results) == 1
  assert "boom" in out
  assert "<svg" not in (tmp_path / run_lib.PAGE_FILE).read_text()


def test_a_program_that_is_not_there(tmp_path):
  command = lambda point, folder: ["/no/such/program"]
  [result], _ = run(tmp_path, "product(do=['x'])", command=command)
  assert result.exit == 1
  assert "No such file or directory" in result.error


def test_done_once(tmp_path):
  first, _ = run(tmp_path, "product(do=['ok', 'fail'])")
  again, out = run(tmp_path, "product(do=['ok', 'fail', 'fine'])")
  assert "do=ok  done before" in out
  began = [name for _, name in lines(tmp_path / "began")]
  # What failed is tried again.
  assert began == ["do=ok", "do=fail", "do=fail", "do=fine"]
  assert again[0] == first[0]
  assert [r.exit for r in again] == [0, 2, 0]
  # Another command is not what was done.
  other = lambda point, folder: [*script(point, folder), "more"]
  run(tmp_path, "product(do=['ok'])", command=other)
  assert len(lines(tmp_path / "began")) == 5


def test_so_many_at_a_time(tmp_path):
  points = [{"do": "slow", "n": n} for n in range(4)]
  run(tmp_path, points, jobs=2)
  changes = [(float(at), 1) for at, _ in lines(tmp_path / "began")]
  changes += [(float(at), -1) for at, _ in lines(tmp_path / "ended")]
  under_way = [
    sum(change for _, change in sorted(changes)[: n + 1]) for n in range(8)
  ]
  assert max(under_way) == 2
  assert under_way[-1] == 0


def test_the_metric(tmp_path):
  run(tmp_path, "product(do=['ok'])", metric="loss")
  with pytest.raises(BadInput, match="--metric=los: no run has it; did you"):
    run(tmp_path, "product(do=['ok'])", metric="los")
  with pytest.raises(BadInput, match="--jobs=0 must be at least 1"):
    run(tmp_path, "product(do=['ok'])", jobs=0)


def test_metrics_of_a_recipe(tmp_path):
  summary = {
    "stages": [
      {"name": "pretrain", "metrics": {"loss": 5.0}},
      {"name": "prefinetune", "metrics": {"loss": 1.25}},
      {"name": "index", "metrics": {}},
    ],
    "final": {"metrics": {"test": {"code": {"ndcg@10": 0.5, "bad": None}}}},
  }
  (tmp_path / "summary.json").write_text(json.dumps(summary))
  found = page_lib.read_metrics(tmp_path)
  assert found == {"loss": 1.25, "test.code.ndcg@10": 0.5}
  assert page_lib.read_metrics(tmp_path / "nothing") == {}


# Sweeps in a process of their own, to be stopped.
STOPPABLE = f"""
import pathlib, sys
sys.path.insert(0, {str(ROOT)!r})
from rich.console import Console
from embeddinggemma.sweep import run as run_lib
SCRIPT = {SCRIPT!r}
command = lambda point, folder: [
  sys.executable, '-c', SCRIPT, str(folder), point['do']
]
points = [{{'do': 'ok'}}, {{'do': 'wait', 'n': 1}}, {{'do': 'wait', 'n': 2}}]
run_lib.run(points, command, pathlib.Path(sys.argv[1]), 2, Console())
"""


def alive(text: str) -> bool:
  """Whether a process has the text in its command line."""
  for place in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    try:
      if text.encode() in place.read_bytes():
        return True
    except OSError:
      continue
  return False


def until(condition, seconds: float = 60) -> bool:
  deadline = time.monotonic() + seconds
  while not condition() and time.monotonic() < deadline:
    time.sleep(0.05)
  return condition()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_it_leaves_no_process(tmp_path, number):
  process = subprocess.Popen(
    [sys.executable, "-c", STOPPABLE, str(tmp_path)],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
    # A shell lets what it starts in the background ignore SIGINT, and so do
    # all its children, these tests among them.
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
  )
  began = tmp_path / "began"
  assert until(lambda: began.is_file() and len(lines(began)) == 3)
  os.kill(process.pid, number)
  _, errors = process.communicate(timeout=60)
  assert process.returncode == (-number)
  assert number != signal.SIGINT or "KeyboardInterrupt" in errors
  assert until(lambda: not alive(f"{tmp_path}/do=wait"))
  results, out = run(
    tmp_path,
    [{"do": "ok"}, {"do": "wait", "n": 1}],
    command=lambda point, folder: (
      script(point, folder)
      if point["do"] == "ok"
      else [sys.executable, "-c", ""]
    ),
  )
  assert "do=ok  done before" in out
  assert [r.exit for r in results] == [0, 0]
