"""A GGUF file teaches in llama.cpp what its model gives in JAX."""

import numpy as np
import pytest

import embeddinggemma as eg
from embeddinggemma.cli import main
from embeddinggemma.convert.write import exporting
from embeddinggemma.convert.write.gguf import FORMAT
from embeddinggemma.mining import teacher
from embeddinggemma.mining.teacher import Item
from embeddinggemma.mining.teachers import llama_cpp
from embeddinggemma.mining.teachers.kind import TeachConfig
from embeddinggemma.types import BadInput, Truncated

ITEMS = [
  *(Item("query", f"what is at {n} o'clock", "") for n in range(20)),
  *(Item("document", "the red river " * n, f"title {n}") for n in range(1, 9)),
  Item("sts", " <eos> looks\tlike a token", ""),
]


@pytest.fixture(scope="module")
def exports(tmp_path_factory, model):
  """(dtype) -> the file of the small embedder."""
  made = {}

  def export(dtype):
    if dtype not in made:
      folder = tmp_path_factory.mktemp(dtype)
      exporting.export(FORMAT, str(model), folder / "out", dtype)
      [made[dtype]] = (folder / "out").glob("*.gguf")
    return made[dtype]

  return export


def config(path, **more):
  return TeachConfig(str(path), 0, "float32", 0, **more)


@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.99999)])
def test_its_vectors_are_those_of_jax(exports, tmp_path, dtype, least):
  pytest.importorskip("xllamacpp", reason="needs llama.cpp")
  path = exports(dtype)
  given = llama_cpp.opened(config(path, threads=1))
  about = teacher.teach(ITEMS, given, tmp_path, dtype="float32")
  found = teacher.open_vectors(tmp_path).rows(teacher.keys_of(ITEMS))
  ours = eg.load(path)
  want = np.stack([ours([i.text], i.prompt, [i.title])[0] for i in ITEMS])
  assert np.sum(found * want, axis=1).min() > least
  assert about["truncated"]["cut"] == 0
  assert about["origin"]["kind"] == "llama.cpp"
  assert about["origin"]["weights"] == about["teacher"]["file"]
  assert about["teacher"]["identity"]["max_length"] == ours.config.max_length


def test_texts_are_cut_where_the_model_is(exports, tmp_path):
  pytest.importorskip("xllamacpp", reason="needs llama.cpp")
  path = exports("float32")
  ours = eg.load(path)
  long = Item("document", "river house " * ours.config.max_length, "")
  given = llama_cpp.opened(config(path, threads=1))
  with pytest.warns(Truncated, match="1 of 1 text is longer"):
    teacher.teach([long], given, tmp_path, dtype="float32")
  found = teacher.open_vectors(tmp_path).rows(teacher.keys_of([long]))
  with pytest.warns(Truncated):
    want = ours([long.text], "document")
  assert np.sum(found * want) > 0.99999


def test_what_is_no_teacher_is_one_line(
  exports, tmp_path, capsys, monkeypatch, data_folder
):
  with pytest.raises(BadInput, match=r"none\.gguf does not exist"):
    llama_cpp.opened(config(tmp_path / "none.gguf"))
  (tmp_path / "text.gguf").write_text("no model")
  with pytest.raises(BadInput, match=r"text\.gguf"):
    llama_cpp.opened(config(tmp_path / "text.gguf"))
  path = exports("float32")
  keys = {"general.architecture": "bert", "bert.pooling_type": 1}
  other = lambda file: file._replace(keys=keys)
  read = llama_cpp.gguf_file.read_header
  monkeypatch.setattr(
    llama_cpp.gguf_file, "read_header", lambda path: other(read(path))
  )
  with pytest.raises(BadInput, match=r"'bert', and only .* llama-server"):
    llama_cpp.opened(config(path))
  keys.pop("bert.pooling_type")
  with pytest.raises(BadInput, match="'bert' that makes no embeddings"):
    llama_cpp.opened(config(path))
  monkeypatch.undo()
  monkeypatch.setattr(llama_cpp, "_runtime", lambda: None)
  argv = ["teach", "--config=configs/teach.py", f"--data={data_folder}"]
  argv += [f"--output={tmp_path / 'x'}", f"--config.teacher={path}"]
  assert main.call(argv) == 2
  assert "pip install 'embeddinggemma[gguf]'" in capsys.readouterr().err
