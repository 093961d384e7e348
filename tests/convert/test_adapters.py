"""PEFT's adapters are merged as PEFT merges them, or refused by name.

The reference of the default tests is ten lines of numpy. Where PEFT is
installed, it is PEFT itself, and sentence-transformers with an adapter of its
own.
"""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
import test_families

import embeddinggemma as eg
from embeddinggemma import checkpoint
from embeddinggemma.cli import main
from embeddinggemma.convert import names, safetensors_io
from embeddinggemma.convert.read import adapters, families
from embeddinggemma.model import decoder
from embeddinggemma.types import BadInput

ROOT = "base_model.model."
Q, OUT = "layers.0.self_attn.q_proj", "layers.1.self_attn.o_proj"
UP, DOWN = "layers.2.mlp.up_proj", "layers.2.mlp.down_proj"
TABLE = "embed_tokens"
ENDS = ["q_proj", "o_proj", "up_proj", "down_proj"]


def settings(**changes):
  return {
    "peft_type": "LORA",
    "task_type": "FEATURE_EXTRACTION",
    "base_model_name_or_path": "google/embeddinggemma-300m",
    "r": 4,
    "lora_alpha": 12,
    "target_modules": [Q, OUT, UP, DOWN],
    "init_lora_weights": True,
    "use_rslora": False,
    "use_dora": False,
    "loftq_config": {},
    "megatron_core": "megatron.core",
    "qalora_group_size": 16,
    "lora_dropout": 0.1,
    "bias": "none",
    "layers_pattern": None,
  } | changes


def matrices(folder):
  """The base's matrices by the names of their modules."""
  found = safetensors.numpy.load_file(folder / safetensors_io.WEIGHTS)
  return {name.removesuffix(".weight"): a for name, a in found.items()}


def factors(base, modules=(Q, OUT, UP, DOWN), ranks=None, dora=False):
  """Random tensors of an adapter, under PEFT's names."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.standard_normal(shape, np.float32) / 4
  found = {}
  for name in modules:
    out, into = base[name].shape
    rank = (ranks or {}).get(name, 4)
    if name == TABLE:
      found[f"{ROOT}{name}.lora_embedding_A"] = draw(rank, out)
      found[f"{ROOT}{name}.lora_embedding_B"] = draw(into, rank)
      continue
    found[f"{ROOT}{name}.lora_A.weight"] = draw(rank, into)
    found[f"{ROOT}{name}.lora_B.weight"] = draw(out, rank)
    if dora:
      found[f"{ROOT}{name}.lora_magnitude_vector"] = 1 + np.abs(draw(out))
  return found


def put(folder, tree, arrays):
  folder.mkdir(exist_ok=True)
  (folder / adapters.CONFIG).write_text(json.dumps(tree))
  safetensors.numpy.save_file(arrays, folder / adapters.WEIGHTS)
  return folder


def by_hand(base, arrays, scales):
  """The merged matrices: w + s * b @ a, and with m / its rows' norms in DoRA."""
  merged = dict(base)
  for name, scale in scales.items():
    if name == TABLE:
      a, b = (arrays[f"{ROOT}{name}.lora_embedding_{x}"] for x in "AB")
      merged[name] = base[name] + scale * (b @ a).T
      continue
    a, b = (arrays[f"{ROOT}{name}.lora_{x}.weight"] for x in "AB")
    merged[name] = base[name] + scale * b @ a
    if (size := arrays.get(f"{ROOT}{name}.lora_magnitude_vector")) is not None:
      norms = np.linalg.norm(merged[name], axis=1)
      merged[name] = (size / norms)[:, None] * merged[name]
  return merged


def assert_holds(model, want):
  """The model's tensors are these matrices, within 1e-6."""
  for name, lazy in model.tensors.items():
    if len(name) > 1:
      theirs = want[adapters.module_of(name)]
      theirs = (
        theirs.T if theirs.ndim == 2 and "embedding" not in name else theirs
      )
      np.testing.assert_allclose(
        lazy.read(), theirs.reshape(lazy.shape), rtol=0, atol=1e-6
      )


@pytest.fixture
def folder(exported, tmp_path):
  return shutil.copytree(exported, tmp_path / "folder")


ALL = (Q, OUT, UP, DOWN)
PLAIN = dict.fromkeys(ALL, 3.0)
KINDS = {
  "plain": ({}, {}, PLAIN),
  "ends": ({"target_modules": ENDS, "layers_to_transform": None}, {}, None),
  "pattern": ({"target_modules": r".*\.(q|o|up|down)_proj"}, {}, None),
  "rslora": ({"use_rslora": True}, {}, dict.fromkeys(ALL, 6.0)),
  "alpha_pattern": (
    {"alpha_pattern": {"q_proj": 8, r"layers\.2\.mlp\..*": 1}},
    {},
    {Q: 2.0, OUT: 3.0, UP: 0.25, DOWN: 0.25},
  ),
  "rank_pattern": (
    {"rank_pattern": {"q_proj": 2, "self_attn.o_proj": 3}},
    {"ranks": {Q: 2, OUT: 3}},
    {Q: 6.0, OUT: 4.0, UP: 3.0, DOWN: 3.0},
  ),
  "dora": ({"use_dora": True}, {"dora": True}, PLAIN),
  "table": (
    {"target_modules": [Q, TABLE]},
    {"modules": (Q, TABLE)},
    {Q: 3.0, TABLE: 3.0},
  ),
  "layers": (
    {
      "target_modules": ["up_proj", "down_proj"],
      "layers_to_transform": [2],
      "layers_pattern": "layers",
    },
    {"modules": (UP, DOWN)},
    {UP: 3.0, DOWN: 3.0},
  ),
  "gaussian": ({"init_lora_weights": "gaussian", "bias": "all"}, {}, PLAIN),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_an_adapter_beside_the_weights_is_merged(folder, kind):
  """As transformers and sentence-transformers apply it, unasked."""
  changes, how, scales = KINDS[kind]
  base = matrices(folder)
  if scales is None:  # every layer
    modules = [n for n in base if n.endswith(tuple(ENDS))]
    how, scales = {"modules": modules}, dict.fromkeys(modules, 3.0)
  arrays = factors(base, **how)
  put(folder, settings(**changes), arrays)
  model = families.read(folder)
  assert_holds(model, by_hand(base, arrays, scales))
  assert f"merged into {len(scales)}" in model.read[adapters.WEIGHTS]
  assert eg.load(folder).hash != eg.load(exported_of(folder)).hash


def exported_of(folder):
  """The folder without its adapter."""
  bare = shutil.copytree(folder, folder.with_name("bare"))
  (bare / adapters.CONFIG).unlink()
  return bare


def test_names_of_other_classes_and_versions(folder):
  """Of a causal model, without a prefix, and with the adapter's own name."""
  base = matrices(folder)
  arrays = factors(base)
  want = by_hand(base, arrays, PLAIN)
  for to in ("", "model.", f"{ROOT}model."):
    named = {to + n.removeprefix(ROOT): a for n, a in arrays.items()}
    put(folder, settings(), named)
    assert_holds(families.read(folder), want)
  own = {n.replace("lora_A.", "lora_A.default."): a for n, a in arrays.items()}
  put(folder, settings(), own)
  assert_holds(families.read(folder), want)


def test_what_was_trained_whole_is_taken_whole(folder):
  base = matrices(folder)
  norm = "layers.1.input_layernorm"
  arrays = factors(base) | {
    f"{ROOT}norm.weight": base["norm"] + 1,
    f"{ROOT}{norm}.weight": base[norm] * 2,
    # Saved beside an adapter, as PEFT does with the table, and unchanged.
    f"{ROOT}{TABLE}.weight": base[TABLE],
  }
  put(folder, settings(modules_to_save=["norm", norm]), arrays)
  want = by_hand(base, arrays, PLAIN)
  want |= {"norm": base["norm"] + 1, norm: base[norm] * 2}
  model = families.read(folder)
  assert_holds(model, want)
  arrays[f"{ROOT}{TABLE}.weight"] = base[TABLE] + 1
  put(folder, settings(modules_to_save=["norm", norm]), arrays)
  with pytest.raises(BadInput, match="embed_tokens is saved whole"):
    families.read(folder).tensors["encoder", "embedding"].read()


REFUSED = {
  "peft_type='IA3'": {"peft_type": "IA3"},
  "peft_type='PREFIX_TUNING'": {"peft_type": "PREFIX_TUNING"},
  "peft_type=None": {"peft_type": None},
  "init_lora_weights='pissa_niter_4'": {"init_lora_weights": "pissa_niter_4"},
  "init_lora_weights='olora'": {"init_lora_weights": "olora"},
  "use_qalora=True": {"use_qalora": True},
  "lora_bias=True": {"lora_bias": True},
  "layer_replication": {"layer_replication": [[0, 2], [1, 3]]},
  "trainable_token_indices": {"trainable_token_indices": [4, 5]},
  "target_parameters": {"target_parameters": ["x"]},
  "alora_invocation_tokens": {"alora_invocation_tokens": [1]},
  "a_new_key=1": {"a_new_key": 1},
  "do not name 'layers.2.mlp.down_proj'": {"target_modules": [Q, OUT, UP]},
  "do not name 'layers.0": {"exclude_modules": [Q]},
  "names 'layers.0.mlp.gate_proj'": {
    "target_modules": [*ALL, "layers.0.mlp.gate_proj"]
  },
  "rank 8 of this model": {"r": 8},
  "r=0 is not a number": {"r": 0},
  "lora_alpha='x' is not a number": {"lora_alpha": "x"},
  "use_dora": {"use_dora": True},
  "alpha_pattern='x' is not an object": {"alpha_pattern": "x"},
  "no pattern": {"target_modules": "(("},
  "not a list of names": {"target_modules": 3},
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_what_is_not_understood_is_refused_by_name(folder, message):
  put(folder, settings(**REFUSED[message]), factors(matrices(folder)))
  with pytest.raises(BadInput) as error:
    families.read(folder)
  assert message in str(error.value) and str(folder) in str(error.value)


def test_tensors_that_do_not_fit_are_refused_by_name(folder):
  base = matrices(folder)
  one = f"{ROOT}{Q}.lora_A.weight"
  whole = factors(base)
  for arrays, message in (
    ({n: a for n, a in whole.items() if n != one}, "q_proj has lora_B"),
    (whole | {f"{ROOT}{Q}.lora_B.bias": np.ones(3, np.float32)}, "lora_B.bias"),
    (whole | {f"{ROOT}linear.lora_A.weight": whole[one]}, "linear.lora_A"),
    (whole | {f"model.{Q}.lora_A.weight": whole[one]}, "under two names"),
    (whole | {f"{ROOT}norm.weight": base["norm"][:3]}, "norm has shape"),
    ({}, "holds no tensor"),
  ):
    put(folder, settings(), arrays)
    with pytest.raises(BadInput, match=message):
      families.read(folder)
  (folder / adapters.WEIGHTS).unlink()
  with pytest.raises(BadInput, match=r"but no adapter_model\.safetensors"):
    families.read(folder)
  (folder / "adapter_model.bin").write_bytes(b"\x80")
  with pytest.raises(BadInput, match="is a pickle"):
    families.read(folder)


def call(capsys, *argv):
  code = main.call([str(word) for word in argv])
  return code, capsys.readouterr().err


def test_an_adapter_alone_is_merged_into_its_base(
  capsys, folder, model, tmp_path
):
  """The base is a folder or a checkpoint, and both give the same model."""
  arrays = factors(matrices(folder))
  alone = put(tmp_path / "alone", settings(), arrays)
  (alone / "README.md").write_text("an adapter")
  argv = ("import", f"--from={alone}", f"--workdir={tmp_path / 'in'}")
  code, said = call(capsys, *argv)
  assert code == 2 and "needs its base: --base=DIR" in said
  assert "google/embeddinggemma-300m" in said
  with pytest.raises(BadInput, match="needs its base"):
    eg.load(alone)
  code, said = call(capsys, *argv, f"--base={tmp_path / 'gone'}")
  assert code == 2 and "--base" in said and "gone does not exist" in said
  hashes = set()
  for n, base in enumerate((folder, model, checkpoint.find(model))):
    workdir = tmp_path / f"in{n}"
    code, said = call(
      capsys, *argv[:2], f"--workdir={workdir}", f"--base={base}"
    )
    assert code == 0 and "README.md" in said and "merged into 4" in said
    assert f"merged into the weights of {base}; it says that it was" in said
    assert "trained on 'google/embeddinggemma-300m'" in said
    hashes.add(eg.load(workdir).hash)
  put(folder, settings(), arrays)
  assert hashes == {eg.load(folder).hash}
  recipe = checkpoint.json_of(
    checkpoint.read_files(checkpoint.find(workdir)), "recipe.json"
  )
  assert adapters.WEIGHTS in recipe["source"]["files"]["read"]


def test_a_base_for_what_is_no_adapter_is_refused(
  capsys, folder, model, tmp_path
):
  argv = ("import", f"--workdir={tmp_path / 'in'}", f"--base={model}")
  beside = shutil.copytree(folder, tmp_path / "beside")
  put(beside, settings(), factors(matrices(folder)))
  bare = shutil.copytree(folder, tmp_path / "bare")
  (bare / safetensors_io.WEIGHTS).unlink()
  for place, message in (
    (folder, "holds no adapter; --base is for"),
    (bare, "holds no adapter; --base is for"),
    (beside, "has weights of its own beside its adapter"),
  ):
    code, said = call(capsys, *argv, f"--from={place}")
    assert code == 2 and message in said and said.count("\n") == 1
  assert not (tmp_path / "in").exists()


def test_an_adapter_of_a_decoder(tmp_path, config, tokenizer_model):
  """Its modules are named after the model of the language head."""
  params = test_families.random(decoder.init_causal(config))
  arrays = test_families.named(params, names.GEMMA3, {"decoder": "model."})
  folder = test_families.write(
    tmp_path / "decoder",
    test_families.text_json(config),
    arrays,
    tokenizer_model,
  )
  cut = lambda name: name.removeprefix("model.").removesuffix(".weight")
  base = {cut(name): array for name, array in arrays.items()}
  found = factors(base)
  want = by_hand(base, found, PLAIN)
  named = {n.replace(ROOT, f"{ROOT}model."): a for n, a in found.items()}
  alone = put(tmp_path / "alone", settings(), named)
  assert_holds(families.read(alone, base=folder), want)
  put(folder, settings(), named)
  assert_holds(families.read(folder), want)


def test_a_folder_of_sentence_transformers_without_weights(
  capsys, folder, model, tmp_path
):
  """As it saves a model with an adapter: all but the encoder and its config."""
  arrays = factors(matrices(folder))
  adapted = shutil.copytree(folder, tmp_path / "adapted")
  for name in ("config.json", safetensors_io.WEIGHTS):
    (adapted / name).unlink()
  put(adapted, settings(), arrays)
  argv = ("import", f"--from={adapted}", f"--workdir={tmp_path / 'in'}")
  code, said = call(capsys, *argv)
  assert code == 2 and "needs its base" in said and "download" not in said
  code, said = call(capsys, *argv, f"--base={folder}")
  assert code == 0, said
  put(folder, settings(), arrays)
  assert eg.load(tmp_path / "in").hash == eg.load(folder).hash


@pytest.mark.parametrize(
  "how",
  [
    {},
    {"use_rslora": True, "r": 5},
    {"use_dora": True},
    {"target_modules": ["q_proj", "embed_tokens"]},
    {"modules_to_save": ["norm", "layers.0.input_layernorm"]},
    {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.*": 3}},
    {"fan_in_fan_out": True},
    {"layers_to_transform": [1], "layers_pattern": "layers"},
    {"target_modules": "all-linear", "exclude_modules": ["o_proj"]},
    {"init_lora_weights": "orthogonal", "r": 4},
  ],
  ids=str,
)
def test_peft_merges_the_same(folder, tmp_path, how):
  """Every tensor is that of `merge_and_unload` within 1e-6."""
  peft = pytest.importorskip("peft")
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers", minversion="5")
  theirs = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32)
  torch.manual_seed(0)
  config = {"r": 4, "lora_alpha": 12, "target_modules": ENDS} | how
  adapted = peft.get_peft_model(theirs, peft.LoraConfig(**config))
  for name, parameter in adapted.named_parameters():
    if "lora_" in name or "modules_to_save" in name:
      torch.nn.init.normal_(parameter, 1.0 if "magnitude" in name else 0, 0.2)
  alone = tmp_path / "alone"
  adapted.save_pretrained(alone)
  merged = adapted.merge_and_unload().state_dict()
  found = families.read(alone, base=folder)
  want = {n.removesuffix(".weight"): a.numpy() for n, a in merged.items()}
  base = matrices(folder)
  assert any(np.abs(want[n] - base[n]).max() > 0.1 for n in base)
  assert_holds(found, want)
  for path in alone.iterdir():
    shutil.copy(path, folder)
  assert_holds(families.read(folder), want)


def test_what_sentence_transformers_saves_with_an_adapter(
  folder, tmp_path, monkeypatch
):
  """Its own `add_adapter` and `save_pretrained`; vectors as it gives them."""
  peft = pytest.importorskip("peft")
  torch = pytest.importorskip("torch")
  st = pytest.importorskip("sentence_transformers", minversion="6")
  integration = pytest.importorskip("transformers.integrations.peft")
  # It asks for a newer PEFT than there may be, with the same files.
  monkeypatch.setattr(integration, "MIN_PEFT_VERSION", "0.18.0")
  theirs = st.SentenceTransformer(str(folder), device="cpu")
  theirs.add_adapter(peft.LoraConfig(r=4, target_modules=ENDS))
  torch.manual_seed(0)
  for name, parameter in theirs.named_parameters():
    if "lora_B" in name:
      torch.nn.init.normal_(parameter, std=0.3)
  texts = ["the red river", "an old house of the town"]
  want = theirs.encode_query(texts)
  alone = tmp_path / "alone"
  theirs.save_pretrained(str(alone))
  assert not (alone / safetensors_io.WEIGHTS).exists()
  shutil.copy(folder / "tokenizer.model", alone)
  before = eg.load(folder).encode_query(texts)
  assert np.abs(before - want).max() > 0.01
  workdir = tmp_path / "in"
  argv = ["import", f"--from={alone}", f"--base={folder}"]
  assert main.call([*argv, f"--workdir={workdir}"]) == 0
  ours = eg.load(workdir).encode_query(texts)
  np.testing.assert_allclose(ours, want, rtol=0, atol=1e-5)
