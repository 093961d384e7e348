"""Teachers, hard negatives and mixtures as a user asks for them."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from embeddinggemma import checkpoint
from embeddinggemma.cli import main
from embeddinggemma.data import sources
from embeddinggemma.mining import teacher


def last_error(capsys) -> str:
  return capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def taught(data_folder, tmp_path_factory) -> pathlib.Path:
  """The vectors of a TF-IDF teacher of width 24."""
  output = tmp_path_factory.mktemp("taught")
  argv = ["teach", "--config=configs/teach.py", f"--data={data_folder}"]
  argv += [f"--output={output}", "--config.width=24"]
  assert main.call(argv) == 0
  return output


@pytest.fixture(scope="module")
def mined(data_folder, tmp_path_factory) -> pathlib.Path:
  """Pairs with negatives that BM25 found."""
  output = tmp_path_factory.mktemp("mined")
  assert main.call(mining(data_folder, output)) == 0
  return output


def mining(data: pathlib.Path, output: pathlib.Path) -> list[str]:
  return [
    "mine",
    "--config=configs/mine.py",
    f"--data={data}",
    f"--output={output}",
    "--config.search=stemmed",
    "--config.negatives=2",
    "--config.near_words=2",
  ]


def finetuning(data: pathlib.Path, workdir: pathlib.Path) -> list[str]:
  return [
    "train",
    f"--config=configs/finetune.py:tiny,data={data}",
    f"--workdir={workdir}",
    "--config.steps=2",
    "--config.model.num_layers=1",
  ]


def test_a_student_projects_to_a_teacher_of_another_width(
  mined, taught, tmp_path
):
  argv = finetuning(mined, tmp_path)
  argv += [f"--config.teacher={taught}", "--config.loss.distill=1"]
  argv += ["--config.loss.teacher_width=24", "--config.negatives=2"]
  assert main.call(argv) == 0
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert all(row["distill"] > 0 for row in rows)
  params = checkpoint.read_params(checkpoint.find(tmp_path))
  assert params["aux"]["projection"].shape == (32, 24)
  recipe = json.loads(
    checkpoint.read_files(checkpoint.find(tmp_path))["recipe.json"]
  )
  about = teacher.open_vectors(taught).about
  assert recipe["data"]["teacher"] == about["hash"]
  assert recipe["teachers"] == [about["origin"]]
  assert about["origin"]["kind"] == "tfidf"


def test_what_goes_on_from_a_student_keeps_its_projection(
  data_folder, taught, tmp_path, capsys
):
  distil = [f"--config.teacher={taught}", "--config.loss.distill=1"]
  distil += ["--config.loss.teacher_width=24", "--config.optimizer.lr=1e-20"]
  assert main.call(finetuning(data_folder, tmp_path / "a") + distil) == 0
  start = [f"--config.init_from={tmp_path / 'a'}"]
  capsys.readouterr()
  assert (
    main.call(finetuning(data_folder, tmp_path / "b") + distil + start) == 0
  )
  assert "fresh: nothing" in " ".join(capsys.readouterr().err.split())
  a, b = (
    checkpoint.read_params(checkpoint.find(tmp_path / name)) for name in "ab"
  )
  projection = lambda params: params["aux"]["projection"]
  np.testing.assert_allclose(projection(a), projection(b), rtol=1e-6)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--config.loss.distill=1"], "needs a teacher; name the folder"),
    (["--config.teacher=TAUGHT"], "loss.distill is 0; set the weight"),
    (
      ["--config.teacher=TAUGHT", "--config.loss.distill=1"],
      "width 24, not 32; set loss.teacher_width=24",
    ),
    (
      ["--config.teacher=none", "--config.loss.distill=1"],
      "none: holds no teacher's vectors",
    ),
    (["--config.loss.distance=l3"], "loss.distance='l3' is unknown"),
    (["--config.loss.hardness=-1"], "loss.hardness=-1"),
  ],
)
def test_a_teacher_that_does_not_fit_is_one_line(
  flags, message, data_folder, taught, tmp_path, capsys
):
  flags = [flag.replace("TAUGHT", str(taught)) for flag in flags]
  argv = finetuning(data_folder, tmp_path / "w") + flags
  assert main.call(argv) == 2
  assert message in last_error(capsys)
  assert not (tmp_path / "w").exists()


def test_texts_that_a_teacher_has_not_seen_are_counted(
  write_pairs, taught, tmp_path, capsys
):
  rows = [{"query": f"new q {n}", "positive": f"new p {n}"} for n in range(40)]
  data = write_pairs(tmp_path / "new", rows)
  argv = finetuning(data, tmp_path / "w")
  argv += [f"--config.teacher={taught}", "--config.loss.distill=1"]
  argv += ["--config.loss.teacher_width=24"]
  assert main.call(argv) == 2
  assert "run `teach` on this data" in last_error(capsys)


def test_mined_pairs_are_pairs_with_negatives(data_folder, mined):
  before, _ = sources.read_pairs(data_folder)
  after, _ = sources.read_pairs(mined)
  strip = lambda pairs: sorted((p.task, p.query, p.positive) for p in pairs)
  assert strip(before) == strip(after)
  assert sum(len(pair.negatives) for pair in after) > len(after)
  answers = {(p.query, p.positive) for p in before}
  for pair in after:
    assert len(pair.negatives) <= 2
    assert not any((pair.query, n) in answers for n in pair.negatives)


def test_mining_again_changes_nothing(data_folder, mined, tmp_path):
  """Also in a folder where it was killed before the pairs were written."""
  again = tmp_path / "again"
  shutil.copytree(mined, again)
  (path,) = sorted(again.glob("*/pairs.jsonl"))[:1]
  whole = path.read_bytes()
  path.unlink()
  assert main.call(mining(data_folder, again)) == 0
  assert path.read_bytes() == whole


def test_explain_says_why(data_folder, mined, capsys):
  argv = ["mine", "--config=configs/mine.py", f"--data={data_folder}"]
  assert main.call([*argv, f"--output={mined}", "--explain=0"]) == 0
  said = capsys.readouterr().out
  assert "positive, score" in said and "chosen" in said
  assert main.call([*argv, f"--output={mined}", "--explain=9999"]) == 2
  assert "no row 9999" in last_error(capsys)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--config.search=dense"], "dense search needs --model=DIR"),
    (["--config.search=fast"], "search='fast' is unknown"),
    (["--config.negatives=30"], "use 1 <= negatives <= top_k"),
    (["--output=DATA"], "is --data; name another folder"),
    (["--data=none"], "none: no such folder"),
  ],
)
def test_bad_mining_is_one_line(flags, message, data_folder, tmp_path, capsys):
  flags = [flag.replace("DATA", str(data_folder)) for flag in flags]
  argv = [*mining(data_folder, tmp_path / "w"), *flags]
  assert main.call(argv) == 2
  assert message in last_error(capsys)


@pytest.fixture(scope="module")
def searched(data_folder, trained, tmp_path_factory):
  """(the command of a search, its workdir, what it picked)."""
  workdir = tmp_path_factory.mktemp("searched")
  argv = [
    "mixture",
    f"--config=configs/mixture.py:tiny,data={data_folder}",
    f"--workdir={workdir}",
    f"--config.finetune.init_from={trained}",
    "--config.finetune.model.num_layers=1",
    "--config.search.steps=1",
    "--config.search.proposed=1",
    "--config.search.optimizer.name=random",
    "--pick=2",
  ]
  assert main.call(argv) == 0
  return argv, workdir


def test_a_search_pays_no_trial_twice(searched, capsys):
  argv, workdir = searched
  trials = sorted((workdir / "mixture").glob("*/trial-*/metrics.jsonl"))
  assert len(trials) == 4
  before = [path.stat().st_mtime_ns for path in trials]
  capsys.readouterr()
  assert main.call([*argv, "--json"]) == 0
  assert [path.stat().st_mtime_ns for path in trials] == before
  picked = json.loads(capsys.readouterr().out)
  assert len(picked) == 2
  for item in picked:
    assert sum(item["weights"].values()) == pytest.approx(1)
    assert item["reason"].startswith("trial ")


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--pick=9"], "search.pick=9 of 4 trials; pick fewer"),
    (["--config.search.given=({'nope': 1.0},)"], "nope"),
    (["--config.search.given=({'code': .2},)"], "sum to"),
    (["--config.search.optimizer.name=grid"], "optimizer.name='grid'"),
    (["--config=configs/prefinetune.py:tiny"], "give --config=configs/mixture"),
  ],
)
def test_a_bad_search_is_one_line(flags, message, searched, capsys):
  argv, _ = searched
  if flags[0].startswith("--config="):
    argv = ["mixture", argv[2]]
  assert main.call([*argv, *flags]) == 2
  assert message in last_error(capsys)


def test_what_a_parent_says_alike_stays_as_it_wrote_it(
  data_folder, trained, tmp_path
):
  """So a base of another version can be averaged with what it became."""
  place = checkpoint.find(trained)
  files = checkpoint.read_files(place)
  model = json.loads(files["model.json"])
  del model["window_rule"]
  known = json.loads(files["prompts.json"]) | {"Own": "own: "}
  files |= {
    "model.json": json.dumps(model).encode(),
    "prompts.json": json.dumps(known).encode(),
    "LICENSE": b"Ours alone.",
    "USE_POLICY.md": b"Be kind.",
  }
  base, tuned = tmp_path / "base", tmp_path / "tuned"
  checkpoint.write(base, checkpoint.read_params(place), files)
  argv = [*finetuning(data_folder, tuned), f"--config.init_from={base}"]
  assert main.call(argv) == 0
  got = checkpoint.read_files(checkpoint.find(tuned))
  for name in ("model.json", "prompts.json", "LICENSE", "USE_POLICY.md"):
    assert got[name] == files[name]
  argv = ["soup", f"--inputs={base},{tuned}", f"--workdir={tmp_path / 'soup'}"]
  assert main.call(argv) == 0
