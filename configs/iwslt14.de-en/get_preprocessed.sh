#!/usr/bin/env bash
# The binary data of the 2020 release -> data/binary/iwslt14_de_en
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/get_preprocessed.sh" iwslt14.de-en iwslt14_de_en de en "50 MB" \
    iwslt14_de_en.preproessed.tgz 'https://www.dropbox.com/s/t5dqiamjdzahhfc/iwslt14_de_en.preproessed.tgz?dl=1' -- "$@"
