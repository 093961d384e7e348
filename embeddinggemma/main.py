"""The command line: one program, one verb per job.

It reads flags, calls a library and words what went wrong; the work is in the
libraries. Heavy imports happen inside the verbs, so that --help answers at
once.
"""

import dataclasses
import difflib
import errno
import json
import logging
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

if TYPE_CHECKING:
  from rich.console import Console


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PATH = (  # what another path mends
  errno.EROFS,
  errno.EACCES,
  errno.EPERM,
  errno.EEXIST,
  errno.ENOTDIR,
  errno.EISDIR,
  errno.ENAMETOOLONG,
)


_SHORT = re.compile(r"\d+ requested and \d+ written")  # by NumPy, to a file


class Verb(NamedTuple):
  """A job: what it does, the flags it takes, the function that does it."""

  help: str
  run: Callable[[flags.FlagValues, Sequence[str]], int | None]  # exit code
  required: Sequence[str] = ()
  optional: Sequence[str] = ()


# Every flag of every verb: default and help.
TEXT_FLAGS = {
  "config": (
    None,
    "configs/NAME.py[:arg,key=value]; --config.key=value overrides",
  ),
  "workdir": (None, "the folder of this run; used again, it continues"),
  "model": (None, "a checkpoint, or the workdir of a run"),
  "input": (None, "what to read: see above"),
  "output": (None, "what to write"),
  "data": (
    None,
    "a folder of evaluation tasks (BEIR, STS, labels, bitext, pairs)",
  ),
  "prompt": ("document", "the prompt's name: query, document, STS, ..."),
  "index": (None, "a folder that `index` made"),
  "labels": (None, 'a .jsonl of examples ({"text", "label"})'),
  "vectors": (None, "int8 or binary; default: int8, or as the index has them"),
  "show": (None, "FIRST:LAST, the batches to show"),
  "inputs": (None, "A,B,...: checkpoints, or workdirs of runs"),
  "weights": (None, "a share for each of them, such as 0.5,0.3,0.2"),
  "sweep": (None, "product(seed=[0, 1], zip(...)); else the config's sweep()"),
  "metric": (None, "what the plot shows, such as loss; else the first"),
  "from": (None, "a folder of public weights, or OWNER/NAME to fetch"),
  "part": ("both", "of an encoder-decoder: encoder, decoder or both"),
  "format": (None, "sentence-transformers or gguf (llama.cpp)"),
  "stage": (None, "of a recipe: prefinetune (default), adapt, ..."),
  "topology": (None, "a TPU generation and shape, such as v5e:16x16"),
  "dtype": (
    None,
    "of the written weights: float32, bfloat16; for gguf also q8_0, q4_0,"
    " mixed; default: what the model was trained for",
  ),
  "precision": (
    None,
    "float, int8, int4, mixed, ...: rounds the weights; else as trained",
  ),
}
NUMBER_FLAGS = {
  "dim": (None, "leading dimensions to keep, at unit norm again"),
  "k": (5, "how many answers"),
  "path": (None, "points from the first of two inputs to the second"),
  "last": (None, "checkpoints of one input, the newest ones"),
  "jobs": (1, "runs at a time"),
  "explain": (None, "a row of the pairs, from 0"),
  "num_slices": (1, "slices of that topology, joined by the data axis"),
  "pick": (None, "mixtures to pick; else search.pick of the config"),
}
SWITCHES = {
  "json": "print JSON",
  "dense": "search by meaning alone",
  "lexical": "search by words alone",
  "fit": "also find what would fit: groups a device, recomputation",
  "shardings": "list every parameter: shape, spec, bytes of a device",
  "print": "print a command for each run, run none",
  "rebuild": "make the index anew, whatever is there",
  "uncertified": "keep an export whose runtime gives other vectors",
  "skip_bad_rows": "count and list broken lines of the data, do not stop at one",
}


def _console() -> "Console":
  from rich.console import Console

  from embeddinggemma import distributed

  return Console(stderr=True, quiet=not distributed.is_first())


def _say(value: Any) -> None:
  print(json.dumps(value, ensure_ascii=False))


def run(values: flags.FlagValues, rest: Sequence[str]) -> None:
  """Runs or continues a recipe."""
  _nothing_more(rest)
  from embeddinggemma import pairs, pipeline, recipe
  from embeddinggemma.types import BadInput

  tree = _config(values)
  if not _is_recipe(tree):
    raise BadInput(
      "run: --config is no recipe; give configs/recipe.py, or use"
      " `train` for one stage"
    )
  if values.skip_bad_rows:
    for stage in tree.values():
      if isinstance(stage, dict) and "data" in stage:
        stage["data"]["skip_bad_rows"] = True

  workdir, console = pathlib.Path(values.workdir), _console()
  if "base" in tree:
    plan = pipeline.own_pairs(pairs.build(tree), workdir, console)
  else:
    plan = pipeline.whole(recipe.build(tree), workdir, console)
  pipeline.run(plan, workdir, console)


def train(values: flags.FlagValues, rest: Sequence[str]) -> None:
  """Trains one stage in a workdir, or continues it."""
  _nothing_more(rest)
  from embeddinggemma import cache, distributed

  with distributed.together():
    config = _train_config(values)
    from embeddinggemma import verbs

    verbs.train_alone(config, cache.as_folder(values.workdir), _console())


def prepare(values: flags.FlagValues, rest: Sequence[str]) -> None:
  """Makes what training reads, and shows the batches that it will see."""
  _nothing_more(rest)
  config = _train_config(values)
  from embeddinggemma import verbs
  from embeddinggemma.types import BadInput

  workdir = pathlib.Path(values.workdir) if values.workdir else None
  if values.show is None:
    if workdir is None:
      raise BadInput(
        "prepare: give --workdir=DIR to fill, --show=0:20 to look, or both"
      )
    verbs.prepare(config, workdir, _console())
    return
  first, last = _range(values.show)
  for row in verbs.batches(config, workdir, first, last, _console()):
    if values.json:
      _say(row)
      continue
    print(f"step {row['step']}  task {row['task']}  {len(row['rows'])} rows")
    for origin, *sides in row["texts"]:
      print("\n    ".join([f"  {origin}", *map(repr, sides)]))


def evaluate(values: flags.FlagValues, rest: Sequence[str]) -> None:
  """Scores a model at each of its dimensions."""
  _nothing_more(rest)
  from embeddinggemma import verbs

  output = _file(values.output)
  verbs.evaluate_alone(
    values.model, values.data, values.precision, output, _console()
  )


def embed(values: flags.FlagValues, rest: Sequence[str]) -> None:
  """Texts to a .npy file of unit vectors."""
  _nothing_more(rest)
  from embeddinggemma import verbs

  verbs.embed(
    values.model,
    values.input,
    values.prompt,
    values.dim,
    _file(values.output),
    _console(),
  )


def index(values: flags.FlagValues, rest: Sequence[str]) -> None:
  """Makes a folder or a JSONL searchable, or brings its index up to date."""
  _nothing_more(rest)
  from embeddinggemma import verbs
  from embeddinggemma.types import BadInput

  if values.vectors not in (None, "int8", "binary"):
    raise BadInput(f"--vectors={values.vectors}: give int8 or binary")
  output = pathlib.Path(values.output)
  about = verbs.index_alone(
    values.model,
    pathlib.Path(values.input),
    output,
    _console(),
    dim=values.dim,
    vectors=values.vectors,
    rebuild=values.rebuild,
  )
  if values.json:
    _say(about)
  else:
    print(verbs.index_summary(output, about))


def query(values: flags.FlagValues, rest: Sequence[str]) -> None:
  """Searches an index, or labels texts as labelled examples are."""
  from embeddinggemma.types import BadInput

  if values.dense and values.lexical:
    raise BadInput(
      "--dense and --lexical exclude each other; hybrid is neither"
    )
  if values.labels is not None:
    _label(values, " ".join(rest))
    return
  if values.index is None:
    raise BadInput(_missing("query", "index"))
  if values.input is not None:
    raise BadInput("query: --input is for --labels; put the query last")
  _search(values, _last("query", " ".join(rest)))


def _search(values: flags.FlagValues, text: str) -> None:
  from embeddinggemma import verbs

  mode = "dense" if values.dense else "lexical" if values.lexical else "hybrid"
  hits = verbs.query(
    values.model, pathlib.Path(values.index), text, mode, values.k
  )
  if values.json:
    _say([hit._asdict() for hit in hits])
    return
  for hit in hits:
    print(f"{hit.score:.3f}  {hit.path}:{hit.line}  {hit.title}".rstrip())
    print("\n".join(f"    {line}" for line in hit.snippet.splitlines()[:6]))


def _label(values: flags.FlagValues, text: str) -> None:
  """Prints the k likeliest labels of a text, or the likeliest of each."""
  from embeddinggemma import verbs
  from embeddinggemma.types import BadInput

  if values.index is not None or values.dense or values.lexical:
    raise BadInput("query: --labels goes without --index, --dense, --lexical")
  if values.input is None:
    texts = [_last("text", text)]
  elif text:
    raise BadInput(f"query: {text!r} or --input={values.input}, not both")
  else:
    texts, _ = verbs.read_texts(values.input)
  guesses = verbs.label(values.model, pathlib.Path(values.labels), texts)
  if values.json:
    _say(
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


def teach(values: flags.FlagValues, rest: Sequence[str]) -> None:
  """Writes a teacher's vectors of all texts of a folder of pairs."""
  _nothing_more(rest)
  from embeddinggemma import config, finetuning

  finetuning.teach_alone(
    pathlib.Path(values.data),
    config.build(finetuning.TeachConfig, _config(values)),
    pathlib.Path(values.output),
    _console(),
  )


def mine(values: flags.FlagValues, rest: Sequence[str]) -> None:
  """Finds hard negatives, or says what became of a query's candidates."""
  _nothing_more(rest)
  from embeddinggemma import config, finetuning
  from embeddinggemma.load import load
  from embeddinggemma.retrieval.candidates import MiningConfig

  choice = config.build(MiningConfig, _config(values))
  data, output = pathlib.Path(values.data), pathlib.Path(values.output)
  if values.explain is not None:
    print(finetuning.explain_alone(data, output, values.explain))
    return
  model = load(values.model) if values.model else None
  finetuning.mine_alone(data, model, choice, output, _console())


def mixture(values: flags.FlagValues, rest: Sequence[str]) -> None:
  """Searches mixtures of tasks to finetune on."""
  _nothing_more(rest)
  from embeddinggemma import config, finetuning, stages, verbs
  from embeddinggemma.training.config import PairConfig
  from embeddinggemma.types import BadInput

  tree = _config(values)
  if "search" not in tree or "finetune" not in tree:
    raise BadInput("mixture: give --config=configs/mixture.py, or one like it")
  choice = config.build(finetuning.SearchConfig, tree["search"])
  if values.pick is not None:
    choice = dataclasses.replace(choice, pick=values.pick)
  workdir = pathlib.Path(values.workdir)
  base = stages.build(tree["finetune"])
  if not isinstance(base, PairConfig):
    raise BadInput(f"mixture: {base.stage!r} is no training on pairs")
  picked = verbs.search_mixtures(base, choice, workdir, _console())
  if values.json:
    _say(picked)


def soup(values: flags.FlagValues, rest: Sequence[str]) -> None:
  """Averages checkpoints, or walks from one to another."""
  _nothing_more(rest)
  from embeddinggemma import soup as soups
  from embeddinggemma import verbs
  from embeddinggemma.types import BadInput

  inputs = values.inputs.split(",")
  workdir = pathlib.Path(values.workdir)
  if values.last is not None:
    if len(inputs) != 1 or values.path is not None:
      raise BadInput(
        "soup: --last=N takes the checkpoints of one of --inputs, without"
        " --path"
      )
    inputs = soups.last(pathlib.Path(inputs[0]), values.last)
  if values.path is None:
    if values.data:
      raise BadInput("soup: --data is for --path=N; `evaluate` scores a soup")
    print(soups.soup(inputs, _weights(values.weights), workdir))
    return
  if values.weights is not None:
    raise BadInput("soup: --path and --weights exclude each other")
  if len(inputs) != 2:
    raise BadInput(f"--path goes between two --inputs, not {len(inputs)}")
  data = values.data.split(",") if values.data else []
  base, domain = inputs
  verbs.soup_path(base, domain, values.path, data, workdir, _console())


def doctor(values: flags.FlagValues, rest: Sequence[str]) -> int:
  """Looks for what is silently wrong with a model."""
  from rich.console import Console

  from embeddinggemma import doctor as doctors
  from embeddinggemma.types import BadInput

  if len(rest) != 1:
    raise BadInput("doctor: give one path: doctor PATH [--json]")
  findings = doctors.examine(rest[0], _console())
  if values.json:
    _say(doctors.as_json(rest[0], findings))
  else:
    Console().print(doctors.as_table(findings))
  return 0 if doctors.passed(findings) else 1


def import_(values: flags.FlagValues, rest: Sequence[str]) -> None:
  """Public weights in, as a checkpoint; what is silently wrong with it."""
  _nothing_more(rest)
  from embeddinggemma.convert import verbs

  source, workdir = getattr(values, "from"), pathlib.Path(values.workdir)
  verbs.import_model(source, workdir, values.part, _examine, _console())


def export(values: flags.FlagValues, rest: Sequence[str]) -> None:
  """A checkpoint out, in another runtime's format."""
  _nothing_more(rest)
  from embeddinggemma.convert import verbs

  output = pathlib.Path(values.output)
  verbs.export_model(
    values.model,
    values.format,
    output,
    values.dtype,
    values.uncertified,
    _examine,
    _console(),
  )


def compile_(values: flags.FlagValues, rest: Sequence[str]) -> int:
  """Compiles a stage for TPUs that are not here; 1: it does not fit."""
  _nothing_more(rest)
  from embeddinggemma.tpu import examine, page

  found = examine.examine(
    examine.config_of(_config(values), values.stage),
    values.topology,
    values.num_slices,
    values.fit,
    values.shardings,
  )
  if values.json:
    _say(found)
  else:
    print(page.as_page(found))
  return 0 if found["fits"] else 1


def _examine(place: pathlib.Path) -> None:
  from embeddinggemma import doctor

  doctor.check_or_stop(place, _console())


def sweep(values: flags.FlagValues, rest: Sequence[str]) -> int:
  """Runs a config at every point, or prints the commands that do."""
  _nothing_more(rest)
  from embeddinggemma import cache
  from embeddinggemma.sweep import page, points
  from embeddinggemma.sweep import run as runs

  given: Any = values["config"]  # a flag of ml_collections
  file = pathlib.Path(given.config_filename.partition(":")[0])
  found = points.points(values.sweep) if values.sweep else None
  found = points.read_config(file) if found is None else found
  tree = _config(values)
  verb = "run" if _is_recipe(tree) else "train"
  config = f"--config={given.config_filename}"
  fixed = dict(given.override_values)
  _check_points(verb, config, found)
  words = ["-m", "embeddinggemma", verb, config]
  command = points.with_overrides([sys.executable, *words], fixed)
  workdir = pathlib.Path(values.workdir)
  if values.print:
    command = points.with_overrides(["embeddinggemma", verb, config], fixed)
    print("\n".join(points.commands(found, command, workdir)))
    return 0
  results = runs.run(
    found,
    command,
    workdir,
    values.jobs,
    _console(),
    values.metric or "",
    cache.key_of(tree),
  )
  return page.exit_code(results)


VERBS = {
  "run": Verb(
    "run a recipe: every stage, cached; continues where it was",
    run,
    ("config", "workdir"),
    ("skip_bad_rows",),
  ),
  "train": Verb(
    "one stage of training",
    train,
    ("config", "workdir"),
    ("skip_bad_rows",),
  ),
  "evaluate": Verb(
    "score a model at every Matryoshka dimension; JSON and a table",
    evaluate,
    ("model", "output"),
    ("data", "precision"),
  ),
  "prepare": Verb(
    "make the shards that training reads; show what the model will see",
    prepare,
    ("config",),
    ("workdir", "show", "json", "skip_bad_rows"),
  ),
  "embed": Verb(
    'texts to vectors; --input: a .txt, a .jsonl ({"text", "title"?}) or -',
    embed,
    ("model", "input", "output"),
    ("prompt", "dim"),
  ),
  "index": Verb(
    'make a folder or a .jsonl ({"text", "title"?}) searchable; again: update',
    index,
    ("model", "input", "output"),
    ("dim", "vectors", "rebuild", "json"),
  ),
  "query": Verb(
    'search an index: query --model=DIR --index=DIR "how do I parse a date";'
    " --labels=FILE: label texts",
    query,
    ("model",),
    ("index", "dense", "lexical", "labels", "input", "json", "k"),
  ),
  "teach": Verb(
    "write a teacher's vectors of pairs, for distillation",
    teach,
    ("config", "data", "output"),
  ),
  "mine": Verb(
    "find hard negatives of pairs; --explain=ROW: why which were taken",
    mine,
    ("config", "data", "output"),
    ("model", "explain"),
  ),
  "mixture": Verb(
    "search mixtures of tasks: short finetunings, Vizier, a pick of the best",
    mixture,
    ("config", "workdir"),
    ("pick", "json"),
  ),
  "soup": Verb(
    "average checkpoints; --path=N: the table of N points between two;"
    " --last=N: the newest of one run",
    soup,
    ("inputs", "workdir"),
    ("weights", "path", "last", "data"),
  ),
  "doctor": Verb(
    "look for silent wrongness: doctor PATH; a row a check, exit 1 on a fault",
    doctor,
    (),
    ("json",),
  ),
  "import": Verb(
    "public weights in: EmbeddingGemma, Gemma 3, T5Gemma, T5Gemma 2",
    import_,
    ("from", "workdir"),
    ("part",),
  ),
  "export": Verb(
    "a model out, for sentence-transformers or llama.cpp, and a certificate",
    export,
    ("model", "format", "output"),
    ("dtype", "uncertified"),
  ),
  "compile": Verb(
    "compile a stage for a TPU topology on any machine: memory, time, traffic",
    compile_,
    ("config", "topology"),
    ("stage", "num_slices", "fit", "shardings", "json"),
  ),
  "sweep": Verb(
    "run a config at every point of a product or zip of overrides",
    sweep,
    ("config", "workdir"),
    ("sweep", "print", "jobs", "metric"),
  ),
}


def _usage() -> str:
  width = max(map(len, VERBS))
  lines = [f"  {name:<{width}}  {verb.help}" for name, verb in VERBS.items()]
  return (
    "embeddinggemma VERB [--flag=value ...]\n\n"
    + "\n".join(lines)
    + "\n\nembeddinggemma VERB --help shows a verb's flags. Exit codes: 0 done,"
    " 1 a negative\nverdict, 2 bad input, 42 interrupted: start it again."
  )


def _verb_usage(name: str) -> str:
  verb = VERBS[name]
  names = (*verb.required, *verb.optional)
  lines = []
  for flag in names:
    if flag in SWITCHES:
      text = SWITCHES[flag]
    else:
      default, text = (TEXT_FLAGS | NUMBER_FLAGS)[flag]
      needed = "required" if flag in verb.required else f"default: {default}"
      text = f"{text} ({needed})"
    lines.append(f"  --{flag:<14} {text}")
  return f"embeddinggemma {name}: {verb.help}\n\n" + "\n".join(lines)


def _flags_of(name: str, argv: Sequence[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  for flag in (*VERBS[name].required, *VERBS[name].optional):
    if flag == "config":
      _define_config(values, argv)
    elif flag in TEXT_FLAGS:
      flags.DEFINE_string(flag, *TEXT_FLAGS[flag], flag_values=values)
    elif flag in NUMBER_FLAGS:
      flags.DEFINE_integer(flag, *NUMBER_FLAGS[flag], flag_values=values)
    else:
      flags.DEFINE_bool(flag, False, SWITCHES[flag], flag_values=values)
  return values


def _define_config(values: flags.FlagValues, argv: Sequence[str]) -> None:
  from ml_collections import config_flags

  config_flags.DEFINE_config_file(
    "config", None, TEXT_FLAGS["config"][1], values, sys_argv=list(argv)
  )


def _config_first(argv: Sequence[str]) -> list[str]:
  """The arguments with the last --config, its file found, before the others.

  So overrides may stand anywhere, and a later --config replaces an earlier.
  """
  rest: list[str] = []
  config = None
  words = iter(argv)
  for word in words:
    name, equals, value = word.partition("=")
    if name in ("--config", "-config"):
      config = value if equals else next(words, "")
    else:
      rest.append(word)
  if config is None:
    return rest
  return [f"--config={_find_config(config)}", *rest]


def _find_config(value: str) -> str:
  """configs/NAME.py[:arg]: the current folder's, else the one shipped."""
  from embeddinggemma.types import BadInput

  path, colon, arg = value.partition(":")
  here = pathlib.Path(__file__).parent
  shipped = [here, here.parent]  # of a wheel, of a checkout
  places = [folder / path for folder in (pathlib.Path(), *shipped)]
  found = next((place for place in places if place.is_file()), None)
  if found is None:
    names = {p.name for d in shipped for p in (d / "configs").glob("*.py")}
    raise BadInput(
      f"config {path!r} does not exist; shipped in configs/:"
      f" {', '.join(sorted(names)) or 'none'}"
    )
  return f"{found}{colon}{arg}"


def _parse(
  name: str, argv: Sequence[str]
) -> tuple[flags.FlagValues, list[str]]:
  from embeddinggemma.types import BadInput

  verb = VERBS[name]
  takes_config = "config" in verb.required
  argv = _config_first(argv) if takes_config else list(argv)
  if takes_config and not (argv and argv[0].startswith("--config=")):
    raise BadInput(_missing(name, "config"))
  values = _flags_of(name, argv)
  try:
    rest = values([name, *argv])[1:]
  except flags.UnrecognizedFlagError as error:
    raise BadInput(_unknown_flag(name, error.flagname)) from None
  except flags.Error as error:
    raise BadInput(f"{name}: {_last_line(error)}") from None
  except (AttributeError, KeyError) as error:
    raise BadInput(_bad_key(name, argv) or f"config: {error!r}") from None
  except BadInput:
    raise
  except Exception as error:  # what the user's own config file raised
    raise BadInput(f"config: {_last_line(error)}") from None
  missing = [flag for flag in verb.required if values[flag].value is None]
  if missing:
    raise BadInput(_missing(name, missing[0]))
  for flag in TEXT_FLAGS:
    if flag in values and flag != "config" and values[flag].value == "":
      raise BadInput(f"{name}: --{flag} is empty; give a value or leave it out")
  return values, rest


def _missing(name: str, flag: str) -> str:
  return f"{name}: --{flag} is missing; see embeddinggemma {name} --help"


def _last_line(error: Exception) -> str:
  lines = str(error).strip().splitlines()
  return lines[-1] if lines else type(error).__name__


def _unknown_flag(name: str, flag: str) -> str:
  from embeddinggemma.config import suggest

  verb = VERBS[name]
  if flag.startswith("config."):
    return f"{name}: --{flag} needs --config before it"
  known = [f"--{other}" for other in (*verb.required, *verb.optional)]
  flag = f"--{flag}"
  return f"{name}: unknown flag {flag!r}{suggest(flag, known)}"


def _bad_key(name: str, argv: Sequence[str]) -> str:
  """Which --config.a.b is not in the config, with the nearest key that is."""
  from embeddinggemma.config import suggest

  values = _flags_of(name, argv[:1])
  values([name, *argv[:1]])
  for word in argv[1:]:
    if not word.startswith(("--config.", "-config.")):
      continue
    path = word.partition("=")[0].partition(".")[2]
    tree = values.config
    for key in path.split("."):
      known = list(tree) if hasattr(tree, "keys") else []
      if key not in known:
        return f"unknown config key {path!r}{suggest(key, known)}"
      tree = tree[key]
  return ""


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


def _nothing_more(rest: Sequence[str]) -> None:
  from embeddinggemma.types import BadInput

  if rest:
    raise BadInput(f"unexpected argument {rest[0]!r}; flags are --name=value")


def _config(values: flags.FlagValues) -> dict[str, Any]:
  return values.config.to_dict()


def _is_recipe(tree: dict[str, Any]) -> bool:
  """Whether a config has several stages: from raw text, or of own pairs."""
  return "prefinetune" in tree or "base" in tree


def _train_config(values: flags.FlagValues) -> Any:
  """One stage; of a recipe, its pre-finetuning."""
  from embeddinggemma import stages

  tree = _config(values)
  tree = tree.get("prefinetune", tree)
  if values.skip_bad_rows and "data" in tree:
    tree["data"]["skip_bad_rows"] = True
  return stages.build(tree)


def _weights(text: str | None) -> list[float] | None:
  from embeddinggemma.types import BadInput

  try:
    return None if text is None else [float(x) for x in text.split(",")]
  except ValueError:
    raise BadInput(
      f"--weights={text}: give numbers, such as 0.5,0.3,0.2"
    ) from None


def _check_points(
  verb: str, config: str, points: Sequence[dict[str, Any]]
) -> None:
  """Raises BadInput for a key that the config lacks, before any run."""
  from embeddinggemma.sweep.points import with_overrides

  one_each = {tuple(point): point for point in points}
  for point in one_each.values():
    argv = with_overrides([verb, config])(point, pathlib.Path("unused"))
    _parse(verb, argv[1:])


def _range(text: str) -> tuple[int, int]:
  from embeddinggemma.types import BadInput

  first, colon, last = text.partition(":")
  if not (
    colon and first.isdigit() and last.isdigit() and int(first) < int(last)
  ):
    raise BadInput(f"--show={text}: give FIRST:LAST, such as 0:20")
  return int(first), int(last)


def _quiet() -> None:
  """Before JAX and TensorFlow start: their notes are not for our users."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
  logging.basicConfig(format="%(message)s")


def call(argv: Sequence[str]) -> int:
  """Runs one verb; returns the exit code."""
  if not argv or argv[0] in ("--help", "-h", "help"):
    print(_usage())
    return 0 if argv else 2
  name, *rest = argv
  if name not in VERBS:
    close = difflib.get_close_matches(name, VERBS, 1)
    fix = (
      f"did you mean {close[0]!r}?" if close else f"known: {', '.join(VERBS)}"
    )
    print(f"error: unknown verb {name!r}; {fix}", file=sys.stderr)
    return 2
  if "--help" in rest or "-h" in rest:
    print(_verb_usage(name))
    return 0
  _quiet()
  if name == "compile":
    from embeddinggemma.tpu import environment

    environment.prepare()
  from embeddinggemma.types import BadInput, Interrupted, Stopped

  try:
    return VERBS[name].run(*_parse(name, rest)) or 0
  except BadInput as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  except Stopped as error:
    print(f"stopped: {error}", file=sys.stderr)
    return 1
  except Interrupted as error:
    print(error, file=sys.stderr)
    return 42
  except KeyboardInterrupt:
    print("interrupted; the same command continues", file=sys.stderr)
    return 42
  except BrokenPipeError:  # such as `| head`, which has read enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
  except Exception as error:
    reason = _cannot_write(error)
    if reason is None:
      raise
    print(f"error: {reason}", file=sys.stderr)
    return 2


def _cannot_write(error: BaseException | None) -> str | None:
  """A full disk or an unfit path in the chain of causes, with the fix.

  Libraries that write from C++ (TensorStore) keep the text, not the number;
  NumPy counts what it could write.
  """
  room = "make room or choose another folder, then start the same command again"
  while error is not None:
    if isinstance(error, OSError) and error.errno in (*_FULL, *_PATH):
      path = str(error.filename2 or error.filename or "")
      where = f": {path if len(path) < 200 else path[:200] + '...'}"
      fix = room if error.errno in _FULL else "choose another path"
      return f"{error.strerror}{where if path else ''}; {fix}"
    text = os.strerror(errno.ENOSPC)
    if text in str(error) or _SHORT.fullmatch(str(error)):
      return f"{text}; {room}"
    error = error.__cause__ or error.__context__
  return None


def _with_huge_pages() -> None:
  """Starts this command again with huge pages for malloc, where glibc has them.

  XLA's CPU buffers are allocated anew each step; without huge pages, a quarter
  of a training step is page faults. glibc reads the variable at start only.
  """
  name = "GLIBC_TUNABLES"
  if sys.platform != "linux" or name in os.environ:
    return
  os.environ[name] = "glibc.malloc.hugetlb=1"
  os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main() -> None:
  """The console script."""
  if sys.argv[1:2] and sys.argv[1] in VERBS and "--help" not in sys.argv:
    _with_huge_pages()
  sys.exit(call(sys.argv[1:]))
