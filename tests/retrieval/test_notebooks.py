"""A notebook is read as its cells, and a chunk says which cell it is of."""

import json
import time

import pytest

from embeddinggemma.retrieval import notebooks, reading
from embeddinggemma.types import BadInput

HELPER = '''%matplotlib inline
import numpy as np

def mean(values):
  """The mean of values."""
  !echo computing
  return np.mean(values)
'''


def _code(source, **more):
  picture = {"data": {"image/png": "iVBORw0KGgo" * 500}}
  return {"cell_type": "code", "source": source, "outputs": [picture], **more}


def _prose(source, kind="markdown"):
  return {"cell_type": kind, "source": source, "metadata": {}}


CELLS = [
  _prose(["# Rain\n", "\n", "How much falls in a year.\n"]),
  _code(HELPER.splitlines(keepends=True)),
  _code(""),
  _code("mean(rain)"),
  _prose("## Rivers\nThey rise."),
  _code(["%%bash\n", "ls -l | grep river\n"]),
  _code("files = !ls\nmean?"),
  _prose("raw *text*", "raw"),
]


def _write(path, cells, **more):
  path.write_text(json.dumps({"nbformat": 4, "cells": cells, **more}))
  return path


def _found(path):
  return [(c.line, c.title, c.text) for c in reading.read(path).chunks]


def test_cells_are_cut_by_function_and_heading(tmp_path):
  found = _found(_write(tmp_path / "wet.ipynb", CELLS))
  assert found == [
    (1, "Rain", "# Rain\n\nHow much falls in a year."),
    (2, "Rain", "%matplotlib inline\nimport numpy as np"),
    (2, "wet.mean", HELPER.split("\n\n")[1].rstrip()),
    (4, "Rain", "mean(rain)"),
    (5, "Rivers", "## Rivers\nThey rise."),
    (6, "Rivers", "%%bash\nls -l | grep river"),
    (7, "Rivers", "files = !ls\nmean?"),
    (8, "Rivers", "raw *text*"),
  ]


def test_the_third_format_is_read_as_the_fourth(tmp_path):
  old = [
    {"cell_type": "heading", "level": 2, "source": ["Rain"]},
    {"cell_type": "code", "input": "def f():\n  pass", "outputs": []},
  ]
  tree = {"nbformat": 3, "worksheets": [{"cells": old}, {"cells": CELLS[:1]}]}
  path = tmp_path / "old.IPYNB"
  path.write_text(json.dumps(tree))
  assert _found(path) == [
    (1, "Rain", "## Rain"),
    (2, "old.f", "def f():\n  pass"),
    (3, "Rain", "# Rain\n\nHow much falls in a year."),
  ]


@pytest.mark.parametrize(
  "source",
  [
    "x = (7\n  % 2)\ndef f():\n  pass",  # no magic, but an operator
    "%%time\ndef f():\n  pass",
    "if x:\n  %run other.py\ndef f():\n  pass",
    "a, b = %system ls\n?help\ndef f():\n  pass",
    "x?\r\ndef f():\r\n  pass",
  ],
)
def test_functions_are_found_between_magics(tmp_path, source):
  found = _found(_write(tmp_path / "a.ipynb", [_code(source)]))
  assert found[-1][1:] == ("a.f", "def f():\n  pass")
  whole = "".join("".join(text.split()) for _, _, text in found)
  assert whole == "".join(source.split())


def test_code_of_another_language_is_text(tmp_path):
  cells = [_code("x <- c(1, 2)\nprint(x)"), _code("% % %\n? what(")]
  found = _found(_write(tmp_path / "r.ipynb", cells))
  assert [(line, title) for line, title, _ in found] == [(1, "r"), (2, "r")]


def test_halves_of_a_character_are_joined_or_replaced():
  tree = '{"cells": [{"cell_type": "code", "source": ["\\ud83d", "\\ude00"]},'
  tree += '{"cell_type": "code", "source": "\\ud83d"}]}'
  found = notebooks.cells(tree.encode())
  assert [cell.text for cell in found] == ["\U0001f600", "\ufffd"]


def test_outputs_do_not_make_a_notebook_too_large(tmp_path):
  heavy = _code("x = 1")
  heavy["outputs"] = ["A" * (reading.MAX_BYTES + 1)]
  path = _write(tmp_path / "heavy.ipynb", [heavy])
  assert _found(path) == [(1, "heavy", "x = 1")]
  _write(path, [_prose("A" * (reading.MAX_BYTES + 1))])
  with pytest.raises(BadInput, match="too large"):
    reading.read(path)


@pytest.mark.parametrize(
  ("data", "reason"),
  [
    (b"", "broken notebook"),
    (b"<<<<<<< HEAD\n{}", "broken notebook"),
    (b"[1]", "broken notebook"),
    (b"{}", "broken notebook"),
    (b'{"cells": 3}', "broken notebook"),
    (b'{"cells": [3]}', "broken notebook"),
    (b'{"cells": [{"cell_type": "code", "source": 3}]}', "broken notebook"),
    (b'{"cells": [{"cell_type": "code"}]}', "broken notebook"),
    (b"[" * 100_000, "broken notebook"),
    (
      b'{"worksheets": [{"cells": [{"cell_type": "heading", "source": "a",'
      b' "level": "x"}]}]}',
      "broken notebook",
    ),
    (b'{"cells": []}', "empty"),
    (b'{"cells": [{"cell_type": "code", "source": " "}]}', "empty"),
    (b"\xff", "not UTF-8"),
  ],
  ids=range(13),
)
def test_a_broken_notebook_is_left_out_by_name(tmp_path, data, reason):
  (tmp_path / "a.ipynb").write_bytes(data)
  (tmp_path / "b.txt").write_text("b")
  read = reading.read(tmp_path)
  assert read.skipped == {"a.ipynb": reason}
  assert [file.path for file in read.files] == ["b.txt"]


def test_a_long_line_takes_no_time(tmp_path):
  source = " " * 300_000 + "x ? = (" + "? " * 50_000 + "y"
  began = time.monotonic()
  found = _found(_write(tmp_path / "a.ipynb", [_code(source)]))
  assert time.monotonic() - began < 30
  assert "".join(text for _, _, text in found).split() == source.split()
