"""Sections on how it was made: data, training, commands, versions."""

import importlib.metadata
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from embeddinggemma import checkpoint
from embeddinggemma import config as config_lib
from embeddinggemma.convert.card.facts import Facts
from embeddinggemma.convert.card.markup import (
  MOST_ROWS,
  block,
  one_line,
  plain,
  sections,
  table,
)
from embeddinggemma.lineage import stages

NOT_RECORDED = "not recorded"
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
_COMMANDS = 40


def training(facts: Facts) -> str:
  """The last stage in numbers, and all stages before it."""
  stage = facts.recipe.get("stage")
  if not stage:
    return sections(
      ("## Training", f"How it was made is {NOT_RECORDED} (no recipe.json).")
    )
  return sections(
    (
      "## Training",
      _in_words(facts),
      table(("", ""), list(_last(facts)), len(_TRAINED) + MOST_ROWS),
      _before(facts),
    )
  )


def _in_words(facts: Facts) -> str:
  stage, base = facts.recipe["stage"], facts.base
  if stage == stages.IMPORT and not facts.trainings:
    whose = plain(base.repository or base.name) or "its publisher"
    return (
      "Imported as published; nothing was trained here. What it was trained on"
      f" is told by the card of {whose}."
    )
  if stage == stages.IMPORT:
    return "Imported from an export of this program, which told of its stages."
  if stage == "soup":
    count = len(facts.recipe.get("parents", {}))
    return f"The weighted mean of {count} checkpoints (a model soup)."
  return ""


def _last(facts: Facts) -> Iterator[tuple[str, str]]:
  """What recipe.json has of the last stage."""
  recipe = facts.recipe
  yield "stage", plain(str(recipe["stage"]))
  data = recipe.get("data") or {}
  tasks = data.get("tasks")
  for task, number in (tasks if isinstance(tasks, Mapping) else {}).items():
    yield f"pairs of {plain(str(task))}", plain(str(number))
  if single := data.get("texts"):
    yield "single texts", plain(str(single))
  for key in ("hash", "mined", "teacher"):
    if digest := data.get(key):
      yield "data" if key == "hash" else f"{key} of the data", _digest(digest)
  for key in _TRAINED:
    value = config_lib.at(recipe.get("config") or {}, key)
    if isinstance(value, int | float) and value:
      yield key, f"{value:g}"
  for teacher in checkpoint.teachers_of(facts.job.files):
    yield "taught by", _teacher(teacher)
  for name, digest in recipe.get("parents", {}).items():
    yield f"parent: {plain(str(name))}", _digest(digest)
  for name, version in recipe.get("versions", {}).items():
    if name in ("embeddinggemma", "jax"):
      yield plain(str(name)), plain(str(version))


def _teacher(teacher: Mapping[str, Any]) -> str:
  """A teacher by its name, kind, version and licence, as far as recorded."""
  name, kind = str(teacher.get("name", "")), str(teacher.get("kind", ""))
  dates = teacher.get("dates")
  days = " to ".join(map(str, dates)) if isinstance(dates, list) else ""
  digest = re.sub(r"\W", "", str(teacher.get("weights", "")))[:16]
  more = [
    kind if name else "",
    f"weights {digest}" if digest else "",
    f"asked {days}" if days else "",
    f"licence {teacher['licence']}" if teacher.get("licence") else "",
  ]
  said = ", ".join(filter(None, more))
  return plain(f"{name or kind}{f' ({said})' if said else ''}")


def _digest(value: Any) -> str:
  digest = re.sub(r"\W", "", str(value))[:16]
  return f"`{digest}`"


def _before(facts: Facts) -> str:
  """The stages before the last, if there were any."""
  found = facts.stages
  note = ""
  if not stages.is_whole(facts.recipe):
    note = (
      f"The stages of its parents are {NOT_RECORDED}: they were made by a"
      " version that kept only the hashes of their weights."
    )
  if len(found) < 2:
    return note
  rows = [
    (plain(stage["stage"]), _sizes(stage), _amount(stage)) for stage in found
  ]
  head = "All stages, the first one first:"
  shown = table(("stage", "steps, batch, longest text", "data"), rows)
  return sections((head, shown, note))


def _sizes(stage: Mapping[str, Any]) -> str:
  numbers = (stage.get(key) for key in ("steps", "batch_size", "max_length"))
  found = [f"{number:,}" for number in numbers if type(number) is int]
  return ", ".join(found)


def _amount(stage: Mapping[str, Any]) -> str:
  """How much data a stage had."""
  about, tasks = stages.data(stage), stages.counts(stage, "tasks")
  found = []
  if tasks:
    what = "texts" if "tokens" in about else "pairs"
    found.append(f"{sum(tasks.values()):,} {what}")
  for key, what in (("tokens", "tokens"), ("texts", "single texts")):
    if type(about.get(key)) is int:
      found.append(f"{about[key]:,} {what}")
  return ", ".join(found)


def data(facts: Facts) -> str:
  """The sources of training data with their licences, and languages."""
  if not facts.trainings:
    return ""
  names = {str(source["name"]): source for source in facts.sources}
  rows = [
    (
      plain(name),
      plain(_licence(facts, source)) or NOT_RECORDED,
      plain(", ".join(map(str, _list(source.get("languages"))))),
      plain(str(source.get("version") or "")),
    )
    for name, source in names.items()
  ]
  shown = table(("source", "licence", "languages", "version"), rows)
  if not rows:
    shown = (
      f"The names and licences of its sources are {NOT_RECORDED}: they are read"
      " from the README.md of a folder of data when it is prepared, from its"
      " keys `license` and `language`."
    )
  return sections(
    ("## Data", shown, _by_licence(facts), _by_language(facts), _clean(facts))
  )


def _licence(facts: Facts, source: Mapping[str, Any]) -> str:
  stated = facts.job.stated.licences
  return str(source.get("licence") or stated.get(str(source["name"]), ""))


def _by_licence(facts: Facts) -> str:
  """How many sources have which licence, where there are many."""
  if len(facts.sources) <= MOST_ROWS:
    return ""
  count = Counter(_licence(facts, s) or NOT_RECORDED for s in facts.sources)
  said = [f"{plain(name)} {number:,}" for name, number in count.most_common(20)]
  return (
    f"Of {len(facts.sources):,} sources, by licence: {', '.join(said)}. All of"
    " them are in `embeddinggemma.json`, under `trained`."
  )


def _by_language(facts: Facts) -> str:
  counted = facts.counted
  if not counted:
    if facts.job.stated.languages:
      told = ", ".join(facts.job.stated.languages)
      return f"Languages, as stated by its publisher: {told}."
    return (
      f"The languages of the data are {NOT_RECORDED}: pairs may name theirs in a"
      " column `lang`, a folder of data in its README.md."
    )
  said = [f"{plain(name)} {count:,}" for name, count in counted.items()]
  more = len(said) - MOST_ROWS
  rest = f" and {more:,} more languages" if more > 0 else ""
  pairs = max(
    (sum(stages.counts(s, "tasks").values()) for s in facts.trainings),
    default=0,
  )
  unnamed = pairs - sum(counted.values())
  none = f"; {unnamed:,} name none" if unnamed > 0 else ""
  return f"Pairs by language: {', '.join(said[:MOST_ROWS])}{rest}{none}."


def _clean(facts: Facts) -> str:
  """How texts of tests were kept out of the training data."""
  held = [stages.data(stage).get("held_out") for stage in facts.trainings]
  found = [one for one in held if isinstance(one, Mapping) and one.get("by")]
  lines = ["Decontamination:"]
  if found:
    sides = [side for side in ("validation", "test") if found[-1].get(side)]
    lines.append(
      f"- no text of its own {' and '.join(sides)} part is in the training"
      f" data, compared as {plain(str(found[-1]['by']))};"
    )
  if facts.job.stated.decontamination:
    stated = plain(facts.job.stated.decontamination)
    lines.append(f"- stated by its publisher: {stated}")
  else:
    lines.append(
      "- the training data were not compared with any other test set, such as"
      " those of mteb, as far as is recorded (`decontamination` in the file of"
      " `--card` states it)."
    )
  return "\n".join(lines)


def commands(facts: Facts) -> str:
  """The commands that made it, as far as they were typed, and versions."""
  typed = [str(stage.get("command") or "") for stage in facts.stages]
  found = list(dict.fromkeys(c for c in [*typed, facts.command] if c))
  unknown = sum(not command for command in typed)
  note = (
    f"Of {unknown:,} stages the command is {NOT_RECORDED}, as when Python calls"
    " the program."
    if unknown
    else ""
  )
  shown = [one_line(command) for command in found[-_COMMANDS:]]
  return sections(
    (
      "## Commands",
      "Paths are shown by their last parts." if shown else "",
      block(shown, "bash") if shown else "",
      note,
      _versions(facts),
    )
  )


def _versions(facts: Facts) -> str:
  """The versions of what exported it, checked it and scored it."""
  own = importlib.metadata.version("embeddinggemma")
  found = {"embeddinggemma (export)": own}
  checked = facts.certificate.get("runtime_versions")
  found |= checked if isinstance(checked, Mapping) else {}
  for scores in facts.scores:
    if scores.mteb:
      found["mteb"] = scores.mteb
  said = ", ".join(f"{k} {v}" for k, v in found.items())
  return f"Versions: {plain(said)}."


def _list(value: Any) -> list[Any]:
  return value if isinstance(value, list) else []
