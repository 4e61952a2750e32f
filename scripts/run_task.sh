#!/usr/bin/env bash
# Every stage of a task in order; what is done and up to date is skipped.
# usage: bash scripts/run_task.sh <task> <hardware> [constraint ms ...] [-- flags of hat run]
set -euo pipefail

if [ $# -lt 2 ] || [ "$1" = -h ] || [ "$1" = --help ]; then
    echo "usage: bash scripts/run_task.sh <task> <hardware> [constraint ms ...] [-- further flags]"
    echo "example: bash scripts/run_task.sh toy.en-de cpu 6 9"
    [ "${1:-}" = -h ] || [ "${1:-}" = --help ] && exit 0 || exit 2
fi
CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
task=$1
hardware=$2
shift 2
limits=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    limits+=("$1")
    shift
done
[ $# -gt 0 ] && shift
flags=(--task="$task" --hardware="$hardware")
[ ${#limits[@]} -gt 0 ] && flags+=(--latency-constraints "${limits[@]}")
exec "${PYTHON:-python}" -m hat run "${flags[@]}" "$@"
