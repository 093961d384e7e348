"""The model card of an export: README.md, as the Hugging Face Hub reads it.

All that it says is recorded in the checkpoint, its run or the certificate. Text
that comes from files is escaped, and no path of this machine is named.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import yaml

from embeddinggemma import cache, checkpoint, quantize
from embeddinggemma import config as config_lib
from embeddinggemma.convert import origin
from embeddinggemma.convert.write.exporting import Job, Written
from embeddinggemma.losses import matryoshka

_TAGS = (
  "sentence-transformers",
  "sentence-similarity",
  "feature-extraction",
  "embeddinggemma",
)
_MOST_SCORES = 40
# Of the config of a training: what decided the weights.
_TRAINED = (
  "steps",
  "batch_size",
  "max_length",
  "negatives",
  "seed",
  "optimizer.lr",
  "loss.temperature",
  "loss.contrastive",
  "loss.distill",
  "loss.score_matching",
  "lora.rank",
)


def card(job: Job, written: Written, found: Mapping[str, Any]) -> bytes:
  """The card of an export for sentence-transformers.

  Args:
    job: what was exported.
    written: what was written of it.
    found: the content of its certificate.
  """
  parts = [
    _header(job),
    f"# {plain(job.title)}",
    _what(job),
    _use(job),
    "\n".join(_training(job)),
    "\n".join(_scores(job, written)),
    _checked(found),
    _terms(job),
  ]
  return ("\n\n".join(filter(None, parts)) + "\n").encode()


def plain(text: str) -> str:
  """A text of one line in which Markdown and HTML find nothing to do."""
  text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
  return re.sub(r"([\\`*_\[\]<>|!~&$@:])", r"\\\1", text)


def _code(text: str) -> str:
  """A text as code in a line; JSON shows what is not printable."""
  shown = json.dumps(text, ensure_ascii=not text.isprintable())
  ticks = max((len(run) for run in re.findall("`+", shown)), default=0) + 1
  fence = "`" * ticks
  pad = " " if ticks > 1 else ""
  return f"{fence}{pad}{shown}{pad}{fence}".replace("|", "\\|")


def _header(job: Job) -> str:
  base = origin.base(job.files).repository
  tree = {
    **origin.licence(job.files),
    **({"base_model": base} if base else {}),
    "pipeline_tag": "sentence-similarity",
    "library_name": "sentence-transformers",
    "tags": list(_TAGS),
  }
  text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
  return f"---\n{text}---"


def _what(job: Job) -> str:
  config = job.config
  whole, *shorter = map(str, matryoshka.dims_of(config.embed_dim))
  dims = whole
  if shorter:
    dims += f"; also {', '.join(shorter)}: a vector's first, at unit norm again"
  count = sum(int(np.prod(s.shape)) for s in job.shapes.values())
  base = origin.base(job.files)
  descent = (
    f" Its weights descend from {plain(base.name)}." if base.name else ""
  )
  if cut := origin.cut_out_of(checkpoint.cuts(job.files), base.name):
    descent += f" It was cut out of a larger model: {plain(cut)}."
  grid = ""
  if job.precision != quantize.FLOAT:
    since = "rounded to it" if job.rounded else "trained for it"
    grid = f", on the {job.precision} grid ({since})"
  return (
    "A text embedding model of the EmbeddingGemma class, for"
    f" sentence-transformers.{descent}\n\n"
    "| | |\n|---|---|\n"
    f"| parameters | {count:,} |\n"
    f"| dimensions | {dims} |\n"
    f"| longest text | {config.max_length} tokens, prompt included |\n"
    f"| weights | {job.dtype}{grid} |\n"
    f"| layers, width, vocabulary | {config.num_layers}, {config.width},"
    f" {config.vocab_size:,} |"
  )


def _use(job: Job) -> str:
  dims = matryoshka.dims_of(job.config.embed_dim)
  rows = "\n".join(
    f"| {_code(name)} | {_code(prompt)} |"
    for name, prompt in job.prompts.items()
  )
  return (
    "## Use\n\n```python\nfrom sentence_transformers import SentenceTransformer"
    "\n\n"
    'model = SentenceTransformer("path/to/this/folder")\n'
    'queries = model.encode_query(["how do I change my PIN"])\n'
    "documents = model.encode_document("
    '["The PIN can be changed at any cash machine."])\n'
    "print(model.similarity(queries, documents))\n"
    f'short = model.encode_query(["a text"], truncate_dim={dims[-1]})\n```\n\n'
    "Queries and documents have different prompts, which `encode_query` and"
    " `encode_document` add; other tasks name theirs, as"
    ' `model.encode(texts, prompt_name="NAME")`.\n\n'
    f"| name | prompt |\n|---|---|\n{rows}"
  )


def _training(job: Job) -> Iterator[str]:
  """The lines of the section on training, from recipe.json."""
  recipe = checkpoint.recipe_of(job.files)
  stage = recipe.get("stage")
  if not stage:
    return
  yield "## Training\n"
  if stage == "import":
    yield "Imported as published; nothing was trained here."
  if stage == "soup":
    count = len(recipe.get("parents", {}))
    yield f"The weighted mean of {count} checkpoints (a model soup)."
  yield "| | |\n|---|---|"
  yield f"| stage | {plain(str(stage))} |"
  data = recipe.get("data") or {}
  for task, number in (data.get("tasks") or {}).items():
    yield f"| pairs of {plain(str(task))} | {plain(str(number))} |"
  if single := data.get("texts"):
    yield f"| single texts | {plain(str(single))} |"
  for key in ("hash", "mined", "teacher"):
    if digest := data.get(key):
      what = "data" if key == "hash" else f"{key} of the data"
      yield f"| {what} | `{_digest(digest)}` |"
  for key in _TRAINED:
    value = config_lib.at(recipe.get("config") or {}, key)
    if isinstance(value, int | float) and value:
      yield f"| {key} | {value:g} |"
  for teacher in checkpoint.teachers_of(job.files):
    yield f"| taught by | {_teacher(teacher)} |"
  for name, digest in recipe.get("parents", {}).items():
    yield f"| parent: {plain(str(name))} | `{_digest(digest)}` |"
  for name, version in recipe.get("versions", {}).items():
    if name in ("embeddinggemma", "jax"):
      yield f"| {name} | {plain(str(version))} |"


def _teacher(teacher: Mapping[str, Any]) -> str:
  """A teacher by its name, kind, version and licence, as far as recorded."""
  name, kind = str(teacher.get("name", "")), str(teacher.get("kind", ""))
  dates = teacher.get("dates")
  days = " to ".join(map(str, dates)) if isinstance(dates, list) else ""
  more = [
    kind if name else "",
    f"weights {_digest(teacher['weights'])}" if "weights" in teacher else "",
    f"asked {days}" if days else "",
    f"licence {teacher['licence']}" if teacher.get("licence") else "",
  ]
  said = ", ".join(filter(None, more))
  return plain(f"{name or kind}{f' ({said})' if said else ''}")


def _digest(value: Any) -> str:
  return re.sub(r"\W", "", str(value))[:16]


def _scores(job: Job, written: Written) -> Iterator[str]:
  """The scores in the summary of a run whose result has these weights."""
  for place in list(job.directory.parents)[:5]:
    final = cache.read_json(place / "summary.json").get("final", {})
    if final.get("hash") == written.digest:
      numbers = {
        name: value
        for name, value in (final.get("metrics") or {}).items()
        if isinstance(value, int | float)
      }
      if numbers:
        yield "## Scores\n\n| suite | score |\n|---|---|"
        for name, value in list(numbers.items())[:_MOST_SCORES]:
          yield f"| {plain(str(name))} | {value:.4f} |"
      return


def _checked(found: Mapping[str, Any]) -> str:
  """What the certificate says, in a sentence."""
  head = "## Checked\n\n"
  if "cosine" not in found:
    return f"{head}certificate.json: {plain(found['verdict'])}."
  runtime = f"{found['runtime']} through {found['through']}"
  return (
    f"{head}certificate.json: {plain(found['verdict'])} in {plain(runtime)}, on"
    f" {found['texts']} texts: cosine {found['cosine']['min']:.6f} at least to"
    " the model that was exported."
  )


def _terms(job: Job) -> str:
  names = sorted(name for name in job.files if checkpoint.is_terms(name))
  licence = origin.licence(job.files)
  said = plain(licence["license"])
  if licence["license"] == origin.OTHER:
    said = "not one of the Hub's list"
  files = ", ".join(map(_code, names))
  beside = f"; the terms are in {files}" if names else ""
  taught = "".join(
    f"\n\nTerms of the teacher {plain(str(teacher.get('name', '')))}:"
    f" {plain(str(teacher['terms']))}."
    for teacher in checkpoint.teachers_of(job.files)
    if teacher.get("terms")
  )
  return (
    f"## Licence\n\nThe licence is {said}{beside}. A model inherits the terms of"
    f" its data, of the weights that it started from and of its teachers.{taught}"
  )
