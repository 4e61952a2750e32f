#!/usr/bin/env bash
# The binary data of the 2020 release -> data/binary/wmt19_en_de
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/get_preprocessed.sh" wmt19.en-de wmt19_en_de en de "8 GB" \
    wmt19_en_de.preprocessed.tgz 'https://www.dropbox.com/s/q2st4ox2na9z5z2/wmt19_en_de.preprocessed.tgz?dl=1' -- "$@"
