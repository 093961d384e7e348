#!/usr/bin/env bash
# A JobSet on GKE: clusters, reservations, several slices, tpu7x.
set -euo pipefail

# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  cat <<'END'
bash launch/jobset.sh --name=NAME --topology=GEN:SHAPE --image=IMAGE [FLAG ...] \
  -- VERB ...

Renders a JobSet in XPK's shape and gives it to `kubectl create`, on the cluster
that kubectl is set to, which needs the JobSet controller. It restarts whole
when a host ends with exit code 42 or 127 to 255. The manifest begins with the
node pools that it needs.

  --name=NAME           small letters, digits and -
  --topology=GEN:SHAPE  such as v6e:16x16; GEN: v4, v5e, v5p, v6e, tpu7x
  --num_slices=N        joined over the data-centre network
  --image=IMAGE         with this project, in its checkout (docs/pods.md)
  --bucket=gs://NAME    mounted at /bucket; needs the GCS FUSE driver
  --service_account=S   of Kubernetes, that may use the bucket
  --capacity=WHICH      spot (default), on-demand, flex, or reserved with
                        --reservation=NAME
  --queue=NAME          of Kueue
  --restarts=N          at most (50)
  --env=NAME=VALUE      again for each
  --secret=NAME         a key of the Kubernetes secret `embeddinggemma`
  --dry-run             print the YAML and the command, do nothing
  VERB ...              of embeddinggemma, with its flags; or smoke, or
                        pipeline, with those of launch/smoke.sh, pipeline.sh;
                        sweep: a JobSet for each point

  bash launch/jobset.sh --name=prefinetune --topology=v6e:16x16 --num_slices=2 \
    --image=IMAGE --bucket=gs://mine --service_account=trainer -- train \
    --config=configs/prefinetune.py:embeddinggemma_300m,data=/bucket/pairs \
    --workdir=/bucket/prefinetuned --config.init_from=/bucket/adapted

PYTHON: an interpreter that has this project, instead of one made in .venv.
END
  exit 0
fi

choose_python
exec "$python" -m embeddinggemma.launch.launch jobset "$@"
