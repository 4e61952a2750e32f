#!/usr/bin/env bash
# The binary data of the 2020 release -> data/binary/iwslt14_de_en
set -euo pipefail

case "${1:-}" in
-h | --help)
    echo "usage: bash configs/iwslt14.de-en/get_preprocessed.sh"
    echo "Downloads iwslt14_de_en.preproessed.tgz"
    echo "and unpacks it into data/binary/iwslt14_de_en. Needs about 50 MB of disk and the time of the download."
    echo "Environment: RAW_DIR (folder that holds iwslt14_de_en.preproessed.tgz already), PYTHON (default python)."
    exit 0
    ;;
esac
if [ $# -gt 0 ]; then
    echo "no argument is allowed, got $*; see --help" >&2
    exit 2
fi
if [ -n "${RAW_DIR:-}" ]; then RAW_DIR=$(realpath -m -- "$RAW_DIR"); fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
src=de tgt=en work=data/text/iwslt14_de_en binary=data/binary/iwslt14_de_en
# shellcheck source=scripts/steps.sh
. scripts/steps.sh
ready_made iwslt14_de_en.preproessed.tgz 'https://www.dropbox.com/s/t5dqiamjdzahhfc/iwslt14_de_en.preproessed.tgz?dl=1'
