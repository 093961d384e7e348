"""The stage qat, and what reads its checkpoints: all see weights on the grid."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from embeddinggemma import checkpoint, quantize
from embeddinggemma.aot import examine
from embeddinggemma.cli import main
from embeddinggemma.config import sibling
from embeddinggemma.convert.write.output import MARK
from embeddinggemma.data import sources
from embeddinggemma.loading import load
from embeddinggemma.mining import teacher
from embeddinggemma.recipes.whole import config
from embeddinggemma.report import precision
from embeddinggemma.training import stages
from embeddinggemma.types import BadInput

TEXTS = ["stone", "the river garden by the harbour", "where is the lantern"]


@pytest.fixture(scope="module")
def command(data_folder, trained):
  """workdir -> the `train` of two steps for int4, from `trained`."""
  return lambda workdir: [
    "train",
    f"--config=configs/qat.py:tiny,data={data_folder}",
    f"--workdir={workdir}",
    "--config.steps=2",
    "--config.model.num_layers=1",
    f"--config.init_from={trained}",
  ]


@pytest.fixture(scope="module")
def quantised(command, tmp_path_factory) -> pathlib.Path:
  """The workdir that it leaves."""
  workdir = tmp_path_factory.mktemp("quantised")
  assert main.call(command(workdir)) == 0
  return workdir


def raw(workdir: pathlib.Path) -> dict:
  """The stored weights by name."""
  return dict(checkpoint.stream(checkpoint.find(workdir)))


def seen(workdir: pathlib.Path, **options) -> dict:
  """What `load` makes of them."""
  params = load(workdir, **options).params
  names = raw(workdir)
  for name in names:
    leaf = params["model"]
    for key in name:
      leaf = leaf[key]
    names[name] = np.asarray(leaf)
  return names


def view_of(workdir: pathlib.Path) -> str:
  return checkpoint.view_of(checkpoint.read_files(checkpoint.find(workdir)))


def last_error(capsys) -> str:
  return capsys.readouterr().err.splitlines()[-1]


def test_a_checkpoint_is_raw_and_is_seen_on_its_grid(quantised):
  assert view_of(quantised) == "quantize:int4"
  model = load(quantised)
  assert model.precision == "int4"
  shown, plain = seen(quantised), seen(quantised, precision="float")
  for name, weight in raw(quantised).items():
    np.testing.assert_array_equal(plain[name], weight)
    want = quantize.seen(name, weight, "int4")
    np.testing.assert_array_equal(shown[name], want)
    assert (want != weight).any() == ("norm" not in "".join(name))
  assert model.hash != load(quantised, precision="float").hash


def test_the_start_is_its_own_teacher_of_what_is_read(quantised, trained):
  vectors = teacher.open_vectors(quantised / "teach")
  model = load(trained)
  assert vectors.about["teacher"]["model"] == model.hash
  corpus = quantised / "inputs" / "corpus" / "train"
  pairs, _ = sources.read_pairs(corpus)
  assert 0 < len(vectors.keys) < len(pairs)
  read = {pair.query for row in rows(quantised) for pair in of(row, pairs)}
  items = [teacher.Item(p.task, p.query, "") for p in pairs if p.query in read]
  got = vectors.rows(teacher.keys_of(items))
  want = [model.encode(item.text, item.prompt) for item in items]
  np.testing.assert_allclose(got, want, atol=1e-3)


def rows(workdir: pathlib.Path) -> list[dict]:
  """Those of metrics.jsonl."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def of(row: dict, pairs: list) -> list:
  """The pairs of a step's batch."""
  members = [pair for pair in pairs if pair.task == row["task"]]
  return [members[index] for index in row["rows"]]


def test_the_loss_is_that_of_weights_on_the_grid(
  command, quantised, trained, tmp_path
):
  """A step of the stage is one of finetuning from weights that were rounded."""
  on_grid = checkpoint.nest(seen(trained, precision="int4"))
  files = checkpoint.read_files(checkpoint.find(trained))
  checkpoint.write(tmp_path / "rounded", {"model": on_grid, "aux": {}}, files)
  argv = command(tmp_path / "w")
  argv[1] = argv[1].replace("qat.py", "finetune.py")
  argv[-1] = f"--config.init_from={tmp_path / 'rounded'}"
  assert main.call(argv) == 0
  ours, theirs = rows(quantised)[0], rows(tmp_path / "w")[0]
  assert ours["rows"] == theirs["rows"]
  for name in ("contrastive", "spread_out", "accuracy"):
    assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
  assert ours["distill"] > 0


def test_a_split_state_gives_the_same_weights(command, quantised, tmp_path):
  argv = [*command(tmp_path), "--config.mesh.fsdp=2"]
  assert main.call(argv) == 0
  ours = raw(quantised)
  for name, weight in raw(tmp_path).items():
    np.testing.assert_allclose(weight, ours[name], atol=2e-5)


def test_quantised_models_are_averaged_raw(
  command, quantised, trained, tmp_path, capsys
):
  other = tmp_path / "other"
  again = [f"--config.init_from={quantised}"]
  again += [f"--config.teacher={quantised / 'teach'}"]
  assert main.call([*command(other), *again]) == 0
  argv = ["soup", f"--inputs={quantised},{other}"]
  assert main.call([*argv, f"--workdir={tmp_path / 'soup'}"]) == 0
  assert view_of(tmp_path / "soup") == "quantize:int4"
  for name, mean in raw(tmp_path / "soup").items():
    both = [raw(place)[name] for place in (quantised, other)]
    np.testing.assert_allclose(mean, np.mean(both, axis=0), rtol=1e-6)
  argv = ["soup", f"--inputs={quantised},{trained}", "--workdir=none"]
  assert main.call(argv) == 2
  assert "view is 'quantize:int4' in one" in last_error(capsys)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--config.quantize.spec=int3"], "quantize.spec='int3' is unknown"),
    (["--config.quantize.spec=int8block"], "did you mean 'int8_block'?"),
    (["--config.init_from="], "set --config.init_from=DIR"),
    (["--config.loss.teacher_width=24"], "teacher_width=24, but the start's"),
    (["--config.model.mlp_width=48"], "mlp/down' of shape (48, 32)"),
    (["--config.lora.rank=2"], "lora"),
    (["--config.init_from=QUANTISED"], "is quantised, so no teacher of itself"),
    (
      ["--config.init_from=QUANTISED", "--config.quantize.spec=mixed"],
      "was trained to be seen in int4; start from its own parent",
    ),
    (
      ["--config=configs/finetune.py:tiny", "--config.init_from=QUANTISED"],
      "go on with stage qat and --config.quantize.spec=int4",
    ),
  ],
)
def test_what_cannot_be_is_one_line(
  flags, message, command, quantised, tmp_path, capsys
):
  argv = command(tmp_path / "w")
  argv += [flag.replace("QUANTISED", str(quantised)) for flag in flags]
  assert main.call(argv) == 2
  assert message in last_error(capsys)
  assert not (tmp_path / "w").exists()


def test_factors_are_refused():
  folder = pathlib.Path(__file__).parent.parent / "configs" / "recipe.py"
  tree = sibling(str(folder), "qat").get_config("tiny").to_dict()
  tree["lora"] = {"rank": 2, "alpha": 1.0}
  with pytest.raises(BadInput, match=r"lora\.rank=2: qat moves the weights"):
    stages.build(tree)


def test_a_recipe_trains_for_each_spec():
  folder = pathlib.Path(__file__).parent.parent / "configs" / "recipe.py"
  tree = sibling(str(folder), "recipe").get_config("laptop").to_dict()
  built = config.build(tree).qat
  int4, mixed = map(built.of, built.specs)
  assert (int4.quantize.spec, mixed.quantize.spec) == ("int4", "mixed")
  assert int4.optimizer.lr < mixed.optimizer.lr == built.lr["mixed"]
  assert examine.config_of(tree, "qat") == dataclasses.replace(
    int4, optimizer=built.optimizer
  )
  for name in ("specs", "lr"):
    wrong = {"int5": 1.0} if name == "lr" else ("int5",)
    with pytest.raises(BadInput, match=rf"qat\.{name}='int5' is unknown"):
      dataclasses.replace(built, **{name: wrong})


def test_an_export_is_what_was_seen(quantised, tmp_path, capsys):
  argv = ["export", f"--model={quantised}", "--format=sentence-transformers"]
  argv += [f"--output={tmp_path / 'out'}"]
  assert main.call([*argv, "--dtype=bfloat16"]) == 2
  assert "off the int4 grid" in last_error(capsys)
  assert not (tmp_path / "out").exists()
  assert main.call(argv) == 0
  assert "int4" in capsys.readouterr().err
  assert json.loads((tmp_path / "out" / MARK).read_text())["precision"] == (
    "int4"
  )
  ours, theirs = load(quantised), load(tmp_path / "out")
  again = load(tmp_path / "out", precision="int4")
  assert ours.hash == theirs.hash == again.hash
  np.testing.assert_array_equal(ours.encode(TEXTS), theirs.encode(TEXTS))


def test_costs_are_of_the_means():
  row = lambda weights, spec, mean: {
    "weights": weights,
    "precision": spec,
    "bytes": 10,
    "scores": {"mean": mean},
  }
  rows = [
    row(precision.PLAIN, "float", 0.5),
    row(precision.ROUNDED, "int4", 0.4),
    row(precision.TRAINED, "int4", 0.475),
    row(precision.ROUNDED, "int8", 0.5),
    row(precision.TRAINED, "int8", 0.5),
  ]
  int4, int8 = precision.costs(rows)
  assert (int4.precision, int4.rounded, int4.trained) == ("int4", 0.4, 0.475)
  assert int4.lost == pytest.approx(0.1)
  assert int4.recovered == pytest.approx(0.75)
  assert int8.recovered is None
