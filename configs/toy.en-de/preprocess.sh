#!/usr/bin/env bash
# Generated English-German sentences -> data/binary/toy_en_de
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: bash configs/toy.en-de/preprocess.sh

Writes 20,000 generated sentence pairs to data/raw/toy.en-de and makes data/binary/toy_en_de of them: joint
sentencepiece model of 1000 pieces, joint dictionary. Work that is up to date is skipped.
Environment: PYTHON (default python), WORKERS (processes, default 1).
TEXT
}

# shellcheck source=scripts/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/steps.sh"
begin 0 "$@"
raw=data/raw/toy.en-de
binary=data/binary/toy_en_de

if older "$raw/test.de" hat/data/toy.py configs/toy.en-de/preprocess.sh; then
    "$python" -m hat toy-data --to "$raw"
fi
if older "$binary/test.en-de.de.idx" "$raw"/{train,valid,test}.{en,de} configs/toy.en-de/preprocess.sh; then
    "$python" -m hat preprocess --source-lang en --target-lang de \
        --trainpref "$raw/train" --validpref "$raw/valid" --testpref "$raw/test" \
        --sentencepiece 1000 --joined-dictionary --workers "${WORKERS:-1}" --destdir "$binary"
else
    echo "$binary is up to date"
fi
