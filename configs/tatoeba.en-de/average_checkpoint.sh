#!/usr/bin/env bash
# Mean of the last N epoch checkpoints: bash configs/tatoeba.en-de/average_checkpoint.sh <checkpoint folder> [N=10]
exec bash "$(dirname "${BASH_SOURCE[0]}")/../../scripts/average_checkpoint.sh" "$@"
