#!/usr/bin/env bash
# The paper's recipe on a pod, stage by stage; every host runs this script.
set -euo pipefail

# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

preset=embeddinggemma_300m base='' texts='' pairs='' suite='' workdir=''
seeds='0 1 2' dry=''
for word in "$@"; do
  case $word in
  --preset=?*) preset=${word#*=} ;;
  --base=?*) base=${word#*=} ;;
  --texts=?*) texts=${word#*=} ;;
  --pairs=?*) pairs=${word#*=} ;;
  --suite=?*) suite=${word#*=} ;;
  --workdir=?*) workdir=${word#*=} ;;
  --seeds=?*) seeds=${word#*=} ;;
  --dry-run) dry=1 ;;
  --help | -h)
    cat <<'END'
bash launch/pipeline.sh --texts=DIR --pairs=DIR --workdir=DIR [FLAG ...]

A decoder (imported, or pretrained), adapted by UL2, pre-finetuned on pairs with
a teacher, finetuned with mined negatives from several seeds, averaged, scored.

  --texts=DIR     running text: *.jsonl ({"text"}) and *.txt
  --pairs=DIR     */pairs.jsonl
  --workdir=DIR   a folder a stage; on a pod in the bucket
  --preset=NAME   of configs/ (embeddinggemma_300m); gemma3_270m with --base
  --base=DIR      public weights of a decoder, instead of pretraining one
  --suite=DIR     tasks to score on; else the held-out pairs
  --seeds='0 1 2' of the finetunings that are averaged
  --dry-run       print the commands of the stages, run none

A stage that is done is not done again while its command, and those before it,
stay the same. One that fails ends the script with its exit code; after 42, start
it again. Training runs on all hosts; the rest on the first one, without its TPU
where there are several, while the others wait.

  bash launch/sky.sh --name=recipe --topology=v5e:16x16 --bucket=gs://mine -- \
    pipeline --base=/bucket/gemma-3-270m --preset=gemma3_270m \
    --texts=/bucket/texts --pairs=/bucket/pairs --workdir=/bucket/recipe
END
    exit 0
    ;;
  *)
    echo "error: unknown flag '$word'; see --help" >&2
    exit 2
    ;;
  esac
done
for flag in texts pairs workdir; do
  if [[ -z ${!flag} ]]; then
    echo "error: --$flag is missing; see --help" >&2
    exit 2
  fi
done

if [[ ! $seeds =~ ^[0-9]+(\ +[0-9]+)*$ ]]; then
  echo "error: --seeds='$seeds': give numbers, such as --seeds='0 1 2'" >&2
  exit 2
fi

cd -- "$root"
choose_python
done_folder=$workdir/done
child=

# Bash would keep the signal until the stage ends, and it is the stage's.
pass_on() {
  [[ -n $child ]] || exit 42
  signalled=1
  kill "-$1" "$child" 2>/dev/null || true
}
trap 'pass_on TERM' TERM
trap 'pass_on INT' INT
set -m # else what is started in the background ignores SIGINT

run() {
  local code
  "$@" </dev/null &
  child=$!
  signalled=1
  while [[ -n $signalled ]]; do # a signal ends `wait`, not the child
    signalled='' code=0
    wait "$child" || code=$?
  done
  child=
  return "$code"
}

is_done() { # STAGE COMMAND...
  local file=$done_folder/$1
  [[ -f $file && $(<"$file") == "${*:2}" ]]
}

note() { # STAGE COMMAND...
  mkdir -p -- "$done_folder"
  printf '%s\n' "${*:2}" >"$done_folder/$1.partial"
  mv -- "$done_folder/$1.partial" "$done_folder/$1"
}

# What follows a stage that is done anew is no longer done.
passed=' '
forget_later() {
  local file
  for file in "$done_folder"/*; do
    [[ $passed == *" ${file##*/} "* ]] || rm -f -- "$file"
  done
}

is_first() { [[ ${LAUNCH_HOST:-0-0} == 0-0 ]]; }

# every|once STAGE VERB FLAG...: on all hosts; on the first, for which the others
# wait.
stage() {
  local where=$1 name=$2 code=0 platform=
  shift 2
  if [[ -n $dry ]]; then
    printf 'embeddinggemma'
    printf ' %q' "$@"
    echo
    return
  fi
  if is_done "$name" "$@"; then
    passed+="$name "
    return
  fi
  if [[ $where == once ]]; then
    while ! is_first; do
      sleep "${LAUNCH_POLL:-10}" &
      wait $! || true
      if is_done "$name" "$@"; then
        passed+="$name "
        return
      fi
    done
    # A part of a slice cannot start its TPU.
    if ((${LAUNCH_HOSTS:-1} > 1)); then
      platform=cpu
    fi
  fi
  echo "pipeline: $name" >&2
  if is_first; then
    forget_later
  fi
  run env ${platform:+JAX_PLATFORMS=$platform} \
    "$python" -m embeddinggemma "$@" || code=$?
  if ((code)); then
    echo "pipeline: $name ended with exit code $code" >&2
    exit "$code"
  fi
  if is_first; then
    note "$name" "$@"
  fi
  passed+="$name "
}
every() { stage every "$@"; }
once() { stage once "$@"; }

at=$workdir
text=(--config.data.path="$at/text")
teacher=(--config.teacher="$at/taught" --config.loss.distill=1
  --config.loss.teacher_width=512)
config() { echo "--config=configs/$1.py:$preset"; }

# 1. A decoder, and the texts in its words.
start=()
if [[ -n $base ]]; then
  import=(import --from="$base" --workdir="$at/decoder")
  # Killed before it was noted: there is a checkpoint, and `import` writes no
  # second one.
  if [[ -z $dry && -d $at/decoder/checkpoints/0 && ! -e $done_folder/import ]] &&
    is_first; then
    note import "${import[@]}"
  fi
  once import "${import[@]}"
  start=(--config.init_from="$at/decoder")
fi
once text prepare "$(config adapt)" --config.data.path="$texts" \
  --workdir="$at/text" "${start[@]}"
if [[ -z $base ]]; then
  every pretrain train "$(config pretrain)" "${text[@]}" --workdir="$at/decoder"
fi

# 2. It learns to read in both directions.
every adapt train "$(config adapt)" "${text[@]}" --workdir="$at/adapted" \
  --config.init_from="$at/decoder"

# 3. Its encoder embeds, close to a teacher.
once teach teach --config=configs/teach.py --data="$pairs" --output="$at/taught"
every prefinetune train "$(config prefinetune)" --config.data.path="$pairs" \
  --workdir="$at/prefinetuned" --config.init_from="$at/adapted" "${teacher[@]}"

# 4. It finds its own hard negatives, and is finetuned on them.
once mine mine --config=configs/mine.py --data="$pairs" --output="$at/mined" \
  --model="$at/prefinetuned"
tuned=()
for seed in $seeds; do
  every "finetune-$seed" train "$(config finetune)" --config.seed="$seed" \
    --config.data.path="$at/mined" --workdir="$at/finetuned/$seed" \
    --config.init_from="$at/prefinetuned" "${teacher[@]}"
  tuned+=("$at/finetuned/$seed")
done

# 5. The mean of the finetunings, scored.
once soup soup --inputs="$(IFS=, && echo "${tuned[*]}")" --workdir="$at/soup"
once evaluate evaluate --model="$at/soup" --output="$at/evaluate.json" \
  --data="${suite:-$at/prefinetuned/inputs/corpus/test}"
[[ -n $dry ]] || echo "pipeline: $at/soup, $at/evaluate.json" >&2
