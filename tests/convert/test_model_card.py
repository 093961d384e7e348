"""An export says what the model is: a model card, and the metadata of GGUF."""

import json
import re

import pytest
import yaml

from embeddinggemma import checkpoint
from embeddinggemma.cli import main
from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import origin
from embeddinggemma.convert.certify import runtimes
from embeddinggemma.convert.read import gguf_file
from embeddinggemma.data.prompts import PROMPTS

HOSTILE = "evil</title><script>alert(1)</script> `x` | **b** \x1b[31m\n# y"
ORIGIN = {
  "stage": "finetune",
  "origin": {
    "from": "/home/someone/google/embeddinggemma-300m",
    "repository": "google/embeddinggemma-300m",
  },
  "data": {"tasks": {"qa": 40, HOSTILE: 2}, "hash": "ab" * 32},
  "config": {"steps": 7, "optimizer": {"lr": 2e-5}, "negatives": 0},
  "parents": {"init": "cd" * 32},
  "versions": {"embeddinggemma": "0.1.0", "python": "3.11"},
}


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
  """No runtime: what is written is the same, and it takes a second less."""
  monkeypatch.setattr(runtimes, "find", lambda name: None)


@pytest.fixture
def tuned(tmp_path, write_checkpoint, config):
  """A finetuned model whose base is known, in a run with scores."""
  files = {
    "recipe.json": json.dumps(ORIGIN).encode(),
    "LICENSE.metadata": b"license: gemma\n",
  }
  return write_checkpoint(tmp_path / "runs" / "my_bank", config, files)


def export(model, output, form="sentence-transformers"):
  argv = ["export", f"--model={model}", f"--format={form}"]
  assert main.call([*argv, f"--output={output}"]) == 0
  return output


def header_of(folder):
  text = (folder / "README.md").read_text()
  return yaml.safe_load(text.split("---\n")[1]), text


TAUGHT = {
  "kind": "gemini",
  "name": "gemini-embedding-001",
  "dates": ["2026-11-01", "2026-11-02"],
  "terms": "no model that competes",
}
OF_TAUGHT = {"kind": "checkpoint", "name": HOSTILE, "weights": "ef" * 32}


def test_teachers_and_their_terms_go_with_the_model(
  tmp_path, write_checkpoint, config
):
  """Into the card, the export, what is imported of it, a soup and a student."""
  recipe = {**ORIGIN, "teachers": [TAUGHT, {**OF_TAUGHT, "licence": "gemma"}]}
  files = {"recipe.json": json.dumps(recipe).encode()}
  taught = write_checkpoint(tmp_path / "taught", config, files)
  folder = export(taught, tmp_path / "out")
  text = header_of(folder)[1]
  for said in (
    "| taught by | gemini-embedding-001 (gemini, asked 2026-11-01 to 2026-11-02",
    "weights efefefefefefefef, licence gemma) |",
    "Terms of the teacher gemini-embedding-001: no model that competes.",
  ):
    assert said in text
  assert "<script>" not in text and "\x1b" not in text
  argv = ["import", f"--from={folder}", f"--workdir={tmp_path / 'back'}"]
  assert main.call(argv) == 0
  both = f"{taught},{taught}"
  argv = ["soup", f"--inputs={both}", f"--workdir={tmp_path / 'soup'}"]
  assert main.call(argv) == 0
  argv = ["shrink", f"--model={taught}", f"--workdir={tmp_path / 'small'}"]
  assert main.call([*argv, "--layers=2"]) == 0
  for name in ("back", "soup", "small"):
    found = checkpoint.read_files(checkpoint.find(tmp_path / name))
    assert checkpoint.teachers_of(found) == recipe["teachers"], name


def test_those_that_taught_a_teacher_are_named_once():
  first = {"name": "first", "teachers": [TAUGHT]}
  found = checkpoint.with_teachers([first, {}], [TAUGHT, {"name": "second"}])
  assert found == {"teachers": [{"name": "first"}, TAUGHT, {"name": "second"}]}
  assert checkpoint.with_teachers([], []) == {}


def test_the_card_says_what_is_recorded(tuned, tmp_path, config):
  place = checkpoint.find(tuned)
  digest = checkpoint.content_hash(checkpoint.read_params(place))
  final = {"hash": digest, "metrics": {"own test": 0.9125, "general": 0.5}}
  (tuned / "summary.json").write_text(json.dumps({"final": final}))
  header, text = header_of(export(tuned, tmp_path / "out"))
  assert header == {
    "license": "gemma",
    "base_model": "google/embeddinggemma-300m",
    "base_model_relation": "finetune",
    "pipeline_tag": "sentence-similarity",
    "library_name": "sentence-transformers",
    "tags": [
      "sentence-transformers",
      "sentence-similarity",
      "feature-extraction",
      "embeddinggemma",
    ],
  }
  for said in (
    "# my\\_bank",
    "| dimensions | 32 |",
    f"| longest text | {config.max_length} tokens",
    "| stage | finetune |",
    "| pairs of qa | 40 |",
    "| steps | 7 |",
    "| optimizer.lr | 2e-05 |",
    "| data | `abababababababab` |",
    "| own test | 0.9125 |",
    "certificate.json: unchecked",
    '`"LICENSE"`, `"LICENSE.metadata"`',
    '| `"query"` | `"task: search result \\| query: "` |',
    "| data | the stage finetune | not recorded;",
    "Gemma is provided under and subject to the Gemma Terms of Use",
    "- nothing on record has run this export.",
    "| open training data | no |",
  ):
    assert said in text, said
  assert "/home/someone" not in text and str(tmp_path) not in text
  assert "negatives" not in text.split("## Training")[1].split("## ")[0]


def test_scores_of_other_weights_are_not_shown(tuned, tmp_path):
  final = {"hash": "0" * 64, "metrics": {"own test": 0.9125}}
  (tuned / "summary.json").write_text(json.dumps({"final": final}))
  header, text = header_of(export(tuned, tmp_path / "out"))
  assert "0.9125" not in text and "model-index" not in header
  assert "Not evaluated, as far as is recorded." in text


def test_nothing_from_a_file_is_read_as_markup(
  tmp_path, write_checkpoint, config
):
  prompts = {**PROMPTS, HOSTILE: HOSTILE}
  files = {
    "recipe.json": json.dumps(ORIGIN | {"stage": HOSTILE}).encode(),
    "prompts.json": json.dumps(prompts).encode(),
    "LICENSE": f"license: '{HOSTILE!r}\n".encode(),
  }
  model = write_checkpoint(tmp_path / "m <b>: |`", config, files)
  header, text = header_of(export(model, tmp_path / "out"))
  assert header["pipeline_tag"] == "sentence-similarity"
  body = text.split("---\n", 2)[2]
  code = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", re.sub(r"\\.", "", body))
  assert "<" not in code and "**" not in code and "\x1b" not in text
  assert "\n# y" not in body
  above = 0
  for line in body.splitlines():  # cells are as many as the table has
    if line.startswith("|"):
      found = len(re.findall(r"(?<!\\)\|", line))
      above = found if not above else above
      assert found == above, line
    else:
      above = 0


@pytest.mark.parametrize("form", ["sentence-transformers", "gguf"])
def test_every_format_has_a_card(tuned, tmp_path, form):
  header, text = header_of(export(tuned, tmp_path / "out", form))
  assert header["license"] == "gemma" and "## Licence" in text
  assert "### In embeddinggemma" in text
  name = {"gguf": "llama.cpp"}.get(form, form)
  assert header["library_name"] == name and f"### In {name}" in text


def test_what_was_trained_goes_from_export_to_import(tuned, tmp_path, config):
  """And on: a soup, and the export of what was imported, name the same data."""
  sources = [{"name": "mine", "licence": "mit"}, {"name": "x: 'y'\n---\n"}]
  data = {**ORIGIN["data"], "sources": sources, "languages": {"de": 40}}
  place = checkpoint.find(tuned) / "files" / "recipe.json"
  place.write_text(json.dumps({**ORIGIN, "data": data, "parents": {}}))
  first = export(tuned, tmp_path / "first")
  argv = ["import", f"--from={first}", f"--workdir={tmp_path / 'back'}"]
  assert main.call(argv) == 0
  argv = ["soup", f"--inputs={tuned},{tuned}"]
  assert main.call([*argv, f"--workdir={tmp_path / 'soup'}"]) == 0
  for name, form in (
    ("back", "sentence-transformers"),
    ("back", "gguf"),
    ("soup", "gguf"),
  ):
    folder = export(tmp_path / name, tmp_path / f"{name}-{form}", form)
    header, text = header_of(folder)
    assert header["language"] == "de" and header["license"] == "gemma"
    assert "| mine | mit |" in text and "x\\: 'y' --- | not recorded" in text
    assert "Pairs by language: de 40" in text
    assert str(tmp_path) not in (folder / folders.MARK).read_text()


def test_thousands_of_sources_are_counted(tmp_path, write_checkpoint, config):
  many = [{"name": f"s{n}", "licence": "mit" * (n % 2)} for n in range(3000)]
  recipe = {"stage": "finetune", "data": {"sources": many, "tasks": {"qa": 1}}}
  files = {"recipe.json": json.dumps(recipe).encode()}
  model = write_checkpoint(tmp_path / "m", config, files)
  folder = export(model, tmp_path / "out")
  text = header_of(folder)[1]
  assert "Of 3,000 sources, by licence: not recorded 1,500, mit 1,500" in text
  assert "and 2,950 more." in text and len(text.splitlines()) < 400
  mark = json.loads((folder / folders.MARK).read_text())
  assert len(mark["trained"][0]["data"]["sources"]) == 3000


def test_prompts_that_were_changed_since_are_told(
  tmp_path, write_checkpoint, config
):
  before = {**PROMPTS, "query": "Q: ", "gone": "G: "}
  recipe = {**ORIGIN, "identity": {"prompts": before}}
  files = {"recipe.json": json.dumps(recipe).encode()}
  model = write_checkpoint(tmp_path / "m", config, files)
  text = header_of(export(model, tmp_path / "out"))[1]
  for said in (
    'Changed since the training: `"gone"`, then `"G: "`, now none.',
    'Changed since the training: `"query"`, then `"Q: "`, now `"task: search',
  ):
    assert said in text


def test_the_hub_reads_the_card(tuned, tmp_path):
  hub = pytest.importorskip("huggingface_hub")
  digest = checkpoint.hash_of(checkpoint.find(tuned))
  quality = {"test": {"model": {"q: 'a'": {"32": {"ndcg@10": 0.5}}}}}
  summary = {"final": {"hash": digest}, "quality": quality}
  (tuned / "summary.json").write_text(json.dumps(summary))
  found = hub.ModelCard.load(export(tuned, tmp_path / "out") / "README.md")
  assert found.data.license == "gemma"
  assert found.data.base_model == "google/embeddinggemma-300m"
  [result] = found.data.eval_results
  assert result.dataset_name == "test: q: 'a'"
  assert (result.metric_type, result.metric_value) == ("ndcg_at_10", 0.5)
  assert found.data.model_name == "my_bank"


def test_gguf_names_licence_and_base_and_import_keeps_them(tuned, tmp_path):
  one = export(tuned, tmp_path / "one", "gguf")
  path = one / "model-float32.gguf"

  def general(path):
    keys = gguf_file.read_header(path).keys
    return {
      key.removeprefix("general."): value
      for key, value in keys.items()
      if key.startswith("general.")
    }

  found = general(path)
  assert found["name"] == "my_bank" and found["license"] == "gemma"
  assert found["base_model.count"] == 1
  assert found["base_model.0.name"] == "embeddinggemma-300m"
  assert found["base_model.0.organization"] == "google"
  url = "https://huggingface.co/google/embeddinggemma-300m"
  assert found["base_model.0.repo_url"] == url
  assert "sentence-similarity" in found["tags"]
  workdir = tmp_path / "back"
  argv = ["import", f"--from={path}", f"--workdir={workdir}"]
  assert main.call(argv) == 0
  two = export(workdir, tmp_path / "two", "gguf")
  assert general(two / path.name) == found
  header, text = header_of(export(workdir, tmp_path / "three"))
  assert header["base_model"] == "google/embeddinggemma-300m"
  assert header["license"] == "gemma" and "# my\\_bank" in text


@pytest.mark.parametrize(
  ("files", "said"),
  [
    ({}, {"license": "other", "license_name": "see-license-files"}),
    (
      {"LICENSE": b"terms of the weights"},
      {
        "license": "other",
        "license_name": "see-license-files",
        "license_link": "LICENSE",
      },
    ),
    (
      {"LICENSE": b"\n    Apache License\n  Version 2.0, January 2004"},
      {"license": "apache-2.0"},
    ),
    ({"LICENSE.txt": b"MIT License\n\nCopyright"}, {"license": "mit"}),
    (
      {"LICENSE": b"license: other\nlicense_name: 'mine: v2'\nThe terms"},
      {"license": "other", "license_name": "mine: v2"},
    ),
    (
      {"LICENSE": b"Gemma Terms of Use", "LICENSE.metadata": b"license: gemma"},
      {"license": "gemma"},
    ),
  ],
)
def test_a_licence_is_what_the_files_say(files, said):
  assert origin.licence(files) == said


def test_a_readme_beside_a_licence_file_is_not_lost(tmp_path):
  (tmp_path / "README.md").write_text("---\nlicense: gemma\n---\n")
  (tmp_path / "LICENSE").write_text("many words")
  found = folders.terms(tmp_path)
  assert found == {
    "LICENSE": b"many words",
    "LICENSE.metadata": b"license: gemma\n",
  }
  assert origin.licence(found) == {"license": "gemma"}
  (tmp_path / "LICENSE.metadata").write_bytes(found["LICENSE.metadata"])
  assert folders.terms(tmp_path) == found
  (tmp_path / "README.md").write_text("---\nlicense: other\n---\n")
  (tmp_path / "LICENSE.metadata").unlink()
  assert folders.terms(tmp_path) == {"LICENSE": b"many words"}


def test_what_descends_keeps_its_origin():
  recipe = lambda **tree: {"recipe.json": json.dumps(tree).encode()}
  source = {
    "from": "/a/b/embeddinggemma-300m",
    "family": "x",
    "bytes": {"a": 1},
  }
  kept = {"from": "/a/b/embeddinggemma-300m", "family": "x"}
  assert checkpoint.origin(recipe(source=source)) == kept
  assert checkpoint.origin(recipe(origin=kept)) == kept
  assert checkpoint.origin({}) == {}
  base = origin.base(recipe(origin=kept))
  assert base == ("embeddinggemma-300m", "")
  hub = "/x/models--google--gemma-3/snapshots/abc/"
  assert origin.repository(hub) == "google/gemma-3"
  assert origin.repository("/x/google/gemma-3/") == ""


@pytest.mark.parametrize(
  ("path", "title"),
  [
    ("runs/laptop", "laptop"),
    ("runs/tuned/checkpoints/5", "tuned"),
    ("runs/tuned/merged/checkpoints/5", "tuned"),
    ("runs/laptop/soup/checkpoints/0", "laptop-soup"),
    ("runs/tuned/choose/checkpoints/0", "tuned"),
    ("/", "model"),
  ],
)
def test_a_model_is_called_as_its_run(path, title):
  assert origin.title(path, {}) == title


CUT = {
  "from": "ef" * 32,
  "layers": [0, 1, 5],
  "of_layers": 24,
  "pieces": 64000,
  "of_pieces": 262144,
}


def test_a_model_that_was_cut_out_of_another_says_so(
  tmp_path, write_checkpoint, config
):
  """Trained since: what its ancestor was cut out of, by name and hash."""
  files = {"recipe.json": json.dumps(ORIGIN | {"cuts": [CUT]}).encode()}
  model = write_checkpoint(tmp_path / "student", config, files)
  said = (
    "It was cut out of a larger model: 3 of 24 layers and 64,000 of 262,144"
    " pieces of embeddinggemma-300m (efefefefefef)."
  )
  assert said in header_of(export(model, tmp_path / "out"))[1]


@pytest.mark.parametrize(
  "damaged",
  [None, "x", {}, [1], [{}], [CUT, CUT | {"layers": "x"}], [CUT | {"from": 3}]],
)
def test_cuts_that_are_none_are_left_out(damaged):
  assert origin.read_cuts(damaged) == [] and origin.cut_out_of(damaged) == ""


def test_what_stayed_whole_is_not_named():
  layers = CUT | {"pieces": CUT["of_pieces"]}
  assert origin.cut_out_of([layers]) == "3 of 24 layers of efefefefefef"
  again = CUT | {"layers": [0], "of_layers": 1, "from": "01" * 32}
  assert origin.cut_out_of([layers, again], "base") == (
    "3 of 24 layers of base (efefefefefef), and of these 64,000 of 262,144"
    " pieces of 010101010101"
  )
