"""The verbs that embed texts and search them: `embed`, `index`, `query`."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from absl import flags

from embeddinggemma import cache
from embeddinggemma.cli.flags import (
  console,
  file_of,
  folder_of,
  missing,
  say,
  show,
)
from embeddinggemma.data import coverage, jsonl, truncation
from embeddinggemma.evaluation import classify
from embeddinggemma.loading import load
from embeddinggemma.recipes.index import build_index, measure
from embeddinggemma.retrieval import cutting, reading, search
from embeddinggemma.retrieval import index as indexes
from embeddinggemma.types import BadInput


def embed(values: flags.FlagValues) -> None:
  """Write vectors to a .npy file: (texts, dim), float32, unit norm."""
  output, shown = file_of(values.output), console()
  texts, titles = read_texts(values.input)
  model = load(values.model)
  model.prompt(values.prompt)  # an unknown name fails before any work
  with truncation.counted() as counts:
    vectors = model.encode(
      texts,
      values.prompt,
      titles=titles,
      truncate_dim=values.dim,
      show_progress_bar=shown.is_terminal,
    )
  truncation.report(counts)
  coverage.say(counts.bytes, counts.tokens, shown)
  output.parent.mkdir(parents=True, exist_ok=True)
  cache.write_array(output, vectors)
  if values.json:
    rows, dim = vectors.shape
    about = {"output": str(output), "texts": rows, "dim": dim}
    say({**about, "truncated": counts.as_json()})
    return
  cut = f", {counts.cut} of the texts cut" if counts.cut else ""
  shown.print(
    f"{output}: {vectors.shape[0]} x {vectors.shape[1]}{cut}",
    highlight=False,
    soft_wrap=True,
  )


def read_texts(source: str) -> tuple[list[str], list[str]]:
  """Texts and titles of a .jsonl, or the lines of a .txt or of stdin (-).

  They are read unchanged: an empty line is an empty text. Raises BadInput for a
  source that cannot be read or has no text.
  """
  read = _read_rows if source.endswith(".jsonl") else _read_lines
  try:
    rows = list(read(pathlib.Path("/dev/stdin" if source == "-" else source)))
  except OSError as error:
    raise BadInput(f"cannot read {source}: {error.strerror}") from None
  if not rows:
    raise BadInput(f"{source}: holds no text")
  return [text for text, _ in rows], [title for _, title in rows]


def _read_rows(path: pathlib.Path) -> Iterator[tuple[str, str]]:
  rows = jsonl.read_rows(path, ("text",), ("title",), jsonl.any_text)
  for _, row in rows:
    yield row["text"], row["title"]


def _read_lines(path: pathlib.Path) -> Iterator[tuple[str, str]]:
  for origin, line in jsonl.read_lines(path):
    try:
      yield jsonl.without_end(line).decode("utf-8"), ""
    except UnicodeDecodeError as error:
      raise BadInput(f"{origin}: not UTF-8 (byte {error.start + 1})") from None


def index(values: flags.FlagValues) -> None:
  """Index a folder, a JSONL or a single file, or update its index."""
  if values.vectors not in (None, "int8", "binary"):
    raise BadInput(f"--vectors={values.vectors}: give int8 or binary")
  source = pathlib.Path(values.input)
  output = folder_of(values.output, "--output")
  reading.require(source)
  indexes.require_ours(output)
  model = load(values.model)
  measure(model)  # a model that reads too little fails before a folder is made
  output.mkdir(parents=True, exist_ok=True)
  cache.keep_programs(output, waiting=True)
  about = build_index(
    model,
    source,
    output,
    console(),
    dim=values.dim,
    vectors=values.vectors,
    rebuild=values.rebuild,
  )
  if values.json:
    say(about)
  else:
    show(*_summary(output, about))


def _summary(output: pathlib.Path, about: Mapping[str, Any]) -> list[str]:
  """What `index` did, as lines for people."""
  lines = [
    f"{output}: {about['chunks']:,} chunks of {about['files']:,} files,"
    f" {about['vectors']} at {about['dim']} dimensions,"
    f" {about['bytes'] / 1e6:,.1f} MB",
    f"{about['kept']:,} kept, {about['new']:,} new, {about['removed']:,}"
    f" removed; {about['embedded']:,} embedded in"
    f" {about['embedding_seconds']:.1f} s, {about['seconds']:.1f} s in all",
  ]
  lines += filter(None, [_cuts(about)])
  for reason, count in about["skipped"].items():
    names = ", ".join(about["examples"][reason])
    more = ", ..." if count > len(about["examples"][reason]) else ""
    lines.append(f"left out, {reason}: {count:,} ({names}{more})")
  return [*lines, *filter(None, [about["note"]])]


def _cuts(about: Mapping[str, Any]) -> str:
  """What was cut besides between lines; "" for nothing."""
  said = {
    cutting.LINES_CUT: "long lines cut",
    cutting.TITLES_CUT: "titles shortened",
    cutting.PAGES_EMPTY: "pages of PDFs without text",
    cutting.TRUNCATED: "chunks longer than that",
  }
  found = [
    f"{about[name]:,} {what}" for name, what in said.items() if about[name]
  ]
  most = about["cut"]["max_length"]
  head = f"chunks of at most {most:,} tokens: "
  return head + ", ".join(found) if found else ""


def query(values: flags.FlagValues, *words: str) -> None:
  """Search an index, or label texts by labelled examples."""
  if values.dense and values.lexical:
    raise BadInput(
      "--dense and --lexical exclude each other; hybrid is neither"
    )
  if values.k < 1:
    raise BadInput(f"--k={values.k} must be at least 1")
  if values.labels is not None:
    _label(values, " ".join(words))
    return
  if values.index is None:
    raise BadInput(missing("query", "index"))
  if values.input is not None:
    raise BadInput("query: --input is for --labels; put the query last")
  _search(values, _last("query", " ".join(words)))


def _search(values: flags.FlagValues, text: str) -> None:
  """Print the best chunks of an index."""
  mode = "dense" if values.dense else "lexical" if values.lexical else "hybrid"
  folder, model = pathlib.Path(values.index), None
  opened = indexes.open_index(folder)
  if mode != "lexical":
    stripped = "`index` again embeds what has any anew"
    cut = (
      "dense search may miss the ends of long chunks until `index` again cuts"
      " them anew"
    )
    if said := indexes.note(opened.about, stripped, cut):
      console().print(said, highlight=False, soft_wrap=True)
    cache.keep_programs(folder, waiting=True)
    model = load(values.model)
  made = model.identity if model else None
  with truncation.counted() as counts:
    hits = search.search(opened, model, text, model=made, mode=mode, k=values.k)
  truncation.report(counts)
  if values.json:
    cut = bool(counts.cut)
    say([{**hit._asdict(), "query_cut": cut} for hit in hits])
    return
  for hit in hits:
    show(f"{hit.score:.3f}  {hit.path}:{hit.line}  {hit.title}".rstrip())
    show(*(f"    {line}" for line in hit.snippet.splitlines()[:6]))


def _label(values: flags.FlagValues, text: str) -> None:
  """Print a text's k likeliest labels, or each of many texts' likeliest."""
  if values.index is not None or values.dense or values.lexical:
    raise BadInput("query: --labels goes without --index, --dense, --lexical")
  if values.input is None:
    texts = [_last("text", text)]
  elif text:
    raise BadInput(f"query: {text!r} or --input={values.input}, not both")
  else:
    texts, _ = read_texts(values.input)
  known = classify.read(pathlib.Path(values.labels))
  model = load(values.model)
  guesses = classify.classify(model, known, texts)
  if values.json:
    lengths = model.token_counts(texts, classify.PROMPT)
    say(
      [
        {
          "text": guess.text,
          "labels": dict(guess.labels[: values.k]),
          "cut": length > model.config.max_length,
        }
        for guess, length in zip(guesses, lengths.tolist(), strict=True)
      ]
    )
  elif values.input is None:
    for name, share in guesses[0].labels[: values.k]:
      show(f"{share:.3f}  {name}")
  else:
    for guess in guesses:
      name, share = guess.labels[0]
      show(f"{share:.3f}  {name}  {guess.text}")


def _last(what: str, text: str) -> str:
  """The query or text at the end of a command line; BadInput if it is empty."""
  if not text.strip():
    raise BadInput(
      f'the {what} is empty; put it last: query ... "how do I ..."'
    )
  if not _is_text(text):
    raise BadInput(f"the {what} is not UTF-8; type it anew")
  return text


def _is_text(value: str) -> bool:
  """Whether an argument is valid UTF-8."""
  try:
    value.encode("utf-8")
  except UnicodeEncodeError:
    return False
  return True
