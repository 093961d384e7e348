"""What is told of a command line: no path of a machine, and no secret."""

import shlex

import pytest

from embeddinggemma.lineage import public

MAIN = "/home/ann/src/embeddinggemma/__main__.py"


@pytest.mark.parametrize(
  ("words", "told"),
  [
    (
      ["import", "--from=/home/ann/embeddinggemma-300m", "--workdir=base"],
      ["import", "--from=embeddinggemma-300m", "--workdir=base"],
    ),
    (
      [
        "run",
        "--config=configs/recipe.py:pairs,data=/home/ann lee/my pairs,base=../../b",
        "--workdir",
        "/home/ann/runs/tuned",
      ],
      [
        "run",
        "--config=configs/recipe.py:pairs,data=my pairs,base=b",
        "--workdir",
        "tuned",
      ],
    ),
    (
      ["train", "--config=/opt/lib/embeddinggemma/configs/qat.py:tiny"],
      ["train", "--config=configs/qat.py:tiny"],
    ),
    (
      ["soup", "--inputs=/a/one,/a/two,three", "--workdir=~/out"],
      ["soup", "--inputs=one,two,three", "--workdir=out"],
    ),
    (
      ["teach", "--config.teacher=https://ann:pw@host:8080/v1?key=abc#x"],
      ["teach", "--config.teacher=https://host:8080/v1"],
    ),
    (
      ["teach", "--config.teacher=gemini:gemini-embedding-001"],
      ["teach", "--config.teacher=gemini:gemini-embedding-001"],
    ),
    (
      ["teach", "--config.service.key=plain", "--config.tokenizer=/a/b"],
      ["teach", "--config.service.key=HIDDEN", "--config.tokenizer=b"],
    ),
    (
      ["teach", "--api-key", "plain", "--config.service.key='abc'"],
      ["teach", "--api-key", "HIDDEN", "--config.service.key='HIDDEN'"],
    ),
    (
      ["teach", "--config.service.tokens_per_minute=5.5", "--x=hf_" + "a" * 30],
      ["teach", "--config.service.tokens_per_minute=5.5", "--x=HIDDEN"],
    ),
    (
      ["export", "--model=C:\\Users\\ann\\m", "--output=\\\\host\\share\\x"],
      ["export", "--model=m", "--output=x"],
    ),
    (
      ["index", "--input=file:///home/ann/notes", "--model=/", "--output=~"],
      ["index", "--input=notes", "--model=/", "--output=~"],
    ),
  ],
)
def test_a_command_is_told_without_paths_and_secrets(words, told):
  line = public.command([MAIN, *words])
  assert shlex.split(line) == ["embeddinggemma", *told]


@pytest.mark.parametrize(
  "argv",
  [
    None,
    "train",
    [],
    ["embeddinggemma"],
    ["/home/ann/script.py", "--token=1"],
    ["ipykernel_launcher.py", "-f", "/home/ann/kernel.json"],
    ["-c", "train"],
  ],
)
def test_another_program_s_command_is_not_told(argv):
  assert public.command(argv) == ""


@pytest.mark.parametrize(
  "program",
  ["embeddinggemma", "/usr/bin/embeddinggemma", "x\\embeddinggemma.exe"],
)
def test_the_installed_script_is_ours(program):
  assert public.command([program, "doctor", "m"]) == "embeddinggemma doctor m"


def test_data_are_called_by_their_last_part_or_repository(tmp_path):
  folder = tmp_path / "a" / "pairs"
  folder.mkdir(parents=True)
  assert public.name(str(folder)) == "pairs"
  assert public.name("owner/data") == "owner/data"
  assert public.name("owner/data:subset") == "owner/data:subset"
  assert public.name(str(tmp_path / "gone")) == "gone"
