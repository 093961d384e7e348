#!/usr/bin/env bash
# A SkyPilot managed job on a TPU slice: the default way onto a pod.
set -euo pipefail

# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  cat <<'END'
bash launch/sky.sh --name=NAME --topology=GEN:SHAPE [FLAG ...] -- VERB ...

Renders a managed job and gives it to `sky jobs launch`. After a preemption, or
an exit code 42, SkyPilot finds a zone that has room and starts the same
command, which continues from its last checkpoint.

  --name=NAME           small letters, digits and -
  --topology=GEN:SHAPE  such as v5e:16x16; GEN: v4, v5e, v5p, v6e
  --bucket=gs://NAME    mounted at /bucket on each host
  --zone=ZONE           only there
  --capacity=WHICH      spot (default) or on-demand
  --env=NAME=VALUE      again for each
  --secret=NAME         of a variable in your shell; its value is in no file
  --dry-run             print the YAML and the command, do nothing
  VERB ...              of embeddinggemma, with its flags; or smoke, or
                        pipeline, with those of launch/smoke.sh, pipeline.sh;
                        sweep: a job for each point

  bash launch/sky.sh --name=tune --topology=v5e:4x4 --bucket=gs://mine -- \
    train --config=configs/finetune.py:embeddinggemma_300m,data=/bucket/pairs \
    --workdir=/bucket/tune --config.init_from=/bucket/prefinetuned

PYTHON: an interpreter that has this project, instead of one made in .venv.
END
  exit 0
fi

choose_python
exec "$python" -m embeddinggemma.launch.launch sky "$@"
