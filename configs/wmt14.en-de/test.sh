#!/usr/bin/env bash
# BLEU: bash configs/wmt14.en-de/test.sh <checkpoint> <architecture.yml> [normal|sacre] [gpu] [subset]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/test.sh" wmt14.en-de --beam=4 --lenpen=0.6 --remove-bpe -- "$@"
