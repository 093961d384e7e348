#!/usr/bin/env bash
# A queued resource of the Cloud TPU API, kept alive, with nothing but gcloud.
set -euo pipefail

# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  cat <<'END'
bash launch/gcloud.sh --name=NAME --topology=GEN:SHAPE --bucket=gs://NAME \
  --zone=ZONE --project=PROJECT [FLAG ...] -- VERB ...

Copies the checkout into the bucket, asks for the slice, and watches it until
the command has ended, whose exit code is its own. A slice that is lost is
deleted and asked for anew. Killed, or interrupted, the same command watches
what is there. 42: --restarts requests were not enough.

  --name=NAME           small letters, digits and -
  --topology=GEN:SHAPE  such as v5e:16x16; GEN: v4, v5e, v5p, v6e
  --num_slices=N        joined over the data-centre network
  --bucket=gs://NAME    mounted at /bucket on each host
  --service_account=S   that the hosts run as
  --capacity=WHICH      spot (default), on-demand, flex or reserved
  --restarts=N          requests at most, and starts on a host (50)
  --poll=SECONDS        between two looks (30)
  --env=NAME=VALUE      again for each
  --secret=NAME         of Secret Manager, and of the variable
  --dry-run             print the startup script and the command, do nothing
  VERB ...              of embeddinggemma, with its flags; or smoke, or
                        pipeline, with those of launch/smoke.sh, pipeline.sh

  bash launch/gcloud.sh --name=tune --topology=v5e:4x4 --bucket=gs://mine \
    --zone=us-west4-a --project=mine -- train --workdir=/bucket/tune \
    --config=configs/finetune.py:embeddinggemma_300m,data=/bucket/pairs

To read along: gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=0 \
  --command='journalctl -fu embeddinggemma'
PYTHON: an interpreter that has this project, instead of one made in .venv.
END
  exit 0
fi

choose_python
exec "$python" -m embeddinggemma.launch.launch gcloud "$@"
