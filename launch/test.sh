#!/usr/bin/env bash
# Format, lint, types and tests, in an environment of their own making.
set -euo pipefail

# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  cat <<END
bash launch/test.sh [ARGUMENT ...]

Makes the virtual environment $venv as launch/local.sh does, with
the groups test and lint, then runs ruff format --check, ruff check, pyrefly
check and pytest, on two processes, without the slow tests. Arguments go on to
pytest; an empty -m runs all:
  bash launch/test.sh tests/losses -k info_nce
END
  exit 0
fi

make_environment "[test,lint]"
cd -- "$root"
"$venv/bin/ruff" format --check .
"$venv/bin/ruff" check .
"$venv/bin/pyrefly" check
exec "$venv/bin/python" -m pytest -n 2 --dist=loadscope \
  --no-loadscope-reorder "$@"
