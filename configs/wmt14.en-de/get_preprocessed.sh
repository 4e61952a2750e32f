#!/usr/bin/env bash
# The binary data of the 2020 release -> data/binary/wmt16_en_de
set -euo pipefail

case "${1:-}" in
-h | --help)
    echo "usage: bash configs/wmt14.en-de/get_preprocessed.sh"
    echo "Downloads wmt16_en_de.preprocessed.tgz"
    echo "and unpacks it into data/binary/wmt16_en_de. Needs about 1.5 GB of disk and the time of the download."
    echo "Environment: RAW_DIR (folder that holds wmt16_en_de.preprocessed.tgz already), PYTHON (default python)."
    exit 0
    ;;
esac
if [ $# -gt 0 ]; then
    echo "no argument is allowed, got $*; see --help" >&2
    exit 2
fi
if [ -n "${RAW_DIR:-}" ]; then RAW_DIR=$(realpath -m -- "$RAW_DIR"); fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
src=en tgt=de work=data/text/wmt16_en_de binary=data/binary/wmt16_en_de
# shellcheck source=scripts/steps.sh
. scripts/steps.sh
ready_made wmt16_en_de.preprocessed.tgz 'https://www.dropbox.com/s/axfwl1vawper8yk/wmt16_en_de.preprocessed.tgz?dl=1'
