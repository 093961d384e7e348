"""Soups against the plain mean in float64; what is refused; kills."""

import itertools
import json
import pathlib
from collections.abc import Callable

import jax
import ml_dtypes
import numpy as np
import pytest

from embeddinggemma import checkpoint, sharding, soups
from embeddinggemma.cli import main
from embeddinggemma.training import checkpoints
from embeddinggemma.types import BadInput, TrainState

SHAPES = {
  ("down",): (6, 4),
  ("encoder", "embedding"): (50, 8),
  ("encoder", "layer_0", "gain"): (8,),
  ("encoder", "layer_0", "w"): (8, 4, 2),
  ("scale",): (),
}
FILES = {
  "model.json": {"width": 8, "pattern": ["local", "global"]},
  "prompts.json": {"query": "q: ", "document": "d: "},
  "recipe.json": {"stage": "finetune"},
}


class Killed(BaseException):
  """As a signal would: nothing catches it."""


def tensors(seed: int, dtype=np.float32) -> dict[checkpoint.Name, np.ndarray]:
  rng = np.random.default_rng(seed)
  scale = 10.0 ** rng.integers(-3, 3)
  return {
    name: np.asarray(scale * rng.standard_normal(shape)).astype(dtype)
    for name, shape in SHAPES.items()
  }


def write(workdir: pathlib.Path, flat, aux=None, **files) -> pathlib.Path:
  """A checkpoint; `model={...}` replaces keys of model.json, and so on."""
  stored = {
    name: json.dumps(content | files.get(name.split(".")[0], {})).encode()
    for name, content in FILES.items()
  }
  stored["tokenizer.model"] = files.get("tokenizer", b"pieces")
  params = {"model": checkpoint.nest(flat), "aux": aux or {}}
  return checkpoint.write(workdir, params, stored, files.get("step", 0))


def read(place: pathlib.Path) -> dict[checkpoint.Name, np.ndarray]:
  return checkpoint.read_tensors(place, SHAPES)


def recipe_of(place: pathlib.Path) -> dict:
  return json.loads(checkpoint.read_files(place)["recipe.json"])


def assert_same_bits(a, b) -> None:
  assert set(a) == set(b)
  for name in a:
    assert a[name].dtype == b[name].dtype
    assert a[name].tobytes() == b[name].tobytes(), name


def test_a_soup_reads_texts_as_all_its_ingredients_do(tmp_path):
  kept = [
    write(tmp_path / name, tensors(n), recipe=checkpoint.AS_WRITTEN)
    for n, name in enumerate("ab")
  ]
  old = write(tmp_path / "c", tensors(2))
  of = lambda name, *places: recipe_of(
    soups.soup(places, None, tmp_path / name)
  ).get("white_space")
  assert of("new", *kept) == "kept"
  assert of("mixed", *kept, old) is None


@pytest.fixture(scope="module")
def ingredients(tmp_path_factory) -> list[pathlib.Path]:
  folder = tmp_path_factory.mktemp("ingredients")
  return [write(folder / str(n), tensors(n)) for n in range(4)]


@pytest.fixture
def in_pieces(monkeypatch) -> None:
  """Every tensor is read alone, in many blocks, with the sum in a file."""
  monkeypatch.setattr(checkpoint, "_TOGETHER", 1)
  monkeypatch.setattr(soups, "_SPILL", 8)
  monkeypatch.setattr(soups, "_BLOCK", 7)


def naive(seeds, weights, name) -> np.ndarray:
  return sum(
    w * tensors(n)[name].astype(np.float64) for n, w in zip(seeds, weights)
  ) / sum(weights)


@pytest.mark.parametrize("weights", [None, [0.1, 0.2, 0.3, 0.4]])
def test_the_mean_in_float64(ingredients, tmp_path, weights, in_pieces):
  found = read(soups.soup(ingredients, weights, tmp_path))
  for name, value in found.items():
    expected = naive(range(4), weights or [1] * 4, name)
    assert value.dtype == np.float32
    assert value.shape == SHAPES[name]
    np.testing.assert_array_max_ulp(value, expected.astype(np.float32), 1)


def test_pieces_make_no_difference(ingredients, tmp_path, request):
  weights = [0.5, 0.125, 0.25, 0.125]
  whole = read(soups.soup(ingredients, weights, tmp_path / "whole"))
  request.getfixturevalue("in_pieces")
  pieces = read(soups.soup(ingredients, weights, tmp_path / "pieces"))
  assert_same_bits(whole, pieces)


@pytest.mark.parametrize("count", [2, 3, 5, 7])
@pytest.mark.parametrize("weighted", [False, True])
def test_of_equals_is_itself(tmp_path, count, weighted):
  flat = tensors(1)
  flat["encoder", "embedding"].flat[:4] = [
    -0.0,
    1e-42,
    -3e38,
    np.nextafter(2, 1),
  ]
  place = write(tmp_path / "one", flat)
  rng = np.random.default_rng(count)
  weights = rng.dirichlet(np.ones(count)).tolist() if weighted else None
  made = soups.soup([place] * count, weights, tmp_path / "soup")
  assert_same_bits(read(made), flat)


def test_order_makes_no_difference(ingredients):
  found = [
    soups.mean(order)["model"]
    for order in itertools.permutations(ingredients[:3])
  ]
  for other in found[1:]:
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-7),
      found[0],
      other,
    )


@pytest.mark.parametrize("chosen", [0, 1])
def test_all_the_weight_on_one_is_that_one(tmp_path, chosen):
  flats = [tensors(0), tensors(1)]
  for flat in flats:
    flat["encoder", "embedding"].flat[0] = -0.0
  places = [write(tmp_path / str(n), flat) for n, flat in enumerate(flats)]
  weights = [float(n == chosen) for n in range(2)]
  made = soups.soup(places, weights, tmp_path / "soup")
  assert_same_bits(read(made), flats[chosen])


def test_bfloat16_stays_bfloat16(tmp_path):
  flats = [tensors(n, ml_dtypes.bfloat16) for n in range(3)]
  places = [write(tmp_path / str(n), flat) for n, flat in enumerate(flats)]
  found = read(soups.soup(places, None, tmp_path / "soup"))
  for name, value in found.items():
    expected = np.mean([f[name].astype(np.float64) for f in flats], axis=0)
    assert value.dtype == ml_dtypes.bfloat16
    assert (value == expected.astype(ml_dtypes.bfloat16)).all()


def test_mean_leaves_aux_out(tmp_path, ingredients):
  aux = {"projection": np.ones((3, 3), np.float32)}
  places = [
    write(tmp_path / "0", tensors(0), aux),
    write(tmp_path / "1", tensors(1), {"projection": aux["projection"][:2]}),
  ]
  params = soups.mean(places)
  assert params["aux"] == {}
  same = soups.mean(ingredients[:2])
  assert checkpoint.content_hash(params) == checkpoint.content_hash(same)
  one = soups.mean(places[:1])
  assert checkpoint.content_hash(one) == checkpoint.content_hash(
    checkpoint.read_params(ingredients[0])
  )


def test_what_a_sharded_run_saved(tmp_path, ingredients):
  mesh = sharding.make_mesh(4, 2)
  split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  params = {"model": checkpoint.nest(tensors(1)), "aux": {}}
  params = jax.tree.map(
    lambda x: jax.device_put(x, split if x.ndim > 1 else whole), params
  )
  state = TrainState(jax.device_put(np.int32(3), whole), params, {})
  store = checkpoints.Checkpoints(tmp_path / "run")
  store.save(3, state, {}, checkpoint.read_files(ingredients[0]))
  store.close()
  made = soups.soup([ingredients[0], tmp_path / "run"], None, tmp_path / "soup")
  plain = soups.soup(ingredients[:2], None, tmp_path / "plain")
  assert_same_bits(read(made), read(plain))
  assert recipe_of(made)["parents"] == recipe_of(plain)["parents"]


def test_the_result_is_a_checkpoint(ingredients, tmp_path):
  place = soups.soup(ingredients, None, tmp_path / "soup")
  assert place == checkpoint.find(tmp_path / "soup")
  params = checkpoint.read_params(place)
  mean = soups.mean(ingredients)
  assert checkpoint.content_hash(params) == checkpoint.content_hash(mean)
  like = TrainState(np.int32(0), jax.tree.map(jax.numpy.asarray, params), {})
  like = jax.device_put(like, jax.devices()[0])
  store = checkpoints.Checkpoints(tmp_path / "soup")
  restored = store.restore(like)
  store.close()
  assert restored is not None
  assert not restored[2]
  found = checkpoint.content_hash(restored[0].params)
  assert found == checkpoint.content_hash(params)


def test_its_files(ingredients, tmp_path):
  weights = [0.5, 0.25, 0.125, 0.125]
  place = soups.soup(ingredients, weights, tmp_path)
  files, first = (
    checkpoint.read_files(place),
    checkpoint.read_files(ingredients[0]),
  )
  for name in ("model.json", "tokenizer.model", "prompts.json"):
    assert files[name] == first[name]
  recipe = recipe_of(place)
  hashes = [
    checkpoint.content_hash(checkpoint.read_params(p)) for p in ingredients
  ]
  assert recipe["stage"] == "soup"
  assert list(recipe["parents"].values()) == hashes
  assert recipe["weights"] == weights
  assert recipe["view"] == "identity"
  assert str(tmp_path) not in json.dumps(recipe)


def test_made_once(ingredients, tmp_path, monkeypatch):
  place = soups.soup(ingredients[:3], None, tmp_path)

  def fail(*_):
    raise AssertionError("made again")

  monkeypatch.setattr(soups, "_average", fail)
  assert soups.soup(ingredients[:3], None, tmp_path) == place
  assert soups.soup(ingredients[2::-1], None, tmp_path) == place
  assert soups.soup([p.parents[1] for p in ingredients[:3]], None, tmp_path)
  for others, weights in (
    (ingredients[:2], None),
    (ingredients[1:], None),
    (ingredients[:3], [0.5, 0.25, 0.25]),
  ):
    with pytest.raises(BadInput, match="holds a checkpoint of other weights"):
      soups.soup(others, weights, tmp_path)
  with pytest.raises(BadInput, match="holds a checkpoint of other weights"):
    soups.soup(ingredients[:2], None, ingredients[3].parents[1])


def test_made_twice_it_is_the_same(ingredients, tmp_path):
  hashes = {
    checkpoint.content_hash(
      checkpoint.read_params(soups.soup(ingredients, None, tmp_path / name))
    )
    for name in "ab"
  }
  assert len(hashes) == 1


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      {"model": {"head": {"width": 9}}},
      r"model\.json: head\.width is missing in one, 9 in the other",
    ),
    (
      {"model": {"pattern": ["local"]}},
      r"pattern is \['local', 'global'\] in one, \['local'\] in the other",
    ),
    (
      {"prompts": {"query": "Q: "}},
      r"prompts\.json: query is 'q: ' in one, 'Q: ' in the other",
    ),
    ({"tokenizer": b"other"}, r"tokenizer\.model is [0-9a-f]{12} in one"),
    (
      {"recipe": {"view": "int4"}},
      "view is 'identity' in one, 'int4' in the other",
    ),
  ],
)
def test_other_models_are_refused(ingredients, tmp_path, change, message):
  other = write(tmp_path / "other", tensors(9), **change)
  with pytest.raises(BadInput, match=message) as caught:
    soups.soup([*ingredients[:2], other], None, tmp_path / "soup")
  assert str(other) in str(caught.value)
  assert "\n" not in str(caught.value)
  assert not (tmp_path / "soup").exists()


@pytest.mark.parametrize(
  ("name", "tensor", "message"),
  [
    (("scale",), np.zeros(2, np.float32), r"'scale' is float32 \(\) in one"),
    (("down",), np.zeros((6, 4)), r"float32 \(6, 4\) in one, float64 \(6, 4\)"),
    (
      ("up",),
      np.zeros(3, np.float32),
      r"'up' is missing in one, float32 \(3,\)",
    ),
    (("down",), None, r"float32 \(6, 4\) in one, missing in the other"),
  ],
)
def test_other_tensors_are_refused(
  ingredients, tmp_path, name, tensor, message
):
  flat = tensors(9) | {name: tensor}
  flat = {key: value for key, value in flat.items() if value is not None}
  other = write(tmp_path / "other", flat)
  with pytest.raises(BadInput, match=message):
    soups.soup([ingredients[0], other], None, tmp_path / "soup")
  with pytest.raises(BadInput, match=message):
    soups.mean([ingredients[0], other])


@pytest.mark.parametrize(
  ("weights", "message"),
  [
    ([1.0], "1 weights for 2 checkpoints"),
    ([0.2, 0.2, 0.6], "3 weights for 2 checkpoints"),
    ([0.5, 0.4], r"0\.5,0\.4 sum to 0\.9, not to 1.*: 0\.5556,0\.4444"),
    ([0.0, 0.0], r"0\.0,0\.0 sum to 0, not to 1$"),
    ([1.5, -0.5], r"weight 1\.5 of a soup must lie in 0 to 1"),
    ([float("nan"), 1.0], "weight nan of a soup"),
  ],
)
def test_bad_weights(ingredients, tmp_path, weights, message):
  with pytest.raises(BadInput, match=message):
    soups.soup(ingredients[:2], weights, tmp_path / "soup")
  assert not (tmp_path / "soup").exists()


def test_too_few(ingredients, tmp_path):
  with pytest.raises(
    BadInput, match="a soup of 1 checkpoints, where at least 2"
  ):
    soups.soup(ingredients[:1], None, tmp_path)
  with pytest.raises(BadInput, match="of 2 checkpoints, where at least 3"):
    soups.soup(ingredients[:2], None, tmp_path, least=3)
  with pytest.raises(BadInput, match="nowhere does not exist"):
    soups.soup([ingredients[0], tmp_path / "nowhere"], None, tmp_path)


def test_last_of_a_run(tmp_path):
  for step in (5, 10, 20):
    write(tmp_path, tensors(step), step=step)
  found = soups.last(tmp_path, 2)
  assert [place.name for place in found] == ["10", "20"]
  assert all((place / "params").is_dir() for place in found)
  with pytest.raises(BadInput, match="holds 3 checkpoints, 4 were asked for"):
    soups.last(tmp_path, 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(ingredients, tmp_path, bad, in_pieces):
  flat = tensors(9)
  flat["encoder", "embedding"][-1, -1] = bad
  other = write(tmp_path / "other", flat)
  message = "other/.*: tensor 'encoder/embedding' holds NaN or infinity"
  with pytest.raises(BadInput, match=message):
    soups.soup([*ingredients[:2], other], None, tmp_path / "soup")
  assert leftovers(tmp_path / "soup") == set()


def test_no_model(ingredients, tmp_path):
  params = {"model": checkpoint.nest(tensors(0)), "aux": {}}
  bare = checkpoint.write(tmp_path / "bare", params, {})
  with pytest.raises(BadInput, match=r"has no model\.json, so it is no whole"):
    soups.soup([ingredients[0], bare], None, tmp_path / "soup")


def test_a_damaged_one(ingredients, tmp_path):
  other = write(tmp_path / "other", tensors(9))
  for file in (other / "params").rglob("d/*"):
    file.write_bytes(b"")
  with pytest.raises(BadInput, match=r"other/.* cannot be read"):
    soups.soup([ingredients[0], other], None, tmp_path / "soup")


def leftovers(workdir: pathlib.Path) -> set[str]:
  """What lies in a workdir besides its lock."""
  return {path.name for path in workdir.iterdir()} - {".lock"}


@pytest.mark.parametrize("reading", [1, 4, 9])
def test_killed_while_reading(
  ingredients, tmp_path, monkeypatch, reading, in_pieces
):
  real, calls = checkpoint.read_tensors, iter(range(1, 99))

  def killed(*args):
    if next(calls) == reading:
      raise Killed
    return real(*args)

  monkeypatch.setattr(checkpoint, "read_tensors", killed)
  with pytest.raises(Killed):
    soups.soup(ingredients[:2], None, tmp_path / "soup")
  assert leftovers(tmp_path / "soup") == set()
  monkeypatch.undo()
  again(ingredients, tmp_path)


def test_killed_while_writing(ingredients, tmp_path, monkeypatch):
  def killed(*_, **__):
    raise Killed

  monkeypatch.setattr(checkpoint.FilesHandler, "save", killed)
  with pytest.raises(Killed):
    soups.soup(ingredients[:2], None, tmp_path / "soup")
  assert checkpoint.steps(tmp_path / "soup") == []
  with pytest.raises(BadInput, match="holds no checkpoint"):
    checkpoint.find(tmp_path / "soup")
  monkeypatch.undo()
  again(ingredients, tmp_path)
  made = tmp_path / "soup" / checkpoint.CHECKPOINTS
  assert [path.name for path in made.iterdir()] == ["0"]


def again(ingredients, tmp_path) -> None:
  """The same command makes what it would have made at once."""
  resumed = soups.soup(ingredients[:2], None, tmp_path / "soup")
  at_once = soups.soup(ingredients[:2], None, tmp_path / "at once")
  assert_same_bits(read(resumed), read(at_once))


def test_a_full_disk(ingredients, tmp_path, monkeypatch):
  usage = checkpoint.shutil.disk_usage(tmp_path)
  monkeypatch.setattr(
    checkpoint.shutil, "disk_usage", lambda path: usage._replace(free=10)
  )
  with pytest.raises(OSError, match="No space left on device"):
    soups.soup(ingredients[:2], None, tmp_path / "soup")
  assert leftovers(tmp_path / "soup") == set()


def test_a_path_between_two(ingredients, tmp_path, monkeypatch):
  base, domain = ingredients[:2]
  points = list(soups.path(base, domain, 5, tmp_path))
  assert [share for share, _ in points] == [0, 0.25, 0.5, 0.75, 1]
  assert_same_bits(read(points[0][1]), read(base))
  assert_same_bits(read(points[-1][1]), read(domain))
  for share, place in points:
    assert recipe_of(place)["weights"] == [1 - share, share]
    expected = naive([0, 1], [1 - share, share], ("down",))
    np.testing.assert_array_max_ulp(
      read(place)["down",], expected.astype(np.float32), 1
    )
  monkeypatch.setattr(soups, "_average", None)  # made again, it would be called
  assert list(soups.path(base, domain, 5, tmp_path)) == points


def test_a_path_is_made_point_by_point(ingredients, tmp_path):
  points: Callable = soups.path(*ingredients[:2], 3, tmp_path)
  assert not list(tmp_path.iterdir())
  next(points)
  assert len(list(tmp_path.iterdir())) == 1
  with pytest.raises(BadInput, match="a path of 1 points"):
    next(soups.path(*ingredients[:2], 1, tmp_path))


def test_hashes_are_those_of_whole_checkpoints(ingredients, in_pieces):
  for place in ingredients:
    whole = checkpoint.content_hash(checkpoint.read_params(place))
    assert checkpoint.hash_of(place) == whole


def test_an_ingredient_that_comes_twice_is_named(tmp_path, capsys):
  one, two = (write(tmp_path / n, tensors(int(n))) for n in "12")
  copy = write(tmp_path / "copy", tensors(1))
  for paths, named in (((one, two), []), ((one, two, copy), [3])):
    output = tmp_path / f"soup-{len(paths)}"
    argv = ["soup", f"--inputs={','.join(map(str, paths))}"]
    assert main.call([*argv, f"--workdir={output}"]) == 0
    said = capsys.readouterr().err
    assert soups.alike(checkpoint.find(output)) == [
      f"ingredient_{number}" for number in named
    ]
    assert ("the same weights as an ingredient" in said) == bool(named)
