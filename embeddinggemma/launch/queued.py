"""A queued resource of the Cloud TPU API, with nothing but gcloud.

The startup script installs the project on each host and hands the command to
systemd, which starts it again where it ends with a code of RESTART. Any other
end is written into the bucket, where `babysit` looks for it.
"""

import shlex

from embeddinggemma.launch import host
from embeddinggemma.launch.request import (
  BUCKET,
  GRACE,
  RESTART,
  Launch,
  environment,
  last_line,
  who,
)
from embeddinggemma.types import BadInput

FOLDER = "/opt/embeddinggemma"  # of the project on a host
_VENV = f"{FOLDER}/venv"
_UNIT = "embeddinggemma"
# gcloud is a snap on some images.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin"
_WAIT = "12h"  # in the queue; then the request fails and is made again
_FLEX = "24h"  # the longest run on flex-start capacity


def check(launch: Launch) -> None:
  """Raise BadInput for a launch that this route does not support."""
  if not launch.bucket:
    raise BadInput(
      "--bucket is missing; give gs://NAME: the code goes there, and so do"
      " checkpoints"
    )
  if launch.slices > 1 and launch.slice.queued_hosts == 1:
    raise BadInput(
      f"--num_slices={launch.slices}: of the Cloud TPU API, {launch.slice.name}"
      " is a single host, and slices of one host cannot be joined"
    )
  if launch.reservation:
    raise BadInput(
      "--reservation: the Cloud TPU API takes --capacity=reserved alone"
    )


def place(launch: Launch) -> str:
  """The bucket folder with the code and the notes of ended hosts."""
  return f"{launch.bucket}/launched/{launch.name}"


def create(
  launch: Launch, script: str, zone: str, project: str, account: str = ""
) -> list[str]:
  """The gcloud command that requests the slices.

  `script` is the file of the startup script, `account` the hosts' service
  account.
  """
  nodes = (
    [f"--node-id={launch.name}"]
    if launch.slices == 1
    else [f"--node-count={launch.slices}", f"--node-prefix={launch.name}"]
  )
  how = {
    "spot": ["--spot"],
    "on-demand": [],
    "flex": ["--provisioning-model=flex-start", f"--max-run-duration={_FLEX}"],
    "reserved": ["--reserved"],
  }[launch.capacity]
  early = ["alpha"] if launch.capacity == "flex" else []
  return [
    *("gcloud", *early, "compute", "tpus", "queued-resources", "create"),
    launch.name,
    *nodes,
    f"--zone={zone}",
    f"--project={project}",
    f"--accelerator-type={launch.slice.accelerator_type}",
    f"--runtime-version={launch.slice.generation.runtime}",
    *how,
    f"--valid-until-duration={_WAIT}",
    f"--metadata-from-file=startup-script={script}",
    *([f"--service-account={account}"] if account else []),
    "--quiet",
  ]


def describe(launch: Launch, zone: str, project: str) -> list[str]:
  """The command that prints the state."""
  return [
    *_of("describe", launch, zone, project),
    "--format=value(state.state)",
  ]


def delete(launch: Launch, zone: str, project: str) -> list[str]:
  """The gcloud command that deletes resource and machines, and waits."""
  return [*_of("delete", launch, zone, project), "--force", "--quiet"]


def _of(verb: str, launch: Launch, zone: str, project: str) -> list[str]:
  place = (f"--zone={zone}", f"--project={project}")
  words = ("gcloud", "compute", "tpus", "queued-resources", verb)
  return [*words, launch.name, *place]


def ended(launch: Launch) -> list[str]:
  """The command that prints a line `SLICE-HOST CODE` for each ended host."""
  return ["gcloud", "storage", "cat", f"{place(launch)}/ended/*"]


def start_script(launch: Launch) -> str:
  """The startup script, which each host runs as root at every boot."""
  check(launch)
  source, note = (f"{place(launch)}/{x}" for x in ("code.tgz", "ended"))
  return host.lines(
    "#!/usr/bin/env bash",
    f"# {launch.name}: installs, and starts {_UNIT}.service.",
    "set -euo pipefail",
    # Else a host that cannot be set up would be paid for, and do nothing.
    f'trap \'echo "$HOSTNAME 1" | gcloud storage cp - "{note}/$HOSTNAME"\' ERR',
    f"export HOME=/root PATH={_PATH} DEBIAN_FRONTEND=noninteractive",
    f"mkdir -p {FOLDER} {BUCKET}",
    f"cd {FOLDER}",
    "if [[ ! -e installed ]]; then",
    f"  gcloud storage cat {source} | tar -xz",
    *(f"  {line}" for line in (*host.install(_VENV), *_install_gcsfuse())),
    "  touch installed",
    "fi",
    # Not cached: what one host has written, the others must see.
    f"mountpoint -q {BUCKET} || gcsfuse --implicit-dirs"
    f" --metadata-cache-ttl-secs=0 --rename-dir-limit=10000"
    f" {launch.bucket.removeprefix('gs://')} {BUCKET}",
    *_file("command.sh", _command(launch)),
    *_file("ended.sh", _ended(launch)),
    *_file(f"/etc/systemd/system/{_UNIT}.service", unit(launch)),
    "systemctl daemon-reload",
    f"systemctl start --no-block {_UNIT}",
  )


def _install_gcsfuse() -> tuple[str, ...]:
  keys = "/usr/share/keyrings/cloud.google.asc"
  source = "https://packages.cloud.google.com/apt"
  return (
    f"curl -fsS {source}/doc/apt-key.gpg >{keys}",
    f'echo "deb [signed-by={keys}] {source}'
    ' gcsfuse-$(lsb_release -cs) main" >/etc/apt/sources.list.d/gcsfuse.list',
    "apt-get update -qq",
    "apt-get install -qq gcsfuse",
  )


def _file(path: str, text: str) -> tuple[str, ...]:
  """Shell lines that write a file; commands contain no line ends."""
  return (f"cat >{path} <<'END_OF_FILE'", text.rstrip("\n"), "END_OF_FILE")


def _command(launch: Launch) -> str:
  """The script that systemd runs; it replaces itself by the command."""
  fetch = "gcloud secrets versions access latest --secret"
  return host.lines(
    "set -euo pipefail",
    *(
      f"export {name}={shlex.quote(value)}"
      for name, value in environment(launch).items()
    ),
    # In two lines: `export` would hide a failure.
    *(f"{name}=$({fetch}={name})\nexport {name}" for name in launch.secrets),
    *host.prepare(),
    *_who(launch),
    f"export PATH={_VENV}/bin:$PATH",
    last_line(launch),
  )


def _ended(launch: Launch) -> str:
  """The script that systemd runs after each end of the command.

  It reads EXIT_CODE and EXIT_STATUS, and notes an end that is final.
  """
  return host.lines(
    f"# Notes a verdict, or that {launch.restarts} starts were not enough.",
    "echo >>/run/embeddinggemma.starts",
    "starts=$(wc -l </run/embeddinggemma.starts)",
    # Of a signal, systemd gives the name.
    "[[ $EXIT_CODE == exited ]] && status=$EXIT_STATUS || status=128",
    f"if ((status == {RESTART[0]} || status >= {RESTART[1]})) &&"
    f" ((starts <= {launch.restarts})); then",
    "  exit 0",
    "fi",
    *_who(launch),
    f'echo "$LAUNCH_HOST $status" |'
    f' gcloud storage cp - "{place(launch)}/ended/$LAUNCH_HOST"',
  )


def _who(launch: Launch) -> tuple[str, ...]:
  """Shell lines that find this slice and host by the metadata server."""
  attributes = (
    "http://metadata.google.internal/computeMetadata/v1/instance/attributes"
  )
  return (
    f"place={attributes}",
    "ask() { curl -fsS -H 'Metadata-Flavor: Google' \"$place/$1\"; }",
    "host=$(ask agent-worker-number || echo 0)",
    "slice=$(ask tpu-env |"
    """ awk -F"'" '/^MEGASCALE_SLICE_ID/ {print $2}' || true)""",
    who("${slice:-0}", "$host", launch.slices * launch.slice.queued_hosts),
  )


def unit(launch: Launch) -> str:
  """The systemd service.

  It is ordered to stop before the bucket and the network do, so that a
  checkpoint is still saved.
  """
  return host.lines(
    "[Unit]",
    f"Description={launch.name}",
    "Wants=network-online.target",
    "After=network.target network-online.target",
    f"RequiresMountsFor={BUCKET}",
    "StartLimitIntervalSec=0",  # ended.sh counts
    "[Service]",
    f"WorkingDirectory={FOLDER}",
    f"Environment=HOME=/root PATH={_PATH}",
    f"ExecStart=/bin/bash {FOLDER}/command.sh",
    f"ExecStopPost=/bin/bash {FOLDER}/ended.sh",
    "Restart=on-abnormal",
    f"RestartForceExitStatus={' '.join(map(str, RESTART))}",
    "RestartSec=10",
    "KillMode=mixed",
    f"TimeoutStopSec={GRACE}",
  )
