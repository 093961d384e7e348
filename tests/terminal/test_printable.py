"""What a file holds moves no cursor and hides nothing; all else stays."""

import io
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embeddinggemma.progress import Progress
from embeddinggemma.terminal import console as console_lib
from embeddinggemma.terminal.printable import lines, printable, to_json

HIDDEN = {
  "\x1b[2J": r"\x1b[2J",
  "\x07": r"\x07",
  "a\rb": r"a\rb",
  "\x08": r"\x08",
  "\x7f": r"\x7f",
  "\x9b31m": r"\x9b31m",
  "\x00": r"\x00",
  "\x85": r"\x85",
  "\u202e": r"\u202e",
  "\u2066": r"\u2066",
  "\u200b": r"\u200b",
  "\ufeff": r"\ufeff",
  "\u2028": r"\u2028",
  "\u2029": r"\u2029",
  "\U000e0041": r"\U000e0041",
  "\udcff": r"\udcff",
  "a\nb": r"a\nb",
}
WRITTEN = (
  "déjà 日本語 \u3000\xa0\t",
  "می\u200cروم",
  "क\u094d\u200dष",
  "👩\u200d💻 ✔\ufe0f",
  "[red] [/] :smile: \\x1b",
)


@pytest.mark.parametrize("text", HIDDEN)
def test_what_hides_is_seen(text):
  assert printable(text) == HIDDEN[text]


@pytest.mark.parametrize("text", WRITTEN)
def test_what_people_write_stays(text):
  assert printable(text) == lines(text) == text


def test_lines_keep_their_ends_alone():
  assert lines("a\r\nb\x1b\n\u2028c\r") == "a\nb\\x1b\n\\u2028c\\r"


def forbidden(text: str) -> list[str]:
  """Characters of a text that no terminal should get."""
  return [
    c
    for c in text
    if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")
    or unicodedata.bidirectional(c) in ("LRO", "RLO", "LRE", "RLE", "PDF")
    or unicodedata.bidirectional(c) in ("LRI", "RLI", "FSI", "PDI")
  ]


@given(st.text(st.characters()))
def test_any_text_is_harmless(text):
  assert set(forbidden(printable(text))) <= {"\t"}
  assert printable(printable(text)) == printable(text)
  assert set(forbidden(lines(text))) <= {"\t", "\n"}


@given(st.text(st.characters()))
def test_json_is_harmless_and_exact(text):
  for encoding in ("utf-8", "ascii"):
    said = to_json({"text": text}, encoding)
    assert forbidden(said) == []
    assert json.loads(said) == {"text": text}
  said.encode("ascii")


@pytest.fixture
def shown(monkeypatch):
  """A console of this project that writes into a string."""

  def make(terminal: bool, columns: str = "") -> tuple:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm" if terminal else "dumb")
    made = console_lib.Terminal(stderr=True)
    out = made.file = io.StringIO()
    made._force_terminal = terminal
    return made, out

  return make


NASTY = "[red]a[/] [/b] :warning: \x1b[2J \u202eb\x07 " + "long " * 40 + "end"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_console_shows_names_as_they_are(shown, terminal):
  console, out = shown(terminal, "40")
  console.print(NASTY)
  console.print(NASTY, style="red", highlight=False)
  console.rule("\x1b[2J")
  text = out.getvalue()
  assert text.count(printable(NASTY)) == 2
  assert "\x1b[2J" not in text and "\u202e" not in text


@pytest.mark.parametrize("width", ["20", "40", "60", "80", "200"])
def test_a_bar_shows_what_it_is_given(shown, width):
  console, out = shown(True, width)
  note = "loss 1.234 [red]\x1b[2J 56.7k t/s"
  with Progress(console, "tr[/]ain\x07", 99) as progress:
    progress.show(42, note)
  frame = "".join(out.getvalue().split("\r")[-1].split())
  assert "42/99" in frame
  pieces = "loss", "1.234", "[red]", "56.7k"
  assert all(piece in frame for piece in pieces) or width == "20"
  assert "\x1b[2J" not in out.getvalue() and "\x07" not in out.getvalue()
  assert "…" not in frame


def test_a_pipe_gets_lines_of_progress(shown):
  console, out = shown(False)
  progress = Progress(console, "a[b]\x1b[2J", 2)
  with progress:
    progress.show(2, "c[/]\u202e")
  assert out.getvalue() == "a[b]\\x1b[2J: 2/2 c[/]\\u202e\n"


def test_a_dumb_terminal_gets_lines_too(monkeypatch, shown):
  console, out = shown(True, "40")
  monkeypatch.setitem(console._environ, "TERM", "dumb")
  with Progress(console, "train", 2) as progress:
    progress.show(2, "loss 1")
  assert out.getvalue() == "train: 2/2 loss 1\n"
