#!/usr/bin/env bash
# Write average_model_N.pt, the mean of the last N epoch checkpoints of a run.
# usage: bash scripts/average_checkpoint.sh <checkpoint folder> [N=10]
set -euo pipefail

case "${1:-}" in
-h | --help | "")
    echo "usage: bash configs/<task>/average_checkpoint.sh <checkpoint folder> [N=10]"
    [ -n "${1:-}" ] && exit 0 || exit 2
    ;;
esac
if [ $# -gt 2 ]; then
    echo "1 or 2 arguments are allowed, got $#: $*; see --help" >&2
    exit 2
fi
folder=$(realpath -m -- "$1")
CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-python}" -m hat average --inputs "$folder" --num-epoch-checkpoints="${2:-10}"
