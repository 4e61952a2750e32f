#!/usr/bin/env bash
# The binary data of the 2020 release -> data/binary/wmt16_en_de
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/get_preprocessed.sh" wmt14.en-de wmt16_en_de en de "1.5 GB" \
    wmt16_en_de.preprocessed.tgz 'https://www.dropbox.com/s/axfwl1vawper8yk/wmt16_en_de.preprocessed.tgz?dl=1' -- "$@"
