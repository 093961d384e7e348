"""What a launch renders: golden files, invariants, quoting, bad input."""

import dataclasses
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys

import hypothesis
import pytest
import yaml
from hypothesis import strategies as st

from embeddinggemma import generations
from embeddinggemma.launch import document, jobset, queued, sky
from embeddinggemma.launch.request import BUCKET, RESTART, Launch, last_line
from embeddinggemma.types import BadInput

GOLDEN = pathlib.Path(__file__).parent / "golden"
ROOT = pathlib.Path(__file__).parent.parent.parent
# Of each generation: one of several hosts.
SHAPES = {
  "v4": "v4:2x2x2",
  "v5e": "v5e:16x16",
  "v5p": "v5p:2x2x4",
  "v6e": "v6e:4x4",
  "tpu7x": "tpu7x:2x2x2",
}
COMMAND = (
  "train",
  "--config=configs/finetune.py:embeddinggemma_300m,data=/bucket/pairs",
  "--workdir=/bucket/tune",
  "--config.mesh.fsdp=4",
)


def request(topology: str, **changes) -> Launch:
  whole = Launch(
    name="tune",
    slice=generations.parse(topology),
    command=COMMAND,
    bucket="gs://mine",
  )
  return dataclasses.replace(whole, **changes)


def rendered(route: str, one: Launch) -> str:
  """A route's text, and for gcloud the command that takes it."""
  if route == "sky":
    return sky.task(one)
  if route == "jobset":
    return jobset.manifest(one, "image:1", "trainer")
  create = queued.create(one, "start.sh", "us-west4-a", "project")
  return f"{queued.start_script(one)}# {shlex.join(create)}\n"


CASES = [
  pytest.param(route, request(SHAPES[name]), id=f"{route}-{name}")
  for name, generation in generations.GENERATIONS.items()
  for route in generation.routes
] + [
  pytest.param(
    "jobset",
    request(
      "v6e:4x4",
      slices=2,
      capacity="reserved",
      reservation="ours",
      env=("TPU_STDERR_LOG_LEVEL=2",),
      secrets=("WANDB_API_KEY",),
    ),
    id="jobset-two-slices",
  ),
  pytest.param(
    "gcloud",
    request(
      "v5e:4x4",
      slices=2,
      capacity="flex",
      env=("NOTE=a b's",),
      secrets=("WANDB_API_KEY",),
    ),
    id="gcloud-two-slices",
  ),
]


@pytest.mark.parametrize(("route", "one"), CASES)
def test_golden(route, one, request):
  """UPDATE_GOLDEN=1 writes them anew; the diff shows what a change moves."""
  text = rendered(route, one)
  suffix = "sh" if route == "gcloud" else "yaml"
  path = GOLDEN / f"{request.node.callspec.id}.{suffix}"
  if os.environ.get("UPDATE_GOLDEN"):
    path.write_text(text, encoding="utf-8")
  assert text == path.read_text(encoding="utf-8")


def test_every_golden_file_is_of_a_case():
  assert {path.stem for path in GOLDEN.iterdir()} == {c.id for c in CASES}


EVERY = [
  f"{name}:{shape}"
  for name, generation in generations.GENERATIONS.items()
  for shape in generation.topologies
]


@pytest.mark.parametrize("topology", EVERY)
def test_a_jobset_has_as_many_chips_as_its_topology(topology):
  shape = generations.parse(topology)
  count = 1 if shape.hosts == 1 else 2
  tree = yaml.safe_load(rendered("jobset", request(topology, slices=count)))
  (replicated,) = tree["spec"]["replicatedJobs"]
  assert replicated["replicas"] == count
  job = replicated["template"]["spec"]
  assert job["parallelism"] == job["completions"] == shape.hosts
  assert job["backoffLimit"] == 0
  pod = job["template"]["spec"]
  limits = [
    c["resources"]["limits"]["google.com/tpu"] for c in pod["containers"]
  ]
  assert shape.hosts * sum(limits) == shape.chips
  selector = pod["nodeSelector"]
  assert selector["cloud.google.com/gke-tpu-topology"] == shape.topology
  assert (
    selector["cloud.google.com/gke-tpu-accelerator"]
    == shape.generation.gke_accelerator
  )
  # Each container's end counts, and whole hosts are one container, but tpu7x.
  rules = job["podFailurePolicy"]["rules"]
  names = [c["name"] for c in pod["containers"]]
  assert [rule["onExitCodes"]["containerName"] for rule in rules] == names
  assert len(names) == (2 if topology[:3] == "tpu" and shape.chips > 1 else 1)


def test_a_jobset_restarts_on_what_a_preempted_run_ends_with():
  tree = yaml.safe_load(rendered("jobset", request("v6e:4x4", restarts=7)))
  assert tree["spec"]["failurePolicy"] == {
    "maxRestarts": 7,
    "rules": [
      {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ],
  }
  job = tree["spec"]["replicatedJobs"][0]["template"]["spec"]
  (rule,) = job["podFailurePolicy"]["rules"]
  assert rule["onExitCodes"]["operator"] == "NotIn"
  assert set(rule["onExitCodes"]["values"]) == {42, *range(127, 256)}
  pod = job["template"]["spec"]
  assert pod["restartPolicy"] == "Never"  # the JobSet restarts, not the pod
  assert pod["hostNetwork"]
  assert pod["terminationGracePeriodSeconds"] == 30
  (container,) = pod["containers"]
  assert container["securityContext"] == {"privileged": True}
  mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
  volumes = {v["name"]: v for v in pod["volumes"]}
  assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory"}
  assert (
    volumes[mounts[BUCKET]]["csi"]["volumeAttributes"]["bucketName"] == "mine"
  )


@pytest.mark.parametrize(
  ("capacity", "label", "pool"),
  [
    ("spot", {"cloud.google.com/gke-spot": "true"}, "--spot"),
    ("on-demand", {}, "--num-nodes=4\n"),
    ("flex", {"cloud.google.com/gke-flex-start": "true"}, "--flex-start"),
    (
      "reserved",
      {"cloud.google.com/reservation-name": "ours"},
      "--reservation=ours",
    ),
  ],
)
def test_a_jobset_lands_on_the_capacity_that_was_asked_for(
  capacity, label, pool
):
  kept = "ours" if capacity == "reserved" else ""
  one = request("v6e:4x4", capacity=capacity, reservation=kept)
  text = rendered("jobset", one)
  pod = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]
  selector = pod["template"]["spec"]["nodeSelector"]
  assert {k: v for k, v in selector.items() if "gke-tpu" not in k} == label
  assert pool in text.partition("apiVersion")[0]


SKY = [t for t in EVERY if "sky" in generations.parse(t).generation.routes]


@pytest.mark.parametrize("topology", SKY)
def test_a_sky_task_asks_for_the_slice_and_its_own_image(topology):
  shape = generations.parse(topology)
  tree = yaml.safe_load(rendered("sky", request(topology)))
  resources = tree["resources"]
  assert resources["accelerators"] == f"tpu-{shape.accelerator_type}"
  assert resources["accelerator_args"] == {
    "runtime_version": shape.generation.runtime
  }
  assert resources["use_spot"]
  assert resources["job_recovery"]["recover_on_exit_codes"] == [42]
  assert "--python 3.12" in tree["setup"]
  assert tree["file_mounts"][BUCKET] == {"source": "gs://mine", "mode": "MOUNT"}


def test_an_accelerator_type_means_one_topology():
  """The Cloud TPU API takes a count, and chooses the shape."""
  kinds = [generations.parse(topology).accelerator_type for topology in SKY]
  assert len(set(kinds)) == len(SKY)


# What the engines run, as a shell sees it.


def expand(text: str) -> str:
  """As Kubernetes reads a command without variables: $$ is $, $(X) is as it
  is where there is no X."""
  return text.replace("$$", "$")


def scripts(one: Launch) -> dict[str, str]:
  """Route -> the script that becomes the command."""
  tree = yaml.safe_load(rendered("jobset", one))
  job = tree["spec"]["replicatedJobs"][0]["template"]["spec"]
  (container,) = job["template"]["spec"]["containers"]
  assert container["command"][:2] == ["bash", "-c"]
  return {
    "sky": yaml.safe_load(rendered("sky", one))["run"],
    "jobset": expand(container["command"][2]),
    "gcloud": heredoc(rendered("gcloud", one), "command.sh"),
  }


def heredoc(text: str, name: str) -> str:
  """The file that a startup script writes."""
  head, tail = f"cat >{name} <<'END_OF_FILE'\n", "\nEND_OF_FILE\n"
  return text.partition(head)[2].partition(tail)[0] + "\n"


STAND_IN = """#!/usr/bin/env bash
if [[ -n $WAIT ]]; then
  trap 'exit 42' TERM
  echo started
  while :; do sleep 0.05; done
fi
printf '%s\\0' "$@"
"""


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
  """A PATH where python prints its arguments, and sudo and curl do nothing."""
  home = tmp_path_factory.mktemp("home")
  (home / "venv" / "bin").mkdir(parents=True)
  (home / "venv" / "bin" / "activate").touch()
  places = home / "bin"
  places.mkdir()
  nothing = "#!/bin/sh\nexit 1\n"
  for name, text in (
    ("python", STAND_IN),
    ("sudo", nothing.replace("1", "0")),
    ("curl", nothing),
    ("gcloud", nothing),
  ):
    (places / name).write_text(text)
    (places / name).chmod(0o755)
  path = f"{places}{os.pathsep}{os.environ['PATH']}"
  return {"HOME": str(home), "PATH": path, "WAIT": ""}


# Any printable text: quotes, $(...), globs, other scripts.
WORD = st.text(
  st.characters(codec="utf-8").filter(str.isprintable), min_size=0, max_size=12
).filter(lambda word: not (BUCKET in word or "=" in word))


@hypothesis.given(st.lists(WORD, max_size=4))
@hypothesis.example(["$(rm -rf x)", "$$HOME", "${A}", "`id`", "'", "\\", "a b"])
@hypothesis.example(["END_OF_FILE", "-", "*", "{a,b}", "!!", "#", "|", "&", ""])
@hypothesis.settings(max_examples=12, deadline=None)
def test_words_reach_python_as_they_were(stand_ins, words):
  one = request("v5e:4x4", command=("train", *words))
  for route, script in scripts(one).items():
    done = subprocess.run(
      ["bash", "-c", script], env=stand_ins, capture_output=True
    )
    told = done.stdout.decode().split("\0")[:-1]
    assert told == ["-m", "embeddinggemma", "train", *words], route


@pytest.mark.parametrize("route", ["sky", "jobset", "gcloud"])
def test_the_signal_of_a_preemption_reaches_python(stand_ins, route):
  """SIGTERM to the engine's own process; its exit code comes back."""
  script = scripts(request("v5e:4x4"))[route]
  assert script.splitlines()[-1].startswith("exec python -m embeddinggemma")
  process = subprocess.Popen(
    ["bash", "-c", script],
    env=stand_ins | {"WAIT": "1"},
    stdout=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == "started\n"
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=20) == 42


def test_without_its_secret_nothing_starts(stand_ins):
  """Secret Manager refuses here."""
  script = scripts(request("v5e:4x4", secrets=("A", "B")))["gcloud"]
  done = subprocess.run(
    ["bash", "-c", script], env=stand_ins, capture_output=True
  )
  assert (done.returncode, done.stdout) == (1, b"")


def test_hosts_know_which_they_are(stand_ins):
  one = request("v5e:4x4", command=("pipeline",), slices=2)
  lines = [
    line
    for line in rendered("jobset", one).splitlines()
    if "LAUNCH_HOST" in line
  ]
  script = expand(f"{lines[0].strip()}; echo $LAUNCH_HOST $LAUNCH_HOSTS")
  env = stand_ins | {"MEGASCALE_SLICE_ID": "1", "TPU_WORKER_ID": "3"}
  done = subprocess.run(
    ["bash", "-c", script], env=env, capture_output=True, text=True
  )
  assert done.stdout == "1-3 8\n"


@pytest.mark.parametrize(
  ("route", "topology", "count"),
  [
    ("jobset", "v5e:2x4", 2),
    ("sky", "v5e:2x4", 1),
    ("gcloud", "v5e:2x4", 1),
    ("sky", "v5e:4x4", 4),
    ("gcloud", "v4:2x2x2", 2),
    ("jobset", "tpu7x:2x2x2", 4),
  ],
)
def test_hosts_know_how_many_they_are(route, topology, count):
  """Eight chips of the Cloud TPU API are one host, of GKE two."""
  text = rendered(route, request(topology))
  assert f"LAUNCH_HOSTS={count}\n" in text


@pytest.mark.parametrize(
  ("code", "status", "starts", "noted"),
  [
    ("exited", "0", 1, "0"),
    ("exited", "2", 1, "2"),
    ("exited", "42", 1, None),
    ("exited", "134", 1, None),
    ("killed", "TERM", 1, None),
    ("exited", "42", 4, "42"),
  ],
)
def test_a_host_notes_a_verdict_alone(
  stand_ins, tmp_path, code, status, starts, noted
):
  """What systemd runs after each end of the command."""
  text = heredoc(rendered("gcloud", request("v5e:4x4", restarts=3)), "ended.sh")
  text = text.replace("/run/", f"{tmp_path}/")
  (tmp_path / "embeddinggemma.starts").write_text("\n" * (starts - 1))
  copy = tmp_path / "gcloud"
  copy.write_text('#!/bin/bash\necho "$@"; cat\n')
  copy.chmod(0o755)
  env = stand_ins | {
    "EXIT_CODE": code,
    "EXIT_STATUS": status,
    "PATH": f"{tmp_path}{os.pathsep}{stand_ins['PATH']}",
  }
  done = subprocess.run(
    ["bash", "-c", text], env=env, capture_output=True, text=True, check=True
  )
  place = "storage cp - gs://mine/launched/tune/ended/0-0"
  expected = "" if noted is None else f"{place}\n0-0 {noted}\n"
  assert done.stdout == expected


# The real tools, where they are installed.


def tool(name: str) -> str:
  """A program beside this Python, or on PATH."""
  here = pathlib.Path(sys.executable).with_name(name)
  found = str(here) if here.exists() else shutil.which(name)
  return found or pytest.skip(f"{name} is not installed")


def test_shellcheck_finds_nothing(tmp_path):
  shellcheck = tool("shellcheck")
  start = tmp_path / "start.sh"
  one = request("v5e:4x4", slices=2, secrets=("A",), env=("B=c d",))
  start.write_text(rendered("gcloud", one))
  files = [start]
  for name in ("command.sh", "ended.sh"):
    files.append(tmp_path / name)
    files[-1].write_text(f"#!/bin/bash\n{heredoc(start.read_text(), name)}")
  # SC2154: systemd sets EXIT_CODE; SC1091: activate is on the host.
  rules = ["--external-sources", "--exclude=SC2154,SC1091"]
  own = sorted((ROOT / "launch").glob("*.sh"))
  done = subprocess.run(
    [shellcheck, *rules, *own, *files], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout


def test_systemd_reads_the_unit(tmp_path):
  path = tmp_path / "embeddinggemma.service"
  path.write_text(queued.unit(request("v5e:4x4")))
  done = subprocess.run(
    [tool("systemd-analyze"), "verify", path], capture_output=True, text=True
  )
  assert str(path) not in done.stderr and done.returncode == 0, done.stderr


@pytest.mark.parametrize("capacity", ["spot", "flex"])
def test_gcloud_knows_the_flags(tmp_path, capacity):
  """It has no account here, and says so only after it has read the flags."""
  script = tmp_path / "start.sh"
  script.write_text("true\n")
  one = request("v5e:4x4", slices=2, capacity=capacity)
  tool("gcloud")
  done = subprocess.run(
    queued.create(one, str(script), "us-west4-a", "project", "x@y.iam"),
    env={
      "PATH": os.environ["PATH"],
      "HOME": str(tmp_path),
      "CLOUDSDK_CONFIG": str(tmp_path),
      "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",  # nor a machine's account
      "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
      "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "true",
    },
    capture_output=True,
    text=True,
  )
  assert "unrecognized" not in done.stderr and "nvalid" not in done.stderr
  assert "active account" in done.stderr or "component" in done.stderr


# Bad input.


@pytest.mark.parametrize(
  ("changes", "reason"),
  [
    ({"name": "Tune"}, "--name=Tune: give at most 40 small letters"),
    ({"name": "a" * 41}, "at most 40"),
    ({"name": "-a"}, "--name=-a"),
    ({"slices": 0}, "--num_slices=0 must be at least 1"),
    ({"restarts": 0}, "--restarts=0 must be at least 1"),
    ({"capacity": "cheap"}, "--capacity=cheap: give one of spot"),
    ({"reservation": "ours"}, "--reservation needs --capacity=reserved"),
    ({"bucket": "mine"}, "--bucket=mine: give gs://NAME"),
    ({"bucket": "gs://mine/folder"}, "without a folder"),
    ({"bucket": ""}, "/bucket is there with --bucket"),
    ({"command": ()}, "there is no command; put it after --"),
    ({"command": ("train", "a\nb")}, "has control characters"),
    ({"env": ("A=b\nEND_OF_FILE",)}, "has control characters"),
    ({"command": ("train", "--x.api_key=abc")}, "--x.api_key=...: a secret"),
    ({"env": ("HF_TOKEN=abc",)}, "--secret=NAME"),
    ({"env": ("AWS_SECRET_ACCESS_KEY=abc",)}, "AWS_SECRET_ACCESS_KEY...: a s"),
    ({"env": ("DB_PASS=abc",)}, "DB_PASS...: a secret"),
    ({"env": ("GITHUB_PAT_2=abc",)}, "GITHUB_PAT_2...: a secret"),
    ({"env": ("1A=b",)}, "--env=1A=b: give NAME=VALUE"),
    ({"secrets": ("A=b",)}, "never its value"),
  ],
)
def test_a_bad_request_is_refused(changes, reason):
  with pytest.raises(BadInput) as error:
    request("v5e:4x4", **changes)
  assert reason in str(error.value)
  assert "abc" not in str(error.value)  # nor is a secret printed


def test_slices_of_one_host_are_not_joined():
  with pytest.raises(BadInput, match="v6e:2x2 is a single host"):
    request("v6e:2x2", slices=2)


@pytest.mark.parametrize(
  ("route", "changes", "reason"),
  [
    ("sky", {"slices": 2}, "SkyPilot joins no slices"),
    ("sky", {"capacity": "flex"}, "launch/jobset.sh or launch/gcloud.sh"),
    ("jobset", {"capacity": "reserved"}, "needs --reservation=NAME"),
    ("gcloud", {"bucket": "", "command": ("train",)}, "--bucket is missing"),
    (
      "gcloud",
      {"slice": generations.parse("v6e:2x4"), "slices": 2},
      "v6e:2x4 is a single host",
    ),
    (
      "gcloud",
      {"capacity": "reserved", "reservation": "x"},
      "takes --capacity=reserved alone",
    ),
  ],
)
def test_a_route_refuses_what_it_cannot_do(route, changes, reason):
  with pytest.raises(BadInput, match=reason):
    rendered(route, request("v5e:4x4", **changes))


def test_scripts_take_the_place_of_a_verb():
  one = request("v5e:4x4", command=("smoke", "--workdir=/bucket/s"))
  assert last_line(one) == "exec bash launch/smoke.sh --workdir=/bucket/s"


def test_restart_is_what_every_route_means():
  assert RESTART[0] == 42 and set(RESTART[1:]) == set(range(127, 256))


@pytest.mark.parametrize("text", ["1e-5", "1E3", "y", "N", "0o17", ".5e+1"])
def test_text_stays_text_for_every_reader(text):
  """PyYAML writes these bare, and what reads Kubernetes' files takes them for
  numbers and truths."""
  assert document.to_yaml({"name": text}) == f"name: '{text}'\n"
  assert yaml.safe_load(document.to_yaml({"name": text})) == {"name": text}
