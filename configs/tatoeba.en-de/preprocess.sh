#!/usr/bin/env bash
# Tatoeba English-German sentences -> data/binary/tatoeba_en_de
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: bash configs/tatoeba.en-de/preprocess.sh [folder with raw text]

Makes data/binary/tatoeba_en_de: joint sentencepiece model of 8000 pieces, joint dictionary.
The folder holds {train,valid}.{en,de} and perhaps test.{en,de}; without a test every second pair of valid is one.
Without a folder, the release v2023-04-12 of OPUS (https://opus.nlpl.eu/Tatoeba.php, CC BY 2.0) is downloaded, and 1000
pairs each are drawn (seed 1) for validation and test, whose sentences are in no training pair.
Work that is up to date is skipped.
Environment: RAW_DIR (folder of de-en.txt.zip, default data/text/tatoeba_en_de/orig; what is there is not downloaded),
PYTHON (default python), WORKERS (processes, default 1).
TEXT
}

given=${1:+$(realpath -m -- "$1")}
src=en tgt=de work=data/text/tatoeba_en_de binary=data/binary/tatoeba_en_de
# shellcheck source=scripts/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/steps.sh"
begin 1 "$@"
count_workers "${WORKERS:-1}"

if [ -z "$given" ]; then
    take de-en.txt.zip https://object.pouta.csc.fi/OPUS-Tatoeba/v2023-04-12/moses/de-en.txt.zip Tatoeba.de-en.{de,en}
    folder=$work/split
    step "$folder"/{train,valid,test}.{en,de} : "$work"/raw/Tatoeba.de-en.{en,de} -- \
        split-pairs --source-lang en --target-lang de --inputs "$work/raw/Tatoeba.de-en" --train "$folder/train" \
        --valid "$folder/valid" --test "$folder/test" --held-out 1000
else
    folder=$given
    for text in "$given"/{train,valid}.{en,de}; do
        if [ ! -f "$text" ]; then
            echo "there is no $text; give a folder with {train,valid}.{en,de}, or nothing to download the text" >&2
            exit 2
        fi
    done
fi
test=$folder/test valid=$folder/valid
if [ ! -f "$test.en" ]; then
    test=$work/halves/test valid=$work/halves/valid
    step {"$test","$valid"}.{en,de} : "$folder"/valid.{en,de} -- split-pairs --source-lang en --target-lang de \
        --inputs "$folder/valid" --train "$test" --valid "$valid" --every 2
fi
step "$work"/clean/train.{en,de} : "$folder"/train.{en,de} -- \
    clean --input "$folder/train" --output "$work/clean/train" --source-lang en --target-lang de
pieces 8000 "$work/clean/train" "$valid" "$test"
