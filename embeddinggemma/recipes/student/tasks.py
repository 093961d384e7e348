"""The tasks of the recipe for a student: what each depends on and does."""

import dataclasses
import functools
import importlib.metadata
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from embeddinggemma import cache, checkpoint
from embeddinggemma.cache import AllDone, Task
from embeddinggemma.data import corpus, prompts, sources
from embeddinggemma.data.tables.pairs import Pairs
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.loading import load
from embeddinggemma.mining import teach, teacher, teachers
from embeddinggemma.mining.teachers import checkpoint as checkpoints
from embeddinggemma.mining.teachers import vectors as stored
from embeddinggemma.recipes import export, index, shared
from embeddinggemma.recipes.own import (
  choice,
  cost,
  general,
  machine,
  scores,
)
from embeddinggemma.recipes.own import forecast as timed
from embeddinggemma.recipes.student import (
  compare,
  draw,
  forecast,
  heading,
  texts,
  timing,
)
from embeddinggemma.recipes.student.config import (
  STAGES,
  StudentConfig,
  renamed,
)
from embeddinggemma.retrieval import measure as measures
from embeddinggemma.students import shrink
from embeddinggemma.training import run as train
from embeddinggemma.training import stages
from embeddinggemma.training import workdir as workdir_lib
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.training.stages.pairs import reads_texts
from embeddinggemma.types import IDENTITY, BadInput, Stopped

INT4 = "int4"  # the student's name, in tables and exports
DISTILLED = "distilled student"  # what finetuning starts from, for people
_AT_ONCE = 1024  # texts that are tokenised together
_MOST_COUNTED = 100_000  # pairs whose pieces decide the vocabulary


class Cut(NamedTuple):
  """The result of the task `shrink`; the last four are 0 if no piece is cut."""

  layers: list[int]
  parameters: int
  before: int
  pieces: int
  lost: int = 0  # pieces that the texts use and that were cut
  share: float = 1.0  # of tokens that are cut as before
  texts: int = 0  # that were looked at
  lacking: int = 0  # of them, those that use a piece which was cut


@dataclasses.dataclass(frozen=True)
class Run:
  """A run of the recipe in its workdir."""

  config: StudentConfig
  workdir: pathlib.Path
  console: Console

  @property
  def corpus(self) -> pathlib.Path:
    """The user's data, split."""
    return self.workdir / "inputs" / "corpus"

  @property
  def pairs(self) -> Pairs:
    """All pairs that could be taught."""
    return corpus.read_train(self.corpus)

  @property
  def made(self) -> Inputs:
    """What the stages read: the pairs that are taught."""
    return Inputs(self.workdir / "draw", self.workdir / "draw" / "text")

  @property
  def texts(self) -> Inputs:
    """What stages that match vectors read: the texts of those pairs."""
    single = self.made.directory / draw.SINGLE
    return dataclasses.replace(self.made, directory=single)

  @property
  def suites(self) -> scores.Suites:
    """The suites that models are scored on, by name."""
    suite = general.place(self.config.general, self.workdir)
    found = scores.read(self.corpus, suite)
    return compare.fewer(found, self.config.measure.queries)

  @property
  def compared(self) -> scores.Suites:
    """Those that every model is scored on."""
    return {n: s for n, s in self.suites.items() if n != scores.VALIDATION}

  @property
  def finetunes(self) -> bool:
    """Whether there are pairs to finetune on."""
    return self.config.kind == texts.PAIRS

  @property
  def stages(self) -> tuple[str, ...]:
    """The stages of training, in order."""
    return tuple(n for n in STAGES if n != "finetune" or self.finetunes)

  @property
  def most_read(self) -> int | None:
    """Tokens that texts are cut to; None: a file has vectors of whole texts."""
    kept = stored.recognises(self.config.teach)
    return None if kept else self.config.max_length

  @property
  def what(self) -> str:
    """What is taught, for people."""
    return "pairs" if self.finetunes else "passages"

  @property
  def negatives(self) -> int:
    """Hard negatives of a pair that are taught, at most."""
    return self.config.finetune.negatives if self.finetunes else 0

  @property
  def measure(self) -> measures.Measure:
    """How much of a passage is taught."""
    found = checkpoint.read_files(checkpoint.find(self.config.base))
    tokenizer = Tokenizer(found[checkpoint.TOKENIZER_FILE], self.config.base)
    return measures.of_tokenizer(
      tokenizer, prompts.DOCUMENT, self.config.max_length
    )

  @property
  def source(self) -> index.Source:
    """What the final model indexes."""
    if given := self.config.index.input:
      return index.Source(pathlib.Path(given))
    if self.config.kind == texts.TEXTS:
      return index.Source(pathlib.Path(self.config.data), (self.workdir,))
    return index.documents(self.corpus, self.workdir, self.config.index.most)

  @property
  def cut(self) -> pathlib.Path:
    """What was cut out of the base."""
    return self.workdir / "shrink"

  @property
  def student(self) -> pathlib.Path:
    """The student in float."""
    return self.workdir / ("choose" if self.finetunes else "distil")

  @property
  def vectors(self) -> pathlib.Path:
    """The teacher's vectors."""
    return self.workdir / "teach"

  def stage(self, name: str, done: AllDone, start: pathlib.Path | str) -> Any:
    """The config of a stage that starts from a checkpoint."""
    steps = done["forecast"].metrics["steps"][name]
    files = checkpoint.read_files(checkpoint.find(self.cut))
    return self.config.stage(name, steps, files, str(start), str(self.vectors))

  def say(self, line: str) -> None:
    """Print a line for the user."""
    self.console.print(line, highlight=False, markup=False, soft_wrap=True)

  @functools.cached_property
  def outside(self) -> dict[str, Any]:
    """What tasks depend on that no task makes: files and the data's config.

    Raises BadInput for paths that do not exist.
    """
    config = self.config
    return {
      "data": texts.fingerprint(
        config.kind, config.data, config.fields, self.workdir, self.measure
      ),
      "suite": shared.fingerprint("general.suite", config.general.suite),
      "searched": shared.fingerprint("index.input", config.index.input),
      "teacher": _base(self)
      if config.itself
      else dict(teachers.teacher_of(config.teach).about),
    }


def tasks(run: Run) -> dict[str, Callable[[AllDone], Task]]:
  """Each task as a function of the results before it, in order.

  Raises BadInput for paths that do not exist.
  """
  _ = run.outside
  left_out = set() if run.finetunes else {"finetune", "choose"}
  if run.config.general.suite:
    left_out.add("general")
  if not run.config.measure.timed:
    left_out.add("time")
  return cache.bound(TASKS, run, left_out)


def _base(run: Run) -> dict[str, Any]:
  """What a task depends on that uses the base."""
  config = run.config
  return {"base": config.base_hash, IDENTITY: config.base_identity}


def _inputs(run: Run, done: AllDone) -> Task:
  """Read the data, cut texts into passages, and hold a part of them back."""
  del done
  config = run.config

  def work(directory: pathlib.Path) -> texts.Own:
    found = texts.write(
      config.kind,
      config.data,
      config.fields,
      config.skip_bad_rows,
      run.workdir,
      run.measure,
      config.distil.seed,
      directory,
      run.say,
    )
    beside = sources.texts_of(pathlib.Path(config.data), config.fields)
    if beside and config.kind == texts.PAIRS:
      names = ", ".join(path.name for path in beside)
      run.say(
        f"{config.data} has pairs, so its single texts are not read: {names}"
      )
    if found.pairs < config.least:
      raise BadInput(
        f"{config.data}: {found.pairs} {run.what} are too few; a student needs"
        f" {config.least} at least, beside those that are held out"
      )
    run.say(f"{found.pairs:,} {run.what} to be taught")
    return found

  depends = {
    "data": run.outside["data"],
    "kind": config.kind,
    "skip_bad_rows": config.skip_bad_rows,
    "seed": config.distil.seed,
    "least": config.least,
    "version": importlib.metadata.version("embeddinggemma"),
    **checkpoint.AS_WRITTEN,
  }
  return Task("inputs", depends, work)


def _general(run: Run, done: AllDone) -> Task:
  """Write the general suite."""
  del done
  return general.task(run.config.general)


def _shrink(run: Run, done: AllDone) -> Task:
  """Cut the student out of the base, and say what its vocabulary lacks."""
  config = run.config

  def work(directory: pathlib.Path) -> dict[str, Any]:
    words: list[str] = []
    if config.vocabulary:
      pairs = run.pairs
      step = -(-len(pairs) // _MOST_COUNTED)
      some = [draw.fewer_negatives(p, run.negatives) for p in pairs[::step]]
      sides = (t for i in teacher.items_of(some) for t in (i.text, i.title))
      words = list(dict.fromkeys(filter(None, sides)))
    with renamed():
      found = shrink.shrink(
        config.base,
        directory,
        config.layers or None,
        config.vocabulary or None,
        words,
      )
    export.require_held(
      found.place, (*config.export.formats, *config.export.quantised)
    )
    files = checkpoint.read_files(found.place)
    pieces = Tokenizer(files[checkpoint.TOKENIZER_FILE]).vocab_size
    cut = Cut(list(found.layers), found.parameters, found.before, pieces)
    run.say(
      f"layers {', '.join(map(str, cut.layers))}; {cut.parameters:,} of"
      f" {cut.before:,} parameters; {pieces:,} pieces"
    )
    if found.pruned is not None:
      held = [
        t for tasks in run.suites.values() for t in cost.texts_of({"": tasks})
      ]
      cut = _lacking(run, found.pruned, [*words, *held], cut)
    place = str(found.place.relative_to(directory))
    digest = checkpoint.hash_of(found.place)
    return {**cut._asdict(), "checkpoint": place, "hash": digest}

  depends = {
    **_base(run),
    **_suites(run, done),
    "layers": config.layers,
    "vocabulary": config.vocabulary,
    "export": dataclasses.asdict(config.export),
  }
  return Task("shrink", depends, work)


def _lacking(run: Run, pruned: Any, words: list[str], cut: Cut) -> Cut:
  """Count and say the texts that use pieces which were cut."""
  files = checkpoint.read_files(checkpoint.find(run.config.base))
  tokenizer = Tokenizer(files[checkpoint.TOKENIZER_FILE])
  kept = np.zeros(tokenizer.vocab_size, bool)
  kept[pruned.ids] = True
  lacking = 0
  for start in range(0, len(words), _AT_ONCE):
    some = words[start : start + _AT_ONCE]
    rows, _ = tokenizer.encode_batch(some, run.config.max_length)
    lacking += sum(not kept[row].all() for row in rows)
  run.say(
    f"of the {pruned.used:,} pieces that the texts use {pruned.lost:,} were cut;"
    f" {pruned.share:.1%} of tokens are cut as before; {lacking:,} of"
    f" {len(words):,} texts, held-out and general ones included, use a piece"
    " that is not there and are spelt with smaller ones"
  )
  return cut._replace(
    lost=pruned.lost, share=pruned.share, texts=len(words), lacking=lacking
  )


def _suites(run: Run, done: AllDone) -> dict[str, Any]:
  """What scores depend on besides the model's weights."""
  own = done["general"].key if "general" in done else run.outside["suite"]
  queries = run.config.measure.queries
  return {"data": done["inputs"].key, "general": own, "queries": queries}


def _forecast(run: Run, done: AllDone) -> Task:
  """Measure paces, and choose how much is taught."""
  config = run.config
  relevant = {
    name: workdir_lib.relevant(getattr(config, name)) for name in STAGES
  }

  def work(directory: pathlib.Path) -> dict[str, Any]:
    counted, paces = _measured(run, directory)
    chosen = config.choose
    most = min(chosen.tokens / counted.tokens, chosen.pairs or counted.pairs)
    shares = {"finetune": chosen.finetune} if run.finetunes else {}
    shares["qat"] = chosen.qat
    found = forecast.budget(
      counted,
      paces,
      config.minutes,
      most,
      config.distil.batch_size,
      chosen.passes,
      shares,
      {name: config.steps[name] for name in ("distil", *shares)},
      _scorings(run),
    )
    wanted = int(min(counted.pairs, most))
    forecast.require_enough(found, config.least, config.minutes, wanted)
    forecast.say(found, paces, counted, config.minutes, run.what, run.console)
    return {
      **found._asdict(),
      "whole": found.whole,
      "paces": paces._asdict(),
      "counted": counted._asdict(),
      "memory": paces.memory,
      "room": paces.room,
    }

  # Not on what is scored and searched: that would change how much is taught, and
  # with it all that is trained, in a run that is there.
  return Task(
    "forecast",
    {
      "data": done["inputs"].result(texts.Own).data_hash,
      "teacher": run.outside["teacher"],
      "student": done["shrink"].hash,
      "stages": relevant,
      "steps": config.steps,
      "choose": dataclasses.asdict(config.choose),
      "minutes": config.minutes,
      "devices": [str(jax.devices()[0]), len(jax.devices())],
      "memory": config.memory,
    },
    work,
    resumable=True,
  )


def _scorings(run: Run) -> int:
  """How many times a student is scored, cut and int4 ones included."""
  return 4 + (len(run.config.shares) + 4 if run.finetunes else 0)


def _measured(
  run: Run, directory: pathlib.Path
) -> tuple[forecast.Counted, forecast.Paces]:
  """Count what there is to do, and time what it takes."""
  config, pairs = run.config, run.pairs
  limit = machine.room()
  if config.memory is not None:
    limit = min(limit, int(config.memory * machine.GB))
  student, suites = load(run.cut), run.compared
  few = -(-forecast.BATCHES * config.distil.batch_size // 2)
  if run.finetunes:  # a batch is of one task: a whole one of each
    batch = max(config.finetune.batch_size, config.qat.batch_size)
    few = max(few, batch * len(pairs.by_task()))
  chosen = list(draw.drawn(pairs, few, config.distil.seed, not run.finetunes))
  files = checkpoint.read_files(checkpoint.find(run.cut))
  stages = {
    name: config.stage(name, 1, files, str(run.cut), "teach")
    for name in run.stages
  }
  loss = stages["distil"].loss
  sample = forecast.sample(
    chosen,
    student.tokenizer,
    run.most_read,
    run.negatives,
    loss.teacher_width or student.config.embed_dim,
    directory / "sample",
  )
  trained = forecast.training(sample, stages, directory, limit)
  base, loading = timed.warm(lambda: load(config.base))
  items = teacher.items_of(sample.texts.texts)
  own = checkpoints.of_model(base) if config.itself else None
  own = own or teachers.teacher_of(config.teach)
  read = [prompts.prompted(*item) for item in items]
  scored, ranking = forecast.scored_tokens(base, suites)
  some = [item.text for item in items[::2]]
  taught = forecast.teaching_pace(own, items, student.tokenizer, directory)
  reads = taught if config.itself else cost.seconds_a_token(base, some)
  return forecast.Counted(
    len(pairs),
    len(items) / len(chosen),
    sum(student.tokenizer.counts(read)) / len(chosen),
    scored,
    ranking,
    cost.searching(student, 1.0, run.source),
  ), forecast.Paces(
    taught,
    reads,
    cost.seconds_a_token(student, some),
    trained.steps,
    trained.compiling,
    loading,
    trained.memory,
    trained.room,
  )


def _draw(run: Run, done: AllDone) -> Task:
  """Draw the pairs that are taught, each text cut to what a student reads."""
  config, count = run.config, done["forecast"].metrics["pairs"]
  depends = {
    "inputs": done["inputs"].key,
    "student": done["shrink"].hash,
    "pairs": count,
    "seed": config.distil.seed,
    "max_length": run.most_read,
    "negatives": run.negatives,
  }

  def work(directory: pathlib.Path) -> draw.Drawn:
    files = checkpoint.read_files(checkpoint.find(run.cut))
    found = draw.write(
      draw.drawn(run.pairs, count, config.distil.seed, not run.finetunes),
      Tokenizer(files[checkpoint.TOKENIZER_FILE]),
      run.most_read,
      run.negatives,
      directory,
    )
    if found.cut:
      run.say(
        f"{found.cut:,} texts are longer than max_length={config.max_length}"
        f" tokens; their beginning is taught (in all: {found.texts:,} texts)"
      )
    return found

  return Task("draw", depends, work)


def _teach(run: Run, done: AllDone) -> Task:
  """Write the teacher's vectors of what is taught."""
  config = run.config

  def work(directory: pathlib.Path) -> teach.Taught:
    model = teachers.teacher_of(config.teach)
    dtype = config.teach.dtype
    return teach.teach(run.texts.texts, model, dtype, directory, run.console)

  depends = {
    "teacher": run.outside["teacher"],
    "dtype": config.teach.dtype,
    "data": done["draw"].result(draw.Drawn).texts_hash,
  }
  return Task("teach", depends, work, resumable=True)


def _trained(
  run: Run, name: str, done: AllDone, start: pathlib.Path, weights: str
) -> Task:
  """A task that trains a stage, from weights with a hash."""
  stage, drawn = run.stage(name, done, start), done["draw"].result(draw.Drawn)
  made, data = (
    (run.texts, drawn.texts_hash)
    if reads_texts(stage)
    else (run.made, drawn.data_hash)
  )

  def work(directory: pathlib.Path) -> Any:
    taught = stages.kind_of(stage).taught(stage, made, directory, run.console)
    return train.train(taught, made, directory, run.console)

  return Task(
    name,
    {
      "config": workdir_lib.relevant(stage),
      "data": data,
      "teacher": done["teach"].result(teach.Taught).of_vectors,
      "start": weights,
    },
    work,
    resumable=True,
  )


def _head(run: Run, done: AllDone) -> Task:
  """Fit the head of what was cut out to the teacher's vectors."""
  weights = done["shrink"].hash
  depends = {
    "student": weights,
    "data": done["draw"].result(draw.Drawn).texts_hash,
    "teacher": done["teach"].result(teach.Taught).of_vectors,
  }

  def work(directory: pathlib.Path) -> dict[str, Any]:
    words, vectors = run.texts.texts, run.vectors
    return heading.fit(run.cut, weights, words, vectors, directory, run.console)

  return Task("head", depends, work)


def _distil(run: Run, done: AllDone) -> Task:
  """Teach what was cut out the teacher's vectors."""
  return _trained(run, "distil", done, run.workdir / "head", done["head"].hash)


def _finetune(run: Run, done: AllDone) -> Task:
  """Train the distilled student on the pairs."""
  start = run.workdir / "distil"
  return _trained(run, "finetune", done, start, done["distil"].hash)


def _choose(run: Run, done: AllDone) -> Task:
  """Choose between the distilled and the finetuned student, and their means."""
  config, distilled = run.config, run.workdir / "distil"

  def work(directory: pathlib.Path) -> dict[str, Any]:
    walk = choice.Walk(
      run.stage("finetune", done, distilled),
      str(distilled),
      run.workdir / "finetune",
      run.suites,
      directory,
      run.console,
      DISTILLED,
    )
    names = [name for name in choice.JUDGES if name in run.suites]
    file = directory / "distilled.json"
    if not file.is_file():
      model = load(distilled)
      found = scores.score_of(model, run.suites, names, DISTILLED, run.console)
      cache.write_json(file, found)
    points = walk.points(cache.read_json(file), config.shares)
    chosen, reason = choice.best(points, config.general.loss)
    place = walk.place(chosen)
    run.say(f"choose: {chosen.name}: {reason}")
    rows = [
      {"name": p.name, "share": p.share, "step": p.step, **p.means}
      for p in points
    ]
    whole = place.absolute().relative_to(run.workdir.absolute())
    found = choice.Choice(str(whole), chosen.name, reason, rows)
    return {"hash": checkpoint.hash_of(place), **found._asdict()}

  depends = {
    **_suites(run, done),
    "distilled": done["distil"].hash,
    "result": done["finetune"].hash,
    "steps": checkpoint.steps(run.workdir / "finetune"),
    "points": config.points,
    "loss": config.general.loss,
  }
  return Task("choose", depends, work, resumable=True)


def _student(run: Run, done: AllDone) -> tuple[pathlib.Path, str]:
  """The checkpoint of the student in float, and the hash of its weights."""
  if not run.finetunes:
    place = run.workdir / "distil" / done["distil"].checkpoint
    return place, done["distil"].hash
  chosen = done["choose"].result(choice.Choice)
  return run.workdir / chosen.place, done["choose"].hash


def _qat(run: Run, done: AllDone) -> Task:
  """Train the student for weights of four bits."""
  return _trained(run, "qat", done, *_student(run, done))


def models(
  run: Run, done: AllDone
) -> dict[str, tuple[str | pathlib.Path, str]]:
  """The models that are compared: name -> (path, hash of the weights)."""
  distilled = run.workdir / "distil" / done["distil"].checkpoint
  found: dict[str, tuple[str | pathlib.Path, str]] = {
    compare.BASE: (run.config.base, run.config.base_hash),
    "cut": (run.cut / done["shrink"].checkpoint, done["shrink"].hash),
    "head": (run.workdir / "head" / done["head"].checkpoint, done["head"].hash),
    "distilled": (distilled, done["distil"].hash),
    "student": _student(run, done),
    INT4: (run.workdir / "qat" / done["qat"].checkpoint, done["qat"].hash),
  }
  if found["student"][1] == found["distilled"][1]:
    del found["distilled"]
  return found


def _evaluate(run: Run, done: AllDone) -> Task:
  """Score base and students."""
  given = models(run, done)

  def work(directory: pathlib.Path) -> dict[str, Any]:
    places = {name: path for name, (path, _) in given.items()}
    found = compare.compare(places, run.compared, directory, run.console)
    return {name: compare.means(one) for name, one in found.items()}

  depends = {
    **_suites(run, done),
    **_base(run),
    "models": {name: digest for name, (_, digest) in given.items()},
  }
  return Task("evaluate", depends, work, resumable=True)


def _export(run: Run, done: AllDone) -> Task:
  """Export the student, and what was trained for four bits."""
  config, given = run.config.export, models(run, done)
  places = {name: pathlib.Path(given[name][0]) for name in ("student", INT4)}
  forms = {"student": config.formats, INT4: config.quantised}
  return Task(
    "export",
    {
      "models": {name: given[name][1] for name in places},
      "config": dataclasses.asdict(config),
      "runtimes": config.runtimes,
      **checkpoint.AS_WRITTEN,
    },
    lambda d: export.export_all(places, forms, d, run.console),
  )


def _time(run: Run, done: AllDone) -> Task:
  """Time base and students, each in a process of its own."""
  given = models(run, done)
  names = (compare.BASE, "student", INT4)

  def work(directory: pathlib.Path) -> dict[str, Any]:
    del directory
    pairs = run.made.pairs
    some = pairs[:: max(len(pairs) // run.config.measure.timed, 1)]
    some = some[: run.config.measure.timed]
    queries = [pair.query for pair in some]
    passages = [pair.positive for pair in some]
    found = {}
    for name in names:
      run.say(f"timing {name}, in a process of its own")
      try:
        took = timing.of_model(given[name][0], queries, passages)
      except Stopped as error:  # such as a TPU, which one process holds
        run.say(f"note: {error}; the report is without times")
        return {}
      found[name] = took._asdict()
    return found

  depends = {
    "models": {name: given[name][1] for name in names},
    "data": done["draw"].result(draw.Drawn).data_hash,
    "texts": run.config.measure.timed,
  }
  return Task("time", depends, work)


def _index(run: Run, done: AllDone) -> Task:
  """Index the source with the final student."""
  return index.task(
    run.config.index,
    run.workdir / "qat" / done["qat"].checkpoint,
    done["qat"].hash,
    {"data": done["inputs"].key, "input": run.outside["searched"]},
    lambda: run.source,
    run.console,
  )


TASKS: Mapping[str, Callable[[Run, AllDone], Task]] = {
  "inputs": _inputs,
  "general": _general,
  "shrink": _shrink,
  "forecast": _forecast,
  "draw": _draw,
  "teach": _teach,
  "head": _head,
  "distil": _distil,
  "finetune": _finetune,
  "choose": _choose,
  "qat": _qat,
  "evaluate": _evaluate,
  "export": _export,
  "time": _time,
  "index": _index,
}
