"""A certificate tells right vectors from wrong ones, and who was asked.

Where llama.cpp or sentence-transformers is installed, it is what runs.
"""

import dataclasses
import errno
import json
import os
import sys

import gguf
import numpy as np
import pytest

import embeddinggemma as eg
from embeddinggemma.cli import main
from embeddinggemma.convert.certify import (
  certificate,
  control_tokens,
  golden,
  runtimes,
)
from embeddinggemma.convert.certify.certificate import FAILED, PASSED
from embeddinggemma.convert.certify.golden import Item, References
from embeddinggemma.convert.certify.runtimes import Runtime
from embeddinggemma.convert.write import exporting, sentence_transformers
from embeddinggemma.convert.write.gguf import FORMAT
from embeddinggemma.data.tokenizer import Tokenizer
from embeddinggemma.model import encoder

INSTALLED = [r for r in runtimes.RUNTIMES["gguf"] if r.command()]
TYPES = ("float32", "bfloat16", "q8_0", "q4_0", "mixed")
need_llama = pytest.mark.skipif(not INSTALLED, reason="llama.cpp is not here")


@pytest.fixture(scope="module")
def config(config):
  """Long enough for most texts, with 32 in every input."""
  return dataclasses.replace(config, max_length=160, num_layers=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory, write_checkpoint, config):
  """Its workdir."""
  return write_checkpoint(tmp_path_factory.mktemp("model") / "w", config)


@pytest.fixture(scope="module")
def jobs(model):
  """dtype -> what is exported."""
  return {d: exporting.opened(FORMAT, str(model), d) for d in TYPES}


@pytest.fixture(scope="module")
def items(jobs):
  return golden.items(jobs["float32"])


@pytest.fixture(scope="module")
def references(jobs, items):
  """dtype -> our vectors."""
  rows = [item.ids for item in items]
  return {
    dtype: golden.references(job, rows, FORMAT.arithmetic(job))
    for dtype, job in jobs.items()
  }


@pytest.fixture(scope="module")
def files(tmp_path_factory, model):
  """dtype -> the exported file."""
  found, root = {}, tmp_path_factory.mktemp("files")
  for dtype in TYPES:
    written = exporting.export(FORMAT, str(model), root / dtype, dtype)
    found[dtype] = root / dtype / written.artefact.name
  return found


def vectors(count=20, width=8, seed=0):
  found = np.random.default_rng(seed).standard_normal((count, width))
  found = found.astype(np.float32)
  return found / np.linalg.norm(found, axis=1, keepdims=True)


def some_items(count=20):
  return [
    Item(f"text {n}", np.arange(n + 2, dtype=np.int32)) for n in range(count)
  ]


def judged(theirs, ours, **more):
  given = References(ours, **more)
  return certificate.judge(some_items(), theirs, given, "float", 0.999)


def turned(vectors, angle):
  """Each vector by an angle, in a plane of its own."""
  other = np.random.default_rng(7).standard_normal(vectors.shape)
  other -= np.sum(other * vectors, axis=1, keepdims=True) * vectors
  other /= np.linalg.norm(other, axis=1, keepdims=True)
  return (np.cos(angle) * vectors + np.sin(angle) * other).astype(np.float32)


def test_right_vectors_pass_at_any_length():
  ours = vectors()
  lengths = np.linspace(0.1, 9, len(ours), dtype=np.float32)[:, None]
  found = judged(ours * lengths, ours)
  assert found["verdict"] == PASSED and "to_model" not in found
  assert found["bound"] == {"min": 0.999, "typical": 0.999}
  assert found["cosine"]["min"] > 1 - 1e-6 and found["top10_overlap"] == 1
  assert found["tokens"] == list(range(2, 22))


def test_one_wrong_vector_fails_and_is_named():
  ours = vectors()
  theirs = ours.copy()
  theirs[7] = ours[8]
  found = judged(theirs, ours)
  cosine = float(ours[7] @ ours[8])
  assert found["verdict"] == FAILED
  assert found["worst"]["text"] == "text 7" and found["worst"]["tokens"] == 9
  assert found["worst"]["cosine"] == pytest.approx(cosine)
  assert f"{cosine:.5f} on 'text 7' of 9 tokens" in found["reason"]
  assert found["top10_overlap"] < 1


def test_what_an_export_costs_is_told_and_decides_nothing():
  rounded, of_float = vectors(), vectors(seed=1)
  found = judged(rounded, rounded, model=of_float)
  assert found["verdict"] == PASSED
  shown = np.sum(rounded * of_float, axis=1)
  assert found["to_model"]["cosine"]["min"] == pytest.approx(shown.min())
  assert found["to_model"]["cosine"]["mean"] == pytest.approx(shown.mean())
  assert found["to_model"]["top10_overlap"] < found["top10_overlap"] == 1
  assert found["to_model"]["precision"] == "float"


def test_the_bound_follows_from_what_rounding_costs_this_model():
  """Twice on average of nine texts in ten, fifty times at most."""
  ours = vectors()
  exact = turned(ours, np.where(np.arange(20) == 3, 0.4, 0.1)[:, None])
  cost = 1 - np.cos(0.1)  # the worst tenth is left out
  found = judged(turned(ours, 0.12), ours, exact=exact)
  assert found["verdict"] == PASSED
  wanted = {"min": 0.999 - 50 * cost, "typical": 0.999 - 2 * cost}
  assert found["bound"] == pytest.approx(wanted, abs=1e-5)
  assert judged(turned(ours, 0.12), ours)["verdict"] == FAILED
  everywhere = judged(turned(ours, 0.2), ours, exact=exact)
  assert everywhere["verdict"] == FAILED
  assert "of the nearest texts" in everywhere["reason"]
  one = np.where(np.arange(20)[:, None] == 5, turned(ours, 0.9), ours)
  assert "'text 5'" in judged(one, ours, exact=exact)["reason"]


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda v: np.where(np.arange(20)[:, None] == 3, np.nan, v), "'text 3' is"),
    (lambda v: v[:, :4], "not (20, 8)"),
    (lambda v: v * 0, "cosine 0.00000"),
  ],
  ids=["nan", "shape", "zero"],
)
def test_vectors_that_are_none(change, words):
  found = judged(change(vectors()).astype(np.float32), vectors())
  assert found["verdict"] == FAILED and words in found["reason"]


def test_what_is_asked(items, config, model, tokenizer_model):
  """Every prompt, both edges of the window, shortest and longest; as text."""
  texts = [item.text for item in items if item.text is not None]
  assert {"hello\n", "hello ", "   hello", " ", "\n\n"} <= set(texts)
  assert any(x.startswith("\tif") for x in texts)  # an indent
  assert any(x.startswith("def") and x.endswith("\n") for x in texts)
  for prompt in set(eg.load(model).prompts.values()):
    assert prompt.endswith(" ") and prompt in texts  # of an empty text
    assert any(text.startswith(prompt) and text != prompt for text in texts)
  for sign in ("\t", "🪿", "春", "  "):
    assert any(sign in text for text in texts), sign
  tokenizer = Tokenizer(tokenizer_model)
  for item in items:
    assert 2 <= len(item.ids) <= config.max_length
    if item.text is not None:
      np.testing.assert_array_equal(item.ids, tokenizer.encode(item.text))
  alone = {len(item.ids) for item in items if item.text is None}
  half, whole = config.window // 2, config.window
  assert alone == {2, 3, 4, 5, 7, 8, 9, 159, 160}
  assert {half - 1, half, half + 1, whole - 1, whole, whole + 1} <= alone
  assert max(len(item.ids) for item in items if item.text) > 150


def test_references_are_the_vectors_of_load(model, items, references):
  texts = [n for n, item in enumerate(items) if item.text is not None]
  sentences = [items[n].text for n in texts]
  want = eg.load(model).encode(sentences)
  for found in (references["float32"].written, references["q4_0"].model):
    np.testing.assert_allclose(found[texts], want, atol=1e-5)
  want = eg.load(model, precision="q4_0").encode(sentences)
  found = references["q4_0"].exact[texts]
  np.testing.assert_allclose(found, want, atol=1e-5)
  assert references["float32"].exact is references["float32"].model is None


def export(capsys, model, output, *more):
  argv = ["export", f"--model={model}", "--format=gguf", f"--output={output}"]
  code = main.call([*argv, *more])
  return code, capsys.readouterr().err


def program(*code):
  """A runtime that is a Python program."""
  command = [sys.executable, "-c", *code] if code else None
  return Runtime("stand-in", "python", lambda: command, "install it")


def stand_in(monkeypatch, *code):
  """Makes it the only runtime."""
  monkeypatch.setattr(runtimes, "RUNTIMES", {"gguf": [program(*code)]})


def test_a_runtime_that_is_not_here_has_checked_nothing(
  capsys, monkeypatch, model, tmp_path
):
  stand_in(monkeypatch)
  code, said = export(capsys, model, tmp_path / "out")
  assert (
    code == 0 and "certificate: UNCHECKED: " in said and "install it" in said
  )
  found = json.loads((tmp_path / "out" / certificate.FILE).read_text())
  assert found["verdict"] == "unchecked" and "cosine" not in found
  assert found["file"] == "model-float32.gguf"


# Answers everything with one vector.
WRONG = """
import json, sys
asked = json.load(open(sys.argv[1]))
vectors = [[1.0] * 32 for _ in asked["items"]]
json.dump({"vectors": vectors, "versions": {}}, open(sys.argv[2], "w"))
"""


ASSERTS = (
  "import os; print('loading', flush=True);"
  " os.write(2, b'a.cpp:20: GGML_ASSERT(x == y) failed\\n'); os.abort()"
)


@pytest.mark.parametrize(
  ("code", "words"),
  [
    (ASSERTS, "a.cpp:20: GGML_ASSERT(x == y) failed"),
    ("raise ValueError('no such tensor')", "ValueError: no such tensor"),
    ("import os; os.abort()", "it died of SIGABRT"),
    ("", "it ended with code 0"),
  ],
  ids=["asserts", "raises", "aborts", "silent"],
)
def test_a_runtime_that_ends_is_told_by_its_own_words(tmp_path, code, words):
  with pytest.raises(runtimes.Refused) as caught:
    program(code).ask(tmp_path / "x.gguf", some_items(3), 8)
  assert str(caught.value) == words


def test_a_full_folder_is_not_the_runtime_s_refusal(
  capsys, monkeypatch, model, tmp_path
):
  stand_in(monkeypatch, f"raise OSError(28, {os.strerror(errno.ENOSPC)!r})")
  code, said = export(capsys, model, tmp_path / "out")
  assert code == 2 and "No space left on device" in said.splitlines()[-1]
  assert list(tmp_path.iterdir()) == []


def test_an_export_that_is_refused_is_not_kept(
  capsys, monkeypatch, model, tmp_path
):
  stand_in(monkeypatch, ASSERTS)
  code, said = export(capsys, model, tmp_path / "out")
  last = said.splitlines()[-1]
  assert code == 1 and "--uncertified" in last
  assert "stand-in refuses it: a.cpp:20: GGML_ASSERT(x == y) failed" in last
  assert list(tmp_path.iterdir()) == []


def test_an_export_with_other_vectors_is_kept_only_when_asked(
  capsys, monkeypatch, model, tmp_path
):
  stand_in(monkeypatch, WRONG)
  words = "tokens, where 0.99990 is right"
  code, said = export(capsys, model, tmp_path / "out")
  assert code == 1 and words in said.splitlines()[-1]
  assert list(tmp_path.iterdir()) == []
  code, said = export(capsys, model, tmp_path / "out", "--uncertified")
  assert code == 0 and "certificate: failed" in said and words in said
  found = json.loads((tmp_path / "out" / certificate.FILE).read_text())
  assert found["verdict"] == "failed" and words in found["reason"]


def test_node_packages_are_looked_for_where_node_does(tmp_path, monkeypatch):
  monkeypatch.delenv(runtimes.NODE_MODULES, raising=False)
  monkeypatch.setattr(runtimes.shutil, "which", lambda name: f"/bin/{name}")
  _, runtime = runtimes.RUNTIMES["gguf"]
  inner = tmp_path / "a" / "b"
  inner.mkdir(parents=True)
  monkeypatch.chdir(inner)
  assert runtime.command() is None
  package = tmp_path / "node_modules" / "node-llama-cpp"
  package.mkdir(parents=True)
  assert runtime.command()[-1] == str(package)
  monkeypatch.chdir("/")
  assert runtime.command() is None
  monkeypatch.setenv(runtimes.NODE_MODULES, str(package.parent))
  assert runtime.command()[-1] == str(package)
  assert os.path.isfile(runtime.command()[1])


@need_llama
@pytest.mark.parametrize("dtype", TYPES)
def test_llama_cpp_gives_the_model_s_vectors(
  jobs, files, items, references, dtype
):
  """At every golden length, from texts by its own tokenizer and from ids."""
  bound = FORMAT.dtypes[dtype].bound
  assert bound == 0.9999
  # The first runtime for all types, another for two.
  for runtime in INSTALLED[: 2 if dtype in ("float32", "q4_0") else 1]:
    reply = runtime.ask(files[dtype], items, jobs[dtype].config.max_length)
    found = certificate.judge(
      items, reply.vectors, references[dtype], "float", bound
    )
    assert found["verdict"] == PASSED, (runtime.through, found["reason"])
    cosine, limits = found["cosine"], found["bound"]
    assert limits["min"] > 0.98 and limits["typical"] > 0.999
    if dtype == "float32":
      continue
    # Its arithmetic is ours: exact sums are ten times as far from it.
    exact = references[dtype]._replace(written=references[dtype].exact)
    away = certificate.judge(items, reply.vectors, exact, "float", bound)
    assert 1 - cosine["mean"] < (1 - away["cosine"]["mean"]) / 4
    assert runtime.through in reply.versions


@pytest.mark.parametrize(
  ("form", "kind"),
  [(FORMAT, "the token"), (sentence_transformers.FORMAT, "text")],
)
def test_control_tokens_in_a_text_are_shown(
  form, kind, model, tmp_path, capsys
):
  """llama.cpp takes them for tokens; our folder says that they are none.

  User-defined pieces are pieces to both.
  """
  if not runtimes.find(form.name):
    pytest.skip(f"{form.name} is not run here")
  flags = [f"--model={model}", f"--format={form.name}", "--dtype=float32"]
  assert main.call(["export", *flags, f"--output={tmp_path / 'out'}"]) == 0
  said = capsys.readouterr().err.splitlines()[-2]  # the card's is the last
  assert said.endswith(f'"<eos>" in a text is {kind}')
  found = json.loads((tmp_path / "out" / certificate.FILE).read_text())
  assert found["verdict"] == PASSED
  rows = {row["text"][3:-4]: row for row in found["control_tokens"]}
  assert list(rows)[:4] == ["<pad>", "<eos>", "<bos>", "<unk>"]
  for name in list(rows)[:4]:
    assert not {0, 1, 2, 3} & set(rows[name]["ids"][1:-1])
    right, wrong = rows[name]["cosine"], rows[name]["cosine_as_token"]
    if kind == "the token":
      right, wrong = wrong, right
    assert right > 0.9999 and wrong < 0.99, name
  for name in ("<start_of_turn>", "<unused0>"):
    assert rows[name]["cosine"] > 0.9999, name


def test_a_runtime_that_reads_control_tokens_as_text_is_told_apart(jobs):
  job = jobs["float32"]
  words = control_tokens.words(job)
  ours = golden.references(job, [w.item.ids for w in words]).written
  found = control_tokens.report(job, words, ours * 3)
  rows = found[control_tokens.KEY]
  assert all(row["cosine"] > 0.9999 for row in rows)
  assert all(row["cosine_as_token"] < 0.99 for row in rows[:4])
  assert control_tokens.summary(found).endswith("is text")
  assert control_tokens.report(job, words, ours[:, :4]) == {}
  assert control_tokens.report(job, words, ours * np.float32(np.nan)) == {}


def rewritten(path, target, keys=(), tensor=lambda t: t.data):
  """A copy of a file with keys changed or dropped, and tensors too."""
  reader = gguf.GGUFReader(path)
  writer = gguf.GGUFWriter(target, "gemma-embedding")
  for name, field in reader.fields.items():
    if name.startswith("GGUF.") or name == "general.architecture":
      continue
    value = dict(keys).get(
      name.removeprefix("gemma-embedding."), field.contents()
    )
    kinds = field.types
    if value is not None:
      writer.add_key_value(name, value, kinds[0], kinds[-1])
  for found in reader.tensors:
    data = tensor(found)
    if data is not None:
      writer.add_tensor(found.name, data, raw_dtype=found.tensor_type)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return target


DENSE = [f"dense_{n}_feat_{end}" for n in (2, 3) for end in ("in", "out")]
BREAKAGE = {
  "copy": {},
  "dense dropped": {
    "keys": dict.fromkeys(DENSE),
    "tensor": lambda t: None if t.name.startswith("dense") else t.data,
  },
  "half a window": {"keys": {"attention.sliding_window": 4}},
  "norms without 1": {
    "tensor": lambda t: t.data - np.float32(1) if t.data.ndim == 1 else t.data
  },
}


@need_llama
@pytest.mark.parametrize("what", BREAKAGE)
def test_a_broken_file_is_told_from_a_right_one(
  files, items, references, config, tmp_path, what
):
  """In every runtime that is here; a mere copy passes."""
  path = rewritten(files["float32"], tmp_path / "x.gguf", **BREAKAGE[what])
  for runtime in INSTALLED:
    reply = runtime.ask(path, items, config.max_length)
    found = certificate.judge(
      items, reply.vectors, references["float32"], "float", 0.9999
    )
    verdict = PASSED if what == "copy" else FAILED
    assert found["verdict"] == verdict, found
    if what == "half a window":
      assert found["cosine"]["min"] < 0.99 and found["worst"]["tokens"] > 4


def coarse(found):
  """A packed matrix whose integers were rounded once more, to seven steps."""
  if found.tensor_type != gguf.GGMLQuantizationType.Q4_0:
    return found.data
  values = gguf.dequantize(found.data, found.tensor_type)
  blocks = values.reshape(-1, 32)
  scale = np.abs(blocks).max(axis=1, keepdims=True) / 7
  scale = np.where(scale == 0, np.float32(1), scale)
  again = (np.round(blocks / scale) * scale).reshape(values.shape)
  return gguf.quantize(again.astype(np.float32), found.tensor_type)


WRONG_Q4_0 = {
  "copy": {},
  "rounded twice": {"tensor": coarse},
  "half a window": {"keys": {"attention.sliding_window": 4}},
  "dense dropped": BREAKAGE["dense dropped"],
  "rotary base": {"keys": {"rope.freq_base": 1e4}},
}


@need_llama
@pytest.mark.parametrize("what", WRONG_Q4_0)
def test_a_wrong_file_is_told_in_four_bits_too(
  files, jobs, items, references, config, tmp_path, what
):
  """The bound leaves room for rounding, and none for these."""
  path = rewritten(files["q4_0"], tmp_path / "x.gguf", **WRONG_Q4_0[what])
  reply = INSTALLED[0].ask(path, items, config.max_length)
  found = certificate.judge(
    items, reply.vectors, references["q4_0"], "float", 0.9999
  )
  assert found["verdict"] == (PASSED if what == "copy" else FAILED), found


def test_causal_attention_is_told_in_four_bits(
  jobs, items, references, monkeypatch
):
  """No key of a file makes llama.cpp causal; one that were so is told."""
  window = encoder.window
  causal = lambda config, kind: window(config, kind)._replace(right=0)
  rows = [item.ids for item in items]
  with monkeypatch.context() as patched:
    patched.setattr(encoder, "window", causal)
    golden._program.cache_clear()
    wrong = golden.references(
      jobs["q4_0"], rows, FORMAT.arithmetic(jobs["q4_0"])
    ).written
    golden._program.cache_clear()
  found = certificate.judge(items, wrong, references["q4_0"], "float", 0.9999)
  assert found["verdict"] == FAILED
  assert found["cosine"]["typical"] < found["bound"]["typical"]


@need_llama
@pytest.mark.parametrize("through", [r.through for r in INSTALLED])
def test_what_llama_cpp_refuses_is_said_in_its_words(
  files, items, config, tmp_path, through
):
  [runtime] = [r for r in INSTALLED if r.through == through]
  without = lambda t: None if t.name == "output_norm.weight" else t.data
  path = rewritten(files["float32"], tmp_path / "x.gguf", tensor=without)
  with pytest.raises(runtimes.Refused, match=r"output_norm\.weight"):
    runtime.ask(path, items, config.max_length)
  keys = {"dense_3_feat_out": 64}
  path = rewritten(files["float32"], tmp_path / "y.gguf", keys=keys)
  with pytest.raises(runtimes.Refused, match=r"dense_3_feat_out must be equal"):
    runtime.ask(path, items, config.max_length)


@need_llama
def test_the_verb_writes_a_certificate_that_passed(capsys, model, tmp_path):
  code, said = export(capsys, model, tmp_path / "out", "--dtype=q4_0")
  assert code == 0
  assert "certificate: passed in llama.cpp" in said.splitlines()[-2]
  found = json.loads((tmp_path / "out" / certificate.FILE).read_text())
  assert found["verdict"] == PASSED and 0.98 < found["bound"]["min"] < 0.9999
  assert "to the float model" in said.splitlines()[-2]
  assert found["rounded_after_training"] and found["precision"] == "q4_0"
  assert found["cosine"]["min"] > found["to_model"]["cosine"]["min"]
  assert 0 < found["top10_overlap"] <= 1 and found["worst"]["tokens"] > 1
  assert found["weights"] == eg.load(model).hash
  assert set(found["versions"]) == {"embeddinggemma", "jax", "numpy"}


def test_sentence_transformers_gives_the_model_s_vectors(model, tmp_path):
  """Texts in padded batches, ids alone."""
  pytest.importorskip("sentence_transformers")
  form, folder = sentence_transformers.FORMAT, tmp_path / "out"
  found = {}
  certify = lambda *args: found.update(certificate.certify(form, *args))
  exporting.export(form, str(model), folder, certify=certify)
  assert found["verdict"] == PASSED and found["cosine"]["min"] >= 0.99999
  assert "sentence-transformers" in found["runtime_versions"]


def test_a_runtime_of_an_older_version_is_not_here():
  """sentence-transformers before 5.4 strips texts, and would certify none."""
  of = lambda *least: runtimes._module("numpy", "program", least)()
  assert of() == of(1) == of(1, 20)
  assert of(1)[0] == sys.executable
  assert of(999) is None and of(*map(int, np.__version__.split(".")[:2]))
