#!/usr/bin/env bash
# The whole recipe on this machine: environment, training, report, search.
set -euo pipefail

# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  cat <<END
bash launch/local.sh [FLAG ...]

1. Makes a virtual environment in $venv with Python 3.11, 3.12 or
   3.13 (by uv when it is on PATH, else by python -m venv and pip), and
   installs this project and its dependencies, about 3 GB, from PyPI. Only
   when pyproject.toml changes does it install again.
2. Runs, or continues,
     embeddinggemma run --config=configs/recipe.py:laptop --workdir=runs/laptop
   and leaves summary.json, report.html, a model and an index in the workdir.

Flags go on to \`run\`; a later --config or --workdir wins:
  bash launch/local.sh --config=configs/recipe.py:laptop,data=DIR --workdir=DIR
  bash launch/local.sh --config.steps=100

JAX_PLATFORMS is set to cpu unless you have set it.
END
  exit 0
fi

make_environment ""
workdir=runs/laptop
[[ $PWD == "$root" ]] || workdir=$root/runs/laptop
exec "$venv/bin/embeddinggemma" run --config=configs/recipe.py:laptop \
  --workdir="$workdir" "$@"
