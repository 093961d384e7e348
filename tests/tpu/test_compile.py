"""The verb `compile` through the real TPU compiler, where libtpu is there."""

import contextlib
import importlib.util
import io
import json

import pytest

from embeddinggemma import generations
from embeddinggemma.aot import environment, examine
from embeddinggemma.cli import flags, main
from embeddinggemma.cli.verbs import VERBS
from embeddinggemma.types import BadInput

CONFIG = "--config=configs/prefinetune.py:tiny"
ONE_LAYER = "--config.model.num_layers=1"
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


def call(*arguments: str) -> tuple[int, str, str]:
  """Exit code, stdout and stderr of one `compile`."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = main.call(["compile", *arguments])
  return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def found() -> dict:
  """Sharded parameters and two groups a device, on four chips."""
  code, out, err = call(
    CONFIG,
    ONE_LAYER,
    "--config.mesh.fsdp=2",
    "--config.groups_per_device=2",
    "--config.mesh.data=-1",
    "--topology=v5e:2x2",
    "--shardings",
    "--json",
  )
  assert (code, err) == (0, "")
  return json.loads(out)


@needs_libtpu
def test_the_report_is_whole(found: dict) -> None:
  assert found["fits"] is True
  hbm = found["hbm"]
  assert 0 < hbm["arguments_bytes"] < hbm["needed_bytes"]
  assert 0 < hbm["temporaries_bytes"] < hbm["needed_bytes"]
  assert hbm["capacity_bytes"] == int(15.75 * 2**30)
  assert found["cycles"] > 100_000
  assert found["kernel_seconds"] == 0
  assert found["mesh"] == {"data": 2, "fsdp": 2}
  assert found["step_seconds"] > 0
  assert 0 < found["mfu"] < 1
  assert 0 < found["cycle_mfu"] < 1
  assert not found["unknown_loops"]
  assert any("model/layers.py:" in row["source"] for row in found["fusions"])


@needs_libtpu
def test_what_is_recomputed_shows_in_the_products(found: dict) -> None:
  """Two groups a device: one more forward pass, besides pooling by products."""
  assert 1.3 < found["recompute_factor"] < 1.6


@needs_libtpu
def test_collectives_stay_out_of_the_loop_of_groups(found: dict) -> None:
  kinds = {(row["kind"], *row["axes"]) for row in found["collectives"]}
  assert ("all-gather", "fsdp") in kinds
  assert any(kind.startswith("all-reduce") for kind, *_ in kinds)
  assert found["collectives_in_loops"] == 0


@needs_libtpu
def test_every_array_of_the_state_is_placed(found: dict) -> None:
  rows = {row["path"]: row for row in found["shardings"]}
  table = rows["params/model/encoder/embedding"]
  assert table["shape"] == [1024, 32]
  assert "fsdp" in table["spec"]
  assert table["bytes"] == 1024 * 32 * 4 // 2
  norm = rows["params/model/encoder/final_norm/scale"]
  assert norm["bytes"] == 32 * 4


@needs_libtpu
def test_out_of_memory_is_an_answer() -> None:
  code, out, err = call(
    CONFIG, ONE_LAYER, "--config.batch_size=4194304", "--topology=v5e:2x2"
  )
  assert (code, err) == (1, "")
  assert "DOES NOT FIT" in out
  assert "RESOURCE_EXHAUSTED" in out
  assert "model/layers.py:" in out  # what needs the memory


@needs_libtpu
def test_two_slices_exchange_over_data() -> None:
  code, out, _ = call(CONFIG, ONE_LAYER, "--topology=v5e:2x2", "--num_slices=2")
  assert code == 0
  assert "8 devices, mesh data 8 x fsdp 1" in out
  dcn = float(out.partition("DCN ")[2].partition(" ms")[0])
  assert dcn > 0


@needs_libtpu
@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({"tpu": {"xla_nonsense": 1}}, r"xla_nonsense"),
    ({"v5e": {"xla_tpu_scoped_vmem_limit_kib": "x"}}, r"scoped_vmem"),
  ],
)
def test_an_option_that_the_compiler_refuses(options: dict, said: str) -> None:
  values, _ = flags.parse(
    "compile", VERBS["compile"], [CONFIG, "--topology=v5e:2x2"]
  )
  tree = values.config.to_dict() | {"compiler_options": options}
  config = examine.config_of(tree, None)
  with pytest.raises(BadInput, match=said):
    examine.examine(config, "v5e:2x2", 1, False, False)


def test_options_are_by_platform_and_by_generation() -> None:
  given = {"cpu": {"a": 1}, "tpu": {"b": 2, "c": 3}, "v5e": {"c": 4}}
  options = generations.compiler_options
  assert options(given, "cpu", "cpu") == {"a": 1}
  assert options(given, "cuda", "NVIDIA H100") == {}
  assert options(given, "tpu", "TPU v5 lite") == {"b": 2, "c": 4}
  assert options(given, "tpu", "TPU v4") == {"b": 2, "c": 3}
  with pytest.raises(BadInput, match=r"compiler_options.v5x: .*v5e"):
    options({"v5x": {}}, "cpu", "cpu")


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["--topology=v9:2x2"], "no TPU generation 'v9'; there are v4, v5e"),
    (["--topology=v5e:3x3"], "known are 1x1, 2x2, 2x4, 4x4"),
    (["--topology=v5e"], "known are 1x1, 2x2"),
    (["--topology=v5e:2x2", "--stage=adapt"], "of 'prefinetune' alone"),
    ([], "--topology is missing"),
  ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str) -> None:
  code, out, err = call(CONFIG, *arguments)
  assert (code, out) == (2, "")
  assert said in err
  assert len(err.splitlines()) == 1


@needs_libtpu
@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["--config.mesh.fsdp=3"], "mesh.fsdp=3"),
    (["--config.batch_size=18"], "batch_size=18"),
    (["--num_slices=0"], "--num_slices=0"),
    (["--num_slices=2", "--config.mesh.fsdp=8"], "mesh.fsdp=8"),
  ],
)
def test_sizes_that_do_not_divide(arguments: list[str], said: str) -> None:
  code, out, err = call(CONFIG, "--topology=v5e:2x2", *arguments)
  assert (code, out) == (2, "")
  assert said in err
  assert len(err.splitlines()) == 1


def test_a_stage_of_a_recipe_can_be_named() -> None:
  values, _ = flags.parse(
    "compile",
    VERBS["compile"],
    ["--config=configs/recipe.py:tiny", "--topology=v5e:2x2"],
  )
  tree = values.config.to_dict()
  assert examine.config_of(tree, None).stage == "prefinetune"
  assert examine.config_of(tree, "adapt").stage == "adapt"
  with pytest.raises(
    BadInput, match="--stage=teach: the config holds adapt, finetune, pre"
  ):
    examine.config_of(tree, "teach")


def test_without_libtpu_the_command_that_installs_it_is_named(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  real = importlib.util.find_spec
  monkeypatch.setattr(
    environment.importlib.util,
    "find_spec",
    lambda name: None if name == "libtpu" else real(name),
  )
  code, _, err = call(CONFIG, "--topology=v5e:2x2")
  assert code == 2
  assert "pip install libtpu" in err
