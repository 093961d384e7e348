"""A SkyPilot managed job: the default route.

It needs no cluster, finds a zone that has room, and after a preemption deletes
what is left and starts again. It reaches TPUs through the Cloud TPU API, with
one slice for each job. Fields are those of SkyPilot 0.14.
"""

from typing import Any

from embeddinggemma.launch import document, host
from embeddinggemma.launch.request import (
  BUCKET,
  Launch,
  environment,
  last_line,
  who,
)
from embeddinggemma.types import BadInput

_VENV = "~/venv"


def check(launch: Launch) -> None:
  """Raise BadInput for a launch that this route does not support."""
  if launch.slices > 1:
    raise BadInput(
      f"--num_slices={launch.slices}: SkyPilot joins no slices; use"
      " launch/jobset.sh or launch/gcloud.sh"
    )
  if launch.capacity not in ("spot", "on-demand"):
    raise BadInput(
      f"--capacity={launch.capacity}: SkyPilot has spot and on-demand TPUs; use"
      " launch/jobset.sh or launch/gcloud.sh"
    )


def task(launch: Launch, zone: str = "") -> str:
  """The YAML of `sky jobs launch`; without a zone, any that has room."""
  check(launch)
  tree: dict[str, Any] = {
    "name": launch.name,
    "resources": {
      "infra": f"gcp/*/{zone}" if zone else "gcp",
      "accelerators": f"tpu-{launch.slice.accelerator_type}",
      # Its own default is an image of another generation.
      "accelerator_args": {"runtime_version": launch.slice.generation.runtime},
      "use_spot": launch.capacity == "spot",
      "job_recovery": {
        # Without a bound: each of them has saved. Errors have one.
        "recover_on_exit_codes": (42,),
        "max_restarts_on_errors": 3,
      },
    },
    "workdir": ".",
  }
  if launch.env:
    tree["envs"] = environment(launch)
  if launch.secrets:
    tree["secrets"] = dict.fromkeys(launch.secrets)
  if launch.bucket:
    # Not cached: what one host has written, the others must see.
    tree["file_mounts"] = {BUCKET: {"source": launch.bucket, "mode": "MOUNT"}}
  tree["setup"] = host.lines("set -euo pipefail", *host.install(_VENV))
  tree["run"] = host.lines(
    *host.prepare(),
    who("0", "${SKYPILOT_NODE_RANK:-0}", launch.slice.queued_hosts),
    f"source {_VENV}/bin/activate",
    last_line(launch),
  )
  return document.to_yaml(tree)
