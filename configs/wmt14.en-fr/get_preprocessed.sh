#!/usr/bin/env bash
# The binary data of the 2020 release -> data/binary/wmt14_en_fr
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/get_preprocessed.sh" wmt14.en-fr wmt14_en_fr en fr "10 GB" \
    wmt14_en_fr.preprocessed.tgz 'https://www.dropbox.com/s/mrs8efjrrnc61xi/wmt14_en_fr.preprocessed.tgz?dl=1' -- "$@"
