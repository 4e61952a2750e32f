#!/usr/bin/env bash
# BLEU: bash configs/iwslt14.de-en/test.sh <checkpoint> <architecture.yml> [normal|sacre] [gpu] [subset]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/test.sh" iwslt14.de-en --beam=5 --lenpen=1 --remove-bpe -- "$@"
