#!/usr/bin/env bash
# BLEU: bash configs/tatoeba.en-de/test.sh <checkpoint> <architecture.yml> [normal|sacre] [gpu] [subset]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/test.sh" tatoeba.en-de --beam=5 --lenpen=1 --remove-bpe=sentencepiece -- "$@"
