"""Contrastive training on pairs: pre-finetuning and finetuning.

One function of two configs (paper sections 2.2 and 2.3): pre-finetuning has
larger batches and no hard negatives.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from embeddinggemma import cache, checkpoint, encode, sharding
from embeddinggemma.config import (
  TEXTS,
  DataConfig,
  LoraConfig,
  LossConfig,
  at_least,
  one_of,
)
from embeddinggemma.data import (
  corpus,
  coverage,
  loader,
  mixture,
  packing,
  prompts,
  rivals,
  sources,
)
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.losses import (
  contrastive,
  distill,
  matryoshka,
  objectives,
  probe,
)
from embeddinggemma.losses import terms as terms_lib
from embeddinggemma.mining import negatives, teacher
from embeddinggemma.model import adapt as surgery
from embeddinggemma.model import embedder, flops, lora
from embeddinggemma.training import inputs, memory
from embeddinggemma.training.config import TrainConfig
from embeddinggemma.training.inputs import Inputs
from embeddinggemma.training.memory import Calls
from embeddinggemma.training.stages import common, shapes
from embeddinggemma.training.stages.kind import (
  Kind,
  Result,
  Say,
  Shown,
  last_step,
)
from embeddinggemma.types import (
  BadInput,
  Key,
  LossTerm,
  Pair,
  PairBatch,
  Params,
  SingleText,
  Stage,
  Teacher,
  Text,
)

CALLS = ("separate", "joint")
_LOOKED_AT = 1000  # texts of each side of a task that are looked at for bytes
_MOST_ALONE = 0.1  # share of pairs without a negative above which it is said
Tasks = Mapping[str, mixture.Rows]
Read = dict[str, Int[np.ndarray, "_"]]  # task -> ids of the rows that are read
RowsRead = Callable[[Any, Tasks], Read]


@dataclasses.dataclass(frozen=True)
class PairConfig(TrainConfig):
  """Config of contrastive training on pairs."""

  calls: str  # encode queries and positives "separate" or "joint", in one call
  data: DataConfig
  loss: LossConfig
  # Largest number of hard negatives of a query.
  negatives: int = dataclasses.field(default=0, kw_only=True)
  # A folder of teacher's vectors, written by the verb `teach`; "": no teacher.
  teacher: str = dataclasses.field(default="", kw_only=True)
  lora: LoraConfig = dataclasses.field(default=LoraConfig(), kw_only=True)
  # Steps between looks at how vectors lie and what pulls them; 0: none.
  every_probe: int = dataclasses.field(default=0, kw_only=True)

  def __post_init__(self) -> None:
    super().__post_init__()
    one_of("calls", self.calls, CALLS)
    one_of("loss.distance", self.loss.distance, tuple(distill.DISTANCES))
    judge = self.loss.false_negatives_by
    one_of("loss.false_negatives_by", judge, contrastive.JUDGES)
    at_least("negatives", self.negatives, 0)
    at_least("every_probe", self.every_probe, 0)
    terms_lib.check(self.loss)
    for name in ("matryoshka", "distill_dims"):
      for dim in getattr(self.loss, name):
        if not 0 < dim <= self.model.embed_dim:
          raise BadInput(
            f"loss.{name} holds {dim}; dimensions lie between 1 and"
            f" model.embed_dim={self.model.embed_dim}"
          )


def finetune(config: PairConfig, mesh: Mesh) -> Stage:
  """The stage of contrastive training on pairs (paper sections 2.2 and 2.3).

  It serves pre-finetuning and finetuning: the former only has larger batches
  and no hard negatives.
  """
  encode_sides, chosen = _encode_sides(config, mesh), terms(config, mesh)
  probed = bool(config.every_probe)
  show = probe.show(mesh, [lora.LORA]) if probed else objectives.nothing
  objective = objectives.pair_objective(encode_sides, chosen, mesh, show)
  stage = dataclasses.replace(
    common.stage(config, init(config), objective),
    probe=probe.pair_probe(chosen, mesh) if probed else None,
  )
  if not config.lora.rank:
    return stage
  # What is in aux is trained, low-rank factors included; the model is frozen.
  return dataclasses.replace(
    stage,
    view=lora.view(config.lora),
    trainable=lambda path: path.startswith("aux/") and stage.trainable(path),
  )


def _encode_sides(config: PairConfig, mesh: Mesh) -> objectives.EncodeSides:
  """The encoding of a batch's sides as config.calls says.

  Separate calls of a single group look all token ids up together.
  """
  rules = config.mesh.rules
  whole = encode.encoder(config.model, mesh, rules)
  apart = objectives.ENCODE_SIDES[config.calls](whole)
  if config.calls != "separate":
    return apart
  sides_of_group = embedder.encode_sides(config.model)
  together = sharding.data_parallel(sides_of_group, mesh, rules)

  def each(params: Params, sides: Sequence[Text]) -> list[Array]:
    # With several groups, one loop would hold a group of every side at once.
    if sides[0].ids.shape[0] > mesh.size:
      return apart(params, sides)
    return list(together(params, tuple(sides)))

  return each


def init(config: PairConfig) -> Callable[[Key], Params]:
  """A function key -> fresh parameters of an embedder and what learns beside.

  aux holds the projection to a teacher of another width and low-rank factors.
  """
  width, target = config.model.embed_dim, config.loss.teacher_width
  embedder_of = embedder.init(config.model)

  def fresh(key: Key) -> Params:
    params, aux = embedder_of(key), {}
    if config.loss.distill and target:
      own = jax.random.fold_in(key, 1)
      aux[distill.PROJECTION] = distill.init_projection(own, width, target)
    if config.lora.rank:
      own = jax.random.fold_in(key, 2)
      aux[lora.LORA] = lora.init(params["model"], config.lora.rank, own)
    return {**params, "aux": aux}

  return fresh


def _adopt(
  config: PairConfig, given: Params, other: Params | None
) -> Mapping[str, Any]:
  """The embedder in a parent's parameters, and its projection if it fits."""
  del other
  moved = surgery.to_embedder(given)
  known = given.get("aux", {}).get(distill.PROJECTION)
  wanted = (config.model.embed_dim, config.loss.teacher_width)
  if not config.loss.distill or known is None or known.shape != wanted:
    return moved
  return {**moved, "aux": {distill.PROJECTION: known}}


def terms(config: PairConfig, mesh: Mesh) -> dict[str, tuple[float, LossTerm]]:
  """Loss terms as name -> (weight, term)."""
  loss, width = config.loss, config.model.embed_dim
  dims = loss.matryoshka or matryoshka.dims_of(width)
  rows = [objectives.row_by_row(mesh, n) for n in (width, max(width // 2, 1))]
  given = terms_lib.Given(loss, dims, *rows)
  return {
    name: (getattr(loss, name), make(given))
    for name, make in terms_lib.TERMS.items()
  }


def reads_texts(config: PairConfig) -> bool:
  """Whether single texts are read: if nothing needs their partner."""
  return not config.loss.contrastive


def fingerprint(config: PairConfig) -> dict[str, Any]:
  """What the pairs, or single texts, depend on."""
  data = config.data
  return corpus.fingerprint(data.path, data.fields, reads_texts(config))


def about(config: PairConfig, made: Inputs) -> dict[str, Any]:
  """Description of the pairs, the mined negatives and the teacher's vectors."""
  found = inputs.about_pairs(made)
  if config.teacher:
    found["teacher"] = inputs.hash_of_vectors(config.teacher)
  return found


def all_rows(config: PairConfig, tasks: Tasks) -> Read:
  """All rows of every task."""
  del config
  return {task: np.arange(len(rows)) for task, rows in tasks.items()}


def dataset(
  config: PairConfig,
  made: Inputs,
  groups: int,
  say: Say,
  rows_read: RowsRead = all_rows,
  reading: Sequence[object] = (),
) -> tuple[grain.MapDataset, int]:
  """The dataset step -> Loaded, and the number of truncated texts.

  Runs that differ only in weights share the tokenised and packed texts.

  Args:
    config: of the stage.
    made: its inputs.
    groups: number of groups of all devices.
    say: called with notes about the data.
    rows_read: (config, tasks) -> rows for which the teacher must have vectors.
    reading: what `rows_read` depends on besides the tasks.
  """
  key = {
    "inputs": about(config, made),
    "tokenizer": made.tokenizer().hash,
    "groups": groups,
    "size": [config.batch_size, config.max_length, config.seed],
    "negatives": config.negatives,
    "texts": reads_texts(config),
    "read": reading,
  }
  pack = lambda: _packed(config, made, groups, say, rows_read)
  tasks, packer, truncated = cache.share("pairs", key, pack)
  weights = shares(config, tasks)
  size, seed = config.batch_size, config.seed
  return loader.load(tasks, weights, size, seed, packer), truncated


def _packed(
  config: PairConfig,
  made: Inputs,
  groups: int,
  say: Say,
  rows_read: RowsRead,
) -> tuple[dict[str, mixture.Rows], loader.Packer, int]:
  tasks, truncated = read_tasks(config, made)
  if truncated:
    texts = sum(int((rows.lengths > 0).sum()) for rows in tasks.values())
    say(
      f"{truncated} of {texts} texts are longer than"
      f" max_length={config.max_length} tokens and were cut"
    )
  if lacking := _about_bytes(tasks, made.tokenizer()):
    say(lacking)
  if config.negatives:
    say(_about_negatives(tasks))
  vectors = None
  if config.teacher:
    vectors = teacher.open_vectors(pathlib.Path(config.teacher))
    members = members_of(config, made)
    read = rows_read(config, tasks)
    tasks = {
      task: _taught(rows, members[task], read[task], vectors)
      for task, rows in tasks.items()
    }
  packer = loader.Packer(
    tasks,
    config.batch_size,
    groups,
    config.seed,
    None if vectors is None else vectors.vectors,
  )
  return tasks, packer, truncated


def _about_bytes(
  tasks: Mapping[str, mixture.Rows], tokenizer: Tokenizer
) -> str:
  """A note on tasks for whose characters the vocabulary lacks pieces; or ""."""
  some = lambda texts: texts[:: 1 + len(texts) // _LOOKED_AT]
  return coverage.note(
    {
      task: coverage.in_bytes(
        tokenizer,
        (
          texts[n]
          for texts in (rows.query, rows.positive)
          if texts is not None
          for n in some(range(len(texts)))
        ),
      )
      for task, rows in tasks.items()
    }
  )


def _about_negatives(tasks: Mapping[str, mixture.Rows]) -> str:
  """A note on how many pairs have hard negatives; the others are used too."""
  having = sum(int((r.lengths[:, 2:] > 0).any(1).sum()) for r in tasks.values())
  whole = sum(map(len, tasks.values()))
  return f"{having} of {whole} pairs have hard negatives"


def shares(
  config: PairConfig, tasks: Mapping[str, mixture.Rows]
) -> dict[str, float]:
  """Each task's share of the batches."""
  sizes = {task: len(rows) for task, rows in tasks.items()}
  return mixture.shares(sizes, weights(config), config.data.size_exponent)


def weights(config: PairConfig) -> dict[str, float]:
  """The weights of the tasks that are read, single texts being one."""
  data = config.data
  single = {TEXTS: data.texts_weight} if reads_texts(config) else {}
  return single | data.weights


def read_tasks(
  config: PairConfig, made: Inputs
) -> tuple[dict[str, mixture.Rows], int]:
  """Tokenised rows by task, and the number of truncated texts."""
  key = {
    "inputs": inputs.about_pairs(made),
    "tokenizer": made.tokenizer().hash,
    "size": [config.max_length, config.negatives],
    "texts": reads_texts(config),
  }

  def tokenise() -> tuple[dict[str, mixture.Rows], int]:
    tokenizer, length = made.tokenizer(), config.max_length
    pairs = read_pairs(config, made)
    tasks, cut = mixture.tokenise(pairs, tokenizer, length, config.negatives)
    if reads_texts(config) and made.texts:
      single, more = mixture.tokenise_texts(made.texts, tokenizer, length)
      tasks, cut = {**tasks, TEXTS: single}, cut + more
    return tasks, cut

  return cache.share("tokens", key, tokenise)


def members_of(
  config: PairConfig, made: Inputs
) -> Mapping[str, Sequence[Pair] | Sequence[SingleText]]:
  """Task -> its pairs, or the single texts, of which `read_tasks` has rows."""
  return {**sources.by_task(read_pairs(config, made)), TEXTS: made.texts}


def read_pairs(config: PairConfig, made: Inputs) -> Sequence[Pair]:
  """The training pairs, with mined hard negatives if there are any."""
  pairs = corpus.read_train(made.corpus)
  if made.mined and config.negatives:
    return negatives.with_negatives(pairs, made.mined, config.negatives)
  return pairs


def _taught(
  rows: mixture.Rows,
  members: Sequence[Pair] | Sequence[SingleText],
  read: Int[np.ndarray, "_"],
  vectors: teacher.Vectors,
) -> mixture.Rows:
  """A task's rows, with indices into the teacher's vectors if read."""
  places = np.full((len(rows), rows.lengths.shape[1]), -1)
  items: list[teacher.Item] = []
  there: list[tuple[int, int]] = []
  for row in read.tolist():
    found = _items(rows, members[row])
    items += found
    there += [(row, place) for place in range(len(found))]
  if there:
    places[tuple(np.array(there).T)] = vectors.places(teacher.keys_of(items))
  return dataclasses.replace(rows, taught=places)


def _items(rows: mixture.Rows, member: Pair | SingleText) -> list[teacher.Item]:
  """The texts of a row, as the teacher knows them."""
  if isinstance(member, SingleText):
    return [teacher.Item(member.prompt, member.text, member.title)]
  document = prompts.document_prompt(rows.task)
  given = mixture.titled_negatives(member, rows.negatives)
  sides = [(member.positive, member.title), *given]
  query = teacher.Item(rows.task, member.query, "")
  return [query, *(teacher.Item(document, *side) for side in sides)]


def _show(config: PairConfig, made: Inputs) -> Shown:
  """A function (task, row) -> (origin, query, positive), or (origin, text)."""
  decode = made.tokenizer().decode
  tasks, _ = read_tasks(config, made)
  # Rows may be shared with an equal corpus elsewhere, whose files they name.
  members = members_of(config, made)

  def show(task: str, i: int) -> tuple[str, ...]:
    origin = pathlib.Path(members[task][i].origin)
    sides = tasks[task].query, tasks[task].positive
    texts = (decode(side[i]) for side in sides if side is not None)
    return (str(origin.relative_to(made.corpus)), *texts)

  return show


def _batch(config: PairConfig, groups: int) -> PairBatch:
  """Shapes of a batch in which every text fills a row of its own."""
  size, count = config.batch_size, config.negatives
  texts, length = size // groups, packing.rung(config.max_length)
  one = shapes.texts(groups, texts, length)
  width = config.loss.teacher_width or config.model.embed_dim
  vectors = lambda *dims: shapes.array((size, *dims, width), np.float32)
  teacher = Teacher(vectors(), vectors(), vectors(count) if count else None)
  return PairBatch(
    query=one,
    positive=one,
    negative=shapes.texts(groups, texts * count, length) if count else None,
    teacher=teacher if config.loss.asks_teacher else None,
    keys=shapes.array((size, 2), np.uint32),
    task=shapes.array((), np.int32),
  )


def _sides(config: PairConfig) -> dict[str, int]:
  negatives = {"negatives": config.negatives} if config.negatives else {}
  return {"query": 1, "positive": 1, **negatives}


def _work(config: PairConfig, devices: int) -> tuple[Calls, int]:
  """The encoder calls of an example, and the bytes of the losses.

  Each text counts as the longest. The losses hold candidates, logits and the
  gradients of both.
  """
  side = memory.Side(config.model, config.max_length)
  texts = [1, 1, *([config.negatives] if config.negatives else [])]
  texts = [sum(texts)] if config.calls == "joint" else texts
  columns = config.model.embed_dim + config.batch_size // devices
  if config.loss.teacher_scores:  # its candidates as well
    columns += config.loss.teacher_width or config.model.embed_dim
  losses = 2 * 4 * config.batch_size * columns
  return tuple((side,) * number for number in texts), losses


def _flops(config: PairConfig) -> int:
  """Operations to encode all texts and compare queries with positives."""
  size, model = config.batch_size, config.model
  texts = size * (2 + config.negatives)
  dims = config.loss.matryoshka or matryoshka.dims_of(model.embed_dim)
  others = size + config.negatives
  loss, taught = config.loss, config.loss.teacher_width or model.embed_dim
  compared = 2 * size * others * sum(dims) * bool(loss.contrastive)
  if loss.score_matching:
    compared += 2 * size * others * (sum(dims) + len(dims) * taught)
  return texts * flops.embedder(model, config.max_length) + compared


def _check(config: PairConfig, tokenizer: Tokenizer | None) -> None:
  """Raise BadInput for task weights that leave no task a share."""
  del tokenizer
  given = weights(config)
  mixture.shares(dict.fromkeys(given, 1), given, config.data.size_exponent)


def check_teacher(config: PairConfig) -> None:
  """Raise BadInput for a teacher that is missing, unused or does not fit."""
  loss = config.loss
  if not config.teacher:
    if loss.asks_teacher:
      raise BadInput(
        f"{loss.asks_teacher} needs a teacher; name the folder that `teach`"
        " wrote in --config.teacher, or leave that out"
      )
    return
  if not loss.asks_teacher:
    raise BadInput(
      f"teacher={config.teacher} is given, but loss.distill is 0; set the"
      " weight of distillation, or loss.score_matching"
    )
  found = teacher.open_vectors(pathlib.Path(config.teacher))
  wanted = loss.teacher_width or config.model.embed_dim
  # Scores are compared whatever the width, unless one is promised.
  if found.width != wanted and (loss.distill or loss.teacher_width):
    raise BadInput(
      f"{config.teacher} holds vectors of width {found.width}, not {wanted}; set"
      f" loss.teacher_width={found.width}"
    )


def examine(config: PairConfig, made: Inputs, say: Say) -> None:
  """Raise BadInput if no pair has a negative in any batch; say if many lack it.

  Where a teacher's vectors are matched, such pairs still have those.
  """
  loss, taught = config.loss, bool(config.loss.distill)
  if not (loss.contrastive or loss.score_matching):
    return  # nothing is compared
  tasks, _ = read_tasks(config, made)
  drawn, size = shares(config, tasks), config.batch_size
  never = {task for task in drawn if rivals.never(tasks[task], size)}
  if never == set(drawn) and not taught:
    if TEXTS in never:
      raise BadInput(
        f"data.path={config.data.path}: no text has two others to be compared"
        f" with in batches of {size}; add different texts, raise"
        " --config.batch_size, or match vectors (--config.loss.distill=1)"
      )
    raise BadInput(
      _nothing_to_compare(config, sum(len(tasks[t]) for t in never))
    )
  found = rivals.drawn(tasks, drawn, size, config.seed, config.steps)
  if found.share > _MOST_ALONE:
    others = "learn from the teacher alone" if taught else "teach nothing"
    named = f"; none of {', '.join(sorted(never))} has any" if never else ""
    say(
      f"warning: {found.share:.0%} of the pairs have no negative in their batch"
      f" and {others} ({found.empty} of {found.batches} batches hold only"
      f" such){named}: they share a query or positive with all other pairs"
      " there, or are the only one; a larger batch_size, fewer duplicates or"
      " hard negatives help"
    )


def _nothing_to_compare(config: PairConfig, pairs: int) -> str:
  """Why no pair has a negative, and what gives them some."""
  hard = "hard negatives (the field `negatives`, --config.negatives=N)"
  if config.batch_size == 1 and pairs > 1:
    return (
      "batch_size=1: a pair is compared with the others of its batch, and there"
      f" are none; set --config.batch_size=32, or give {hard}"
    )
  what = f"all {pairs} pairs share their query or positive"
  return (
    f"data.path={config.data.path}: {what if pairs > 1 else 'there is one pair'}"
    ", so no pair has a negative to be compared with, and nothing can be"
    f" learned; add pairs with other texts, {hard}, or a teacher"
    " (--config.teacher)"
  )


def _view(config: PairConfig) -> str:
  return lora.VIEW if config.lora.rank else "identity"


def _result(
  config: PairConfig,
  params: Params,
  steps: int,
  content: checkpoint.Files,
  workdir: pathlib.Path,
  say: Say,
) -> Result:
  """The last step; with low-rank factors, merged into the weights."""
  if not config.lora.rank:
    return last_step(config, params, steps, content, workdir, say)
  place = workdir / checkpoint.MERGED
  whole = _merge(config, params, content, steps, place)
  return f"{checkpoint.MERGED}/{checkpoint.CHECKPOINTS}/{steps}", whole


def merged(
  config: PairConfig, place: pathlib.Path, workdir: pathlib.Path
) -> pathlib.Path:
  """Write one step of a LoRA training as an ordinary checkpoint.

  Args:
    config: of the stage.
    place: the step's checkpoint.
    workdir: for the new checkpoint.

  Returns:
    The new checkpoint.
  """
  content, step = checkpoint.read_files(place), int(place.name)
  _merge(config, checkpoint.read_params(place), content, step, workdir)
  return workdir / checkpoint.CHECKPOINTS / place.name


def _merge(
  config: PairConfig,
  params: Params,
  content: checkpoint.Files,
  step: int,
  workdir: pathlib.Path,
) -> Params:
  """Write, and return, parameters with the low-rank factors merged."""
  params = jax.device_get(lora.merge(config.lora, params))
  common.write(params, content, {"view": "identity"}, step, workdir)
  return params


KIND = Kind(
  config=PairConfig,
  make=finetune,
  init=init,
  adopt=_adopt,
  read=lambda config, made, console: inputs.write_corpus(
    config, made, console, reads_texts(config)
  ),
  write=lambda config, made, console: {},
  fingerprint=fingerprint,
  about=about,
  texts=lambda config, made: inputs.side_texts(made),
  documents=lambda config, made, tokenizer: inputs.pair_documents(
    made, tokenizer, config.model.max_length
  ),
  dataset=dataset,
  show=_show,
  batch=_batch,
  sides=_sides,
  work=_work,
  flops=_flops,
  embeds=True,
  folders=("init_from", "teacher"),
  same=("every_probe",),
  probed=lambda config: config.every_probe,
  teachers=lambda config: inputs.teachers(config.teacher),
  depends=lambda config: {"teacher": inputs.hash_of_vectors(config.teacher)},
  view=_view,
  check=_check,
  check_alone=check_teacher,
  examine=examine,
  result=_result,
)
