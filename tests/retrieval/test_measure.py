"""Every chunk fits the model, and nothing of a file is lost for that."""

import itertools
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_in import CODE

from embeddinggemma.data import prompts
from embeddinggemma.retrieval import chunks, cutting, measure
from embeddinggemma.types import BadInput

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
FLAG = "\U0001f1eb\U0001f1f7"  # of France
THUMB = "\U0001f44d\U0001f3fd"
LENGTHS = (48, 64, 256, 2048)


def _measure(tokenizer, limit):
  return measure.of_tokenizer(tokenizer, prompts.DOCUMENT, limit)


def _taken(tokenizer, piece):
  """Tokens of a chunk as the model reads it, counted by its own encode."""
  return len(
    tokenizer.encode(
      prompts.with_prompt(prompts.DOCUMENT, piece.text, piece.title)
    )
  )


_WORDS = st.sampled_from(
  [
    *("", " ", "\t", "        ", "\f", "a", "def f():", "  return 1", "# H"),
    *("日本語のテキスト。", "한국어", "e\u0301", FAMILY, FLAG, THUMB, "\r"),
    *("क्षत्रिय", "\U0010fffd", "QmFzZTY0" * 40, "word " * 90, "A. " * 50),
    *("x" * 1500, "漢" * 700, THUMB * 200, " " * 1300, "# " + "T" * 2000),
  ]
)
_LINES = st.lists(
  st.lists(_WORDS, max_size=4).map("".join), min_size=1, max_size=12
)


@settings(max_examples=80, deadline=None)
@given(
  _LINES, st.sampled_from(["a.py", "a.md", "a.txt"]), st.sampled_from(LENGTHS)
)
def test_every_chunk_fits_and_no_text_is_lost(tokenizer, lines, path, limit):
  content, did = "\n".join(lines), Counter()
  found = chunks.chunk(path, content, _measure(tokenizer, limit), did)
  for piece in found:
    assert _taken(tokenizer, piece) <= limit
    assert len(piece.text) <= measure.MAX_CHARS
  text = "".join("".join(piece.text.split()) for piece in found)
  assert text == "".join(content.split())
  assert did[cutting.TRUNCATED] == 0


@settings(max_examples=40, deadline=None)
@given(_LINES, st.sampled_from(["", "T", "word " * 400]))
def test_every_chunk_of_a_row_fits(tokenizer, lines, title):
  text = "\n".join(lines)
  found = chunks.row_chunks("a.jsonl", 3, title, text, _measure(tokenizer, 64))
  assert all(_taken(tokenizer, piece) <= 64 for piece in found)
  whole = "".join("".join(piece.text.split()) for piece in found)
  assert whole.endswith("".join(text.split()))
  if text.strip() and len(title) > 10:  # more than the model reads
    assert whole.startswith("".join(title.split()))


LONG = {
  "base64": "QmFzZTY0IGlz" * 300,
  "prose": "It rains, and rains again. The river rises by night! " * 60,
  "words": "rain river night " * 200,
  "chinese": "今天下雨了。河水上涨。" * 120,
  "accents": "e\u0301a\u0308" * 900,
  "families": FAMILY * 300,
  "flags": FLAG * 500,
  "thumbs": THUMB * 500,
  "hindi": "क्षत्रियों ने " * 200,
  "spaces": "a" + " " * 5000 + "b",
}


@pytest.mark.parametrize("limit", [64, 256, 2048])
@pytest.mark.parametrize("name", LONG)
def test_the_pieces_of_a_line_are_the_line(tokenizer, name, limit):
  line = LONG[name]
  found = measure.pieces(line, "a", _measure(tokenizer, limit))
  assert "".join(found) == line
  for before, after in itertools.pairwise(found):
    assert unicodedata.category(after[0]) not in ("Mn", "Mc", "Me")
    assert "\u200d" not in (before[-1], after[0])
    assert not "\U0001f3fb" <= after[0] <= "\U0001f3ff"
    assert before.count("\U0001f1eb") == before.count("\U0001f1f7")
  if name == "prose":
    assert all(piece.endswith((". ", "! ")) for piece in found)
  if name in ("words", "hindi"):
    assert all(piece.endswith(" ") for piece in found)


def test_a_cut_without_words_is_between_tokens(tokenizer):
  line = LONG["base64"]
  ends = {0, *tokenizer.ends(line)}
  found = measure.pieces(line, "a", _measure(tokenizer, 256))
  at = 0
  for piece in found:
    assert at in ends
    at += len(piece)


def test_what_reads_as_one_but_is_too_long_is_cut_even_so(tokenizer):
  line = "a" + "\u0301" * 500
  found = measure.pieces(line, "", _measure(tokenizer, 64))
  assert "".join(found) == line
  assert all(
    _taken(tokenizer, cutting.Chunk("", 1, "", piece)) <= 64 for piece in found
  )


def test_pieces_fill_the_model(tokenizer):
  """Of long lines, and of many short ones: no piece is a small remainder."""
  for content in (LONG["base64"], "\n".join(["rain on the river"] * 200)):
    found = chunks.chunk("a.txt", content, _measure(tokenizer, 128))
    taken = [_taken(tokenizer, piece) for piece in found[:-1]]
    assert min(taken) > 100


def test_a_title_leaves_half_of_the_room(tokenizer):
  heading = "a long heading of many words " * 20
  content, did = f"# {heading}\n\ntext\n\n# Short\nmore", Counter()
  found = chunks.chunk("a.md", content, _measure(tokenizer, 64), did)
  short = found[0].title
  assert 5 < len(short) < len(heading) and heading.startswith(short)
  assert found[-1].title == "Short"
  assert did[cutting.TITLES_CUT] == 1
  # The heading is text as well, so none of it is lost.
  text = " ".join(piece.text for piece in found)
  assert " ".join(heading.split()) in " ".join(text.split())


def test_a_heading_of_megabytes_does_not_multiply():
  content = "# " + "x" * 200_000
  found = chunks.chunk("a.md", content)
  assert sum(len(piece.title) for piece in found) < 2 * len(content)


def test_a_model_that_reads_too_little_is_refused(tokenizer):
  with pytest.raises(BadInput, match=r"max_length=8: the document prompt 'ti"):
    _measure(tokenizer, 8)
  empty = len(tokenizer.encode(prompts.DOCUMENT))
  with pytest.raises(BadInput, match=f"takes {empty} tokens .* up to"):
    _measure(tokenizer, empty + 3)
  tight = _measure(tokenizer, empty + 4)
  found = chunks.chunk("a.txt", "a b\n\U0010fffd", tight)
  assert " ".join(piece.text for piece in found).split() == [
    "a",
    "b",
    "\U0010fffd",
  ]


def test_a_prompt_without_a_title_has_none_to_shorten(tokenizer):
  plain = measure.of_tokenizer(tokenizer, "passage: ", 48)
  title = "a long title of many words " * 9
  assert measure.short_title(title, plain) == title


def test_what_the_model_reads_at_once_does_not_count_each_text(tokenizer):
  """A page of ASCII that fits by its characters alone is not tokenised."""
  counted = []
  count = lambda texts: counted.extend(texts) or tokenizer.counts(texts)
  asked = _measure(tokenizer, 2048)._replace(count=count)
  chunks.chunk("a.py", CODE, asked)
  assert counted == []
  chunks.chunk("a.py", CODE.replace("colours", "漢字"), asked)
  assert counted


@pytest.mark.parametrize("text", ["a  b\n\tc", "é漢\U0010fffd x", "▁ <0x41>"])
def test_ends_are_where_tokens_end(tokenizer, text):
  ends = tokenizer.ends(text)
  ids = tokenizer.encode(text)[1:-1]
  assert len(ends) == len(ids) == tokenizer.counts([text])[0] - 2
  assert ends == sorted(ends) and ends[-1] == len(text)
  for number, end in enumerate(ends[:-1], 1):
    if end != ends[number]:  # else within a character
      assert tokenizer.decode(ids[:number]) == text[:end].replace("▁", " ")
