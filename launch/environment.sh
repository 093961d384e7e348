# shellcheck shell=bash
# Sourced by the launchers: one virtual environment in the repository, made
# once and installed into again only when pyproject.toml has changed.
#
#   make_environment EXTRAS   EXTRAS: "" or "[test,lint]"; ends in $venv, which
#                             is for a CPU unless JAX_PLATFORMS says otherwise
#   choose_python             sets $python: $PYTHON if that is set, `python` if
#                             it has this project, else the environment's

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

# A name on PATH may be a shim that fails when run, so each one is tried.
find_python() {
  local name
  for name in python3.12 python3.11 python3.13 python3; do
    if "$name" -c 'import sys, venv
sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then
      echo "$name"
      return
    fi
  done
  return 1
}

make_venv() {
  local python
  # What an interrupted call left does not start, or has no installer.
  if "$venv/bin/python" -c 'import sys' >/dev/null 2>&1 &&
    { command -v uv >/dev/null || "$venv/bin/python" -m pip --version >/dev/null 2>&1; }; then
    return
  fi
  rm -rf -- "$venv"
  if python=$(find_python); then
    python=$(command -v "$python")
  elif command -v uv >/dev/null; then
    python=3.12 # uv fetches one
  else
    echo "error: no Python 3.11, 3.12 or 3.13 on PATH; install one, or uv" >&2
    return 2
  fi
  if command -v uv >/dev/null; then
    uv venv --quiet --python "$python" "$venv"
  else
    "$python" -m venv "$venv" || {
      echo "error: $python cannot make a virtual environment; on Debian and" \
        "Ubuntu, install python3-venv" >&2
      return 2
    }
  fi
}

make_environment() {
  local extras=$1 other
  export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
  local stamp="$venv/installed$extras.toml"
  make_venv
  # Any group holds what no group does.
  for other in "$venv/installed$extras"*.toml; do
    if cmp -s "$root/pyproject.toml" "$other"; then
      return
    fi
  done
  echo "installing into $venv; the first time takes one to three minutes" >&2
  if command -v uv >/dev/null; then
    uv pip install --quiet --python "$venv/bin/python" -e "$root$extras"
  else
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      -e "$root$extras"
  fi
  cp "$root/pyproject.toml" "$stamp" # the last act: only what is whole has it
}

choose_python() {
  local own='import importlib.metadata as m; m.version("embeddinggemma")'
  python=${PYTHON:-python}
  if [[ -z ${PYTHON:-} ]] && ! python -c "$own" >/dev/null 2>&1; then
    make_environment ""
    # shellcheck disable=SC2034 # for the one that sources this
    python=$venv/bin/python
  fi
}
