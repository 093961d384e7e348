"""A JobSet for GKE, in the shape that XPK gives it.

For clusters, reservations, several slices, and generations that the Cloud TPU
API lacks. A slice is a replicated job, a host a pod, and any pod that ends with
a code of RESTART restarts them all.
"""

from typing import Any

from embeddinggemma.generations import Slice
from embeddinggemma.launch import document, host
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

SECRET = "embeddinggemma"  # name of the Kubernetes secret with all values
_NODEPOOL = "cloud.google.com/gke-nodepool"
_KEEP = 24 * 3600  # seconds until an ended JobSet is deleted


def manifest(
  launch: Launch, image: str, account: str = "", queue: str = ""
) -> str:
  """The YAML for `kubectl create`.

  Args:
    launch: what runs.
    image: a container with this project on its `python`, in its WORKDIR.
    account: the Kubernetes service account that may use the bucket.
    queue: the name of a Kueue queue, if the cluster has one.

  Raises:
    BadInput: reserved capacity without the name of a reservation.
  """
  if launch.capacity == "reserved" and not launch.reservation:
    raise BadInput("--capacity=reserved needs --reservation=NAME on GKE")
  job = {
    "parallelism": launch.slice.hosts,
    "completions": launch.slice.hosts,
    "backoffLimit": 0,  # the JobSet restarts, whole
    "podFailurePolicy": {"rules": [_rule(name) for name in _names(launch)]},
    "template": _pod(launch, image, account),
  }
  labels = {"kueue.x-k8s.io/queue-name": queue} if queue else {}
  tree = {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": {
      "name": launch.name,
      **({"labels": labels} if labels else {}),
      # A slice is a node pool, and has it alone.
      "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": _NODEPOOL},
    },
    "spec": {
      "ttlSecondsAfterFinished": _KEEP,
      "failurePolicy": {
        "maxRestarts": launch.restarts,
        "rules": [
          {
            "action": "FailJobSet",
            "onJobFailureReasons": ("PodFailurePolicy",),
          }
        ],
      },
      "replicatedJobs": [
        {
          "name": "slice-job",
          "replicas": launch.slices,
          "template": {"spec": job},
        }
      ],
    },
  }
  return node_pools(launch) + document.to_yaml(tree)


def node_pools(launch: Launch) -> str:
  """The commands that create the node pools, one a slice, as YAML comments."""
  shape = launch.slice
  how = {
    "spot": f"--num-nodes={shape.hosts} --spot",
    "on-demand": f"--num-nodes={shape.hosts}",
    "flex": "--flex-start --enable-autoscaling --num-nodes=0 --min-nodes=0"
    f" --max-nodes={shape.hosts} --reservation-affinity=none",
    "reserved": f"--num-nodes={shape.hosts} --reservation-affinity=specific"
    f" --reservation={launch.reservation}",
  }[launch.capacity]
  policy = (
    " --placement-policy=POLICY" if shape.generation.gke_placement else ""
  )
  return host.lines(
    f"# Needs {launch.slices} of this node pool:",
    "#   gcloud container node-pools create POOL --cluster=CLUSTER"
    f" --location=REGION --node-locations=ZONE --machine-type={shape.machine}"
    f" --tpu-topology={shape.topology} {how}{policy}",
  )


def _containers(shape: Slice) -> int:
  return min(shape.generation.containers_per_host, shape.chips_per_host)


def _names(launch: Launch) -> list[str]:
  count = _containers(launch.slice)
  numbers = [f"-{n}" for n in range(1, count + 1)] if count > 1 else [""]
  return [f"jax-tpu{number}" for number in numbers]


def _rule(container: str) -> dict[str, Any]:
  """A failure policy: an exit code outside RESTART is final for the JobSet."""
  return {
    "action": "FailJob",
    "onPodConditions": (),  # some versions of the controller ask for it
    "onExitCodes": {
      "containerName": container,
      "operator": "NotIn",
      "values": RESTART,
    },
  }


def _pod(launch: Launch, image: str, account: str) -> dict[str, Any]:
  shape = launch.slice
  notes = {}
  if shape.generation.gke_placement:
    notes["cloud.google.com/gke-tpu-slice-topology"] = shape.topology
  volumes = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
  if launch.bucket:
    notes["gke-gcsfuse/volumes"] = "true"
    volumes.append({"name": "bucket", "csi": _bucket(launch.bucket)})
  return {
    **({"metadata": {"annotations": notes}} if notes else {}),
    "spec": {
      "restartPolicy": "Never",
      "hostNetwork": True,
      "dnsPolicy": "ClusterFirstWithHostNet",
      "terminationGracePeriodSeconds": GRACE,
      **({"serviceAccountName": account} if account else {}),
      "nodeSelector": {
        "cloud.google.com/gke-tpu-accelerator": shape.generation.gke_accelerator,
        "cloud.google.com/gke-tpu-topology": shape.topology,
        **_capacity(launch),
      },
      "tolerations": [{"key": "google.com/tpu", "operator": "Exists"}],
      "containers": [
        _container(launch, name, image) for name in _names(launch)
      ],
      "volumes": volumes,
    },
  }


def _capacity(launch: Launch) -> dict[str, str]:
  return {
    "spot": {"cloud.google.com/gke-spot": "true"},
    "on-demand": {},
    "flex": {"cloud.google.com/gke-flex-start": "true"},
    "reserved": {"cloud.google.com/reservation-name": launch.reservation},
  }[launch.capacity]


def _bucket(bucket: str) -> dict[str, Any]:
  return {
    "driver": "gcsfuse.csi.storage.gke.io",
    "volumeAttributes": {
      "bucketName": bucket.removeprefix("gs://"),
      # What one host has written, the others must see.
      "mountOptions": "implicit-dirs,metadata-cache:ttl-secs:0",
      "hostNetworkPodKSA": "true",
    },
  }


def _container(launch: Launch, name: str, image: str) -> dict[str, Any]:
  shape = launch.slice
  # Of two containers on a host, the second has a name of its own.
  second = name.removeprefix("jax-tpu").removesuffix("-1")
  number = "${TPU_WORKER_ID:-0}" + second
  count = launch.slices * shape.hosts * _containers(shape)
  script = host.lines(
    "echo always > /sys/kernel/mm/transparent_hugepage/enabled || true",
    who("${MEGASCALE_SLICE_ID:-0}", number, count),
    last_line(launch),
  )
  env: list[dict[str, Any]] = [
    {"name": key, "value": _literal(value)}
    for key, value in environment(launch).items()
  ]
  env += [
    {
      "name": key,
      "valueFrom": {"secretKeyRef": {"name": SECRET, "key": key}},
    }
    for key in launch.secrets
  ]
  mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
  if launch.bucket:
    mounts.append({"name": "bucket", "mountPath": BUCKET})
  chips = shape.chips_per_host // _containers(shape)
  return {
    "name": name,
    "image": image,
    "securityContext": {"privileged": True},
    "command": ["bash", "-c", _literal(script)],
    **({"env": env} if env else {}),
    "resources": {"limits": {"google.com/tpu": chips}},
    "volumeMounts": mounts,
  }


def _literal(text: str) -> str:
  """The text, escaped for Kubernetes, which expands $(NAME) and $$."""
  return text.replace("$", "$$")
