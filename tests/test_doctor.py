"""The doctor: a healthy model passes, and each planted fault has its name."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from rich.console import Console

from embeddinggemma import checkpoint, doctor
from embeddinggemma.cli import main
from embeddinggemma.convert.write.tokenizer_json import tokenizer_json
from embeddinggemma.data import prompts, samples
from embeddinggemma.data.tokenizer import EOS, Tokenizer
from embeddinggemma.doctor import folder, parts, vectors
from embeddinggemma.doctor.opened import Opened
from embeddinggemma.loading import Model, _program, assemble, load
from embeddinggemma.model import decoder as decoder_lib
from embeddinggemma.model import embedder, encoder, layers, pooling, trace
from embeddinggemma.model.config import EncoderDecoderConfig
from embeddinggemma.presets import PRESETS, preset
from embeddinggemma.types import BadInput, Stopped


def random_model(trained, **changes):
  """A random tiny model with the trained one's tokenizer."""
  config = dataclasses.replace(preset("tiny").model, **changes)
  params = jax.device_get(embedder.init(config)(jax.random.key(0)))
  tokenizer = load(trained).tokenizer
  return assemble(config, params, tokenizer, "random")


@pytest.fixture(scope="session")
def healthy(trained):
  """Random weights; a layer of each kind."""
  return random_model(trained)


@pytest.fixture(scope="session")
def wide(trained):
  """The same with several Matryoshka dimensions."""
  return random_model(trained, embed_dim=512)


@pytest.fixture
def fresh_programs():
  """A function that forgets what was compiled; it runs at the end as well."""

  def forget():
    _program.cache_clear()
    trace.tracer.cache_clear()

  yield forget
  forget()


def changed(model, change, *path):
  """The model with one tensor replaced by `change` of it; None deletes it."""

  def replace(tree, path):
    name, *rest = path
    new = replace(tree[name], rest) if rest else change(np.asarray(tree[name]))
    kept = {key: leaf for key, leaf in tree.items() if key != name}
    return kept if new is None else {**kept, name: new}

  params = {**model.params, "model": replace(model.params["model"], path)}
  return dataclasses.replace(model, params=params)


def faults(model):
  """The names of the checks that fail, of all."""
  found = doctor.diagnose(model)
  assert [f.check for f in found] == list(doctor.CHECKS)
  assert all(bool(f.fix) == (f.verdict in ("note", "fail")) for f in found)
  return [f.check for f in found if f.passed is False]


def notes(model):
  """The names of the checks that have a note."""
  return [f.check for f in doctor.diagnose(model) if f.verdict == "note"]


def cheap_faults(model):
  return [finding.check for finding in doctor.quick(model)]


def only(check, model):
  """Whether a model passes one check alone."""
  return doctor.CHECKS[check].run(Opened(model, samples.BRIEF)).passed


def test_a_healthy_model_passes_everything(healthy):
  found = doctor.diagnose(healthy)
  assert {f.verdict for f in found} == {"pass"}
  assert doctor.quick(healthy) == []


@pytest.mark.parametrize("name", ["last", "attention"])
def test_other_poolings_are_no_fault(trained, name):
  assert cheap_faults(random_model(trained, pooling=name)) == []


def test_other_windows_are_no_fault(trained):
  model = random_model(trained, window_rule="t5gemma2", window=12)
  assert only("window", model) and only("reach", model)


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (lambda p: {}, "no prompt 'query'"),
    (lambda p: {"query": p["query"]}, "no prompt 'document'"),
    (lambda p: p | {"own": " "}, "'own' is empty"),
    (lambda p: p | {"query": "query: "}, "the recipe's is 'task: search"),
  ],
)
def test_prompts_that_lack_or_differ(healthy, change, said):
  model = dataclasses.replace(healthy, prompts=change(dict(prompts.PROMPTS)))
  assert cheap_faults(model) == ["prompts"]
  assert said in doctor.quick(model)[0].reason


def test_prompts_of_its_own_are_no_fault(healthy):
  own = {**prompts.PROMPTS, "mine": "task: mine | query: "}
  assert cheap_faults(dataclasses.replace(healthy, prompts=own)) == []


class WithoutEos(Tokenizer):
  """What transformers 4.57 makes of a config without add_eos_token."""

  def encode(self, text):
    return super().encode(text)[:-1]

  def encode_batch(self, texts, max_length):
    rows, cut = super().encode_batch(texts, max_length)
    return [row[:-1] if row[-1] == EOS else row for row in rows], cut


def test_a_missing_eos(healthy):
  tokenizer = WithoutEos(healthy.tokenizer.model)
  model = dataclasses.replace(healthy, tokenizer=tokenizer)
  assert faults(model) == cheap_faults(model) == ["tokenizer"]
  assert "EOS (1) is missing" in doctor.quick(model)[0].reason


class LikeTransformers(Tokenizer):
  """Finds control tokens in a text, as transformers does."""

  def encode(self, text):
    read = tokenizers.Tokenizer.from_str(tokenizer_json(self.model).decode())
    return np.array(read.encode(text).ids, np.int32)


def test_control_tokens_in_a_text(healthy):
  assert only("control", healthy)
  tokenizer = LikeTransformers(healthy.tokenizer.model)
  model = dataclasses.replace(healthy, tokenizer=tokenizer)
  assert cheap_faults(model) == ["control"]
  assert (
    "'<pad>' in a text becomes the token 0" in doctor.quick(model)[0].reason
  )


def test_a_tokenizer_of_another_model(trained, healthy):
  small = random_model(trained, vocab_size=2000)
  config = dataclasses.replace(small.config, vocab_size=500)
  cut = changed(small, lambda x: x[:500], "encoder", "embedding")
  model = dataclasses.replace(cut, config=config)
  assert cheap_faults(model) == ["tokenizer"]


def test_a_nan_weight(healthy):
  spoil = lambda x: np.where(np.arange(x.size).reshape(x.shape) == 7, np.nan, x)
  model = changed(healthy, spoil, "encoder", "layer_1", "mlp", "gate")
  assert faults(model) == cheap_faults(model) == ["weights"]
  assert "layer_1/mlp/gate' holds NaN" in doctor.quick(model)[0].reason


@pytest.mark.parametrize("name", ["up", "down"])
def test_a_missing_dense(healthy, name):
  model = changed(healthy, lambda x: None, name)
  assert faults(model) == cheap_faults(model) == ["dense"]
  assert f"{name!r} is missing" in doctor.quick(model)[0].reason


def test_dense_layers_that_do_nothing(healthy):
  model = with_head(healthy, np.eye(32, 64), np.eye(64, 32))
  assert faults(model) == ["dense"]


def swapped(model, turn=lambda x: x):
  """The model with its Dense layers in each other's place."""
  up, down = (model.params["model"][name] for name in parts.HEAD)
  return changed(
    changed(model, lambda _: turn(down), "up"), lambda _: turn(up), "down"
  )


def test_swapped_dense_of_other_shapes(healthy):
  model = swapped(healthy)
  assert faults(model) == ["dense"]
  assert "swapped with its neighbour" in doctor.quick(model)[0].reason


def fitted(model, apart=False):
  """The model with a head that has learned the doctor's pairs, in rank 8.

  A linear discriminant: along it, the sides of a pair differ little and pairs
  differ much; or the other way round, if `apart`.
  """
  first, second = samples.sides()
  opened = Opened(model, samples.BRIEF)
  states = opened.states(opened.ids([*first, *second]))
  pooled = [states.tokens(n).mean(axis=0) for n in range(len(states.ids))]
  a, b = np.split(np.array(pooled, np.float64), 2)
  within, between = (a - b).T @ (a - b), np.cov((a + b).T)
  low, high = (between, within) if apart else (within, between)
  low = low + 1e-3 * np.trace(low) * np.eye(len(low))
  values, vectors = np.linalg.eigh(low)
  white = vectors / np.sqrt(values)
  kept = (white @ np.linalg.eigh(white.T @ high @ white)[1])[:, -8:]
  rng = np.random.default_rng(0)
  turn, out = (np.linalg.qr(rng.normal(size=(n, 8)))[0] for n in (64, 32))
  return with_head(model, kept @ turn.T, turn @ out.T)


def with_head(model, up, down):
  up, down = (np.asarray(x, np.float32) for x in (up, down))
  return changed(changed(model, lambda _: up, "up"), lambda _: down, "down")


def test_swapped_dense_that_fits_all_shapes(healthy):
  model = fitted(healthy)
  assert faults(model) == []
  assert faults(swapped(model, np.transpose)) == ["applied"]


def test_a_head_that_tells_the_wrong_things_apart(healthy):
  assert "meaning" in faults(fitted(healthy, apart=True))


def test_vectors_without_the_dense_layers(healthy, monkeypatch):
  opened = Opened(healthy, samples.BRIEF)
  tokens = [opened.brief.tokens(n) for n in range(len(samples.BRIEF))]
  bare = np.array([x.mean(axis=0) for x in tokens])
  bare /= np.linalg.norm(bare, axis=1, keepdims=True)
  known = dict(zip(samples.BRIEF, bare, strict=True))
  encode = lambda self, sentences: np.stack([known[text] for text in sentences])
  monkeypatch.setattr(Model, "encode", encode)
  found = doctor.quick(healthy)
  assert [f.reason for f in found] == ["vectors are made without Dense"]


def without_bos(tokens, segment_ids, num_texts):
  """The mean of what follows a text's first token."""
  starts = jnp.pad(
    segment_ids[:, 1:] != segment_ids[:, :-1],
    ((0, 0), (1, 0)),
    constant_values=True,
  )
  return pooling.mean(
    tokens, jnp.where(starts, num_texts, segment_ids), num_texts
  )


def test_a_mean_without_bos(healthy, monkeypatch, fresh_programs):
  mean = pooling.POOLINGS["mean"]._replace(make=lambda config: without_bos)
  monkeypatch.setitem(pooling.POOLINGS, "mean", mean)
  fresh_programs()
  assert cheap_faults(healthy) == ["pooled"]
  assert "pooled without BOS" in doctor.quick(healthy)[0].reason


def test_a_causal_mask(healthy, monkeypatch, fresh_programs):
  mask = layers.attention_mask
  causal = lambda segment_ids, window: mask(
    segment_ids, window._replace(right=0)
  )
  monkeypatch.setattr(layers, "attention_mask", causal)
  fresh_programs()
  assert cheap_faults(healthy) == ["bidirectional"]
  assert "changes 0 of" in doctor.quick(healthy)[0].reason


@pytest.mark.parametrize("sides", [(2, 2), (1, 2), (2, 1)])
def test_a_mask_of_half_a_window(healthy, monkeypatch, fresh_programs, sides):
  def halved(config, kind):
    left, right = encoder_window(config, kind)
    if left is None:
      return layers.Window(None, None)
    return layers.Window(left // sides[0], right // sides[1])

  encoder_window = encoder.window
  monkeypatch.setattr(encoder, "window", halved)
  fresh_programs()
  if sides == (2, 2):
    assert faults(healthy) == ["reach"]
  assert not only("reach", healthy)


def test_a_global_layer_with_a_window(healthy, monkeypatch, fresh_programs):
  monkeypatch.setattr(encoder, "window", lambda *_: layers.Window(8, 8))
  fresh_programs()
  assert not only("reach", healthy)


def test_a_window_that_a_conversion_halved(trained):
  model = random_model(trained, window=9)
  assert faults(model) == cheap_faults(model) == ["window"]
  assert "the window is 9: 16 halved" in doctor.quick(model)[0].reason


def test_a_public_size_has_its_window():
  public = PRESETS["embeddinggemma_300m"].model
  change = lambda **values: dataclasses.replace(public, **values)
  assert "has 512" in parts.halved(change(window=256, max_length=512))
  assert (
    parts.halved(public) == parts.halved(change(width=512, window=256)) == ""
  )
  assert parts.halved(change(window=257, window_rule="t5gemma2")) == ""
  for once, twice in ((257, 512), (129, 256)):
    assert f"is {once}: {twice} halved" in parts.halved(change(window=once))


def test_attention_across_packed_texts(healthy, monkeypatch, fresh_programs):
  everyone = lambda a, b: jnp.ones((*a.shape, b.shape[1]), bool)
  monkeypatch.setattr(layers, "same_text", everyone)
  fresh_programs()
  assert cheap_faults(healthy) == ["packing"]


def test_vectors_that_are_not_of_unit_norm(
  healthy, monkeypatch, fresh_programs
):
  monkeypatch.setattr(embedder, "unit_or_constant", lambda x, valid: x)
  fresh_programs()
  assert cheap_faults(healthy) == ["unit"]


def test_vectors_that_are_not_finite(healthy):
  model = changed(healthy, np.zeros_like, "up")
  assert faults(model) == cheap_faults(model) == ["finite"]


def test_vectors_in_one_direction(healthy):
  one = lambda x: x[:, :1] @ np.ones((1, x.shape[1]), "f4")
  model = changed(healthy, one, "up")
  assert faults(model) == cheap_faults(model) == ["collapse"]


def test_a_dimension_that_outshines_the_others(healthy):
  scale = lambda x: np.where(np.arange(x.size) == 3, np.float32(1e4), x)
  model = changed(healthy, scale, "encoder", "final_norm", "scale")
  assert faults(model) == cheap_faults(model) == ["collapse"]


def test_a_direction_of_next_to_nothing_counts_as_none():
  """Its share of the whole is rounded to 0, whose logarithm is no number."""
  few = np.diag([1.0, 1.0, 1.0, 1.0, 3.7e-23]).astype(np.float32)
  assert vectors._effective_rank(few) == pytest.approx(4)


def test_float16_would_overflow(healthy):
  """The norm after an MLP takes the factor out: float32 gives the same."""
  model = changed(healthy, lambda x: x * 1e6, "encoder", "layer_1", "mlp", "up")
  assert cheap_faults(model) == []
  assert notes(model) == ["float16"] and faults(model) == []
  found = doctor.diagnose(model)
  assert doctor.passed(found)
  said = next(f for f in found if f.verdict == "note")
  assert "in layer_1" in said.reason and "bfloat16" in said.fix
  told = doctor.as_json("x", found)
  assert told["passed"] and {"note", "pass"} == {
    check["verdict"] for check in told["checks"]
  }
  console = Console(record=True, width=80, quiet=True)
  with console.capture() as caught:
    console.quiet = False
    console.print(doctor.as_table(found))
  assert " note " in caught.get() and "so: never run it in" in caught.get()


def test_weights_that_bfloat16_rounds_off(healthy):
  """Both halves of the head cancel but for 0.3 percent, which is the signal."""
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 32, 32))
  up, down = np.hstack([a, -1.003 * a]), np.vstack([b, b])
  model = with_head(healthy, up, down)
  assert notes(model) == ["bfloat16"] and faults(model) == []


def test_prefixes_out_of_order(wide):
  """Dimensions 128 to 256 say what those before and after them do not."""
  rng = np.random.default_rng(0)
  half = np.zeros((32, 512))
  half[:16, :128] = rng.normal(size=(16, 128))
  half[16:, 128:256] = 10 * rng.normal(size=(16, 128))
  half[:16, 256:] = 100 * np.hstack([half[:16, :128]] * 2)
  model = with_head(wide, np.eye(32, 64), np.vstack([half, half]))
  assert [f for f in doctor.diagnose(wide) if not f.passed] == []
  assert faults(model) == ["matryoshka"]


@pytest.fixture(scope="module")
def decoders(tmp_path_factory, trained):
  """(init, more of the recipe's config) -> the workdir of random weights."""
  files = checkpoint.read_files(checkpoint.find(trained))

  def write(init, change=lambda x: x, **more):
    config = preset("tiny").model
    params = change(jax.device_get(init(jax.random.key(0))))
    tree = {"stage": "adapt", "view": "identity", "config": more}
    content = {
      "model.json": json.dumps(dataclasses.asdict(config)).encode(),
      "recipe.json": json.dumps(tree).encode(),
      "tokenizer.model": files["tokenizer.model"],
      "prompts.json": files["prompts.json"],
    }
    workdir = tmp_path_factory.mktemp("decoder") / "w"
    checkpoint.write(workdir, params, content)
    return workdir

  return write


LANGUAGE = [
  "opens",
  "tokenizer",
  "weights",
  "finite",
  "causal",
  "reach",
  "bfloat16",
  "float16",
]


def both_sides(tied):
  kind = "merged" if tied else "separate"
  return EncoderDecoderConfig(
    preset("tiny").model, preset("tiny").model, tied, kind
  )


@pytest.mark.parametrize("kind", ["decoder", "merged", "separate"])
def test_a_language_model_is_checked_for_what_it_has(decoders, capsys, kind):
  if kind == "decoder":
    path = decoders(decoder_lib.init_causal(preset("tiny").model))
  else:
    both = both_sides(kind == "merged")
    more = dataclasses.asdict(both)
    del more["encoder"]
    path = decoders(decoder_lib.init_encoder_decoder(both), **more)
  code, said = run_json(path, capsys)
  assert [check["check"] for check in said["checks"]] == LANGUAGE
  assert code == 0, said
  assert {check["verdict"] for check in said["checks"]} == {"pass"}
  found = {check["check"]: check["reason"] for check in said["checks"]}
  assert (
    found["reach"] == "local layers see 15 before, global layers see all before"
  )


def without_tensor(params):
  layer = params["model"]["decoder"]["layer_0"]
  del layer["mlp"]["down"]
  return params


def with_nan(params):
  table = np.array(params["model"]["decoder"]["embedding"])
  table[5] = np.nan
  params["model"]["decoder"]["embedding"] = table
  return params


def overflowing(params):
  mlp = params["model"]["decoder"]["layer_0"]["mlp"]
  mlp["up"] = np.asarray(mlp["up"]) * np.float32(1e6)
  return params


@pytest.mark.parametrize(
  ("change", "code", "check", "words"),
  [
    (without_tensor, 1, "weights", "mlp/down' is missing"),
    (with_nan, 1, "weights", "embedding' holds NaN"),
    (overflowing, 0, "float16", "float16 ends at"),
  ],
)
def test_a_damaged_language_model(decoders, capsys, change, code, check, words):
  path = decoders(decoder_lib.init_causal(preset("tiny").model), change)
  found, said = run_json(path, capsys)
  of_name = {x["check"]: x for x in said["checks"]}
  assert found == code and words in of_name[check]["reason"]
  assert of_name[check]["verdict"] == ("fail" if code else "note")
  assert of_name["causal"]["verdict"] == ("not run" if code else "pass")


@pytest.mark.parametrize("check", ["causal", "reach"])
def test_a_decoder_that_looks_ahead(decoders, capsys, monkeypatch, check):
  path = decoders(decoder_lib.init_causal(preset("tiny").model))
  window = decoder_lib.window
  ahead = lambda config, kind: window(config, kind)._replace(right=1)
  monkeypatch.setattr(decoder_lib, "window", ahead)
  code, said = run_json(path, capsys)
  failed = [x["check"] for x in said["checks"] if x["verdict"] == "fail"]
  assert code == 1 and check in failed


def run_json(path, capsys):
  """Exit code and output of `doctor PATH --json`."""
  capsys.readouterr()
  code = main.call(["doctor", str(path), "--json"])
  return code, json.loads(capsys.readouterr().out)


def test_the_verb_on_a_trained_model(trained, capsys):
  code, said = run_json(trained, capsys)
  assert code == 0 and said["passed"] and said["path"] == str(trained)
  assert [check["check"] for check in said["checks"]] == [
    "opens",
    *doctor.CHECKS,
  ]
  assert main.call(["doctor", str(trained)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert max(map(len, lines)) <= 80
  assert sum(" pass " in line for line in lines) == 1 + len(doctor.CHECKS)


def stored(workdir, model, directory):
  """A checkpoint of other weights beside the files of a workdir's."""
  files = checkpoint.read_files(checkpoint.find(workdir))
  return checkpoint.write(directory, model.params, files)


@pytest.mark.parametrize(
  ("change", "path", "reason"),
  [
    (lambda x: None, ["down"], "tensor 'model/down' is missing"),
    (lambda x: x.T, ["up"], "tensor 'model/up' has shape (64, 32)"),
    (lambda x: x * np.nan, ["up"], "tensor 'up' holds NaN"),
  ],
)
def test_what_load_refuses_is_a_finding(
  trained, tmp_path, capsys, change, path, reason
):
  broken = changed(load(trained), change, *path)
  code, said = run_json(stored(trained, broken, tmp_path), capsys)
  assert code == 1 and not said["passed"]
  (finding,) = said["checks"]
  assert finding["check"] == "opens" and reason in finding["reason"]
  assert finding["fix"]
  assert main.call(["doctor", str(tmp_path)]) == 1
  shown = capsys.readouterr().out
  assert "FAIL" in shown and "fix: " in shown
  with pytest.raises(Stopped, match="doctor: "):
    doctor.check_or_stop(tmp_path, Console(quiet=True))


def test_a_checkpoint_without_prompts(trained, tmp_path, capsys):
  directory = shutil.copytree(checkpoint.find(trained), tmp_path / "checkpoint")
  (directory / "files" / "prompts.json").write_text("{}")
  code, said = run_json(directory, capsys)
  assert code == 1
  assert "prompts.json lacks 'query'" in said["checks"][0]["reason"]


def test_a_folder_that_is_no_model(tmp_path, capsys):
  code, said = run_json(tmp_path, capsys)
  assert code == 1
  assert "holds no checkpoint" in said["checks"][0]["reason"]


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
  """The trained model as a sentence-transformers folder."""
  output = tmp_path_factory.mktemp("exported") / "folder"
  argv = ["export", f"--model={trained}", "--format=sentence-transformers"]
  assert main.call([*argv, f"--output={output}"]) == 0
  return output


@pytest.fixture
def rewritten(exported, tmp_path):
  """(name, change of its JSON) -> a copy of the folder."""

  def rewrite(name, change):
    copy = shutil.copytree(exported, tmp_path / "folder")
    tree = json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps(change(tree)))
    return copy

  return rewrite


def without(key):
  return lambda tree: {k: v for k, v in tree.items() if k != key}


def test_an_exported_folder_is_healthy(exported, capsys):
  code, said = run_json(exported, capsys)
  assert code == 0
  checks = [check["check"] for check in said["checks"]]
  assert checks == ["opens", "folder", *doctor.CHECKS]


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (lambda card: "", "names no licence"),
    (lambda card: card.replace("license", "licence"), "names no licence"),
    (lambda card: card.replace("task: sear", "task: Sear"), "has the prompt"),
    (None, "no README.md"),
  ],
)
def test_a_card_that_lost_something_is_a_note(exported, tmp_path, change, said):
  path = shutil.copytree(exported, tmp_path / "folder")
  prompts = load(path).prompts
  assert folder.lost_of_card(path, prompts) == []
  card = path / "README.md"
  text = card.read_text()
  card.unlink()
  if change:
    card.write_text(change(text))
  [found] = folder.lost_of_card(path, prompts)
  assert found.verdict == doctor.NOTE and said in found.reason


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (without("post_processor"), "gives 'red apple pie' the"),
    (without("normalizer"), "gives 'red apple pie' the"),
    (lambda _: {}, "tokenizer.json cannot be read"),
  ],
)
def test_a_folder_that_others_read_wrongly(rewritten, exported, change, said):
  model = load(exported)
  path = rewritten("tokenizer.json", change)
  found = folder.check_folder(path, model.tokenizer, samples.BRIEF)
  assert found.passed is False and said in found.reason and found.fix
  assert doctor.quick(model) == []


def test_a_folder_that_one_version_reads_wrongly(rewritten, capsys):
  """Version 4 needs a flag that version 5 does not write: a note, no fault."""
  path = rewritten("tokenizer_config.json", without("add_eos_token"))
  code, said = run_json(path, capsys)
  assert code == 0
  (found,) = [x for x in said["checks"] if x["check"] == "folder"]
  assert found["verdict"] == "note" and "version" in found["fix"]
  assert "transformers 4 makes no EOS" in found["fix"]


@pytest.mark.parametrize(
  ("name", "change", "said"),
  [
    ("config.json", without("use_bidirectional_attention"), "causal"),
    ("config.json", lambda c: c | {"sliding_window": 257}, "is odd"),
    ("modules.json", lambda m: [*m[:2], m[4]], "0 Dense modules of 2"),
    ("modules.json", lambda m: [*m[:2], m[3], m[2], m[4]], "in_features=64"),
    ("config_sentence_transformers.json", without("prompts"), "no prompts"),
    ("tokenizer.json", without("post_processor"), "read as 'pieces', by"),
    ("tokenizer.json", without("normalizer"), "does not write spaces"),
    ("tokenizer.json", lambda _: {}, "read as 'pieces', by"),
  ],
)
def test_a_folder_that_load_refuses(rewritten, capsys, name, change, said):
  code, shown = run_json(rewritten(name, change), capsys)
  (finding,) = shown["checks"]
  assert code == 1 and said in finding["reason"] and finding["fix"]


def test_bad_input(tmp_path, capsys):
  with pytest.raises(BadInput, match="none does not exist"):
    doctor.examine(tmp_path / "none", Console(quiet=True))
  assert main.call(["doctor", str(tmp_path / "none")]) == 2
  assert main.call(["doctor"]) == 2
  assert "give one path: doctor PATH" in capsys.readouterr().err


def test_training_ends_with_the_cheap_half(trained, train_command, capsys):
  assert main.call(train_command(trained)) == 0
  count = sum(check.cheap for check in doctor.CHECKS.values())
  assert f"doctor: {count} checks passed" in capsys.readouterr().err


def test_the_first_fault_stops(healthy):
  model = dataclasses.replace(healthy, prompts={})
  with pytest.raises(Stopped, match=r"doctor: prompts: there is no .*; copy"):
    doctor.check_or_stop(model, Console(quiet=True))


def test_every_brief_text_is_short_in_bytes():
  assert all(len(text.encode()) <= 28 for text in samples.BRIEF)
  assert len({language for language, *_ in samples.PAIRS}) >= 12
