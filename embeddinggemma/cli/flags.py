"""The flags of all verbs, and the parsing of command lines."""

import importlib
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import flags

from embeddinggemma.convert import formats
from embeddinggemma.terminal.printable import printable, to_json

if TYPE_CHECKING:
  from embeddinggemma.terminal.console import Terminal


class Verb(NamedTuple):
  """A command: what it does, the function that does it, and its flags."""

  help: str
  # "module:function" of this folder, (values, *words) -> exit code. Imported
  # when it is called, so that --help answers at once.
  run: str
  required: Sequence[str] = ()
  optional: Sequence[str] = ()
  words: bool = False  # whether words, such as a query, may follow the flags
  # Text flags that may be given again; the values are joined by commas. Of any
  # other flag, the last value counts.
  several: Sequence[str] = ()


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
    "a folder of evaluation tasks (BEIR, STS, labels, bitext, pairs), or a file",
  ),
  "mteb": (
    None,
    'tasks of the mteb package: "MTEB(eng, v2)", NanoBEIR, or names with commas',
  ),
  "cache": (
    None,
    "of --mteb: the folder of its results; default: MTEB_CACHE, or ~/.cache/mteb",
  ),
  "fields": (
    None,
    "which column of the pairs is what, as in query:question,positive:answer",
  ),
  "suite": (
    None,
    "long: quality against length, on the text in --data, else Python's own;"
    " long:documents=48,seed=1",
  ),
  "lengths": (
    None,
    "of --suite=long: tokens of its documents; default: 256,512,1024,2048",
  ),
  "prompt": ("document", "the prompt's name: query, document, STS, ..."),
  "index": (None, "a folder that `index` made"),
  "labels": (None, 'a .jsonl of examples ({"text", "label"})'),
  "vectors": (
    None,
    "of an index: int8 or binary; default: int8, or as it has them. Of teach: a"
    " .npy that was made elsewhere",
  ),
  "ids": (
    None,
    "the texts of its rows, a .jsonl or .txt; default: the one beside it",
  ),
  "show": (None, "FIRST:LAST, the batches to show"),
  "inputs": (None, "A,B,...: checkpoints, or workdirs of runs"),
  "weights": (None, "a share for each of them, such as 0.5,0.3,0.2"),
  "sweep": (None, "product(seed=[0, 1], zip(...)); else the config's sweep()"),
  "metric": (None, "what the plot shows, such as loss; else the first"),
  "from": (None, "public weights: a folder, a .gguf, or OWNER/NAME to fetch"),
  "part": ("both", "of an encoder-decoder: encoder, decoder or both"),
  "base": (None, "of an adapter without weights: the model that it changes"),
  "format": (None, formats.names()),
  "layers": (None, "how many to keep, the first ones, or a list: 0,1,2,5"),
  "vocabulary": (None, "pieces to keep at most, such as 64k: those of --data"),
  "stage": (None, "of a recipe: prefinetune (default), adapt, ..."),
  "topology": (None, "a TPU generation and shape, such as v5e:16x16"),
  "dtype": (
    None,
    f"of the written weights: {formats.dtypes()}; default: what the model was"
    " trained for",
  ),
  "precision": (
    None,
    "float, int8, int4, mixed, ...: rounds the weights; else as trained",
  ),
  "compare": (None, "paper: beside the scores published of EmbeddingGemma"),
  "scores": (
    None,
    "JSON that `evaluate` wrote: to compare, with nothing scored; or, as A,B,...,"
    " what a model card says of the exported model",
  ),
  "prompts": (
    None,
    "check: scores with the right prompts, none, and another task's",
  ),
  "card": (
    None,
    "a YAML file with what no record knows, for the model card: name, languages,"
    " licences, citation, code, data, decontamination, limits",
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
  "hybrid": "of --mteb: search by words, too",
  "titles": "of --mteb: titles in their place of the prompt, not before the text",
  "uncertified": "keep an export whose runtime gives other vectors",
  "yes": "ask a paid service without a question first",
  "skip_bad_rows": "count and list broken lines of the data, do not stop at one",
}


def function(verb: Verb) -> Callable[..., int | None]:
  """The function of a verb: (values, *words) -> exit code or None."""
  module, _, name = verb.run.partition(":")
  return getattr(importlib.import_module(f"{__package__}.{module}"), name)


def console() -> "Terminal":
  """The console for progress and notes, on stderr; results go to stdout."""
  from embeddinggemma import distributed
  from embeddinggemma.terminal.console import Terminal

  return Terminal(stderr=True, quiet=not distributed.is_first())


def tree_of(values: flags.FlagValues) -> dict[str, Any]:
  """The config of a command line, with overrides and references resolved."""
  return values.config.to_dict()


def with_data(values: flags.FlagValues, tree: dict[str, Any]) -> None:
  """Put --skip_bad_rows and --fields into a stage's tree that reads data."""
  if "data" not in tree:
    return
  if values.skip_bad_rows:
    tree["data"]["skip_bad_rows"] = True
  if values.fields is not None:
    tree["data"]["fields"] = values.fields


def is_recipe(tree: dict[str, Any]) -> bool:
  """Whether a config is a recipe's: from raw text, or for the user's pairs."""
  return "prefinetune" in tree or "base" in tree


def file_of(path: str) -> pathlib.Path:
  """The path of --output.

  Before any work, raises BadInput if it is a folder, and the OSError of writing
  there.
  """
  from embeddinggemma import cache
  from embeddinggemma.types import BadInput

  file = cache.as_folder(path, "--output")
  if file.is_dir():
    raise BadInput(f"--output={path} is a folder; name a file")
  cache.require_place(file, folder=False)
  return file


def folder_of(path: str, flag: str = "--workdir") -> pathlib.Path:
  """The folder that a flag names, to be made or used again.

  Before any work, raises BadInput for an address and the OSError of making it.
  """
  from embeddinggemma import cache

  folder = cache.as_folder(path, flag)
  cache.require_place(folder, folder=True)
  return folder


def say(value: Any) -> None:
  """Print a value as a line of JSON."""
  print(to_json(value, getattr(sys.stdout, "encoding", None) or "utf-8"))


def show(*lines: str) -> None:
  """Print lines of a result for people, with nothing hidden in them."""
  for line in lines:
    print(printable(line))


def usage(verbs: Mapping[str, Verb]) -> str:
  """The text of --help."""
  width = max(map(len, verbs))
  lines = [f"  {name:<{width}}  {verb.help}" for name, verb in verbs.items()]
  return (
    "embeddinggemma VERB [--flag=value ...]\n\n"
    + "\n".join(lines)
    + "\n\nembeddinggemma VERB --help shows a verb's flags. Exit codes: 0 done,"
    " 1 a negative\nverdict, 2 bad input, 42 interrupted: start it again."
  )


def verb_usage(name: str, verb: Verb) -> str:
  """The text of VERB --help."""
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


def parse(
  name: str, verb: Verb, argv: Sequence[str]
) -> tuple[flags.FlagValues, list[str]]:
  """The values of a verb's flags, and the words after them.

  Raises BadInput for an unknown flag or config key, with the nearest known one;
  for a value of the wrong type; and for superfluous words.
  """
  from embeddinggemma.cli import overrides
  from embeddinggemma.types import BadInput

  takes_config = "config" in verb.required
  argv = _config_first(argv) if takes_config else list(argv)
  if takes_config and not (argv and argv[0].startswith("--config=")):
    raise BadInput(missing(name, "config"))
  if any(word.startswith("--config.") and "," in word for word in argv):
    tree = _tree_alone(name, verb, argv)
    argv = [overrides.quoted(tree, word) for word in argv]
  values = _flags_of(verb, argv)
  try:
    rest = values([name, *argv])[1:]
  except flags.UnrecognizedFlagError as error:
    raise BadInput(_unknown_flag(name, verb, error.flagname)) from None
  except flags.Error as error:
    tree, said = _tree_alone(name, verb, argv), _last_line(error)
    refused = [word for word in argv if str(error).startswith(f"flag {word}:")]
    better = [overrides.wrong_value(tree, word) for word in refused]
    raise BadInput("".join(better) or f"{name}: {said}") from None
  except BadInput:
    raise
  except Exception as error:  # of an override, or of the user's config file
    named = isinstance(error, AttributeError | KeyError)
    said = repr(error) if named else _last_line(error)
    tree = _tree_alone(name, verb, argv)
    better = overrides.wrong_key(tree, argv) if tree is not None else ""
    raise BadInput(better or f"config: {said}") from None
  for flag in verb.several:
    given = values[flag].value
    if given is not None:
      values[flag].value = ",".join(given)
  lacking = [flag for flag in verb.required if values[flag].value is None]
  if lacking:
    raise BadInput(missing(name, lacking[0]))
  for flag in TEXT_FLAGS:
    if flag in values and flag != "config" and values[flag].value == "":
      raise BadInput(f"{name}: --{flag} is empty; give a value or leave it out")
  if rest and not verb.words:
    raise BadInput(f"unexpected argument {rest[0]!r}; flags are --name=value")
  return values, rest


def missing(name: str, flag: str) -> str:
  """The message for a required flag that is missing."""
  return f"{name}: --{flag} is missing; see embeddinggemma {name} --help"


def _flags_of(verb: Verb, argv: Sequence[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  for flag in (*verb.required, *verb.optional):
    if flag == "config":
      _define_config(values, argv)
    elif flag in verb.several:
      flags.DEFINE_multi_string(flag, *TEXT_FLAGS[flag], flag_values=values)
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

  So overrides may precede it, and a later --config replaces an earlier one.
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
  """The path of configs/NAME.py, with its :arg.

  The current folder's comes before the shipped one.
  """
  from embeddinggemma.types import BadInput

  path, colon, arg = value.partition(":")
  here = pathlib.Path(__file__).parents[1]
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


def _last_line(error: Exception) -> str:
  lines = str(error).strip().splitlines()
  return lines[-1] if lines else type(error).__name__


def _unknown_flag(name: str, verb: Verb, flag: str) -> str:
  from embeddinggemma.config import suggest

  if flag.startswith("config."):
    return f"{name}: --{flag} needs --config before it"
  known = [f"--{other}" for other in (*verb.required, *verb.optional)]
  flag = f"--{flag}"
  return f"{name}: unknown flag {flag!r}{suggest(flag, known)}"


def _tree_alone(name: str, verb: Verb, argv: Sequence[str]) -> Any:
  """The config without overrides; None of a verb or file that gives none."""
  if "config" not in verb.required:
    return None
  values = _flags_of(verb, argv[:1])
  try:
    values([name, *argv[:1]])
  except Exception:  # it is the config file that fails
    return None
  return values.config
