"""Models of any kind are scored on the same tasks, in one run, by one judge."""

import functools
import json
import os
import pathlib
import re
import shutil
import sys

import apart_models
import numpy as np
import pytest

import embeddinggemma as eg
from embeddinggemma.cli import main
from embeddinggemma.convert.write import exporting
from embeddinggemma.convert.write.gguf import FORMAT as GGUF
from embeddinggemma.data import prompts
from embeddinggemma.evaluation.kinds.task import EvalTask
from embeddinggemma.mining.services.config import ServiceConfig
from embeddinggemma.mining.teacher import Item
from embeddinggemma.side_by_side import (
  apart,
  library_folder,
  names,
  prompting,
)
from embeddinggemma.types import BadInput, Stopped

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "mining"))
import embedding_server as servers

PLACES = "river house garden road lamp bridge tower field".split()
COLOURS = "red old quiet wide".split()


def write(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
  """Search with titles, similarity, and search among pairs of questions."""
  folder = tmp_path_factory.mktemp("tasks")
  texts = [f"the {c} {p} of the town" for c in COLOURS for p in PLACES]
  corpus = [
    {"_id": f"d{n}", "title": f"{PLACES[n % 8]} {n}" * (n % 2), "text": text}
    for n, text in enumerate(texts)
  ]
  queries = [{"_id": f"q{n}", "text": texts[3 * n][4:]} for n in range(10)]
  write(folder / "find" / "corpus.jsonl", corpus)
  write(folder / "find" / "queries.jsonl", queries)
  judged = "".join(f"q{n}\td{3 * n}\t1\n" for n in range(10))
  (folder / "find" / "qrels").mkdir()
  (folder / "find" / "qrels" / "test.tsv").write_text(
    f"query-id\tcorpus-id\tscore\n{judged}"
  )
  alike = [
    {"sentence1": a, "sentence2": b, "score": n % 5}
    for n, (a, b) in enumerate(zip(texts, texts[3:]))
  ]
  write(folder / "alike" / "test.jsonl", alike)
  asked = [
    {"query": f"where is the {c} {p}", "positive": f"the {p} is {c}"}
    for c in COLOURS[:2]
    for p in PLACES
  ]
  rows = [{**row, "task": "qa"} for row in asked]
  write(folder / "ask" / "pairs.jsonl", rows)
  return folder


@pytest.fixture
def evaluate(tasks, tmp_path, capsys):
  """(models, flags) -> (exit code, JSON or None, what was said)."""

  def call(*models, flags=(), name="scores.json"):
    output = tmp_path / name
    argv = ["evaluate", f"--data={tasks}", f"--output={output}", *flags]
    code = main.call([*argv, *(f"--model={model}" for model in models)])
    said = capsys.readouterr().err
    found = json.loads(output.read_text()) if output.is_file() else None
    return code, found, said

  return call


@pytest.fixture
def describe(tmp_path):
  """(name, fields) -> the file that describes a model."""

  def written(name, **fields):
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(fields))
    return path

  return written


def one_line(said):
  """The last line, which alone begins with `error:`."""
  lines = said.splitlines()
  assert [x for x in lines if x.startswith("error:")] == lines[-1:], lines
  return lines[-1]


def rows(tasks, file):
  lines = (tasks / file).read_text().splitlines()
  return [json.loads(line) for line in lines]


def same(found, first, second, within=0.002):
  """Every score of two models is the same."""
  one, other = found["quality"][first], found["quality"][second]
  assert set(one) == set(other) == {"find", "alike", "ask"}
  for task, by_dim in one.items():
    for dim, metrics in by_dim.items():
      for metric, value in metrics.items():
        assert abs(other[task][dim][metric] - value) <= within, (task, metric)


@pytest.fixture(scope="module")
def served(model):
  """A server whose vectors are the small embedder's of texts as they are."""
  ours = eg.load(model)
  vector_of = lambda text: [float(x) for x in ours.encode(text)]
  with servers.serving(vector_of) as server:
    yield server


@pytest.fixture
def server(served):
  """The server, which was asked nothing yet and behaves."""
  served.requests.clear()
  served.behave.clear()
  return served


def test_one_model_has_the_same_scores_through_all(
  evaluate, describe, model, exported, server, tmp_path
):
  """Ours, its two exports in their own libraries, and a server of it."""
  pytest.importorskip("sentence_transformers", minversion="5.4")
  pytest.importorskip("xllamacpp", reason="needs llama.cpp")
  exporting.export(GGUF, str(model), tmp_path / "out", "float32")
  [file] = (tmp_path / "out").glob("*.gguf")
  address = describe(
    "served", model=server.address, prompts="embeddinggemma", label="served"
  )
  code, found, said = evaluate(
    model, f"sentence-transformers:{exported}", f"llama.cpp:{file}", address
  )
  assert code == 0 and found["failed"] == {}
  ours, library, llama, served = found["models"]
  assert library.endswith(" (sentence-transformers)")
  assert llama.endswith(".gguf (llama.cpp)") and served == "served"
  for other in (library, llama, served):
    same(found, ours, other)
  about = found["models"]
  assert about[library]["through"].startswith("sentence-transformers 6.") or (
    about[library]["through"].startswith("sentence-transformers 5.")
  )
  assert about[llama]["through"].startswith("llama.cpp (xllamacpp ")
  assert about[served]["through"] == server.address
  assert about[library]["precision"] == "float32"
  assert about[llama]["precision"] == "F32"
  assert about[ours]["dims"] == about[library]["dims"] == about[llama]["dims"]
  assert about[library]["prompts"] == about[ours]["prompts"]
  assert about[ours]["prompts"]["ask"] == {
    "query": prompts.TASKS["qa"].query,
    "document": prompts.DOCUMENT,
  }
  assert about[ours]["truncated"]["find"]["of"] == 42
  assert about[library]["truncated"] == about[ours]["truncated"]
  assert about[served]["truncated"] is None
  assert "Models" in said and "not known" in said
  assert found["common"] == ["alike", "ask", "find"]
  assert set(found["summary"]) == set(about)
  asked = [text for _, texts in server.requests for text in texts]
  assert len(asked) == len({*asked}), "no text is asked for twice"


def e5(tmp_path, **settings):
  """A small model of the library that has other prompts than ours, or none."""
  package = pytest.importorskip("sentence_transformers", minversion="5.4")
  transformers = pytest.importorskip("transformers")
  words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ":", "query"]
  words += ["passage", "the", "of", "town", "is", *PLACES, *COLOURS]
  (tmp_path / "vocab.txt").write_text("\n".join(words))
  place = tmp_path / "bert"
  transformers.BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(
    place
  )
  config = transformers.BertConfig(
    vocab_size=len(words),
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    max_position_embeddings=32,
  )
  transformers.BertModel(config).save_pretrained(place)
  model = package.SentenceTransformer(str(place), device="cpu")
  model.save_pretrained(str(tmp_path / "e5"))
  file = tmp_path / "e5" / "config_sentence_transformers.json"
  file.write_text(json.dumps(json.loads(file.read_text()) | settings))
  return tmp_path / "e5"


@pytest.mark.slow
def test_a_model_of_another_architecture_runs_in_its_library(
  evaluate, describe, model, tmp_path
):
  folder = e5(tmp_path, matryoshka_dims=[8, 16, 99])
  words = {"query": "query: ", "passage": "passage: "}
  named = describe("e5", model=str(folder), prompts=words, label="worded")
  code, found, said = evaluate(model, named)
  assert code == 0 and "no prompts are known" not in said
  ours, worded = found["models"]
  about = found["models"][worded]
  assert about["dims"] == [16, 8] and worded == "worded"
  assert about["prompts"]["find"] == {
    "query": "query: ",
    "document": "passage: ",
  }
  assert about["prompts"]["alike"] == {"query": ""}, "as mteb has it"
  assert list(found["quality"][worded]["find"]) == ["16", "8"]
  assert list(found["quality"][ours]["find"]) == ["32"]


def test_tensors_that_are_drawn_at_random_are_known():
  five = """[transformers] BertModel LOAD REPORT from: x
Key                          | Status     |
-----------------------------+------------+-
cls.bias                     | UNEXPECTED |
encoder.0.value.weight       | MISSING    |
embeddings.weight            | \x1b[31mMISSING\x1b[0m |
pooler.dense.weight          | MISSING    |
"""
  names = ["encoder.0.value.weight", "embeddings.weight"]
  assert library_folder.missing(five) == names
  four = (
    "Some weights of BertModel were not initialized from the model checkpoint"
    " at x and are newly initialized: ['encoder.0.value.weight',"
    " 'pooler.dense.bias', 'embeddings.weight']\nYou should probably TRAIN"
  )
  assert library_folder.missing(four) == names
  assert library_folder.missing("Loading weights: 100%") == []


@pytest.mark.slow
def test_tensors_that_are_drawn_at_random_are_said(evaluate, tmp_path):
  folder = e5(tmp_path)
  st = pytest.importorskip("safetensors.numpy")
  file = folder / "model.safetensors"
  tensors = st.load_file(file)
  gone = "encoder.layer.0.attention.self.key.weight"
  del tensors[gone]
  st.save_file(tensors, file, {"format": "pt"})
  code, _, said = evaluate(folder)
  assert code == 0
  assert f"1 tensors, the first {gone!r}, are not in its files" in said


@pytest.mark.slow
def test_a_model_without_prompts_is_said_once(evaluate, tmp_path):
  """Beside one of no encoder: a table of vectors, which cuts no text."""
  folder = e5(tmp_path)
  st = pytest.importorskip("sentence_transformers", minversion="5.4")
  parts = pytest.importorskip("sentence_transformers.models")
  tokenizers = pytest.importorskip("tokenizers")
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  table = parts.StaticEmbedding(tokenizer, embedding_dim=8)
  st.SentenceTransformer(modules=[table]).save_pretrained(str(tmp_path / "t"))
  code, found, said = evaluate(folder, tmp_path / "t")
  assert code == 0
  assert said.count("no prompts are known") == 2  # once each
  bare, static = found["models"]
  for name, width in ((bare, 16), (static, 8)):
    about = found["models"][name]
    assert about["dims"] == [width]
    assert set(about["prompts"]["find"].values()) == {""}
  assert found["models"][static]["truncated"] is None


@pytest.fixture
def other(describe, server):
  """The server's file, with our prompts."""
  return describe("other", model=server.address, prompts="embeddinggemma")


def test_what_fails_is_told_and_the_others_stay(
  evaluate, model, other, server, tmp_path
):
  gone = "http://127.0.0.1:9/v1/embeddings"
  poison = "the red river of the town"

  def act(handler, tree):
    asked = server.requests[-1][1]
    bad = [n for n, text in enumerate(asked) if text.endswith(poison)]
    for n in bad:
      if prompts.DOCUMENT[:5] in asked[n]:
        tree["data"][n]["embedding"] = [float("nan")] * 4
    handler.send(200, tree)

  server.behave = [act] * 99
  code, found, said = evaluate(model, gone, other)
  assert code == 1
  ours, absent, third = found["models"]
  assert "is it there?" in found["failed"][absent][""]
  assert list(found["failed"][third]) == ["find"]
  assert "dimensions, not" in found["failed"][third]["find"]
  assert set(found["quality"][ours]) == {"find", "alike", "ask"}
  assert set(found["quality"][third]) == {"alike", "ask"}
  assert found["common"] == ["alike", "ask"]
  assert absent not in found["summary"]
  lines = [x for x in said.splitlines() if x.startswith("failed: ")]
  assert len(lines) == 2 and lines[0].startswith(f"failed: {absent}: ")
  assert lines[1].startswith(f"failed: {third}: find: ")
  # What was answered is not asked again, but for one text to compare.
  server.behave.clear()
  before = {t for _, texts in server.requests for t in texts}
  server.requests.clear()
  code, found, _ = evaluate(model, other)
  assert code == 0
  same(found, *found["models"])
  again = [t for _, texts in server.requests for t in texts]
  assert len(again) < len(before) / 2


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_a_vector_that_is_no_direction_is_one_line(
  evaluate, other, server, value
):
  server.behave = [servers.with_vector([value] * 32)]
  code, found, said = evaluate(other)
  assert code == 2 and found is None
  assert re.search(r"is (not finite|zero)", one_line(said))


def test_a_model_alone_that_is_gone_is_one_line(evaluate):
  code, found, said = evaluate("http://127.0.0.1:9/v1/embeddings")
  assert code == 2 and found is None
  assert "is it there?" in one_line(said)


def test_another_model_at_the_same_address_is_told(evaluate, other, server):
  code, _, said = evaluate(other)
  assert code == 0 and "texts to ask" in said
  turned = lambda text: [-x for x in server_vector(text)]
  server_vector = server.vector_of
  server.vector_of = turned
  try:
    code, _, said = evaluate(other)
  finally:
    server.vector_of = server_vector
  assert code == 2
  line = one_line(said)
  assert "(cosine -1.000), so another model answers; delete" in line
  assert "scores.answers" in line


def test_what_a_person_must_know_before_it_is_asked(evaluate, describe, server):
  dear = {"ask_above": 10, "price_per_million": 2.0}
  file = describe("dear", model=server.address, service=dear)
  code, found, said = evaluate(file)
  assert code == 2 and found is None and server.requests == []
  assert "add --yes to go on" in one_line(said)
  assert "no prompts are known" in said
  code, _, _ = evaluate(file, flags=["--yes"])
  assert code == 0


@pytest.mark.parametrize(
  ("models", "flags", "said"),
  [
    (["none"], [], "none does not exist; give a checkpoint"),
    (["MODEL", "none"], [], "none does not exist; give a checkpoint"),
    (["MODEL,"], [], "names nothing between two commas"),
    (["MODEL", "none.json"], [], "none.json does not exist; a .json describes"),
    (["MODEL", "http://h/v1"], [], "do you mean http://h/v1/embeddings?"),
    (["MODEL", "http://[::1/v1/embeddings"], [], "is no address ("),
    (["https://a:b@h/v1/embeddings"], [], "holds a password"),
    (["llama.cpp:none.gguf"], [], "none.gguf does not exist"),
    (["sentence-transformers:none"], [], "none does not exist, and the cache"),
    (["sentence-transformers:MODEL"], [], "has no modules.json"),
    (["MODEL", "MODEL"], ["--precision=int3"], "int3"),
    (["http://h/v1/embeddings"], ["--precision=int4"], "--precision rounds"),
    (["v.npy"], [], "v.npy does not exist"),
  ],
)
def test_what_is_wrong_is_said_before_any_work(
  evaluate, model, models, flags, said
):
  given = [name.replace("MODEL", str(model)) for name in models]
  code, found, err = evaluate(*given, flags=flags)
  assert code == 2 and found is None
  assert said in one_line(err)


def test_several_models_need_tasks(model, tmp_path, capsys):
  argv = ["evaluate", f"--model={model},{model}", f"--output={tmp_path}/e"]
  assert main.call(argv) == 2
  assert "--data=DIR is missing" in one_line(capsys.readouterr().err)


def test_equal_names_are_told_apart(evaluate, model):
  code, found, _ = evaluate(f"{model},{model}")
  assert code == 0
  one, other = found["models"]
  assert other == f"{one} #2"
  same(found, one, other, within=0)


def test_one_model_in_several_precisions(evaluate, describe, model):
  file = describe("rounded", model=str(model), precision="int8")
  code, found, _ = evaluate(model, file)
  assert code == 0
  one, rounded = found["models"]
  assert rounded == f"{one} int8"
  precisions = [about["precision"] for about in found["models"].values()]
  assert precisions == ["float", "int8"]
  assert found["quality"][one] != found["quality"][rounded]
  wrong = describe("wrong", model=str(model), precision="int3")
  code, _, said = evaluate(model, wrong)
  assert code == 2 and "int3" in one_line(said)


def test_a_folder_that_ours_refuses_names_its_library(
  evaluate, model, exported, tmp_path
):
  copy = shutil.copytree(exported, tmp_path / "copy")
  rows = json.loads((exported / "modules.json").read_text())
  (copy / "modules.json").write_text(json.dumps([*rows[:2], rows[-1]]))
  code, _, said = evaluate(model, copy)
  assert code == 2
  assert f"in its own library: sentence-transformers:{copy}" in one_line(said)


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ("code", "names custom_st.Transformer, code of the model's own"),
    ("kind", "model_type='SparseEncoder', and only 'SentenceTransformer'"),
    ("pickle", "pytorch_model.bin is a pickle"),
    ("adapter", "adapter_model.bin is a pickle"),
    ("modules", "modules.json cannot be read"),
  ],
)
def test_what_the_library_must_not_run(evaluate, tmp_path, change, said):
  folder = tmp_path / "other"
  folder.mkdir()
  kind = "sentence_transformers.models.Transformer"
  kind = "custom_st.Transformer" if change == "code" else kind
  rows = [{"idx": 0, "name": "0", "path": "", "type": kind}]
  text = json.dumps(rows) if change != "modules" else "[{"
  (folder / "modules.json").write_text(text)
  (folder / "config.json").write_text('{"model_type": "bert"}')
  weights = "pytorch_model.bin" if change == "pickle" else "model.safetensors"
  (folder / weights).write_bytes(b"weights")
  if change == "adapter":
    (folder / "adapter_model.bin").write_bytes(b"weights")
  settings = {"model_type": "SparseEncoder"} if change == "kind" else {}
  file = folder / "config_sentence_transformers.json"
  file.write_text(json.dumps(settings))
  code, found, err = evaluate(folder)
  assert code == 2 and found is None
  assert said in one_line(err)


def test_vectors_that_were_made_elsewhere(evaluate, model, tasks, tmp_path):
  """Those of our own model, of all texts of the tasks, and of all but one."""
  asked = [
    *(("retrieval", r["text"], "") for r in rows(tasks, "find/queries.jsonl")),
    *(
      ("document", r["text"], r["title"])
      for r in rows(tasks, "find/corpus.jsonl")
    ),
    *(
      ("sts", row[side], "")
      for row in rows(tasks, "alike/test.jsonl")
      for side in ("sentence1", "sentence2")
    ),
    *(("qa", row["query"], "") for row in rows(tasks, "ask/pairs.jsonl")),
    *(
      ("document", row["positive"], "")
      for row in rows(tasks, "ask/pairs.jsonl")
    ),
  ]
  ours = eg.load(model)
  found = [ours([text], name, [title])[0] for name, text, title in asked]
  named = [{"prompt": p, "text": t, "title": x} for p, t, x in asked]
  place = tmp_path / "v.npy"

  def keep(count):
    np.save(place, np.stack(found[:count]))
    write(place.with_suffix(".jsonl"), named[:count])

  keep(len(asked))
  code, scores, _ = evaluate(model, place)
  assert code == 0
  same(scores, *scores["models"])
  keep(len(asked) - 1)
  code, scores, _ = evaluate(model, place)
  assert code == 1
  assert "lacks vectors of 1 of" in scores["failed"]["v.npy"]["ask"]


def test_a_process_of_its_own():
  """Its faults are ours, and its end ends nothing here."""
  items = lambda *texts: [Item("", text, "") for text in texts]
  with apart.opened(functools.partial(apart_models.well, 3)) as (model, said):
    assert model.about["process"] != os.getpid() and said == "opened\n"
    assert (model.width, model.prompts) == (3, {"query": "q: "})
    assert model.counts is None and model.origin() == {"name": "a model"}
    encode = model.start([], pathlib.Path())
    np.testing.assert_array_equal(encode(items("ab"))[0], np.full(3, 2))
    with pytest.raises(BadInput, match=r"^no such text; write another$"):
      encode(items("refuse"))
    with pytest.raises(Stopped, match=r"^RuntimeError: out of memory$"):
      encode(items("raise"))
    np.testing.assert_array_equal(encode(items("abc"))[0], np.full(3, 3))
    with pytest.raises(Stopped, match="ended by SIGKILL: allocation failed"):
      encode(items("die"))
    np.testing.assert_array_equal(encode(items("a"))[0], np.full(3, 1))
  with pytest.raises(BadInput, match="not there; give another"):
    with apart.opened(apart_models.missing):
      raise AssertionError("it cannot be opened")


def of(kind, name="x/NFCorpus"):
  return EvalTask(name, kind, "sts", ())


@pytest.mark.parametrize(
  ("own", "kind", "name", "words"),
  [
    # The order of mteb.
    ({"NFCorpus-query": "1", "NFCorpus": "2"}, "retrieval", "qa", "1"),
    ({"NFCorpus": "2", "Retrieval-query": "3"}, "retrieval", "qa", "2"),
    ({"Retrieval-query": "3", "Retrieval": "4"}, "retrieval", "qa", "3"),
    ({"Retrieval": "4", "query": "5"}, "retrieval", "qa", "4"),
    ({"query": "5"}, "retrieval", "retrieval", "5"),
    ({"query": "5"}, "retrieval", "document", ""),
    (
      {"Retrieval-document": "6", "document": "7"},
      "retrieval",
      "document",
      "6",
    ),
    (
      {"query": "5", "document": "", "passage": "8"},
      "retrieval",
      "document",
      "8",
    ),
    ({"query": "5", "STS": "9"}, "sts", "sts", "9"),
    ({"query": "5"}, "sts", "sts", ""),
    ({"BitextMining": "a", "STS": "9"}, "bitext", "bitext", "a"),
    ({"PairClassification": "b"}, "pair classification", "nli", "b"),
    ({"query": "5", "Reranking": "c"}, "reranking", "retrieval", "c"),
    # Kinds that mteb lacks.
    ({"query": "5", "Retrieval": "4"}, "XOR-Retrieve", "qa_xling", "4"),
    ({"STS": "9", "Clustering": "d"}, "odd", "sts", "9"),
    ({"mine": "e"}, "odd", "mine", "e"),
    ({}, "retrieval", "qa", ""),
  ],
)
def test_prompts_are_chosen_in_the_order_of_mteb(own, kind, name, words):
  assert prompting.in_order(own).words(of(kind), name) == words


@pytest.mark.parametrize("name", [*prompts.TASKS, *prompts.PROMPTS])
def test_who_knows_our_prompts_is_read_as_ours_is(name):
  published = {
    k: v
    for k, v in prompts.PROMPTS.items()
    if k not in ("QuestionAnswering", "FactChecking", "CodeRetrieval")
  }
  for reading in (prompting.in_order(published), prompting.as_ours(published)):
    assert reading.words(of("retrieval"), name) == prompts.prompt_named(name)
    item = reading.item(of("retrieval"), name, "text", "a title")
    whole = prompts.prompted(name, "text", "a title")
    assert (item.prompt + item.text, item.title) == (whole, "")


def test_titles_stand_where_the_prompt_has_them():
  item = prompting.in_order({"passage": "passage: "}).item
  document = item(of("retrieval"), "document", "text", "title")
  assert document == Item("passage: ", "title text", "")
  assert item(of("retrieval"), "document", " text", "").text == " text"


def test_a_model_of_ours_with_other_prompts_is_read_as_ours_is():
  own = {"query": "q: ", "document": "d: "}
  item = prompting.as_ours(own).item
  assert item(of("sts"), "sts", "x", "").prompt == prompts.TASKS["sts"].query
  assert item(of("retrieval"), "document", "x", "y") == Item("d: ", "x", "")


def test_a_prompt_for_want_of_another():
  own = {"s2p_query": "a: ", "s2s_query": "b: "}
  words = prompting.in_order(own, "s2p_query").words
  assert words(of("retrieval"), "retrieval") == "a: "
  assert words(of("sts"), "sts") == "a: "
  assert words(of("retrieval"), "document") == ""


def test_names_may_hold_commas(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for folder in ("a,b", "a", "c"):
    pathlib.Path(folder).mkdir()
  assert names.split("a,b") == ["a,b"]
  assert names.split("a,b,c") == ["a,b", "c"]
  assert names.split("c,a,b,none") == ["c", "a,b", "none"]
  assert names.split("x" * 5000) == ["x" * 5000]


@pytest.mark.parametrize(
  ("tree", "said"),
  [
    ("[1]", "describes no model"),
    ("{", "is no JSON"),
    ('{"prompts": {}}', "describes no model"),
    ('{"model": "m", "promts": "none"}', "did you mean 'prompts'"),
    ('{"model": "m", "prompts": {"query": 1}}', "are a text by name"),
    ('{"model": "m", "prompts": "x.json"}', "neither none, embeddinggemma"),
    ('{"model": "m", "service": {"batch": 0}}', "batch=0 must be at least 1"),
    ('{"model": "m", "service": 1}', "file.json: "),
    ('{"model": 3}', "'model' must be str"),
    ('{"model": "other.json"}', "names no model"),
  ],
)
def test_a_file_that_describes_no_model(tmp_path, tree, said):
  file = tmp_path / "file.json"
  file.write_text(tree)
  with pytest.raises(BadInput, match=re.escape(said)) as caught:
    names.read(str(file), ServiceConfig())
  assert "file.json" in str(caught.value)


def test_a_file_describes_a_model(tmp_path):
  file = tmp_path / "file.json"
  tree = {"model": "m", "prompts": {"query": "q: "}, "dims": [8, 4]}
  file.write_text(json.dumps({**tree, "service": {"batch": 3}}))
  [found] = names.read(str(file), ServiceConfig(yes=True))
  assert found.own_words == {"query": "q: "} and found.dims == (8, 4)
  assert found.service.batch == 3 and found.service.yes
  assert names.Asked("m").own_words is None
  assert names.Asked("m", prompts="none").own_words == {}
  assert names.Asked("m", prompts={}).own_words == {}
  service = ServiceConfig(prompts="embeddinggemma")
  assert names.Asked("m", service=service).own_words == prompts.PROMPTS
  file.write_text(json.dumps({"model": "m", "label": "one"}))
  with pytest.raises(BadInput, match="two models are labelled 'one'"):
    names.read(f"{file},{file}", ServiceConfig())


def test_settings_of_another_kind_of_model_are_refused(
  evaluate, describe, model
):
  for fields, said in (
    ({"prompts": "none"}, "'prompts' is not for a model that this project"),
    ({"dims": [8]}, "'dims' is not for"),
    ({"service": {"batch": 3}}, "'service' is not for"),
  ):
    code, _, err = evaluate(describe("ours", model=str(model), **fields))
    assert code == 2 and said in one_line(err)
