"""Runs of mteb's tasks: results that are kept, tasks that fail, names.

The Hub is never asked: there is no network here, and its data are not either.
"""

# ruff: noqa: E402  (what may be missing comes first)

import json
import pathlib
import warnings

import pytest

mteb = pytest.importorskip("mteb")

import mteb_tasks
from mteb.results import BenchmarkResults, ModelResult, TaskResult
from rich.console import Console

import embeddinggemma as eg
from embeddinggemma.cli import main
from embeddinggemma.evaluation.mteb_suite import (
  about,
  hub,
  names,
  running,
  scores,
)
from embeddinggemma.evaluation.mteb_suite.encoder import Encoder
from embeddinggemma.types import BadInput, Notice, Stopped, Truncated

HUB = "NanoArguAnaRetrieval"  # a task whose data are on the Hub


@pytest.fixture(scope="module")
def ours(model):
  return eg.load(model)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
  """No network, as the Hub's own library is told of it."""
  import huggingface_hub

  monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def run(model, tasks, folder, shown=None):
  console = shown or Console(quiet=True)
  return running.evaluate(model, tasks, about.Setup(), folder, console)


class Recorded(mteb_tasks.Labels):
  """A task of two subsets that says which are scored, and may fail at one."""

  fails = ""

  def evaluate(self, model, split="test", subsets_to_run=None, **options):
    if self.fails in subsets_to_run:
      raise RuntimeError("the first line\nand a second")
    self.scored = [*getattr(self, "scored", ()), *subsets_to_run]
    return super().evaluate(model, split, subsets_to_run, **options)


def failing(subset):
  task = Recorded()
  task.fails = subset
  return task


def test_what_is_there_is_not_scored_again(ours, tmp_path):
  tasks = [mteb_tasks.Sts, mteb_tasks.Together]
  first = run(ours, [kind() for kind in tasks], tmp_path)
  second = run(ours, [kind() for kind in tasks], tmp_path)
  assert not any(row["cached"] for row in first["tasks"].values())
  assert all(row["cached"] for row in second["tasks"].values())
  without = lambda rows: {
    name: {k: v for k, v in row.items() if k not in ("cached", "truncated")}
    for name, row in rows.items()
  }
  assert without(first["tasks"]) == without(second["tasks"])
  files = {path.name for path in tmp_path.rglob("Local*.json")}
  assert files == {
    "LocalSTS.json",
    "LocalTogether.json",
    "LocalRetrieval.json",
    "LocalDialogues.json",
  }
  place = first["mteb"]["results"]
  assert tmp_path / "results" in pathlib.Path(place).parents


def test_a_run_goes_on_with_the_subsets_that_it_lacks(ours, tmp_path):
  found = run(ours, [failing("fr")], tmp_path)
  assert found["failed"] == {"LocalLabels": "RuntimeError: the first line"}
  task = Recorded()
  task.fails = "none"
  row = run(ours, [task], tmp_path)["tasks"]["LocalLabels"]
  assert task.scored == ["fr"]
  assert set(row["scores"]["test"]) == {"en", "fr"}


def test_a_file_that_was_cut_short_is_made_anew(ours, tmp_path):
  first = run(ours, [mteb_tasks.Sts(), mteb_tasks.Together()], tmp_path)
  for name in ("LocalSTS", "LocalTogether"):
    path = next(tmp_path.rglob(f"{name}.json"))
    path.write_bytes(path.read_bytes()[:100])
  second = run(ours, [mteb_tasks.Sts(), mteb_tasks.Together()], tmp_path)
  assert not second["failed"]
  for name, row in second["tasks"].items():
    assert (
      row["main_score"] == first["tasks"][name]["main_score"]
      and not row["cached"]
    )


def test_results_of_other_data_are_not_taken(ours, tmp_path):
  run(ours, [mteb_tasks.Sts()], tmp_path)
  path = next(tmp_path.rglob("LocalSTS.json"))
  changed = json.loads(path.read_text()) | {"dataset_revision": "0"}
  changed["scores"]["test"][0]["main_score"] = 0.5
  path.write_text(json.dumps(changed))
  row = run(ours, [mteb_tasks.Sts()], tmp_path)["tasks"]["LocalSTS"]
  assert (
    row["dataset_revision"] == "1"
    and row["main_score"] != 0.5
    and not row["cached"]
  )


def test_results_of_another_mteb_say_so(ours, tmp_path):
  run(ours, [mteb_tasks.Sts()], tmp_path)
  path = next(tmp_path.rglob("LocalSTS.json"))
  changed = json.loads(path.read_text()) | {"mteb_version": "2.20.0"}
  path.write_text(json.dumps(changed))
  row = run(ours, [mteb_tasks.Sts()], tmp_path)["tasks"]["LocalSTS"]
  assert row["mteb_version"] == "2.20.0"
  assert row["notes"] == ["scored earlier, by mteb 2.20.0"]


def test_a_failed_task_costs_only_its_own(ours, tmp_path, capsys):
  tasks = [failing("en"), mteb_tasks.Sts(), mteb_tasks.Retrieval()]
  found = run(ours, tasks, tmp_path, Console())
  assert list(found["tasks"]) == ["LocalSTS", "LocalRetrieval"]
  assert list(found["failed"]) == ["LocalLabels"]
  # As on the leaderboard, there is no mean of a part.
  assert found["mean_task"] is None and found["mean_type"] is None
  assert found["types"]["Classification"] is None
  assert found["types"]["STS"] == found["tasks"]["LocalSTS"]["main_score"]
  shown = capsys.readouterr().out
  assert "LocalLabels: failed: RuntimeError: the first line" in shown
  score = found["tasks"]["LocalSTS"]["main_score"]
  assert f"LocalSTS: cosine_spearman {score:.4f}" in shown


def test_data_are_let_go_where_they_were_loaded_here(ours, tmp_path):
  kept, own = mteb_tasks.Sts(), mteb_tasks.Retrieval()
  kept.load_data()
  run(ours, [kept, own], tmp_path)
  assert kept.data_loaded and not own.data_loaded


class OfAFolder(mteb_tasks.Sts):
  """A task whose metadata are of the object, as those of given files are."""

  def __init__(self, revision):
    dataset = {"path": "local", "revision": revision}
    self.metadata = self.metadata.model_copy(update={"dataset": dataset})
    super().__init__()


def test_metadata_of_an_object_stay(ours, tmp_path):
  task = OfAFolder("7")
  for cached in (False, True):
    row = run(ours, [task], tmp_path)["tasks"]["LocalSTS"]
    assert row["dataset_revision"] == "7" and row["cached"] is cached
  assert task.metadata.revision == "7" and not task.data_loaded


def test_a_score_that_is_no_number_is_none(ours, tmp_path):
  class Alike(mteb_tasks.Sts):
    def made(self):
      same = ["the river"] * 6
      rows = {"sentence1": same, "sentence2": same, "score": [1.0] * 6}
      return mteb_tasks.DatasetDict(
        {"test": mteb_tasks.Dataset.from_dict(rows)}
      )

  found = run(ours, [Alike()], tmp_path)
  assert found["tasks"] == {}
  assert found["failed"] == {
    "LocalSTS": "cosine_spearman is not a number; look at the vectors"
  }


class Constant(mteb_tasks.Sts):
  """A task that asks the model for nothing."""

  def evaluate(self, model, split="test", subsets_to_run=None, **options):
    return {"default": {"main_score": 0.5, "cosine_spearman": 0.5}}


def test_a_score_of_another_model_ends_the_run(ours, tmp_path):
  with pytest.raises(Stopped, match="LocalSTS: mteb scored"):
    run(ours, [Constant()], tmp_path)


class Warns(mteb_tasks.Sts):
  """A task that warns, in the way of mteb and of this program."""

  def load_data(self, num_proc=None, **options):
    warnings.warn("of its data\nin two lines", stacklevel=1)
    warnings.warn("of its code", DeprecationWarning, stacklevel=1)
    warnings.warn("of ours", Notice, stacklevel=1)
    super().load_data()


def test_warnings_are_notes(ours, tmp_path):
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = run(ours, [Warns()], tmp_path)
  assert found["tasks"]["LocalSTS"]["notes"] == ["of its data"]
  assert [str(w.message) for w in caught if w.category is Notice] == ["of ours"]


def test_texts_that_were_cut_are_counted(ours, tmp_path):
  with pytest.warns(Truncated) as caught:
    found = run(ours, [mteb_tasks.Sts(), mteb_tasks.Bitext()], tmp_path)
  counts = [row["truncated"] for row in found["tasks"].values()]
  assert all(0 < one["cut"] < one["of"] for one in counts)
  assert len(caught) == 1 and f"{sum(c['cut'] for c in counts)} of" in str(
    caught[0].message
  )


def test_what_is_no_text_is_refused(ours, tmp_path):
  class Pictures(mteb_tasks.Sts):
    metadata = mteb_tasks.about(
      "STS", "LocalPictures", "cosine_spearman", modalities=["image"]
    )

  found = run(ours, [Pictures()], tmp_path)
  assert found["failed"] == {
    "LocalPictures": "it is about image; the model reads text"
  }


def test_without_network_one_line_names_the_task(ours, tmp_path):
  task = mteb.get_task(HUB)
  with pytest.raises(
    BadInput, match=f"^{HUB}: no network, and its data"
  ) as one:
    run(ours, [task], tmp_path)
  assert "\n" not in str(one.value)
  other = mteb.get_task("NanoFiQA2018Retrieval")
  with pytest.raises(BadInput, match="those of 1 more tasks"):
    run(ours, [task, other], tmp_path)
  found = run(ours, [task, mteb_tasks.Sts()], tmp_path)
  assert "no network" in found["failed"][HUB]
  assert list(found["tasks"]) == ["LocalSTS"]


@pytest.fixture
def cached(tmp_path, monkeypatch):
  """(parts, revision): makes the folders that `datasets` keeps its data in."""
  import datasets

  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")

  def make(parts, revision):
    for part in parts:
      place = tmp_path / "hf" / "mteb___nano_argu_ana_retrieval" / part
      (place / "0.0.0" / revision).mkdir(parents=True)

  return make


def test_parts_of_cached_data_are_known_without_network(cached):
  """Else mteb takes no part for given that it can do without."""
  from mteb.abstasks import retrieval_dataset_loaders as loaders

  cached(["default", "corpus", "top_ranked"], "7")
  cached(["queries"], "8")
  usual = loaders.get_dataset_config_names
  with hub.reached([mteb.get_task(HUB)]) as online:
    assert not online
    found = loaders.get_dataset_config_names(f"mteb/{HUB}", "7")
  assert found == ["corpus", "default", "top_ranked"]
  assert loaders.get_dataset_config_names is usual


def test_cached_data_of_another_revision_are_not_taken(ours, tmp_path, cached):
  cached(["default", "corpus", "queries"], "7")
  with pytest.raises(BadInput, match="as of another revision"):
    run(ours, [mteb.get_task(HUB)], tmp_path)


@pytest.mark.parametrize(
  ("kind", "part"),
  [
    (mteb_tasks.InstructionReranking, "top_ranked"),
    (mteb_tasks.InstructionReranking, "instruction"),
    (mteb_tasks.Reranking, "top_ranked"),
  ],
)
def test_data_without_an_optional_part_are_not_taken(
  ours, tmp_path, monkeypatch, kind, part
):
  class Lacking(kind):
    def made(self):
      found = super().made()
      data = found["default"]["test"]
      if part == "instruction":
        data["queries"] = data["queries"].remove_columns(part)
      else:
        data[part] = None
      return found

  # As one of the Hub, which is asked for none: there is no network.
  monkeypatch.setattr(hub, "is_source", lambda task: True)
  with pytest.raises(BadInput, match="no network, and its data"):
    run(ours, [Lacking()], tmp_path)
  assert run(ours, [kind()], tmp_path)["tasks"]


@pytest.mark.parametrize(
  ("name", "count"),
  [
    ("MTEB(Multilingual, v2)", 131),
    ("MTEB(eng, v2)", 41),
    ("mteb(ENG,v2)", 41),
    ("MTEB(Code, v1)", 12),
    ("NanoBEIR", 13),
    ("STS12,NanoBEIR, sts12", 14),
    ("STS12", 1),
  ],
)
def test_names(name, count):
  assert len(names.tasks_of(name)) == count


@pytest.mark.parametrize(
  ("name", "near"),
  [
    ("MTEB(eng, v3)", "MTEB(eng, v"),
    ("NanoBIER", "NanoBEIR"),
    ("STS12,ArguAnna", "ArguAna"),
    ("MTEB(eng, v2", "MTEB(eng, v2)"),
  ],
)
def test_an_unknown_name_is_one_line_with_near_ones(name, near):
  with pytest.raises(BadInput, match="did you mean") as error:
    names.tasks_of(name)
  assert near in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", [",", " , "])
def test_a_name_of_nothing(name):
  with pytest.raises(BadInput, match="names no task"):
    names.tasks_of(name)


def test_an_unknown_name_without_near_ones():
  with pytest.raises(BadInput, match="available-tasks"):
    names.tasks_of("zzzzqqqq")


def test_a_task_in_two_parts_is_refused():
  one, other = mteb_tasks.Labels(), mteb_tasks.Labels()
  assert names.once([one, other]) == [one]
  other.hf_subsets = ["en"]
  with pytest.raises(BadInput, match="LocalLabels is named twice"):
    names.once([one, other])


def made_up(tasks):
  """mteb's results of tasks, with a score of its own for each subset."""
  return [
    TaskResult.from_task_results(
      task,
      {
        split: {
          subset: {"main_score": (7 * n + 3 * k) % 11 / 11}
          for k, subset in enumerate(task.hf_subsets)
        }
        for split in task.eval_splits
      },
      evaluation_time=1.0,
    )
    for n, task in enumerate(tasks)
  ]


@pytest.mark.parametrize(
  "name", ["MTEB(eng, v2)", "MTEB(Code, v1)", "NanoBEIR"]
)
def test_means_are_those_of_the_leaderboard(name):
  benchmark = mteb.get_benchmark(name)
  found = made_up(benchmark.tasks)
  result = ModelResult(model_name="a/b", model_revision="1", task_results=found)
  wanted = benchmark.get_score(BenchmarkResults(model_results=[result]))["a/b"]
  rows = {
    task.metadata.name: scores.row(task, one)
    for task, one in zip(benchmark.tasks, found, strict=True)
  }
  ours = scores.means(benchmark.tasks, rows)
  assert ours["mean_task"] == pytest.approx(wanted.pop("Mean(Task)"))
  assert ours["mean_type"] == pytest.approx(wanted.pop("Mean(TaskType)"))
  wanted.pop("Rank")
  assert ours["types"] == pytest.approx(wanted)


def command(model, tmp_path, *flags):
  return main.call(
    [
      "evaluate",
      f"--model={model}",
      f"--output={tmp_path / 'out' / 'scores.json'}",
      f"--cache={tmp_path / 'cache'}",
      *flags,
    ]
  )


def test_the_verb(ours, model, tmp_path, capsys):
  """On results that are there; of other tasks there are no data here."""
  task = mteb.get_task(HUB)
  meta = Encoder(ours).mteb_model_meta
  cache = mteb.ResultCache(tmp_path / "cache")
  [result] = made_up([task])
  result.scores["test" if "test" in result.scores else "train"][0][
    "main_score"
  ] = 0.25
  cache.save_to_cache(result, meta)
  assert command(model, tmp_path, f"--mteb={HUB}") == 0
  assert f"{HUB}  Retrieval" in capsys.readouterr().err
  found = json.loads((tmp_path / "out" / "scores.json").read_text())
  assert found["suite"] == HUB and found["mean_task"] == 0.25
  row = found["tasks"][HUB]
  assert row["cached"] and row["languages"] == ["eng-Latn"]
  assert row["dataset_revision"] == task.metadata.revision
  assert row["mteb_version"] == mteb.__version__
  assert set(row["prompts"]) == {"query", "document"}
  # One of two fails: what there is is written, and the exit code says it.
  both = f"--mteb={HUB},NanoFiQA2018Retrieval"
  assert command(model, tmp_path, both) == 1
  found = json.loads((tmp_path / "out" / "scores.json").read_text())
  assert list(found["tasks"]) == [HUB]
  assert list(found["failed"]) == ["NanoFiQA2018Retrieval"]
  said = capsys.readouterr().err
  assert "failed: NanoFiQA2018Retrieval: no network" in said
  # Another setup has results of its own.
  assert command(model, tmp_path, f"--mteb={HUB}", "--dim=16") == 2
  assert f"error: {HUB}: no network" in capsys.readouterr().err


def test_its_scores_beside_the_paper(
  ours, model, tmp_path, capsys, monkeypatch
):
  """Of tasks that fail there is nothing to compare, and the others are."""
  monkeypatch.setenv("COLUMNS", "200")
  [result] = made_up([mteb.get_task("STS12")])
  result.scores["test"][0]["main_score"] = 0.75
  meta = Encoder(ours).mteb_model_meta
  mteb.ResultCache(tmp_path / "cache").save_to_cache(result, meta)
  asked = "--compare=paper", "--mteb=sts12,ArguAna"
  assert command(model, tmp_path, *asked) == 1
  found = json.loads((tmp_path / "out" / "scores.json").read_text())
  assert list(found["failed"]) == ["ArguAna"]
  beside = found["compared"]["suites"]["MTEB(eng, v2)"]
  row = beside["at"]["32"]["tasks"]["STS12"]
  assert row["ours"] == 75.0 and row["paper"] > 0
  told = {one["setting"]: one["here"] for one in beside["at"]["32"]["differs"]}
  assert told["scored with"] == f"mteb {mteb.__version__}"
  assert told["dimension"] == "32" and "suite" not in told
  assert "prompt of query" not in told
  said = capsys.readouterr().err
  assert "before queries" in said and "in percent" in said


def test_without_a_task_of_the_paper_none_is_scored(model, tmp_path, capsys):
  assert command(model, tmp_path, f"--mteb={HUB}", "--compare=paper") == 2
  said = capsys.readouterr().err.splitlines()[-1]
  assert f"--mteb={HUB}: no task of the paper's tables" in said
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("flags", "line"),
  [
    (("--mteb=NanoBIER",), "did you mean 'NanoBEIR'"),
    (("--mteb=STS12", "--data=x"), "--mteb and --data exclude each other"),
    (("--mteb=STS12", "--fields=a:b"), "--mteb and --fields exclude"),
    (("--mteb=STS12", "--prompts=check"), "--mteb and --prompts exclude"),
    (("--mteb=STS12", "--dim=99"), "--dim=99: the model has dimensions 1 to"),
    (("--mteb=",), "--mteb is empty"),
  ],
)
def test_bad_flags(model, tmp_path, capsys, flags, line):
  assert command(model, tmp_path, *flags) == 2
  said = capsys.readouterr().err.splitlines()
  # A warning of the old checkpoint may stand before it.
  assert said[-1].startswith("error: ") and line in said[-1]
