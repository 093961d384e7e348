#!/usr/bin/env bash
# The first minutes on a slice, on every host of it; on a CPU as well.
set -euo pipefail

# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

workdir=runs/smoke dry=
for word in "$@"; do
  case $word in
  --workdir=?*) workdir=${word#*=} ;;
  --dry-run) dry=1 ;;
  --help | -h)
    cat <<'END'
bash launch/smoke.sh [--workdir=DIR] [--dry-run]

1. Prints versions and devices; every device adds its number, and every host
   hears of all others.
2. Trains a tiny model for two steps, with a checkpoint in DIR.
3. The same command again: it must read that checkpoint on every host.

DIR is runs/smoke, or a folder in the bucket that no smoke test has used:
  bash launch/sky.sh --name=smoke --topology=v5e:4x4 --bucket=gs://mine -- \
    smoke --workdir=/bucket/smoke
Exit codes: 0 passed, 1 a fault, 2 bad input, 42 start it again.
END
    exit 0
    ;;
  *)
    echo "error: unknown flag '$word'; see --help" >&2
    exit 2
    ;;
  esac
done

run() {
  if [[ -n $dry ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

cd -- "$root"
choose_python
if [[ -n $dry ]]; then
  run "$python" -m embeddinggemma.launch.smoke --pairs="$workdir/pairs"
  devices=1
else
  devices=$("$python" -m embeddinggemma.launch.smoke --pairs="$workdir/pairs")
  devices=${devices##*$'\n'} # libraries print too, before
  if [[ ! $devices =~ ^[1-9][0-9]*$ ]]; then
    echo "smoke: FAILED: '$devices' is no number of devices" >&2
    exit 1
  fi
fi
train=("$python" -m embeddinggemma train --workdir="$workdir/train"
  --config=configs/prefinetune.py:tiny --config.data.path="$workdir/pairs"
  --config.steps=2 --config.every_checkpoint=1
  --config.batch_size="$((2 * devices))")
run "${train[@]}"
[[ -z $dry ]] || exit 0
echo "smoke: trained on $devices devices in ${SECONDS} s" >&2

log=$(mktemp)
trap 'rm -f -- "$log"' EXIT
code=0
"${train[@]}" 2>"$log" || code=$?
cat -- "$log" >&2
# One of the hosts says how training began; the others say nothing.
if ((code == 0)) && grep -q '^prefinetune: ' "$log" &&
  ! grep -q 'continues at step 2' "$log"; then
  echo "smoke: FAILED: the second run did not find the first one's checkpoint" >&2
  exit 1
fi
((code)) || echo "smoke: passed in ${SECONDS} s" >&2
exit "$code"
