"""Verbs that use a model: to score, search, label, examine, convert."""

import pathlib

from absl import flags

from embeddinggemma.cli.flags import console, missing, say


def evaluate(values: flags.FlagValues) -> None:
  """Scores a model at each of its dimensions."""
  from embeddinggemma.cli import library

  output = _file(values.output)
  library.evaluate_alone(
    values.model, values.data, values.precision, output, console()
  )


def embed(values: flags.FlagValues) -> None:
  """Texts to a .npy file of unit vectors."""
  from embeddinggemma.cli import library

  library.embed(
    values.model,
    values.input,
    values.prompt,
    values.dim,
    _file(values.output),
    console(),
  )


def index(values: flags.FlagValues) -> None:
  """Makes a folder or a JSONL searchable, or brings its index up to date."""
  from embeddinggemma.cli import library
  from embeddinggemma.types import BadInput

  if values.vectors not in (None, "int8", "binary"):
    raise BadInput(f"--vectors={values.vectors}: give int8 or binary")
  output = pathlib.Path(values.output)
  about = library.index_alone(
    values.model,
    pathlib.Path(values.input),
    output,
    console(),
    dim=values.dim,
    vectors=values.vectors,
    rebuild=values.rebuild,
  )
  if values.json:
    say(about)
  else:
    print(library.index_summary(output, about))


def query(values: flags.FlagValues, *words: str) -> None:
  """Searches an index, or labels texts as labelled examples are."""
  from embeddinggemma.types import BadInput

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
  from embeddinggemma.cli import library

  mode = "dense" if values.dense else "lexical" if values.lexical else "hybrid"
  hits = library.query(
    values.model, pathlib.Path(values.index), text, mode, values.k, console()
  )
  if values.json:
    say([hit._asdict() for hit in hits])
    return
  for hit in hits:
    print(f"{hit.score:.3f}  {hit.path}:{hit.line}  {hit.title}".rstrip())
    print("\n".join(f"    {line}" for line in hit.snippet.splitlines()[:6]))


def _label(values: flags.FlagValues, text: str) -> None:
  """Prints the k likeliest labels of a text, or the likeliest of each."""
  from embeddinggemma.cli import library
  from embeddinggemma.types import BadInput

  if values.index is not None or values.dense or values.lexical:
    raise BadInput("query: --labels goes without --index, --dense, --lexical")
  if values.input is None:
    texts = [_last("text", text)]
  elif text:
    raise BadInput(f"query: {text!r} or --input={values.input}, not both")
  else:
    texts, _ = library.read_texts(values.input)
  guesses = library.label(values.model, pathlib.Path(values.labels), texts)
  if values.json:
    say(
      [
        {"text": guess.text, "labels": dict(guess.labels[: values.k])}
        for guess in guesses
      ]
    )
  elif values.input is None:
    for name, share in guesses[0].labels[: values.k]:
      print(f"{share:.3f}  {name}")
  else:
    for guess in guesses:
      name, share = guess.labels[0]
      print(f"{share:.3f}  {name}  {guess.text}")


def _last(what: str, text: str) -> str:
  """The text that stands last on a command line."""
  from embeddinggemma.types import BadInput

  if not text.strip():
    raise BadInput(
      f'the {what} is empty; put it last: query ... "how do I ..."'
    )
  if not _is_text(text):
    raise BadInput(f"the {what} is not UTF-8; type it anew")
  return text


def doctor(values: flags.FlagValues, *words: str) -> int:
  """Looks for what is silently wrong with a model."""
  from rich.console import Console

  from embeddinggemma import doctor as doctors
  from embeddinggemma.types import BadInput

  if len(words) != 1:
    raise BadInput("doctor: give one path: doctor PATH [--json]")
  findings = doctors.examine(words[0], console())
  if values.json:
    say(doctors.as_json(words[0], findings))
  else:
    Console().print(doctors.as_table(findings))
  return 0 if doctors.passed(findings) else 1


def import_(values: flags.FlagValues) -> None:
  """Public weights in, as a checkpoint; what is silently wrong with it."""

  from embeddinggemma.convert import verbs

  source, workdir = getattr(values, "from"), pathlib.Path(values.workdir)
  verbs.import_model(source, workdir, values.part, _examine, console())


def export(values: flags.FlagValues) -> None:
  """A checkpoint out, in another runtime's format."""

  from embeddinggemma.convert import verbs

  output = pathlib.Path(values.output)
  verbs.export_model(
    values.model,
    values.format,
    output,
    values.dtype,
    values.uncertified,
    _examine,
    console(),
  )


def _examine(place: pathlib.Path) -> None:
  from embeddinggemma import doctor

  doctor.check_or_stop(place, console())


def _file(path: str) -> pathlib.Path:
  """A file to write, checked before the work that fills it."""
  from embeddinggemma.types import BadInput

  if pathlib.Path(path).is_dir():
    raise BadInput(f"--output={path} is a folder; name a file")
  return pathlib.Path(path)


def _is_text(value: str) -> bool:
  """False for bytes of the command line that are not UTF-8."""
  try:
    value.encode("utf-8")
  except UnicodeEncodeError:
    return False
  return True
