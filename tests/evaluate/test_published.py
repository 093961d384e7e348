"""The published tables add up, and scores are set beside their like alone."""

import json
import statistics

import pytest

from embeddinggemma.cli import main
from embeddinggemma.evaluation.kinds.task import EvalTask
from embeddinggemma.evaluation.published import (
  compare,
  names,
  scores,
  settings,
  tables,
)
from embeddinggemma.report import published
from embeddinggemma.types import BadInput

SUITES = {suite.name: suite for suite in tables.read()}
MULTILINGUAL, ENGLISH = "MTEB(Multilingual, v2)", "MTEB(eng, v2)"
CODE = "MTEB(Code, v1)"
WHOLE = {
  name: next(r for r in suite.results if r.tasks)
  for name, suite in SUITES.items()
}


def close(values, printed, digits):
  """Whether figures rounded to some digits may have a printed mean."""
  return abs(statistics.fmean(values) - printed) <= 0.5 * 10**-digits + 0.02


def digits(values):
  """The decimals with which figures were printed."""
  return max(len(repr(value).partition(".")[2].rstrip("0")) for value in values)


def together(suite, found, **about):
  """A comparison with one suite of a plain mapping of tasks."""
  given = {"suite": suite, "tasks": found, "dimension": 768, **about}
  return compare.compare(scores.of_json(given))["suites"][suite]


def test_the_suites_are_mtebs():
  sizes = {name: len(suite.tasks) for name, suite in SUITES.items()}
  assert sizes == {
    MULTILINGUAL: 131,
    ENGLISH: 41,
    "XTREME-UP, cross-lingual retrieval": 20,
    CODE: 12,
    "XOR-Retrieve, recall@5kt": 7,
    "XOR-Retrieve, recall@2kt": 7,
  }
  counts = {t: len(own) for t, own in SUITES[MULTILINGUAL].by_type().items()}
  assert counts == {
    "BitextMining": 13,
    "Classification": 43,
    "Clustering": 16,
    "InstructionReranking": 3,
    "MultilabelClassification": 5,
    "PairClassification": 11,
    "Reranking": 6,
    "Retrieval": 18,
    "STS": 16,
  }


@pytest.mark.parametrize("name", SUITES)
def test_scores_by_task_have_the_printed_means(name):
  """A check of the transcription, of every result that gives its tasks."""
  suite, checked = SUITES[name], 0
  for result in suite.results:
    if result.tasks:
      assert set(result.tasks) == set(suite.tasks)
      if result.mean_task is not None:
        values = result.tasks.values()
        assert close(values, result.mean_task, digits(values)), result.source
        checked += 1
    for kind, printed in (result.types if result.tasks else {}).items():
      own = [result.tasks[task] for task in suite.by_type()[kind]]
      assert abs(statistics.fmean(own) - printed) <= 0.0501, kind
  assert checked or name == "XOR-Retrieve, recall@2kt"


@pytest.mark.parametrize("name", [MULTILINGUAL, ENGLISH])
def test_scores_by_type_have_the_printed_means(name):
  """Both means follow from types: of the paper, of ablations and of peers."""
  counts = {kind: len(own) for kind, own in SUITES[name].by_type().items()}
  checked = 0
  for result in SUITES[name].results:
    if set(result.types) == set(counts):
      values = list(result.types.values())
      assert close(values, result.mean_type, digits(values)), result.model
      by_task = [v for k, v in result.types.items() for _ in range(counts[k])]
      assert close(by_task, result.mean_task, digits(values)), result.model
      checked += 1
  assert checked == {MULTILINGUAL: 21, ENGLISH: 4}[name]


def test_smaller_and_rounded_models_lose_what_the_paper_says():
  def means(name, key):
    rows = [r for r in SUITES[name].results if r.of == tables.PAPER]
    return {key(r): r.mean_task for r in rows if not r.left_out}

  by_dim = means(MULTILINGUAL, lambda r: (r.precision, r.dimension))
  assert by_dim["bfloat16", 768] - by_dim["bfloat16", 128] == pytest.approx(
    2.92
  )
  assert by_dim["bfloat16", 768] - by_dim["int4", 768] == pytest.approx(0.53)
  assert means(CODE, lambda r: r.dimension)[256] == 66.74


def test_every_result_says_where_it_is_from():
  for suite in SUITES.values():
    told = set()
    for result in suite.results:
      assert result.source and result.model
      assert result.of in (tables.PAPER, tables.ABLATION, tables.PEER)
      assert result.precision in ("", "bfloat16", "int8_block", "mixed", "int4")
      assert set(result.left_out) <= set(suite.tasks)
      assert set(result.types) <= set(suite.by_type())
      values = [*result.types.values(), *result.tasks.values()]
      values += [
        v for v in (result.mean_task, result.mean_type) if v is not None
      ]
      assert values and all(-100 <= value <= 100 for value in values)
      key = result.model, result.dimension, result.precision, result.left_out
      assert str(key) not in told, "two results of the same settings"
      told.add(str(key))


def test_no_two_tasks_have_names_alike():
  known = {task for suite in SUITES.values() for task in suite.tasks}
  assert len({names.plain(task) for task in known}) == len(known)


@pytest.mark.parametrize("name", SUITES)
def test_the_papers_own_scores_differ_by_nothing(name):
  """All tasks there: means stand beside the printed ones."""
  paper = WHOLE[name]
  found = together(name, dict(paper.tasks))
  at = found["at"]["768"]
  assert found["missing"] == []
  rows = [*at["tasks"].values(), *at["types"].values()]
  rows += [at["mean_task"], at["mean_type"]]
  assert all(abs(row["difference"]) < 0.051 for row in rows)
  assert at["mean_task"]["published"] == paper.mean_task
  if paper.mean_task is not None:
    assert at["mean_task"]["paper"] == paper.mean_task
  assert {d["setting"] for d in at["differs"]} <= {
    "precision",
    "prompts",
    "scored with",
    "revision of the data",
  }


def test_differences_are_ours_less_theirs():
  found = together(CODE, {"CosQA": 0.50, "AppsRetrieval": 0.80})
  at = found["at"]["768"]
  cosqa = at["tasks"]["CosQA"]
  assert (cosqa["ours"], cosqa["paper"], cosqa["difference"]) == (50, 43.6, 6.4)
  assert at["tasks"]["AppsRetrieval"]["difference"] == pytest.approx(-4.39)
  assert len(found["missing"]) == 10 and "CosQA" not in found["missing"]


def test_a_mean_is_over_the_tasks_that_both_have():
  """The published mean of all tasks is told, and not compared with."""
  at = together(ENGLISH, {"STS12": 80, "STS13": 90, "ArguAna": 60})["at"]["768"]
  mean = at["mean_task"]
  assert mean["ours"] == pytest.approx((80 + 90 + 60) / 3, abs=1e-4)
  same = (79.32 + 86.42 + 71.54) / 3
  assert mean["paper"] == pytest.approx(same, abs=1e-4)
  assert (mean["tasks"], mean["of"], mean["published"]) == (3, 41, 69.67)
  types = at["mean_type"]
  assert types["ours"] == pytest.approx((85 + 60) / 2)
  same = ((79.32 + 86.42) / 2 + 71.54) / 2
  assert types["paper"] == pytest.approx(same)
  assert types["types"] == [2, 7] and types["published"] == 65.11
  sts = at["types"]["STS"]
  assert (sts["tasks"], sts["of"], sts["published"]) == (2, 9, 83.6)
  assert sts["paper"] == pytest.approx((79.32 + 86.42) / 2)


def test_a_type_that_is_whole_stands_beside_the_printed_one():
  kind = "InstructionReranking"
  own = {task: 10.0 for task in SUITES[MULTILINGUAL].by_type()[kind]}
  row = together(MULTILINGUAL, own)["at"]["768"]["types"][kind]
  assert row["paper"] == 5.61 and row["difference"] == pytest.approx(4.39)


def test_fractions_and_percentages_are_the_same():
  share = together(CODE, {"CosQA": 0.436, "StackOverflowQA": 0.9})
  percent = together(CODE, {"CosQA": 43.6, "StackOverflowQA": 90})
  assert share == percent
  assert share["at"]["768"]["tasks"]["CosQA"]["difference"] == 0


def evaluated(found, main="ndcg@10", **about):
  """What `evaluate` writes, of {task: {dimension: score}}."""
  table = {
    t: {str(d): {main: v} for d, v in at.items()} for t, at in found.items()
  }
  summary = {"main": dict.fromkeys(table, main)}
  return {"quality": {"model": table}, "summary": summary, **about}


def differing(found, suite=CODE, dim="768"):
  at = compare.compare(scores.of_json(found))["suites"][suite]["at"][dim]
  return {d["setting"]: d for d in at["differs"]}


PROMPTED = {
  task: {
    "query": "task: code retrieval | query: ",
    "document": "title: none | text: ",
  }
  for task in SUITES[CODE].tasks
}


def test_settings_that_differ_are_named():
  like = evaluated(
    {"CosQA": {768: 0.4}, "AppsRetrieval": {768: 0.8}},
    precision="float",
    identity={"max_length": 2048},
    prompts=PROMPTED,
  )
  told = differing(like)
  assert set(told) == {"scored with", "revision of the data"}
  assert told["scored with"]["here"] == scores.OWN
  assert "mteb 1.34.7" in told["scored with"]["there"]
  assert told["revision of the data"]["there"] == "not published"

  changed = {**PROMPTED, "CosQA": {"query": "", "document": ""}}
  told = differing({**like, "prompts": changed})
  query = told["prompt of query"]
  assert query["here"] == "''" and query["of"] == ["CosQA"]
  assert "'task: code retrieval | query: '" in query["there"]
  assert "'task: search result | query: '" in query["there"]
  assert told["prompt of document"]["there"] == "'title: none | text: '"

  told = differing({**like, "prompts": {}})
  assert told["prompts"]["here"] == settings.UNKNOWN
  told = differing({**like, "identity": {"max_length": 256}})
  assert told["longest text"]["here"] == "256 tokens"
  told = differing({**like, "precision": "int4"})
  assert (told["precision"]["here"], told["precision"]["there"]) == (
    "int4",
    "bfloat16",
  )
  small = evaluated({"CosQA": {32: 0.4}}, precision="float", prompts=PROMPTED)
  told = differing(small, dim="32")
  assert (told["dimension"]["here"], told["dimension"]["there"]) == (
    "32",
    "768",
  )


def test_another_metric_is_named():
  found = evaluated({"CosQA": {768: 0.4}}, main="mrr@10", prompts=PROMPTED)
  told = differing(found)["metric"]
  assert (told["here"], told["there"]) == ("mrr@10", "ndcg_at_10")
  assert told["of"] == ["CosQA"]


def test_the_published_metric_is_taken_where_it_is_there():
  """XOR-Retrieve is published by two metrics of one ranking."""
  values = {"recall@5kt": 0.8, "recall@2kt": 0.7}
  found = {
    "quality": {"model": {"XOR-Retrieve/ar": {"768": values}}},
    "summary": {"main": {"XOR-Retrieve/ar": "recall@5kt"}},
  }
  both = compare.compare(scores.of_json(found))["suites"]
  row = {
    name: about["at"]["768"]["tasks"]["XOR-Retrieve/ar"]
    for name, about in both.items()
  }
  assert row["XOR-Retrieve, recall@5kt"]["difference"] == pytest.approx(-3.5)
  assert row["XOR-Retrieve, recall@2kt"]["difference"] == pytest.approx(-5.08)


def test_rounded_weights_are_compared_with_rounded_ones():
  """Whole suites: of int4 the paper has means alone, so tasks are of bfloat16."""
  paper = WHOLE[CODE]
  given = {"precision": "int4", "dimension": 768, "tasks": dict(paper.tasks)}
  found = compare.compare(scores.of_json(given))["suites"][CODE]
  at = found["at"]["768"]
  assert at["mean_task"]["paper"] == 67.99
  assert at["tasks"]["CosQA"]["paper"] == 43.6
  told = {d["setting"]: d for d in at["differs"]}["precision"]
  assert told["of"] == ["tasks"]
  del given["tasks"]["CosQA"]  # now means are over tasks, of bfloat16
  at = compare.compare(scores.of_json(given))["suites"][CODE]["at"]["768"]
  assert {d["setting"]: d for d in at["differs"]}["precision"]["of"] == []


def test_smaller_dimensions_are_compared_with_their_like():
  dims = {768: 0.5, 256: 0.4, 100: 0.3}
  found = compare.compare(
    scores.of_json(evaluated({"CosQA": dims, "STS12": dims}))
  )["suites"]
  at = {dim: rows["tasks"]["CosQA"] for dim, rows in found[CODE]["at"].items()}
  assert at["256"]["paper"] == 42.8 and at["100"]["paper"] is None
  english = found[ENGLISH]["at"]
  assert english["768"]["tasks"]["STS12"]["paper"] == 79.32
  assert english["256"]["mean_task"]["paper"] is None
  said = "\n".join(published.lines({"suites": found, "unknown": {}}))
  assert f"{ENGLISH} at 256 dimensions: not compared" in said
  assert f"{CODE} at 100 dimensions: not compared" in said
  assert f"{CODE} at 256 dimensions: not compared" not in said


def test_languages_are_tasks_of_their_benchmark():
  """As our runner has them: METRIC/LANGUAGE, beside means of families."""
  values = {"mrr@10": 0.5, "mrr@10/hi": 0.6, "mrr@10/Indo-European": 0.6}
  given = {"quality": {"model": {"any/folder": {"768": values}}}}
  found = compare.compare(scores.of_json(given))
  assert found["unknown"] == {}
  (about,) = found["suites"].values()
  at = about["at"]["768"]
  assert at["tasks"]["XTREME-UP/hi"]["difference"] == pytest.approx(-3.19)
  assert at["mean_task"]["tasks"] == 1 and len(about["missing"]) == 19


def mteb_wrote(**about):
  """What `evaluate --mteb` writes, in short."""
  row = {
    "score": 0.8,
    "metric": "accuracy",
    "revision": "1f7e6a9d",
    "mteb": "2.26.24",
    "prompts": {"text": "task: classification | query: "},
    "scores": {
      "test": {"en-ext": 0.892504, "en": 0.900746, "de": 0.7, "ja": 0.8},
      "validation": {"en-ext": 0.9, "en": 0.89, "de": 0.8, "ja": 0.8},
    },
  }
  rows = {"AmazonCounterfactualClassification": row}
  return {"tasks": rows, "dim": 768, "precision": "float", **about}


def test_a_suite_takes_its_part_of_mtebs_data():
  """English counts alone in the English suite, as in the paper's 90.07."""
  name = "AmazonCounterfactualClassification"
  found = compare.compare(scores.of_json(mteb_wrote()))["suites"]
  ours = {s: about["at"]["768"]["tasks"][name] for s, about in found.items()}
  assert ours[ENGLISH]["ours"] == 90.0746 and ours[ENGLISH]["paper"] == 90.07
  assert (
    ours[MULTILINGUAL]["ours"] == 80 and ours[MULTILINGUAL]["paper"] == 84.23
  )
  told = {d["setting"]: d for d in found[ENGLISH]["at"]["768"]["differs"]}
  assert told["scored with"]["here"] == "mteb 2.26.24"
  assert told["revision of the data"]["here"] == "recorded for 1 of 1 tasks"
  assert set(told) == {"scored with", "revision of the data"}


def test_parts_that_are_missing_are_named():
  given = mteb_wrote(search="hybrid")
  row = given["tasks"]["AmazonCounterfactualClassification"]
  row["scores"] = {"test": {"de": 0.7}}
  found = compare.compare(scores.of_json(given))["suites"]
  assert ENGLISH not in found, "German is no part of it"
  told = found[MULTILINGUAL]["at"]["768"]["differs"]
  told = {d["setting"]: (d["here"], d["there"]) for d in told}
  assert told["parts of the data"] == ("1", "8")
  assert told["search"] == ("hybrid", "dense")


def test_a_suite_that_is_a_list_of_tasks_is_none():
  given = mteb_wrote(suite="AmazonCounterfactualClassification,STS12")
  assert scores.of_json(given).suite == ""
  assert scores.of_json(mteb_wrote(suite="MTEB(eng, v2)")).suite


def test_scores_of_a_suite_are_compared_with_that_one():
  row = {"tasks": {"ArguAna": 0.7, "STS22.v2": 0.6}}
  find = lambda **about: compare.compare(scores.of_json({**row, **about}))
  assert set(find()["suites"]) == {MULTILINGUAL, ENGLISH}
  assert set(find(suite="MTEB(eng, v2)")["suites"]) == {ENGLISH}
  assert set(find(suite="mteb(eng)")["suites"]) == {ENGLISH}
  assert set(find(suite="MTEB")["suites"]) == {MULTILINGUAL, ENGLISH}
  older = find(suite="MTEB(eng, v1)")["suites"][ENGLISH]["at"][""]["differs"]
  assert {d["setting"]: d["there"] for d in older}["suite"] == ENGLISH
  french = find(suite="MTEB(fra, v1)")["suites"]
  told = french[ENGLISH]["at"][""]["differs"]
  assert {d["setting"]: d["here"] for d in told}["suite"] == "MTEB(fra, v1)"
  coded = find(suite=CODE)
  assert coded["suites"] == {} and set(coded["unknown"]) == set(row["tasks"])


@pytest.mark.parametrize(
  ("name", "task"),
  [
    ("STS12", "STS12"),
    ("sts12", "STS12"),
    ("mteb/eng/STS12", "STS12"),
    ("sick_r", "SICK-R"),
    ("twittersemeval2015", "TwitterSemEval2015"),
    ("Sts22.V2", "STS22.v2"),
    ("xor-retrieve/AR", "XOR-Retrieve/ar"),
    ("runs/XTREME-UP/hi", "XTREME-UP/hi"),
    ("STS22", ""),
    ("hi", ""),
    ("stsb/ar", ""),
    ("AmazonCounterfactualClassification/clustering", ""),
    ("", ""),
    ("\N{SNOWMAN}", ""),
  ],
)
def test_names_are_mtebs_however_spelled(name, task):
  known = [task for suite in SUITES.values() for task in suite.tasks]
  matched, unknown = names.find([name], known)
  assert matched == ({task: name} if task else {})
  assert set(unknown) == (set() if task else {name})


@pytest.mark.parametrize(
  ("name", "near"),
  [
    ("AmazonCounterfactualClasification", "AmazonCounterfactualClassification"),
    ("STS22", "STS22.v2"),
    ("data/HotpotQAHardNegative", "HotpotQAHardNegatives"),
  ],
)
def test_a_name_that_is_none_has_near_ones(name, near):
  known = [task for suite in SUITES.values() for task in suite.tasks]
  assert near in names.find([name], known)[1][name]


def test_two_names_of_a_task_are_not_compared():
  find = lambda *given: names.find(given, ["STS12", "ArguAna"])
  assert find("a/sts12", "b/Sts-12") == (
    {},
    {"a/sts12": ["STS12"], "b/Sts-12": ["STS12"]},
  )
  assert find("a/STS12", "sts12") == (
    {"STS12": "a/STS12"},
    {"sts12": ["STS12"]},
  )
  assert find("STS12", "b/STS12")[0] == {}


BAD = {
  "": "empty line",
  "{": "not JSON",
  "[1]": "not an object but list",
  "{}": "no scores; expected what `evaluate` writes",
  '{"tasks": {}}': "no scores",
  '{"tasks": 3}': "'tasks' is no object",
  '{"STS12": "high"}': "STS12 is 'high', not a score",
  '{"STS12": true}': "STS12 is True, not a score",
  '{"STS12": NaN}': "STS12 is nan, not a score",
  '{"STS12": {"f1": 0.5}}': "STS12 has no score; expected",
  '{"STS12": null}': "no scores",
  '{"STS12": 8000}': "STS12 is 8000.0, above 100 percent",
  '{"STS12": 0.5, "dimension": "big"}': "dimension 'big' is no number",
  '{"quality": {}}': "no scores of 'model'",
  '{"quality": {"model": {"STS12": {}}}}': "STS12 has no scores",
  '{"quality": {"model": {"STS12": {"768": {}}}}}': "STS12 at 768 has no scores",
  '{"quality": {"model": {"STS12": {"768": {"spearman": null}}}}}': "None, not",
  '{"quality": {"model": {"STS12": {"768": {"spearman": 80}}}}}': "80.0, above 1",
  '{"mine": 0.5, "yours": 0.4}': "no task of the paper's tables among mine, yours",
  '{"STS-22": 0.5}': "STS-22 (STS22.v2",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_file_is_one_line(tmp_path, capsys, text):
  path = tmp_path / "scores.json"
  path.write_text(text)
  assert main.call(["evaluate", "--compare=paper", f"--scores={path}"]) == 2
  out, said = capsys.readouterr()
  assert out == "" and said.startswith(f"error: {path}: ")
  assert len(said.splitlines()) == 1 and BAD[text] in said


@pytest.mark.parametrize(
  ("argv", "reason"),
  [
    (["--compare=paper"], "evaluate: --model is missing"),
    (["--model=m"], "evaluate: --output is missing"),
    (["--scores=s"], "--scores=FILE is compared; add --compare=paper"),
    (["--compare=papr", "--scores=s"], "unknown; did you mean 'paper'?"),
    (["--compare=paper", "--scores=none"], "none does not exist"),
    (["--compare=paper", "--scores=."], ". is a folder"),
    (["--compare=paper", "--scores=s", "--model=m"], "leave out --model"),
    (["--compare=paper", "--scores=s", "--prompts=check"], "out --prompts"),
    (["--compare=paper", "--scores=s", "--mteb=STS12"], "leave out --mteb"),
    (["--compare=paper", "--scores=s", "--dim=0"], "leave out --dim"),
    (["--compare=paper", "--scores=s", "--hybrid"], "leave out --hybrid"),
    (["--model=m", "--output=o", "--json"], "--json is for --scores"),
    (["--model=m", "--output=o", "--prompts=chek"], "did you mean 'check'?"),
  ],
)
def test_flags_that_do_not_go_together(capsys, argv, reason):
  assert main.call(["evaluate", *argv]) == 2
  said = capsys.readouterr().err
  assert reason in said and len(said.splitlines()) == 1


@pytest.fixture
def file(tmp_path):
  """Scores with a task too many, in another spelling and without settings."""
  path = tmp_path / "scores.json"
  path.write_text(
    json.dumps({"cosqa": 0.5, "AppsRetrieval": 0.8, "CodeFeedback": 0.3})
  )
  return path


def test_a_file_is_compared_on_the_terminal(file, capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "200")
  assert main.call(["evaluate", "--compare=paper", f"--scores={file}"]) == 0
  out, said = capsys.readouterr()
  assert said == ""
  lines = [line.split() for line in out.splitlines()]
  assert ["CosQA", "50.00", "43.60", "+6.40"] in lines
  assert ["AppsRetrieval", "80.00", "84.39", "-4.39"] in lines
  mean = ["mean", "over", "2", "of", "12", "tasks"]
  assert [*mean, "65.00"] in [line[:7] for line in lines]
  for told in (
    "10 of 12 tasks are missing: CodeEditSearchRetrieval",
    "CodeFeedback is in no table; near: CodeFeedback",
    "dimension: not recorded here, 768 there",
    "precision: not recorded here, bfloat16 there",
    "prompts: not recorded here",
    "scored with: not recorded here, mteb 1.34.7",
    "revision of the data: not recorded here, not published there",
  ):
    assert told in out
  assert "Gemini Embedding, without COIRCodeSearchNetRetrieval" in out
  assert "this model" not in out, "its means are over other tasks"


def test_a_whole_suite_stands_among_its_peers(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv("COLUMNS", "200")
  path = tmp_path / "scores.json"
  given = {"suite": MULTILINGUAL, "dimension": 768}
  tasks = dict(WHOLE[MULTILINGUAL].tasks)
  path.write_text(json.dumps({**given, "tasks": tasks}))
  assert main.call(["evaluate", "--compare=paper", f"--scores={path}"]) == 0
  lines = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert ["this", "model,", "768", "dimensions", "61.15", "54.31"] in lines
  for row in (
    "Gecko 278M 53.47 46.23",
    "EmbeddingGemma 308M, 768 dimensions, int4 60.62 53.61",
    "harrier-oss-v1-270m 66.50 -",
    "EmbeddingGemma 2, 128 dimensions 57.89 -",
    "BGE-M3 568M 79.11 60.35 40.88 -3.11 20.10 80.76 62.79 54.60 74.12",
    "granite-embedding-97m-multilingual-r2 - - - - - - - 60.30 -",
  ):
    assert row.split() in lines


def test_means_that_leave_a_task_out_have_ours_over_the_same(
  capsys, tmp_path, monkeypatch
):
  """What the paper prints for its peers on code is without one task."""
  monkeypatch.setenv("COLUMNS", "200")
  path = tmp_path / "scores.json"
  path.write_text(json.dumps(dict(WHOLE[CODE].tasks)))
  argv = ["evaluate", "--compare=paper", f"--scores={path}"]
  assert main.call(argv) == 0
  lines = [" ".join(x.split()) for x in capsys.readouterr().out.splitlines()]
  assert "this model 68.76 68.76" in lines
  without = "without COIRCodeSearchNetRetrieval"
  assert f"this model, {without} 68.14 -" in lines
  assert f"Qwen3-Embedding-0.6B, {without} 74.57 -" in lines


def test_a_comparison_is_json_too(file, tmp_path, capsys):
  output = tmp_path / "made" / "compared.json"
  argv = ["evaluate", "--compare=paper", f"--scores={file}"]
  assert main.call([*argv, "--json"]) == 0
  printed = json.loads(capsys.readouterr().out)
  assert main.call([*argv, f"--output={output}"]) == 0
  out, said = capsys.readouterr()
  assert out == "" and "CosQA" in said
  assert json.loads(output.read_text()) == printed
  assert printed["scores"] == str(file) and printed["compare"] == "paper"
  assert printed["suites"][CODE]["at"][""]["tasks"]["CosQA"]["as"] == "cosqa"
  ablations = [
    r for r in compare.compare(scores.read(file))["suites"][CODE]["published"]
  ]
  assert all("tasks" not in r and r["source"] for r in ablations)


def _sts(folder, rows=6):
  folder.mkdir(parents=True)
  found = [
    {"sentence1": f"a river {n}", "sentence2": "a river 1", "score": n % 3}
    for n in range(rows)
  ]
  text = "".join(json.dumps(row) + "\n" for row in found)
  (folder / "test.jsonl").write_text(text)


def test_a_run_is_compared(trained, tmp_path, capsys):
  """`evaluate --data --compare`, and later the same from the file it wrote."""
  _sts(tmp_path / "data" / "sts12")
  _sts(tmp_path / "data" / "own")
  output = tmp_path / "scores.json"
  argv = [f"--model={trained}", f"--data={tmp_path / 'data'}"]
  argv += ["--compare=paper", f"--output={output}"]
  assert main.call(["evaluate", *argv]) == 0
  out, said = capsys.readouterr()
  assert out == "" and "not compared: own is in no table" in said
  wrote = json.loads(output.read_text())
  words = "task: sentence similarity | query: "
  assert wrote["prompts"]["sts12"] == {"query": words, "document": words}
  compared = wrote["compared"]["suites"]
  assert set(compared) == {MULTILINGUAL, ENGLISH}
  at = compared[ENGLISH]["at"]["32"]
  score = wrote["quality"]["model"]["sts12"]["32"]["spearman"]
  assert at["tasks"]["STS12"]["ours"] == pytest.approx(100 * score, abs=1e-3)
  told = {d["setting"]: d["here"] for d in at["differs"]}
  assert told.pop("longest text").endswith(" tokens")
  assert told == {
    "dimension": "32",
    "scored with": scores.OWN,
    "revision of the data": settings.UNKNOWN,
  }
  again = compare.compare(scores.read(output))
  assert json.loads(json.dumps(again)) == wrote["compared"]


def test_a_run_without_a_known_task_is_refused_at_once(
  trained, tmp_path, capsys
):
  _sts(tmp_path / "STS-Benchmarks")
  output = tmp_path / "scores.json"
  argv = [f"--model={trained}", f"--data={tmp_path / 'STS-Benchmarks'}"]
  argv += ["--compare=paper", f"--output={output}"]
  assert main.call(["evaluate", *argv]) == 2
  said = capsys.readouterr().err
  assert "STS-Benchmarks (STSBenchmark" in said and not output.exists()


def test_a_comparison_without_known_tasks_is_an_error():
  with pytest.raises(BadInput, match=r"here: no task .* among a, b, c, d, e, "):
    compare.require_tasks(list("abcdefg"), "here")
  compare.require_tasks(["XOR-Retrieve"], "here")
  with pytest.raises(BadInput, match="here: no task"):
    compare.require_tasks(["ArguAna"], "here", CODE)


def test_a_benchmark_by_language_is_known_by_its_kind():
  tasks = [
    EvalTask("a", "XTREME-UP", "qa", ()),
    EvalTask("b", "sts", "sts", ()),
  ]
  assert compare.names_of(tasks) == ["XTREME-UP", "b"]
