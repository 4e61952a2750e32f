#!/usr/bin/env bash
# Binary data of plain text with joint pieces; the preprocess.sh of a task of one's own calls this with its facts.
# usage: bash scripts/preprocess.sh <task> <source> <target> <pieces> -- [-h] [folder with train.<source>, ...]
set -euo pipefail

if [ $# -lt 5 ] || [ "$5" != -- ]; then
    echo "call configs/<task>/preprocess.sh, which calls this with the task's facts" >&2
    exit 2
fi
task=$1 src=$2 tgt=$3 count=$4
shift 5
raw=$(realpath -m -- "${1:-.}")
work=data/text/${task//[.-]/_} binary=data/binary/${task//[.-]/_}

usage() {
    echo "usage: bash configs/$task/preprocess.sh [folder with train.$src, train.$tgt, ...]"
}

# shellcheck source=scripts/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
begin 1 "$@"
count_workers "${WORKERS:-1}"
if [ $# -eq 0 ]; then raw=data/raw/$task; fi
pieces "$count" "$raw"/{train,valid,test}
