"""A student's exports give its vectors, with the layers and pieces it kept.

The base is random, of nine layers with a short window, so that a text of a
dozen tokens already tells a local layer from a global one.
"""

import dataclasses
import json

import numpy as np
import pytest
import tokenizers
from rich.console import Console

import embeddinggemma as eg
from embeddinggemma import checkpoint, doctor, quantize
from embeddinggemma.cli import main
from embeddinggemma.convert.certify import certificate, runtimes
from embeddinggemma.convert.certify.golden import Item
from embeddinggemma.convert.write import exporting, gguf, sentence_transformers
from embeddinggemma.convert.write.output import MARK
from embeddinggemma.data import samples
from embeddinggemma.data.tokenizer import train_tokenizer
from embeddinggemma.model.config import GLOBAL, LOCAL
from embeddinggemma.students import shrink
from embeddinggemma.types import BadInput

FORMS = {
  "gguf": gguf.FORMAT,
  "sentence-transformers": sentence_transformers.FORMAT,
}
# Layers of nine, of which every third is global; the kinds that they have.
LISTS = {
  "0,1,2,5,8": (LOCAL, LOCAL, GLOBAL, GLOBAL, GLOBAL),
  "2,3,5,6,7": (GLOBAL, LOCAL, GLOBAL, LOCAL, LOCAL),
  "1,3": (LOCAL, LOCAL),
  "2,8": (GLOBAL, GLOBAL),
}
FIRST, SECOND = samples.sides()
# Of twenty languages, half of them unseen by the pruned vocabulary, and what
# vocabularies stumble over.
HARD = [
  *FIRST,
  *SECOND,
  *samples.EXTREMES,
  *samples.WHITE_SPACE,
  "a" + " " * 40 + "b\n\n\n\n\n\n\tc\r\n",
  "\u2581\u2581 y <mask>x<unused3><start_of_turn> <0x41>",
  "e\u0301 \u200d \ufeff ། བོད་སྐད་ ꦗꦮ 𒀀𒁀 \x01",
  "aaaabababab" * 5,
]


def sample_of(values):
  """The first of some parameters, and the others for a slow run."""
  first, *others = values
  return [first, *(pytest.param(x, marks=pytest.mark.slow) for x in others)]


@pytest.fixture(scope="module")
def base(write_checkpoint, config, tmp_path_factory):
  """The workdir of a model of nine layers, whose pieces are of 20 languages."""
  root = tmp_path_factory.mktemp("base")
  train_tokenizer([*FIRST, *SECOND], root / "tokenizer.model", 1500)
  large = dataclasses.replace(
    config,
    vocab_size=1500,
    num_layers=9,
    pattern=(LOCAL, LOCAL, GLOBAL),
    max_length=128,
  )
  files = {
    "tokenizer.model": (root / "tokenizer.model").read_bytes(),
    "recipe.json": json.dumps(checkpoint.AS_WRITTEN).encode(),
  }
  return write_checkpoint(root / "w", large, files)


@pytest.fixture(scope="module")
def student(base, tmp_path_factory):
  """(layers, texts kept) -> the workdir of a student, made once."""
  made = {}

  def make(layers, texts=()):
    key = layers, tuple(texts)
    if key not in made:
      made[key] = tmp_path_factory.mktemp("student") / "w"
      size = 1200 if texts else None
      shrink.shrink(str(base), made[key], layers, size, texts)
    return made[key]

  return make


def exported(form, workdir, folder, dtype=None):
  """What the runtime opens of an export, in its place."""
  made = exporting.export(FORMS[form], str(workdir), folder, dtype).artefact
  return folder / made.name if form == "gguf" else folder


def of_folder(artefact, texts):
  """The unit vectors of texts from sentence-transformers, in this process."""
  st = pytest.importorskip("sentence_transformers", minversion="5.4")
  return st.SentenceTransformer(str(artefact), device="cpu").encode(texts)


def of_file(artefact, texts):
  """llama.cpp's unit vectors of texts, or of rows of ids."""
  runtime = runtimes.find("gguf")
  if runtime is None:
    pytest.skip("llama.cpp is not here")
  items = [
    Item(x, np.zeros(0, int)) if isinstance(x, str) else Item(None, x)
    for x in texts
  ]
  vectors = runtime.ask(artefact, items, 128).vectors
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


RUN = {"gguf": of_file, "sentence-transformers": of_folder}


def turned_around(workdir, target):
  """The same model with the other kind of every layer."""
  place = checkpoint.find(workdir)
  files = dict(checkpoint.read_files(place))
  tree = json.loads(files["model.json"])
  other = {LOCAL: GLOBAL, GLOBAL: LOCAL}
  tree["pattern"] = [other[kind] for kind in tree["pattern"]]
  files["model.json"] = json.dumps(tree).encode()
  checkpoint.write(target, checkpoint.read_params(place), files)
  return target


LONG = [samples.of_words(n) for n in (1, 4, 6, 8, 15)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layers", sample_of(LISTS))
def test_every_order_of_kinds_is_exported(student, tmp_path, form, layers):
  """Of texts longer than the window, where a wrong kind would be seen."""
  workdir, kinds = student(layers), LISTS[layers]
  ours = eg.load(workdir)
  config = ours.config
  assert [config.attention_kind(n) for n in range(len(kinds))] == list(kinds)
  want = ours.encode(LONG)
  other = eg.load(turned_around(workdir, tmp_path / "other")).encode(LONG)
  assert (np.sum(want * other, axis=1)[1:] < 0.999).all()  # the window matters
  artefact = exported(form, workdir, tmp_path / "out")
  # llama.cpp's GeLU reads a table of half-precision values.
  found = RUN[form](artefact, LONG)
  assert (np.sum(want * found, axis=1) > 0.99999).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layers", sample_of(["1,3", "0,1,2,5,8"]))
def test_what_comes_back_is_what_the_export_said(
  student, tmp_path, form, layers
):
  """Its identity is that of the files; in float32 of a folder, the student's."""
  workdir = student(layers, FIRST[:10])
  artefact = exported(form, workdir, tmp_path / "out")
  said = json.loads((tmp_path / "out" / MARK).read_text())
  assert (
    main.call(["import", f"--from={artefact}", f"--workdir={tmp_path}"]) == 0
  )
  back, ours = eg.load(tmp_path), eg.load(workdir)
  assert back.identity.parts == {
    name: said["identity"][name] for name in back.identity.parts
  }
  if form == "sentence-transformers":
    assert back.identity == ours.identity
  np.testing.assert_allclose(back.encode(LONG), ours.encode(LONG), atol=2e-6)


def test_a_smaller_vocabulary_gives_the_same_ids_in_transformers(
  student, tmp_path
):
  workdir = student("0,1,2,5,8", FIRST[:10])
  folder = exported("sentence-transformers", workdir, tmp_path / "out")
  theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  ours = eg.load(workdir).tokenizer
  assert any(ours.is_byte[ours.encode(text)].any() for text in SECOND)
  for text in HARD:
    assert theirs.encode(text).ids == ours.encode(text).tolist(), text
    # SentencePiece writes a space as this sign.
    assert ours.decode(ours.encode(text)) == text.replace("\u2581", " ")


def test_a_smaller_vocabulary_gives_the_same_ids_in_llama_cpp(
  student, tmp_path
):
  """Its vectors of texts are those of the ids that we give it."""
  workdir = student("0,1,2,5,8", FIRST[:10])
  artefact = exported("gguf", workdir, tmp_path / "out")
  tokenizer = eg.load(workdir).tokenizer
  rows = [tokenizer.encode(text) for text in HARD]
  # llama.cpp looks for pieces that are matched whole before it writes spaces as
  # SentencePiece does, so it reads texts with that sign in another way.
  short = [
    n
    for n, row in enumerate(rows)
    if len(row) <= 128 and "\u2581" not in HARD[n]
  ]
  assert len(short) > len(HARD) - 4
  asked = [*(HARD[n] for n in short), *(rows[n] for n in short)]
  of_texts, of_ids = np.split(of_file(artefact, asked), 2)
  for n, text, ids in zip(short, of_texts, of_ids):
    np.testing.assert_allclose(text, ids, atol=1e-6, err_msg=repr(HARD[n]))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["q4_0", "q8_0"])
def test_a_student_is_certified_in_every_type(student, tmp_path, capsys, dtype):
  workdir = student("0,1,2,5,8", FIRST[:10])
  argv = ["export", f"--model={workdir}", "--format=gguf", f"--dtype={dtype}"]
  assert main.call([*argv, f"--output={tmp_path / 'out'}"]) == 0
  said = " ".join(capsys.readouterr().err.split())
  found = json.loads((tmp_path / "out" / certificate.FILE).read_text())
  assert found["verdict"] in (certificate.PASSED, certificate.UNCHECKED)
  assert f"note: the order of its layers needs {found['needs']}" in said
  assert found["cuts"] == checkpoint.cuts(
    checkpoint.read_files(checkpoint.find(workdir))
  )


def test_the_doctor_says_what_a_student_is(student, tmp_path):
  """And finds no fault with it, nor with its folder for other programs."""
  workdir = student("0,1,2,5,8", FIRST[:10])
  artefact = exported("sentence-transformers", workdir, tmp_path / "out")
  [cut] = checkpoint.cuts(checkpoint.read_files(checkpoint.find(workdir)))
  said = f"5 of 9 layers and {cut['pieces']:,} of 1,500 pieces of"
  for place in (workdir, artefact):
    found = doctor.examine(place, Console(quiet=True))
    assert doctor.passed(found), [x for x in found if not x.passed]
    opens = next(x for x in found if x.check == "opens")
    assert f"cut out of a larger model: {said} {cut['from'][:12]}" in (
      opens.reason
    )


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["int4", "mixed"])
def test_a_student_of_a_quantised_model_stays_on_its_grid(base, tmp_path, spec):
  """Rows and layers of the view are the view of rows and layers."""
  place = checkpoint.find(base)
  files = dict(checkpoint.read_files(place))
  recipe = checkpoint.recipe_of(files) | {"view": quantize.VIEW + spec}
  files["recipe.json"] = json.dumps(recipe).encode()
  checkpoint.write(tmp_path / "qat", checkpoint.read_params(place), files)
  size = eg.load(base).tokenizer.vocab_size - 20
  argv = ["shrink", f"--model={tmp_path / 'qat'}", f"--workdir={tmp_path}"]
  (tmp_path / "texts.txt").write_text("\n".join([*FIRST[:10], *LONG]))
  argv += [f"--vocabulary={size}", f"--data={tmp_path / 'texts.txt'}"]
  assert main.call(argv) == 0
  ours = eg.load(tmp_path)
  assert ours.precision == spec
  np.testing.assert_allclose(
    ours.encode(LONG), eg.load(tmp_path / "qat").encode(LONG), atol=1e-6
  )


def test_what_no_format_holds_is_refused_before_it_is_written(
  write_checkpoint, config, tmp_path
):
  """A student of a model whose windows are of another rule."""
  odd = dataclasses.replace(config, window_rule="t5gemma2", num_layers=4)
  write_checkpoint(tmp_path / "odd", odd)
  shrink.shrink(str(tmp_path / "odd"), tmp_path / "w", "0,1")
  for form in FORMS:
    with pytest.raises(BadInput, match="window_rule"):
      exported(form, tmp_path / "w", tmp_path / "out")
    assert not (tmp_path / "out").exists()
