"""All verbs, with the flags that each takes; VERBS is their table.

A verb's function reads its flags, calls the library and prints the result.
"""

import difflib

from embeddinggemma.cli.flags import Verb
from embeddinggemma.convert import formats

VERBS = {
  "run": Verb(
    "run a recipe: every stage, cached; continues where it was",
    "recipes:run",
    ("config", "workdir"),
    ("skip_bad_rows", "fields"),
  ),
  "train": Verb(
    "one stage of training",
    "training:train",
    ("config", "workdir"),
    ("skip_bad_rows", "fields"),
  ),
  "evaluate": Verb(
    "score models on tasks of yours or mteb's; compare them, and with the paper",
    "evaluation:evaluate",
    (),
    (
      "model",
      "output",
      "data",
      "precision",
      "fields",
      "dim",
      "prompts",
      "compare",
      "mteb",
      "cache",
      "hybrid",
      "titles",
      "suite",
      "lengths",
      "scores",
      "json",
      "yes",
    ),
    several=("model",),
  ),
  "prepare": Verb(
    "make the shards that training reads; show what the model will see",
    "training:prepare",
    ("config",),
    ("workdir", "show", "json", "skip_bad_rows", "fields"),
  ),
  "embed": Verb(
    'texts to vectors; --input: a .txt, a .jsonl ({"text", "title"?}) or -',
    "search:embed",
    ("model", "input", "output"),
    ("prompt", "dim", "json"),
  ),
  "index": Verb(
    'make a folder or a .jsonl ({"text", "title"?}) searchable; again: update',
    "search:index",
    ("model", "input", "output"),
    ("dim", "vectors", "rebuild", "json"),
  ),
  "query": Verb(
    'search an index: query --model=DIR --index=DIR "how do I parse a date";'
    " --labels=FILE: label texts",
    "search:query",
    ("model",),
    ("index", "dense", "lexical", "labels", "input", "json", "k"),
    words=True,
  ),
  "teach": Verb(
    "write a teacher's vectors of pairs, for distillation",
    "data:teach",
    ("config", "data", "output"),
    ("vectors", "ids", "yes", "skip_bad_rows", "fields"),
  ),
  "mine": Verb(
    "find hard negatives of pairs; --explain=ROW: why which were taken",
    "data:mine",
    ("config", "data", "output"),
    ("model", "explain", "skip_bad_rows", "fields"),
  ),
  "mixture": Verb(
    "search mixtures of tasks: short finetunings, Vizier, a pick of the best",
    "data:mixture",
    ("config", "workdir"),
    ("pick", "json", "skip_bad_rows", "fields"),
  ),
  "soup": Verb(
    "average checkpoints; --path=N: the table of N points between two;"
    " --last=N: the newest of one run",
    "models:soup",
    ("inputs", "workdir"),
    ("weights", "path", "last", "data"),
  ),
  "shrink": Verb(
    "cut a small model out of a large one: fewer layers, fewer pieces",
    "students:shrink",
    ("model", "workdir"),
    ("layers", "vocabulary", "data", "fields", "skip_bad_rows", "json"),
  ),
  "doctor": Verb(
    "look for silent wrongness: doctor PATH; a row a check, exit 1 on a fault",
    "models:doctor",
    (),
    ("json",),
    words=True,
  ),
  "import": Verb(
    "public weights in: EmbeddingGemma, Gemma 3, T5Gemma, T5Gemma 2",
    "models:import_",
    ("from", "workdir"),
    ("part", "base"),
  ),
  "export": Verb(
    f"a model out, for {formats.programs()}: certificate, model card",
    "models:export",
    ("model", "format", "output"),
    ("dtype", "uncertified", "scores", "card"),
  ),
  "compile": Verb(
    "compile a stage for a TPU topology on any machine: memory, time, traffic",
    "compile:compile_",
    ("config", "topology"),
    ("stage", "num_slices", "fit", "shardings", "json"),
  ),
  "sweep": Verb(
    "run a config at every point of a product or zip of overrides",
    "sweep:sweep",
    ("config", "workdir"),
    ("sweep", "print", "jobs", "metric"),
  ),
}


def unknown(name: str) -> str:
  """The message for an unknown verb, with the nearest known one, or all."""
  close = difflib.get_close_matches(name, VERBS, 1)
  fix = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(VERBS)}"
  return f"unknown verb {name!r}; {fix}"
