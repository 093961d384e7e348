"""The scripts of launch/, with stand-ins for the clouds' own programs.

The real services cannot be had in a test. The stand-ins record how they are
called and replay the states that the Cloud TPU API goes through.
"""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import tarfile

import pytest
import yaml

from embeddinggemma import generations
from embeddinggemma.launch import babysit, launch
from embeddinggemma.launch.request import Launch
from embeddinggemma.types import BadInput

ROOT = pathlib.Path(__file__).parent.parent.parent

# Keeps the words of each call on a line, and the file that it was given.
TOOL = """#!/usr/bin/env bash
printf '%q ' "$(basename "$0")" "$@" >>"$CALLS"
echo >>"$CALLS"
file=${!#}
file=${file#--filename=}
if [[ -f $file ]]; then cp "$file" "$CALLS.$(wc -l <"$CALLS")"; fi
"""

# The next line of STATES at each look; the last one stays. "ACTIVE 0-0 7" is
# a slice whose first host has ended with code 7.
GCLOUD = """#!/usr/bin/env bash
printf '%q ' gcloud "$@" >>"$CALLS"
echo >>"$CALLS"
next() {
  head -n 1 "$STATES"
  if (($(wc -l <"$STATES") > 1)); then sed -i 1d "$STATES"; fi
}
case "$*" in
*" describe "*)
  if [[ ! -e $STATES.there ]]; then
    echo "ERROR: (gcloud) NOT_FOUND: no such resource" >&2
    exit 1
  fi
  read -r state who code < <(next)
  if [[ $state == BROKEN ]]; then
    echo "ERROR: (gcloud) the server is away" >&2
    exit 1
  fi
  if [[ -n $who ]]; then echo "$who $code" >>"$STATES.ended"; fi
  echo "$state"
  ;;
*" create "*)
  if [[ -n ${REFUSE:-} || $(head -n 1 "$STATES") == REFUSED ]]; then
    next >/dev/null
    echo "ERROR: quota of 0 chips" >&2
    exit 1
  fi
  touch "$STATES.there"
  ;;
*" delete "*)
  if [[ $(head -n 1 "$STATES") == STUCK ]]; then
    echo "ERROR: cannot be deleted while it is being created" >&2
    exit 1
  fi
  rm "$STATES.there"
  ;;
"storage cat "*) cat "$STATES.ended" 2>/dev/null || exit 1 ;;
"storage cp "*) cp "$3" "$CALLS.archive" ;;
esac
"""


@pytest.fixture
def tools(tmp_path, monkeypatch):
  """A PATH of stand-ins in this process; returns what reads their calls."""
  places = tmp_path / "bin"
  places.mkdir()
  for name, text in (("sky", TOOL), ("kubectl", TOOL), ("gcloud", GCLOUD)):
    (places / name).write_text(text)
    (places / name).chmod(0o755)
  calls = tmp_path / "calls"
  calls.touch()
  monkeypatch.setenv("PATH", f"{places}{os.pathsep}{os.environ['PATH']}")
  monkeypatch.setenv("CALLS", str(calls))
  monkeypatch.setenv("STATES", str(tmp_path / "states"))
  return lambda: [shlex.split(x) for x in calls.read_text().splitlines()]


def script(name: str, *words: str, **env: str) -> subprocess.CompletedProcess:
  """launch/NAME.sh, with this Python."""
  return subprocess.run(
    ["bash", ROOT / "launch" / f"{name}.sh", *words],
    env=os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)} | env,
    capture_output=True,
    text=True,
  )


COMMON = ("--name=demo", "--topology=v5e:4x4", "--bucket=gs://mine")
TINY = "--config=configs/finetune.py:tiny"
SMOKE = ("--", "smoke", "--workdir=/bucket/smoke")
TRAIN = ("sky", *COMMON, "--", "train", TINY, "--workdir=/bucket/w")
PIPELINE = ("pipeline", "--texts=T", "--pairs=P", "--workdir=/bucket/w")


@pytest.mark.parametrize(
  "name", ["sky", "jobset", "gcloud", "smoke", "pipeline", "local", "test"]
)
def test_help_needs_no_environment(name):
  done = script(name, "--help", PYTHON="/none")
  assert done.returncode == 0
  assert f"bash launch/{name}.sh" in done.stdout


def test_sky_is_given_the_task(tools, tmp_path, monkeypatch):
  monkeypatch.setenv("WANDB_API_KEY", "very-secret")
  done = script("sky", *COMMON, "--secret=WANDB_API_KEY", *SMOKE)
  assert done.returncode == 0, done.stderr
  ((*words, file),) = tools()
  assert words == [
    *("sky", "jobs", "launch", "--name=demo"),
    *("--detach-run", "--yes", "--secret=WANDB_API_KEY"),
  ]
  assert not pathlib.Path(file).exists()  # it was for `sky` alone
  text = (tmp_path / "calls.1").read_text()
  task = yaml.safe_load(text)
  assert task["run"].endswith("bash launch/smoke.sh --workdir=/bucket/smoke\n")
  assert task["secrets"] == {"WANDB_API_KEY": None}
  assert "very-secret" not in text + done.stdout + str(words)


def test_kubectl_is_given_the_jobset(tools, tmp_path):
  code = launch.run(["jobset", *COMMON, "--image=image:1", *SMOKE])
  assert code == 0
  ((*words, file),) = tools()
  assert words == ["kubectl", "create"] and file.startswith("--filename=")
  assert yaml.safe_load((tmp_path / "calls.1").read_text())["kind"] == "JobSet"


def test_a_tool_that_fails_ends_the_launch(tools, tmp_path):
  (tmp_path / "bin" / "kubectl").write_text("#!/bin/sh\nexit 3\n")
  assert launch.run(["jobset", *COMMON, "--image=image:1", *SMOKE]) == 3


def test_a_tool_that_is_missing_is_named(tools, monkeypatch):
  monkeypatch.setenv("PATH", "/usr/bin:/bin")
  with pytest.raises(BadInput, match="sky is not on PATH"):
    launch.run(["sky", *COMMON, *SMOKE])


def test_a_dry_run_calls_nothing(tools):
  """And what it prints is YAML, a document for each point of a sweep."""
  done = script(
    "sky",
    *(*COMMON, "--dry-run", "--", "sweep"),
    TINY,
    "--sweep=product(seed=[0, 1], optimizer.lr=[1e-4])",
    "--workdir=/bucket/swept",
  )
  assert done.returncode == 0, done.stderr
  assert tools() == []
  first, second = yaml.safe_load_all(done.stdout)
  assert first["name"] != second["name"]
  assert first["name"].startswith("demo-") and len(first["name"]) == 13
  line = first["run"].splitlines()[-1]
  assert line == (
    "exec python -m embeddinggemma train --config=configs/finetune.py:tiny"
    " --workdir=/bucket/swept/seed=0,optimizer.lr=0.0001 --config.seed=0"
    " --config.optimizer.lr=0.0001"
  )


@pytest.mark.parametrize(
  ("words", "reason"),
  [
    ([], "'' is no route; give sky, jobset, gcloud"),
    (["sky", *COMMON[1:]], "required: --name"),
    (["sky", *COMMON, "--nam=x"], "unrecognized arguments: --nam=x"),
    (["sky", *COMMON, "--num_slices=two"], "invalid int value: 'two'"),
    (["sky", *COMMON[:1], "--topology=v9:1", *SMOKE], "no TPU generation 'v9'"),
    (
      ["sky", *COMMON[:1], "--topology=tpu7x:2x2x1", *COMMON[2:], *SMOKE],
      "tpu7x is reached by launch/jobset.sh",
    ),
    (["gcloud", *COMMON, *SMOKE], "required: --zone"),
    (["sky", *COMMON, "--", "trian"], "did you mean 'train'"),
    (
      ["sky", *COMMON, "--", "train", "--config.step=3", TINY],
      "unknown config key 'step'",
    ),
    (["sky", *COMMON, "--", "train", TINY], "train: --workdir is missing"),
    ([*TRAIN, "--nonsense=1"], "unknown flag '--nonsense'"),
    ([*TRAIN, "--config.mesh.rules=foo"], "mesh.rules='foo' is unknown"),
    ([*TRAIN, "--config.batch_size=17"], "does not divide into 16 groups"),
    ([*TRAIN, "--config.mesh.fsdp=3"], "mesh.fsdp=3 does not give 16 devices"),
    ([*TRAIN, "--config.init_from=gs://a"], "init_from: gs://a is an address"),
    ([*TRAIN, "--workdir=gs://a/b"], "--workdir: gs://a/b is an address"),
    (["sky", *COMMON, "--zone=a b", *SMOKE], "--zone='a b': give one word"),
    (["sky", *COMMON, "--", "smoke", "--bogus"], "unknown flag '--bogus'"),
    (
      ["sky", *COMMON, "--", *PIPELINE, "--preset=nope"],
      "unknown preset 'nope'",
    ),
    (["sky", *COMMON, "--", *PIPELINE, "--seeds=x *"], "--seeds='x *': give"),
    (
      ["sky", *COMMON, "--capacity=reserved", "--reservation=a\nb", *SMOKE],
      "--reservation='a\\nb': give one word",
    ),
    (
      ["gcloud", *COMMON, "--zone=", "--project=p", *SMOKE],
      "--zone is empty; give a value",
    ),
    (
      ["gcloud", *COMMON, "--zone=z", "--project=p", "--", "sweep"],
      "one launch/gcloud.sh watches one slice",
    ),
  ],
)
def test_bad_input_is_found_before_anything_is_asked_for(tools, words, reason):
  with pytest.raises(BadInput) as error:
    launch.run(words)
  assert reason in str(error.value)
  assert "\n" not in str(error.value)
  assert tools() == []


# The babysitter.


@pytest.fixture
def watched(tools, tmp_path):
  """states -> the exit code of a babysitter, and its calls by verb."""
  one = Launch(
    "demo",
    generations.parse("v5e:4x4"),
    ("smoke",),
    bucket="gs://mine",
    restarts=3,
  )
  request = babysit.Request(one, "zone", "project", poll=0.001)

  def watch(*states: str, there: bool = False) -> tuple[int, list[str]]:
    if there:
      (tmp_path / "states.there").touch()
    (tmp_path / "states").write_text("\n".join(states) + "\n")
    code = babysit.babysit(request, ROOT)
    verbs = [words[4] for words in tools() if "queued-resources" in words]
    return code, [verb for verb in verbs if verb != "describe"]

  return watch


def test_the_code_of_the_command_is_the_launch_s(watched, tools, tmp_path):
  code, verbs = watched(
    *("WAITING_FOR_RESOURCES", "PROVISIONING"),
    *("ACTIVE", "ACTIVE 0-0 0"),
  )
  assert (code, verbs) == (0, ["create", "delete"])
  with tarfile.open(tmp_path / "calls.archive") as tar:
    names = tar.getnames()
  assert {"pyproject.toml", "launch/gcloud.sh"} <= set(names)
  assert not any(name.startswith((".git/", ".venv")) for name in names)


def test_a_slice_that_is_lost_is_asked_for_anew(watched, capfd):
  code, verbs = watched(
    *("ACTIVE", "SUSPENDING"),
    *("PROVISIONING", "ACTIVE", "PREEMPTED"),
    *("WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE 0-0 0"),
  )
  assert (code, verbs) == (0, 3 * ["create", "delete"])
  assert "demo: PREEMPTED" in capfd.readouterr().err


def test_requests_have_a_bound(watched):
  assert watched("FAILED") == (42, 3 * ["create", "delete"])


def test_the_first_fault_of_any_host_counts(watched):
  code, _ = watched("ACTIVE", "ACTIVE 0-3 0", "ACTIVE 0-2 1")
  assert code == 1


def test_a_host_that_is_done_first_does_not_end_the_others(watched):
  """Host 3 ends long before host 0, which writes last."""
  code, verbs = watched(*("ACTIVE 0-3 0", "ACTIVE", "ACTIVE", "ACTIVE 0-0 0"))
  assert (code, verbs) == (0, ["create", "delete"])


def test_a_run_that_ended_before_its_slice_was_lost_is_done(watched):
  code, verbs = watched("ACTIVE", "SUSPENDED 0-0 0")
  assert (code, verbs) == (0, ["create", "delete"])


def test_what_is_there_is_watched_and_not_asked_for(watched, tools):
  code, verbs = watched("ACTIVE", "ACTIVE", "ACTIVE 0-0 0", there=True)
  assert (code, verbs) == (0, ["delete"])
  assert not any("cp" in words for words in tools())


def test_a_server_that_is_away_for_a_while_is_waited_for(watched):
  code, verbs = watched(*("BROKEN", "ACTIVE", "BROKEN", "ACTIVE 0-0 0"))
  assert (code, verbs) == (0, ["create", "delete"])


def test_a_server_that_stays_away_is_said(watched):
  with pytest.raises(BadInput, match="does not say how demo is"):
    watched("BROKEN")


def test_a_request_that_is_refused_is_said(watched):
  with pytest.raises(BadInput, match="quota of 0 chips"):
    watched("REFUSED", "ACTIVE")


def test_a_later_request_that_is_refused_is_made_again(watched):
  """The run may be days old by then."""
  code, verbs = watched("SUSPENDED", "REFUSED", "ACTIVE", "ACTIVE 0-0 0")
  assert (code, verbs) == (
    0,
    ["create", "delete", "create", "create", "delete"],
  )


def test_what_cannot_be_deleted_yet_is_deleted_later(watched):
  code, verbs = watched("ACTIVE 0-0 0", "STUCK", "ACTIVE")
  assert (code, verbs) == (0, ["create", "delete", "delete"])


def test_gcloud_sh_ends_as_the_command_did(tools, tmp_path):
  (tmp_path / "states").write_text("ACTIVE\nACTIVE 0-0 2\n")
  place = ("--zone=us-west4-a", "--project=mine", "--poll=0.01")
  done = script("gcloud", *COMMON, *place, *SMOKE)
  assert done.returncode == 2
  assert "demo ended with exit code 2" in done.stderr
  create = next(words for words in tools() if "create" in words)
  assert "--accelerator-type=v5litepod-16" in create
  assert "--zone=us-west4-a" in create


# The recipe on a pod.

SCRIPT = ROOT / "launch" / "pipeline.sh"
PYTHON = """#!/usr/bin/env bash
# -m embeddinggemma VERB FLAG...
echo "${LAUNCH_HOST:-0-0} ${JAX_PLATFORMS:-tpu} ${*:3}" >>"$CALLS"
if [[ $3 == "${SLOW:-}" ]]; then
  trap 'echo saved >>"$CALLS"; exit 42' TERM
  while :; do sleep 0.05; done
fi
if [[ $3 == train && -n ${LAUNCH_HOSTS:-} ]]; then # hosts train together
  stage=$CALLS.$(md5sum <<<"$*" | cut -c -8)
  touch "$stage.$LAUNCH_HOST"
  until [[ $(compgen -G "$stage.*" | wc -l) == "$LAUNCH_HOSTS" ]]; do
    sleep 0.02
  done
fi
if [[ $* == *"${FAIL:-none}"* ]]; then exit "$CODE"; fi
"""


@pytest.fixture
def pipeline(tmp_path):
  """(flags, environment) -> a running launch/pipeline.sh, and its calls."""
  python = tmp_path / "python"
  python.write_text(PYTHON)
  python.chmod(0o755)
  calls = tmp_path / "calls"

  workdir = f"--workdir={tmp_path / 'w'}"

  def start(*words: str, **env: str) -> subprocess.Popen:
    known = {"PYTHON": str(python), "CALLS": str(calls), "LAUNCH_POLL": "0.1"}
    plain = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    return subprocess.Popen(
      ["bash", SCRIPT, "--texts=T", "--pairs=P", workdir, *words],
      env=plain | known | env,
      stderr=subprocess.PIPE,
      text=True,
    )

  def told() -> list[str]:
    lines = calls.read_text().splitlines() if calls.exists() else []
    return [line.replace(str(tmp_path), "") for line in lines]

  return start, told


def verbs(lines: list[str]) -> list[str]:
  return [line.split()[2] for line in lines]


ALL = ["prepare", "train", "train", "teach", "train", "mine"]
ALL += ["train", "train", "train", "soup", "evaluate"]


def test_the_stages_run_in_order_and_once(pipeline):
  start, told = pipeline
  assert start().wait() == 0
  assert verbs(told()) == ALL
  assert "--inputs=/w/finetuned/0,/w/finetuned/1,/w/finetuned/2" in told()[-2]
  assert start().wait() == 0
  assert len(told()) == len(ALL)
  # Another command is another stage: one more finetuning, and what follows.
  assert start("--seeds=0 1 2 3").wait() == 0
  assert verbs(told()[len(ALL) :]) == ["train", "soup", "evaluate"]


def test_public_weights_take_the_place_of_pretraining(pipeline):
  start, told = pipeline
  assert start("--base=B", "--seeds=7").wait() == 0
  assert verbs(told())[:3] == ["import", "prepare", "train"]
  assert "configs/adapt.py" in told()[2]


def test_weights_that_were_imported_before_a_kill_are_taken(pipeline, tmp_path):
  start, told = pipeline
  (tmp_path / "w" / "decoder" / "checkpoints" / "0").mkdir(parents=True)
  assert start("--base=B").wait() == 0
  assert verbs(told())[:2] == ["prepare", "train"]


@pytest.mark.skipif(
  not os.environ.get("EMBEDDINGGEMMA_PIPELINE"),
  reason="takes minutes; EMBEDDINGGEMMA_PIPELINE=1 runs it",
)
def test_the_recipe_for_real(tmp_path, write_pairs, small_pairs):
  """Every stage, on a tiny model; the same command again does nothing."""
  pairs = small_pairs(400)
  data = write_pairs(tmp_path / "pairs", pairs)
  (tmp_path / "texts").mkdir()
  text = "\n".join(pair["positive"] for pair in pairs)
  (tmp_path / "texts" / "a.txt").write_text(text, encoding="utf-8")
  words = ("--preset=tiny", f"--texts={tmp_path / 'texts'}", f"--pairs={data}")
  words += (f"--workdir={tmp_path / 'w'}", "--seeds=0 1")
  done = script("pipeline", *words)
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "w" / "evaluate.json").is_file()
  again = script("pipeline", *words)
  assert again.returncode == 0
  assert [line[:10] for line in again.stderr.splitlines()] == ["pipeline: "]


@pytest.mark.parametrize("code", [1, 2, 42, 134])
def test_a_stage_that_fails_ends_the_script_with_its_code(pipeline, code):
  start, told = pipeline
  process = start(FAIL="configs/prefinetune.py", CODE=str(code))
  assert process.wait() == code
  assert f"prefinetune ended with exit code {code}" in process.stderr.read()
  assert len(told()) == 5
  # The same command goes on with that stage.
  assert start().wait() == 0
  assert verbs(told()[5:]) == ALL[4:]


def test_a_stage_gets_the_signal_and_its_code_comes_back(pipeline):
  start, told = pipeline
  process = start(SLOW="teach")
  while not any(" teach " in line for line in told()):
    assert process.poll() is None
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=20) == 42
  assert told()[-1] == "saved"


def test_hosts_train_together_and_do_the_rest_once(pipeline):
  """The second host waits for the first, whose TPU cannot start alone."""
  start, told = pipeline
  second = start("--seeds=0", LAUNCH_HOST="0-1", LAUNCH_HOSTS="2")
  first = start("--seeds=0", LAUNCH_HOST="0-0", LAUNCH_HOSTS="2")
  assert (first.wait(), second.wait()) == (0, 0)
  of = lambda host: [line[4:] for line in told() if line.startswith(host)]
  once = ["prepare", "teach", "mine", "soup", "evaluate"]
  assert all(line.startswith("tpu train") for line in of("0-1"))
  assert len(of("0-1")) == 4
  alone = [line.split()[1] for line in of("0-0") if line.startswith("cpu")]
  assert alone == once


def test_a_host_that_waits_leaves_when_told_to(pipeline):
  start, told = pipeline
  process = start(LAUNCH_HOST="0-1", LAUNCH_HOSTS="2")
  with pytest.raises(subprocess.TimeoutExpired):
    process.wait(timeout=0.5)
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=20) == 42
  assert told() == []


@pytest.mark.parametrize(
  ("words", "reason"),
  [
    (["--pears=P"], "unknown flag '--pears=P'"),
    (["--workdir="], "unknown flag '--workdir='"),
  ],
)
def test_a_wrong_flag_of_the_pipeline_is_named(pipeline, words, reason):
  process = pipeline[0](*words)
  assert process.wait() == 2
  assert reason in process.stderr.read()


def test_a_missing_flag_of_the_pipeline_is_named():
  done = script("pipeline", "--texts=T")
  assert (done.returncode, done.stdout) == (2, "")
  assert done.stderr == "error: --pairs is missing; see --help\n"
