"""Scores in a model card: from files of `evaluate`, with prompts and intervals."""

import json

import pytest
import yaml

from embeddinggemma import checkpoint, quantize
from embeddinggemma.cli import main
from embeddinggemma.convert.card import scores
from embeddinggemma.convert.certify import runtimes
from embeddinggemma.types import BadInput

ESCAPED = "\\|"  # in a cell
WORDS = "task: sentence similarity | query: "


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
  """No runtime: what is written is the same, and it takes a second less."""
  monkeypatch.setattr(runtimes, "find", lambda name: None)


def own(digest, **more):
  """What `evaluate` writes, of two tasks at two dimensions."""
  bank = {"32": {"recall@10": 1.0, "ndcg@10": 0.91}, "16": {"ndcg@10": 0.9}}
  alike = {"32": {"spearman": 0.8}, "16": {"spearman": 0.79}}
  return {
    "model": digest,
    "precision": "float",
    "data": "/home/ann/private/suite",
    "quality": {
      "model": {"bank <b>": bank, "sts": alike},
      "BM25 plain": {"bank <b>": {"": {"ndcg@10": 0.3}}},
    },
    "summary": {
      "main": {"bank <b>": "ndcg@10", "sts": "spearman"},
      "mean_task": {"32": 0.855, "16": 0.845},
      "mean_type": {"32": 0.855, "16": 0.845},
      "intervals": {"mean_task": {"32": [0.81, 0.9]}},
    },
    "intervals": {"model": {"bank <b>": {"32": [0.9, 0.92]}}},
    "prompts": {
      "bank <b>": {"queries": "query", "documents": "document"},
      "sts": {"query": WORDS},
    },
    "truncated": {"sts": {"queries": {"cut": 3, "of": 20, "max_length": 64}}},
    "notes": {"sts": ["few texts"]},
    **more,
  }


def of_mteb(digest):
  """What `evaluate --mteb` writes, of a task that was scored and one that failed."""
  row = {
    "main_score": 0.7,
    "metric": "ndcg_at_10",
    "type": "Retrieval",
    "dataset": "mteb/NanoSciFact",
    "dataset_revision": "abc",
    "prompts": {"query": WORDS, "document": None},
    "notes": ["the model has no prompt for this document"],
  }
  return {
    "suite": "NanoBEIR",
    "model": digest,
    "precision": "float",
    "dim": 32,
    "search": "hybrid",
    "mteb": {"version": "2.26.24", "name": "local/x", "revision": "r"},
    "tasks": {"NanoSciFact": row},
    "mean_task": 0.7,
    "failed": {"NanoNQ": "no network"},
  }


@pytest.fixture(scope="module")
def digest(model):
  return checkpoint.hash_of(checkpoint.find(model))


def export(model, folder, *flags):
  argv = ["export", f"--model={model}", f"--output={folder / 'out'}", *flags]
  form = () if any(f.startswith("--format") for f in flags) else ("st",)
  if form:
    argv.append("--format=sentence-transformers")
  return main.call(argv), folder / "out" / "README.md"


def write(folder, name, tree):
  path = folder / name
  path.write_text(json.dumps(tree))
  return path


def test_scores_stand_with_prompts_and_intervals(model, digest, tmp_path):
  files = [
    write(tmp_path, "own.json", own(digest)),
    write(tmp_path, "mteb.json", of_mteb(digest)),
  ]
  code, card = export(model, tmp_path, f"--scores={files[0]},{files[1]}")
  assert code == 0
  text = card.read_text()
  for said in (
    "By evaluate of this program on suite:",
    "| task | metric | prompts | 32 dimensions | 16 dimensions |",
    '| bank \\<b\\> | ndcg\\@10 | queries: `"task: search result \\| query: "`;'
    ' documents: `"title: none \\| text: "`'
    " | 0.9100 (0.9000 to 0.9200) | 0.9000 |",
    f'| sts | spearman | query: `"{WORDS.replace("|", ESCAPED)}"`',
    "| mean over tasks |  |  | 0.8550 (0.8100 to 0.9000) | 0.8450 |",
    "Scores without brackets have no interval on record.",
    "- sts\\: few texts",
    "- sts\\: 3 of 20 queries were cut after 64 tokens",
    "By mteb 2.26.24, NanoBEIR:",
    "document: none | 0.7000 |",
    "- not scored, since it failed\\: NanoNQ",
    "- search\\: hybrid",
    "mteb 2.26.24",
  ):
    assert said in text, said
  assert "/home/ann" not in text and "BM25" not in text
  header = yaml.safe_load(text.split("---\n")[1])
  assert "mteb" in header["tags"]
  [index] = header["model-index"]
  first, _, third = index["results"]
  assert first["dataset"] == {"name": "bank <b>", "type": "bank <b>"}
  assert first["metrics"][0]["type"] == "ndcg_at_10"
  assert first["metrics"][1]["value"] == 0.9
  assert third["task"]["type"] == "Retrieval"
  assert third["dataset"]["type"] == "mteb/NanoSciFact"


def test_what_an_older_version_wrote_is_left_open(model, digest, tmp_path):
  older = {
    key: value
    for key, value in own(digest).items()
    if key in ("model", "precision", "data", "quality")
  }
  path = write(tmp_path, "own.json", older)
  code, card = export(model, tmp_path, f"--scores={path}")
  text = card.read_text()
  assert code == 0 and "| sts | spearman | not recorded | 0.8000" in text
  assert "In brackets" not in text


@pytest.mark.parametrize(
  ("tree", "said"),
  [
    ([], "not an object but list"),
    ({}, "neither 'quality' nor the tasks of mteb"),
    ({"quality": {}}, "no scores of a model"),
    ({"quality": {"model": {"a": {"32": {"f1": "NaN"}}}}}, "no scores of a"),
    ({"mteb": 3, "tasks": {"a": 3}}, "no scores of a model"),
    ({"quality": 3}, "no scores of a model"),
  ],
)
def test_a_file_without_scores_is_refused(tmp_path, tree, said):
  path = write(tmp_path, "a.json", tree)
  with pytest.raises(BadInput, match=said) as caught:
    scores.read(str(path))
  assert str(caught.value).startswith(f"--scores={path}: ")


def test_scores_of_other_weights_are_refused(model, digest, tmp_path, capsys):
  """Before anything is written; a file without a hash, or of rounded weights."""
  other = write(tmp_path, "other.json", own("0" * 64))
  assert export(model, tmp_path, f"--scores={other}")[0] == 2
  said = capsys.readouterr().err
  assert "scores of the weights 000000000000, and those of" in said
  assert digest[:12] in said and not (tmp_path / "out").exists()
  unsaid = write(tmp_path, "unsaid.json", own(""))
  assert export(model, tmp_path, f"--scores={unsaid}")[0] == 2
  assert "does not say which weights" in capsys.readouterr().err
  odd = write(tmp_path, "odd.json", own(digest, precision="int3"))
  assert export(model, tmp_path, f"--scores={odd}")[0] == 2
  assert export(model, tmp_path, f"--scores={tmp_path / 'none'}")[0] == 2


def test_scores_in_another_precision_say_so(model, tmp_path):
  content = checkpoint.ContentHash()
  for name, raw in checkpoint.stream(checkpoint.find(model)):
    content.add_tensor(name, quantize.seen(name, raw, "int8"))
  rounded = own(content.hexdigest(), precision="int8")
  path = write(tmp_path, "own.json", rounded)
  code, card = export(model, tmp_path, f"--scores={path}")
  assert code == 0
  assert "scored in int8 where this export is in float:" in card.read_text()


def test_a_rounded_export_says_that_scores_are_of_floats(
  model, digest, tmp_path
):
  path = write(tmp_path, "own.json", own(digest))
  flags = ("--format=gguf", "--dtype=q8_0", f"--scores={path}")
  code, card = export(model, tmp_path, *flags)
  text = card.read_text()
  assert code == 0 and "scored in float where this export is in int8" in text
  assert "what that costs was not measured" in text


def test_a_run_s_summary_has_its_scores():
  after = {
    "own test": {
      "mean": 0.9,
      "tasks": {"qa": {"metric": "ndcg@10", "score": 0.9, "queries": 7}},
    }
  }
  found = scores.of_summary(
    {
      "final": {"metrics": {"own test": 0.9, "general": None, "x": {"a": 1}}},
      "forgetting": {"after": after, "before": after},
      "command": "query of my texts",
    }
  )
  assert [(s.task, s.metric) for s in found.scores] == [
    ("own test: qa", "ndcg@10"),
    ("own test", ""),
  ]
  assert scores.of_summary({}) is None
  assert scores.of_summary({"final": 3, "quality": [], "forgetting": 1}) is None


def test_a_model_of_a_grid_has_the_scores_of_its_run(
  tmp_path, write_checkpoint, config
):
  """Its summary has the hash of the raw weights."""
  recipe = {"stage": "qat", "view": f"{quantize.VIEW}int8"}
  files = {"recipe.json": json.dumps(recipe).encode()}
  run = write_checkpoint(tmp_path / "run", config, files)
  digest = checkpoint.hash_of(checkpoint.find(run))
  final = {"hash": digest, "metrics": {"own test": 0.9125}}
  write(run, "summary.json", {"final": final})
  code, card = export(run, tmp_path)
  assert code == 0 and "| own test | 0.9125 |" in card.read_text()
