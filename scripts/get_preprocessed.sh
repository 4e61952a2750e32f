#!/usr/bin/env bash
# Binary data that the 2020 release published; the get_preprocessed.sh of a task calls this with the task's facts.
# usage: bash scripts/get_preprocessed.sh <task> <folder> <source> <target> <disk> <archive> <address> -- [-h]
set -euo pipefail

if [ $# -lt 8 ] || [ "$8" != -- ]; then
    echo "call configs/<task>/get_preprocessed.sh, which calls this with the task's facts" >&2
    exit 2
fi
task=$1 src=$3 tgt=$4 disk=$5 archive=$6 address=$7
work=data/text/$2 binary=data/binary/$2

usage() {
    cat <<TEXT
usage: bash configs/$task/get_preprocessed.sh

Downloads $archive
and unpacks it into $binary. Needs about $disk of disk and the time of the download.
Environment: RAW_DIR (folder that holds $archive already), PYTHON (default python).
TEXT
}

# shellcheck source=scripts/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
begin 0 "${@:9}"
ready_made "$archive" "$address"
