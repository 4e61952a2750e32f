#!/usr/bin/env bash
# Generated English-German sentences -> data/binary/toy_en_de
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: bash configs/toy.en-de/preprocess.sh

Writes 12,600 generated sentence pairs to data/raw/toy.en-de and makes data/binary/toy_en_de of them: joint
sentencepiece model of 1000 pieces, joint dictionary. Text that is there already is taken as it is, and work that is
up to date is skipped.
Environment: PYTHON (default python), WORKERS (processes, default 1).
TEXT
}

src=en tgt=de raw=data/raw/toy.en-de work=data/text/toy_en_de binary=data/binary/toy_en_de
# shellcheck source=scripts/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/steps.sh"
begin 0 "$@"
count_workers "${WORKERS:-1}"

for text in "$raw"/{train,valid,test}.{en,de}; do
    if [ ! -f "$text" ]; then # text that is there is an input, whoever wrote it
        [ -d "$raw/new" ] || "$python" -m hat toy-data --to "$raw/new"
        mv "$raw/new/$(basename "$text")" "$text"
    fi
done
rm -rf "$raw/new"
pieces 1000 "$raw"/{train,valid,test}
