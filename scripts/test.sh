#!/usr/bin/env bash
# Translate and score one split; the test.sh of a task calls this with the task's beam search.
# usage: bash scripts/test.sh <task> <generation flags> -- <checkpoint> <architecture.yml> [normal|sacre] [gpu] [subset]
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "call configs/<task>/test.sh, which calls this with the task's flags" >&2
    exit 2
fi
task=$1
shift
flags=()
while [ "$1" != -- ]; do
    flags+=("$1")
    shift
done
shift
usage="usage: bash configs/$task/test.sh <checkpoint> <architecture.yml> [normal|sacre] [gpu, default 0] [subset, default test]
[--results-path=FILE, default exp/ beside the checkpoint]"
output=
words=()
for word in "$@"; do
    case "$word" in
    -h | --help) echo "$usage" && exit 0 ;;
    --results-path=*) output=$(realpath -m -- "${word#*=}") ;;
    *) words+=("$word") ;;
    esac
done
set -- "${words[@]}"
if [ $# -lt 2 ] || [ $# -gt 5 ]; then
    echo "2 to 5 arguments are needed, got $#; $usage" >&2
    exit 2
fi
checkpoint=$(realpath -m -- "$1")
arch=$(realpath -m -- "$2")
mode=${3:-normal}
case "${4:-0}" in
*[!0-9]*)
    echo "the fourth argument must be the number of a GPU, got $4" >&2
    exit 2
    ;;
esac
export CUDA_VISIBLE_DEVICES=${4:-${CUDA_VISIBLE_DEVICES-0}}
subset=${5:-test}
case "$mode" in
normal | sacre) ;;
*)
    echo "the third argument must be normal or sacre, got $mode" >&2
    exit 2
    ;;
esac
CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python}
common=configs/$task/subtransformer/common.yml
made=$(printf '%s\n' "${flags[@]}" | cat - "$arch" | cksum | cut -d ' ' -f 1) # of other options stays beside it
output=${output:-$(dirname "$checkpoint")/exp/$(basename "$checkpoint" .pt)_${subset}_$(basename "$arch" .yml)_$made.out}
words=(generate --configs="$common" --sub-configs="$arch" --path="$checkpoint" --mode="$mode" --gen-subset="$subset"
    --batch-size=128 --results-path="$output" "${flags[@]}")
if [ -n "${HAT_ASKED:-}" ]; then printf '%s\0' "${words[@]}" && exit; fi # hat run does it in its own process
echo "output: $output"
exec "$python" -m hat "${words[@]}"
