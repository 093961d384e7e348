"""Out and in again, bit for bit; and every folder that is not taken, by name."""

import dataclasses
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import safetensors.numpy

import embeddinggemma as eg
from embeddinggemma import checkpoint
from embeddinggemma.cli import main
from embeddinggemma.convert import safetensors_io
from embeddinggemma.convert.certify import certificate
from embeddinggemma.convert.read import families, hugging_face
from embeddinggemma.convert.write import exporting
from embeddinggemma.convert.write.output import MARK
from embeddinggemma.convert.write.sentence_transformers import FORMAT as ST
from embeddinggemma.model.config import GLOBAL, LOCAL
from embeddinggemma.types import BadInput, Stopped

FORMAT = "--format=sentence-transformers"


def call(capsys, *argv):
  """Exit code, and what was said."""
  code = main.call([str(word) for word in argv])
  return code, capsys.readouterr().err


@pytest.fixture
def folder(exported, tmp_path):
  """A copy of the export, to be changed."""
  return shutil.copytree(exported, tmp_path / "folder")


def rewrite(path, **changes):
  """Changes keys of a JSON file; None takes a key out."""
  tree = json.loads(path.read_text()) | changes
  path.write_text(json.dumps({k: v for k, v in tree.items() if v is not None}))


def test_import_then_export_changes_nothing(capsys, model, exported, tmp_path):
  """Hash, files and tensors; loading a folder needs no import."""
  workdir, again = tmp_path / "in", tmp_path / "out"
  code, said = call(
    capsys, "import", f"--from={exported}", f"--workdir={workdir}"
  )
  assert code == 0 and "embeddinggemma: 43 tensors" in said
  assert re.search(r"doctor: \d+ checks passed", said)
  argv = ("export", f"--model={workdir}", FORMAT, f"--output={again}")
  assert call(capsys, *argv)[0] == 0
  names = lambda root: {
    p.relative_to(root) for p in root.rglob("*") if p.is_file()
  }
  said_of_it = {pathlib.Path(certificate.FILE), pathlib.Path("README.md")}
  assert names(exported) | said_of_it == names(again)
  for name in names(exported):
    assert (exported / name).read_bytes() == (again / name).read_bytes(), name
  models = [eg.load(place) for place in (model, workdir, exported)]
  assert len({m.hash for m in models}) == 1
  mark = json.loads((exported / MARK).read_text())
  assert mark["weights"] == models[0].hash
  assert models[0].config == models[1].config == models[2].config
  assert models[0].prompts == models[1].prompts == models[2].prompts
  vectors = [m.encode(["a red house", "seven"], "query") for m in models]
  np.testing.assert_array_equal(vectors[0], vectors[1])
  np.testing.assert_array_equal(vectors[0], vectors[2])


def test_an_imported_checkpoint_is_like_a_trained_one(
  capsys, exported, folder, tmp_path
):
  """All files that verbs need; the terms travel both ways."""
  (folder / "LICENSE").unlink()
  (folder / "USE_POLICY.md").write_text("be kind")
  workdir = tmp_path / "in"
  call(capsys, "import", f"--from={folder}", f"--workdir={workdir}")
  files = checkpoint.read_files(checkpoint.find(workdir))
  assert files["USE_POLICY.md"] == b"be kind" and "LICENSE" not in files
  recipe = json.loads(files["recipe.json"])
  assert recipe["stage"] == "import" and recipe["view"] == "identity"
  assert recipe["config"]["model"] == json.loads(files["model.json"])
  assert recipe["source"]["from"] == str(folder)
  call(
    capsys, "export", f"--model={workdir}", FORMAT, f"--output={tmp_path / 'o'}"
  )
  assert (tmp_path / "o" / "USE_POLICY.md").read_text() == "be kind"
  assert (exported / "LICENSE").read_text() == "terms of the weights"


def collapsed(folder):
  """All vectors point one way."""
  path = folder / "2_Dense" / "model.safetensors"
  tensors = safetensors.numpy.load_file(path)
  one = tensors["linear.weight"][:1]
  tensors["linear.weight"] = np.repeat(one, len(tensors["linear.weight"]), 0)
  safetensors.numpy.save_file(tensors, path)


def test_an_import_that_the_doctor_fails_leaves_nothing(
  capsys, folder, tmp_path, exported
):
  """Not even the folders that it made; the same command then works."""
  collapsed(folder)
  there = tmp_path / "there"
  there.mkdir()
  (there / "notes.txt").write_text("mine")
  for workdir in (tmp_path / "new" / "in", there):
    argv = ("import", f"--from={folder}", f"--workdir={workdir}")
    code, said = call(capsys, *argv)
    assert code == 1 and "stopped: doctor: collapse: " in said
    assert sorted(tmp_path.rglob("*")) == sorted(
      [*folder.rglob("*"), folder, there, there / "notes.txt"]
    )
  shutil.copy(exported / "2_Dense" / "model.safetensors", folder / "2_Dense")
  code, _ = call(capsys, *argv)
  assert code == 0 and checkpoint.find(there).name == "0"


def test_what_a_kill_leaves_is_cleared(capsys, folder, tmp_path):
  """Whatever was being written, by this version or an earlier one."""
  workdir = tmp_path / "in"
  for left in (".checkpoints.partial/0/params", "checkpoints"):
    old = workdir / left / "0.orbax-checkpoint-tmp-1"
    old.mkdir(parents=True)
    (old / "half").write_bytes(b"half a tensor")
  code, said = call(
    capsys, "import", f"--from={folder}", f"--workdir={workdir}"
  )
  assert code == 0, said
  assert sorted(p.name for p in workdir.iterdir()) == [".lock", "checkpoints"]
  assert [p.name for p in (workdir / "checkpoints").iterdir()] == ["0"]


def test_an_export_that_the_doctor_fails_is_not_made(capsys, model, tmp_path):
  place = checkpoint.find(model)
  params = checkpoint.read_params(place)
  up = params["model"]["up"]
  params["model"]["up"] = np.repeat(up[:, :1], up.shape[1], 1)
  workdir, output = tmp_path / "in", tmp_path / "out"
  checkpoint.write(workdir, params, checkpoint.read_files(place))
  argv = ("export", f"--model={workdir}", FORMAT, f"--output={output}")
  code, said = call(capsys, *argv)
  assert code == 1 and "stopped: doctor: collapse: " in said
  assert sorted(tmp_path.iterdir()) == [workdir]


def test_without_a_licence_file_the_readme_speaks(capsys, folder, tmp_path):
  (folder / "LICENSE").unlink()
  (folder / "README.md").write_text("---\nlicense: gemma\n---\nlicense: x\n")
  call(capsys, "import", f"--from={folder}", f"--workdir={tmp_path / 'in'}")
  files = checkpoint.read_files(checkpoint.find(tmp_path / "in"))
  assert files["LICENSE"].startswith(b"license: gemma\nThe terms")


def test_one_tensor_is_in_memory_at_a_time(exported, tmp_path, monkeypatch):
  """What was read is written before the next one is read."""
  alive, most = 0, 0

  class Watched(np.ndarray):
    def __del__(self):
      nonlocal alive
      if self.base is None or not isinstance(self.base, Watched):
        alive -= 1

  found = families.read(exported)

  def watched(tensor):
    def read():
      nonlocal alive, most
      array = np.empty(tensor.shape, np.float32).view(Watched)
      array[...] = tensor.read()
      alive += 1
      most = max(most, alive)
      return array

    return dataclasses.replace(tensor, read=read)

  tensors = {name: watched(t) for name, t in found.tensors.items()}
  params = {"model": checkpoint.nest(tensors), "aux": {}}
  place = checkpoint.write(tmp_path, params, {})
  assert most == 1
  hash_of = lambda p: checkpoint.content_hash(checkpoint.read_params(p))
  want = json.loads((exported / MARK).read_text())["weights"]
  assert hash_of(place) == want


def change_tensor(name, change, place=""):
  """A fault in a file of weights."""

  def fault(folder):
    path = folder / place / safetensors_io.WEIGHTS
    arrays = safetensors.numpy.load_file(path)
    found = change(arrays.pop(name, None))
    arrays |= {} if found is None else {name: found}
    safetensors.numpy.save_file(arrays, path)

  return fault


def edit(name, **changes):
  return lambda folder: rewrite(folder / name, **changes)


def without_tokens(**changes):
  """A fault: no tokenizer.json, so that tokenizer_config.json decides."""

  def fault(folder):
    (folder / "tokenizer.json").unlink()
    rewrite(folder / "tokenizer_config.json", **changes)

  return fault


def modules(change):
  def fault(folder):
    path = folder / "modules.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))

  return fault


def truncate(folder):
  path = folder / safetensors_io.WEIGHTS
  path.write_bytes(path.read_bytes()[:-10])


def shorter_table(folder):
  change_tensor("embed_tokens.weight", lambda a: a[:300])(folder)
  edit("config.json", vocab_size=300)(folder)


Q = "layers.1.self_attn.q_proj.weight"
SETTINGS = "config_sentence_transformers.json"
FAULTS = {
  "truncated weights": (truncate, "model.safetensors is truncated"),
  "a missing tensor": (
    change_tensor(Q, lambda a: None),
    f"tensor '{Q}' is missing",
  ),
  "an unexpected tensor": (
    change_tensor("layers.9.bias", lambda a: np.zeros(2, np.float32)),
    "unexpected tensor 'layers.9.bias'",
  ),
  "a wrong shape": (
    change_tensor(Q, lambda a: a[:-1]),
    rf"tensor '{Q}' has shape \(31, 32\), config.json asks for \(32, 32\)",
  ),
  "a Dense of another shape": (
    change_tensor("linear.weight", lambda a: a.T.copy(), "2_Dense"),
    "2_Dense: tensor 'linear.weight' has shape",
  ),
  "a Dense with a bias": (edit("2_Dense/config.json", bias=True), "bias=True"),
  "a Dense with an activation": (
    edit("3_Dense/config.json", activation_function="torch.nn.Tanh"),
    "activation_function='torch.nn.Tanh' is not supported",
  ),
  "a Dense that names none": (
    edit("3_Dense/config.json", activation_function=None),
    "activation_function=None is not supported",
  ),
  "Dense that do not fit": (
    edit("3_Dense/config.json", in_features=63),
    "in_features=63, but what comes before gives 64 numbers",
  ),
  "Dense of other tensors": (
    edit("2_Dense/config.json", module_input_name="token_embeddings"),
    "module_input_name='token_embeddings'",
  ),
  "no Dense": (
    modules(lambda rows: rows[:2] + rows[4:]),
    "0 Dense modules of 2: without them cosines .* about 0",
  ),
  "one Dense": (modules(lambda rows: rows[:3] + rows[4:]), "1 Dense modules"),
  "no Normalize": (
    modules(lambda rows: rows[:4]),
    "is Transformer, Pooling, Dense, Dense; an EmbeddingGemma is",
  ),
  "an own module": (
    modules(lambda rows: [*rows, rows[4] | {"type": "mine.Normalize"}]),
    "the module mine.Normalize, which is not supported",
  ),
  "another module": (
    modules(
      lambda rows: [
        *rows[:4],
        rows[4] | {"type": "sentence_transformers.models.LayerNorm"},
      ]
    ),
    "LayerNorm, which is not supported",
  ),
  "a module out of its folder": (
    modules(lambda rows: [*rows[:3], rows[3] | {"path": "../x"}, rows[4]]),
    "leaves the folder",
  ),
  "another pooling": (
    edit(
      "1_Pooling/config.json",
      pooling_mode_mean_tokens=False,
      pooling_mode_cls_token=True,
    ),
    r"pooling \['cls_token'\] is not supported",
  ),
  "pooling without the prompt": (
    edit("1_Pooling/config.json", include_prompt=False),
    "include_prompt is not true",
  ),
  "another width of pooling": (
    edit("1_Pooling/config.json", word_embedding_dimension=16),
    "vectors of 16 numbers .word_embedding_dimension., the encoder's have 32",
  ),
  "lower case": (
    edit("sentence_bert_config.json", do_lower_case=True),
    "do_lower_case=True is not supported",
  ),
  "no prompts": (edit(SETTINGS, prompts=None), "holds no prompts"),
  "a prompt too few": (
    edit(SETTINGS, prompts={"document": ""}),
    "the prompt 'query' is missing",
  ),
  "a default prompt": (
    edit(SETTINGS, default_prompt_name="query"),
    "default_prompt_name='query' is not supported",
  ),
  "another similarity": (
    edit(SETTINGS, similarity_fn_name="euclidean"),
    "similarity_fn_name='euclidean' is not supported",
  ),
  "a truncated dimension": (edit(SETTINGS, truncate_dim=8), "truncate_dim=8"),
  "no EOS": (
    without_tokens(add_eos_token=False),
    "add_eos_token=False is not supported",
  ),
  "half a window plus one": (
    edit("config.json", sliding_window=5),
    "sliding_window=5 is odd, .* half the window plus one .* 8 if",
  ),
  "a causal encoder": (
    edit("config.json", use_bidirectional_attention=False),
    "use_bidirectional_attention is not true, so this is a causal model",
  ),
  "another scale": (
    edit("config.json", query_pre_attn_scalar=99),
    "query_pre_attn_scalar=99 is not supported",
  ),
  "a bias of attention": (
    edit("config.json", attention_bias=True),
    "attention_bias=True is not supported",
  ),
  "scaled rotary positions": (
    edit("config.json", rope_parameters={"rope_type": "yarn", "factor": 8.0}),
    "rope_parameters.sliding_attention of type 'yarn' is not supported",
  ),
  "EmbeddingGemma 2": (
    edit("config.json", model_type="embedding_gemma2"),
    "is EmbeddingGemma 2, .* this version does not have it",
  ),
  "another architecture": (
    edit("config.json", model_type="bert"),
    "model_type='bert' is not supported",
  ),
  "a broken config": (
    lambda folder: (folder / "config.json").write_text("{"),
    "config.json cannot be read",
  ),
  "no tokenizer": (
    lambda folder: [path.unlink() for path in folder.glob("tokenizer.*")],
    "has neither tokenizer.json nor tokenizer.model; put",
  ),
  "a tokenizer of more pieces": (shorter_table, "pieces, the table 300 rows"),
  "pickles": (
    lambda folder: (folder / safetensors_io.WEIGHTS).rename(
      folder / "pytorch_model.bin"
    ),
    "pytorch_model.bin is a pickle",
  ),
  "no weights": (
    lambda folder: (folder / "3_Dense" / safetensors_io.WEIGHTS).unlink(),
    "3_Dense holds neither",
  ),
}


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_folder_that_is_not_taken(capsys, folder, tmp_path, name):
  """One line that names the fault, and not a byte in the workdir."""
  fault, message = FAULTS[name]
  fault(folder)
  workdir = tmp_path / "in"
  code, said = call(
    capsys, "import", f"--from={folder}", f"--workdir={workdir}"
  )
  assert code == 2 and not workdir.exists()
  assert said.startswith("error: ") and said.count("\n") == 1
  assert re.search(message, said), said


def test_a_source_that_is_none(capsys, folder, model, tmp_path, monkeypatch):
  monkeypatch.setenv("HF_HUB_OFFLINE", "1")
  pickle = tmp_path / "x.bin"
  pickle.write_bytes(b"")
  weights = folder / safetensors_io.WEIGHTS
  empty = tmp_path / "empty"
  empty.mkdir()
  for source, message in {
    tmp_path / "gone": "gone does not exist",
    pickle: "x.bin is a pickle",
    weights: "is a file; give the folder that holds it",
    empty: "has no config.json or modules.json; what can be imported: gemma3",
    model: "is a checkpoint already; give it as --model",
    "nobody/nothing": "nobody/nothing is no folder here and could not be",
  }.items():
    code, said = call(
      capsys, "import", f"--from={source}", f"--workdir={tmp_path / 'in'}"
    )
    assert code == 2 and message in said and said.count("\n") == 1
  assert not (tmp_path / "in").exists()


def test_a_workdir_or_a_part_that_does_not_fit(capsys, folder, model):
  argv = ("import", f"--from={folder}", f"--workdir={model}")
  code, said = call(capsys, *argv)
  assert code == 2 and "holds a checkpoint already; use another" in said
  code, said = call(capsys, *argv, "--part=encoder")
  assert code == 2 and "--part=encoder is for t5gemma and t5gemma2" in said
  code, said = call(capsys, *argv, "--part=half")
  assert code == 2 and "use one of both, encoder, decoder" in said


@pytest.mark.parametrize(
  "changes",
  [
    {"pooling": "last"},
    {"window_rule": "t5gemma2"},
    {"qk_norm": False},
    {"attention_softcap": 50.0},
    {"logit_softcap": 30.0},
    {"num_heads": 3, "num_kv_heads": 1},
    {"window": 1},
  ],
  ids=str,
)
def test_a_model_that_the_format_cannot_hold(
  capsys, write_checkpoint, config, tmp_path, changes
):
  """Exit 2, the setting by name, and no folder."""
  changed = dataclasses.replace(config, **changes)
  workdir = write_checkpoint(tmp_path / "model", changed)
  output = tmp_path / "out"
  argv = ("export", f"--model={workdir}", FORMAT, f"--output={output}")
  code, said = call(capsys, *argv)
  name, value = next(iter(changes.items()))
  assert code == 2 and said.count("\n") == 1
  assert f"{name}={value!r}".lower() in said.lower()
  assert not output.exists() and list(tmp_path.iterdir()) == [workdir]


def test_a_window_rule_matters_only_where_there_is_a_window(
  write_checkpoint, config, tmp_path
):
  """And what only decides how training starts is no part of the model."""
  changed = dataclasses.replace(
    config,
    pattern=(GLOBAL,),
    window_rule="t5gemma",
    projection_init="identity",
    dtype="bfloat16",
  )
  workdir = write_checkpoint(tmp_path / "model", changed)
  folder = tmp_path / "out"
  exporting.export(ST, str(workdir), folder)
  assert eg.load(folder).hash == eg.load(workdir).hash


def test_an_odd_window_is_written_as_the_even_one_that_sees_as_far(
  write_checkpoint, config, tmp_path
):
  odd = dataclasses.replace(config, window=7, pattern=(LOCAL,))
  workdir = write_checkpoint(tmp_path / "model", odd)
  folder = tmp_path / "out"
  exporting.export(ST, str(workdir), folder)
  text = "the red river of the town was seen at seven by the old house"
  a, b = eg.load(workdir), eg.load(folder)
  assert (a.config.window, b.config.window) == (7, 6)
  np.testing.assert_allclose(a.encode(text), b.encode(text), atol=1e-6)


def test_a_view_is_not_exported_as_if_there_were_none(
  write_checkpoint, config, tmp_path
):
  recipe = {"recipe.json": json.dumps({"view": "int4"}).encode()}
  workdir = write_checkpoint(tmp_path / "model", config, recipe)
  with pytest.raises(BadInput, match="needs the view 'int4'"):
    exporting.export(ST, str(workdir), tmp_path / "out")


def test_what_an_export_would_replace(capsys, model, tmp_path):
  """An export of before is replaced whole; anything else stays."""
  output = tmp_path / "out"
  argv = ("export", f"--model={model}", FORMAT, f"--output={output}")
  output.mkdir()
  (output / "thesis.txt").write_text("years of work")
  code, said = call(capsys, *argv)
  assert code == 2 and "exists and is no export of ours" in said
  assert [p.name for p in output.iterdir()] == ["thesis.txt"]
  (output / "thesis.txt").unlink()
  assert call(capsys, *argv, "--dtype=bfloat16")[0] == 0
  (output / "stray").write_text("")
  assert call(capsys, *argv)[0] == 0
  assert not (output / "stray").exists()
  assert json.loads((output / MARK).read_text())["dtype"] == "float32"
  assert list(tmp_path.iterdir()) == [output]


def test_an_export_that_fails_leaves_nothing(model, tmp_path):
  def stop(done, total):
    if done == total // 2:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    exporting.export(ST, str(model), tmp_path / "out", on_tensor=stop)
  assert list(tmp_path.iterdir()) == []


def test_an_export_that_does_not_read_back_is_not_kept(
  model, tmp_path, monkeypatch
):
  """As the first versions of transformers did: half of the window."""
  whole = hugging_face.encoder_json
  half = lambda *args: whole(*args) | {"sliding_window": 4}
  monkeypatch.setattr(hugging_face, "encoder_json", half)
  with pytest.raises(Stopped, match="does not read back: the config differs"):
    exporting.export(ST, str(model), tmp_path / "out")
  assert list(tmp_path.iterdir()) == []


def test_wrong_words_of_an_export(capsys, model, tmp_path):
  argv = ("export", f"--model={model}", f"--output={tmp_path / 'out'}")
  code, said = call(capsys, *argv, "--format=gguff")
  assert code == 2 and "--format=gguff is unknown" in said
  code, said = call(capsys, *argv, FORMAT, "--dtype=float16")
  assert code == 2 and "--dtype=float16 is unknown; use float32 or" in said


def test_a_checkpoint_without_a_head_is_no_embedder(
  write_checkpoint, config, tmp_path
):
  workdir = write_checkpoint(tmp_path / "model", config)
  place = checkpoint.find(workdir)
  files, params = checkpoint.read_files(place), checkpoint.read_params(place)
  encoder = {"encoder": params["model"]["encoder"]}
  for tree, message in (
    (encoder, "tensor 'down' is missing, its model.json asks for"),
    ({"decoder": encoder["encoder"]}, "is a language model"),
  ):
    name = next(iter(tree))
    other = checkpoint.write(tmp_path / name, {"model": tree, "aux": {}}, files)
    with pytest.raises(BadInput, match=message):
      exporting.export(ST, str(other), tmp_path / "out")
