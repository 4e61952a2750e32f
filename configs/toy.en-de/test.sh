#!/usr/bin/env bash
# BLEU: bash configs/toy.en-de/test.sh <checkpoint> <architecture.yml> [normal|sacre] [gpu] [subset]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/test.sh" toy.en-de --beam=5 --lenpen=1 --max-len-a=1.2 --max-len-b=5 --remove-bpe=sentencepiece -- "$@"
