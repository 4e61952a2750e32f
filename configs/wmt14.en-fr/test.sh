#!/usr/bin/env bash
# BLEU: bash configs/wmt14.en-fr/test.sh <checkpoint> <architecture.yml> [normal|sacre] [gpu] [subset]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/test.sh" wmt14.en-fr --beam=4 --lenpen=0.6 --remove-bpe -- "$@"
