"""Files of tensors: what is read and written, and every fault by its name.

The format's own library is the judge of both directions.
"""

import json
import os
import stat

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from embeddinggemma.convert import folder as folders
from embeddinggemma.convert import safetensors_io
from embeddinggemma.convert.safetensors_io import INDEX, WEIGHTS
from embeddinggemma.types import BadInput

RNG = np.random.default_rng(0)
ARRAYS = {
  "b.weight": RNG.standard_normal((5, 3)).astype(np.float32),
  "a.weight": RNG.standard_normal((7,)).astype(np.float32),
  "empty": np.zeros((0, 4), np.float32),
}


def write(path, arrays=ARRAYS, dtype="float32"):
  shapes = {name: array.shape for name, array in arrays.items()}
  with safetensors_io.Writer(path, shapes, dtype) as writer:
    for name, array in arrays.items():
      writer.add(name, array)
  return path


def test_the_library_reads_what_is_written(tmp_path, monkeypatch):
  monkeypatch.setattr(safetensors_io, "_BLOCK", 4)
  path = write(tmp_path / WEIGHTS)
  found = safetensors.numpy.load_file(path)
  assert found.keys() == ARRAYS.keys()
  for name, array in ARRAYS.items():
    np.testing.assert_array_equal(found[name], array)
  with safetensors.safe_open(path, "numpy") as file:
    assert file.metadata() == {"format": "pt"}


def test_bfloat16_is_rounded_to_nearest(tmp_path):
  path = write(tmp_path / WEIGHTS, dtype="bfloat16")
  tensors = safetensors_io.open_folder(tmp_path)
  assert tensors["b.weight"].dtype == ml_dtypes.bfloat16
  assert path.stat().st_size < 2 * 22 + 400
  want = ARRAYS["b.weight"].astype(ml_dtypes.bfloat16).astype(np.float32)
  np.testing.assert_array_equal(safetensors_io.read(tensors["b.weight"]), want)


@pytest.mark.parametrize(
  "dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=str
)
def test_what_the_library_writes_is_read(tmp_path, monkeypatch, dtype):
  """In blocks smaller than a tensor, and always as float32."""
  monkeypatch.setattr(safetensors_io, "_BLOCK", 4)
  arrays = {name: array.astype(dtype) for name, array in ARRAYS.items()}
  safetensors.numpy.save_file(arrays, tmp_path / WEIGHTS)
  tensors = safetensors_io.open_folder(tmp_path)
  assert tensors.keys() == arrays.keys()
  for name, array in arrays.items():
    read = safetensors_io.read(tensors[name])
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, array.astype(np.float32))
  a, b = tensors["a.weight"], tensors["b.weight"]
  assert safetensors_io.same(b, b) and not safetensors_io.same(a, b)


def test_a_file_has_the_mode_of_the_umask(tmp_path):
  old = os.umask(0o027)
  try:
    mode = write(tmp_path / WEIGHTS).stat().st_mode
  finally:
    os.umask(old)
  assert stat.S_IMODE(mode) == 0o640


def test_a_file_that_is_not_finished_does_not_appear(tmp_path):
  shapes = {"a": (2,), "b": (2,)}
  with pytest.raises(KeyboardInterrupt):
    with safetensors_io.Writer(tmp_path / WEIGHTS, shapes, "float32") as writer:
      writer.add("a", np.zeros(2, np.float32))
      raise KeyboardInterrupt
  assert list(tmp_path.iterdir()) == []


def header(tree, data=b"", length=None):
  text = json.dumps(tree).encode() if isinstance(tree, dict) else tree
  size = len(text) if length is None else length
  return size.to_bytes(8, "little") + text + data


def entry(offsets, shape=(2,), dtype="F32"):
  return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


WHOLE = header({"a": entry((0, 8))}, bytes(8))


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (WHOLE[:-1], "truncated: it has .* of .* bytes; download it again"),
    (WHOLE[:30], "truncated"),
    (b"", "not a safetensors file"),
    (b"\xff" * 64, "not a safetensors file"),
    (b"version https://git-lfs", "Git LFS pointer; fetch the file itself"),
    (WHOLE + b"x", "has 1 bytes that no tensor takes"),
    (header(b"{nonsense"), "corrupt header"),
    (header(b"[]"), "corrupt header"),
    (header({"a": {}}), "corrupt header"),
    (header({"a": entry((0, 4))}, bytes(4)), "4 bytes for F32 of shape"),
    (header({"a": entry((0, 8), (-2, -1))}, bytes(8)), "no whole number"),
    (header({"a": entry((0, 2), dtype="I8")}, bytes(2)), "type I8"),
    (
      header({"a": entry((0, 8)), "b": entry((4, 12))}, bytes(12)),
      "tensor 'b' begins at byte",
    ),
    (header({"a": entry((8, 16))}, bytes(16)), "tensor 'a' begins at byte"),
  ],
)
def test_a_damaged_file_is_named(tmp_path, content, message):
  (tmp_path / WEIGHTS).write_bytes(content)
  with pytest.raises(BadInput, match=message) as error:
    safetensors_io.open_folder(tmp_path)
  assert str(tmp_path / WEIGHTS) in str(error.value)
  assert "\n" not in str(error.value)


def shards(folder):
  """Two shards and their index."""
  weight_map = {"a": "one.safetensors", "b": "two.safetensors"}
  for name, file in weight_map.items():
    write(folder / file, {name: np.full((2,), ord(name), np.float32)})
  (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
  return weight_map


def test_shards_are_one_set_of_tensors(tmp_path):
  shards(tmp_path)
  tensors = safetensors_io.open_folder(tmp_path)
  read = {name: safetensors_io.read(t)[0] for name, t in tensors.items()}
  assert read == {"a": ord("a"), "b": ord("b")}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"b": "gone.safetensors"}, "gone.safetensors is missing"),
    ({"c": "two.safetensors"}, "lacks the tensor 'c'"),
    ({"b": "../two.safetensors"}, "leaves the folder"),
    ({"b": "/etc/passwd"}, "leaves the folder"),
    ({"b": "link.safetensors"}, "is a link out of its folder"),
    ({"b": "pytorch_model.bin"}, "pytorch_model.bin is a pickle"),
    ({"b": 1}, "has no weight_map"),
  ],
)
def test_a_wrong_index_is_named(tmp_path, change, message):
  folder = tmp_path / "model"
  folder.mkdir()
  weight_map = shards(folder)
  write(tmp_path / "two.safetensors", {"b": np.zeros(2, np.float32)})
  (folder / "link.safetensors").symlink_to(tmp_path / "two.safetensors")
  (folder / "pytorch_model.bin").write_bytes(b"")
  (folder / INDEX).write_text(json.dumps({"weight_map": weight_map | change}))
  with pytest.raises(BadInput, match=message):
    safetensors_io.open_folder(folder)


@pytest.mark.parametrize(
  "name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt"]
)
def test_a_pickle_is_refused_by_name(tmp_path, name):
  (tmp_path / name).write_bytes(b"")
  with pytest.raises(BadInput, match=f"{name} is a pickle.*safetensors"):
    safetensors_io.open_folder(tmp_path)


def test_the_links_of_a_hub_cache_pass(tmp_path):
  """snapshots/REVISION/FILE -> blobs/HASH is how it keeps what it fetched."""
  snapshot = tmp_path / "snapshots" / "abc"
  snapshot.mkdir(parents=True)
  (tmp_path / "blobs").mkdir()
  write(tmp_path / "blobs" / "1234")
  (snapshot / "2_Dense").mkdir()
  (snapshot / WEIGHTS).symlink_to("../../blobs/1234")
  (snapshot / "2_Dense" / WEIGHTS).symlink_to("../../../blobs/1234")
  for place in (snapshot, snapshot / "2_Dense"):
    assert safetensors_io.open_folder(place).keys() == ARRAYS.keys()
  (tmp_path / "other").write_bytes(b"")
  (snapshot / "config.json").symlink_to("../../other")
  with pytest.raises(BadInput, match="a link out of its folder"):
    folders.read_json(snapshot, "config.json")
