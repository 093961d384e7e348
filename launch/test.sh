#!/usr/bin/env bash
# Format, lint, types and tests, in an environment of their own making; or the
# tests of real weights.
set -euo pipefail

# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
  cat <<END
bash launch/test.sh [--weights=DIR] [ARGUMENT ...]

Makes the virtual environment $venv as launch/local.sh does, with
the groups test and lint, then runs ruff format --check, ruff check, pyrefly
check and pytest, on two processes, without the slow tests. Arguments go on to
pytest; an empty -m runs all:
  bash launch/test.sh tests/losses -k info_nce

--weights=DIR runs tests/weights alone, on the real weights that DIR holds: a
folder of sentence-transformers with EmbeddingGemma, a Gemma 3 decoder as GGUF,
or both, in DIR or below it. EMBEDDINGGEMMA_WEIGHTS=DIR says the same to pytest.
END
  exit 0
fi

chosen=false weights=
rest=()
for argument in "$@"; do
  case $argument in
    --weights=*) chosen=true weights=${argument#--weights=} ;;
    --weights)
      echo "error: --weights needs a folder; give --weights=DIR" >&2
      exit 2
      ;;
    *) rest+=("$argument") ;;
  esac
done

if "$chosen"; then
  if [[ ! -d $weights ]]; then
    echo "error: --weights=$weights: no such folder; give the one of the" \
      "weights" >&2
    exit 2
  fi
  weights=$(cd -- "$weights" && pwd)
  make_environment "[test,lint]"
  cd -- "$root"
  "$venv/bin/python" tests/weights/found.py "$weights"
  # One process: models of a gigabyte take turns.
  EMBEDDINGGEMMA_WEIGHTS=$weights exec "$venv/bin/python" -m pytest -n 0 \
    --durations=20 -rs tests/weights ${rest[@]+"${rest[@]}"}
fi

make_environment "[test,lint]"
cd -- "$root"
"$venv/bin/ruff" format --check .
"$venv/bin/ruff" check .
"$venv/bin/pyrefly" check
exec "$venv/bin/python" -m pytest -n 2 --dist=loadscope \
  --no-loadscope-reorder "$@"
