#!/usr/bin/env bash
# The binary data of the 2020 release -> data/binary/wmt14_en_fr
set -euo pipefail

case "${1:-}" in
-h | --help)
    echo "usage: bash configs/wmt14.en-fr/get_preprocessed.sh"
    echo "Downloads wmt14_en_fr.preprocessed.tgz"
    echo "and unpacks it into data/binary/wmt14_en_fr. Needs about 10 GB of disk and the time of the download."
    echo "Environment: RAW_DIR (folder that holds wmt14_en_fr.preprocessed.tgz already), PYTHON (default python)."
    exit 0
    ;;
esac
if [ $# -gt 0 ]; then
    echo "no argument is allowed, got $*; see --help" >&2
    exit 2
fi
if [ -n "${RAW_DIR:-}" ]; then RAW_DIR=$(realpath -m -- "$RAW_DIR"); fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
src=en tgt=fr work=data/text/wmt14_en_fr binary=data/binary/wmt14_en_fr
# shellcheck source=scripts/steps.sh
. scripts/steps.sh
ready_made wmt14_en_fr.preprocessed.tgz 'https://www.dropbox.com/s/mrs8efjrrnc61xi/wmt14_en_fr.preprocessed.tgz?dl=1'
