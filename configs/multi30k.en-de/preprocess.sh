#!/usr/bin/env bash
# Multi30k English-German captions -> data/binary/multi30k_en_de
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: bash configs/multi30k.en-de/preprocess.sh [folder with raw text]

Makes data/binary/multi30k_en_de: joint sentencepiece model of 8000 pieces, joint dictionary.
The folder holds {train,val,test_2016_flickr}.{en,de}, each plain or as .gz; without it they are downloaded
from https://github.com/multi30k/dataset (1.5 MB). Work that is up to date is skipped.
Environment: PYTHON (default python), WORKERS (processes, default 1).
TEXT
}

given=${1:+$(realpath -m -- "$1")}
src=en tgt=de work=data/text/multi30k_en_de binary=data/binary/multi30k_en_de
# shellcheck source=scripts/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/steps.sh"
begin 1 "$@"
count_workers "${WORKERS:-1}"
folder=$given
if [ -n "$folder" ] && [ ! -d "$folder" ]; then
    echo "there is no folder $1; give the folder with train.en, train.de, ... or nothing to download them" >&2
    exit 2
fi
url=https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw
raw=data/raw/multi30k.en-de

there=yes # the text of an earlier call
for text in "$raw"/{train,valid,test}.all.{en,de}; do [ -f "$text" ] || there=; done
if [ -z "$folder" ] && [ -z "$there" ]; then
    folder=$raw/download
    for split in train val test_2016_flickr; do
        for lang in en de; do
            "$python" -m hat fetch --url "$url/$split.$lang.gz" --to "$folder/$split.$lang.gz"
        done
    done
fi

mkdir -p "$raw"
# The plain text of each split, under the names train, valid, test; a copy is made only when the text changed.
for name in train:train valid:val test:test_2016_flickr; do
    [ -n "$folder" ] || break
    for lang in en de; do
        from=$folder/${name#*:}.$lang
        to=$raw/${name%%:*}.all.$lang
        if [ -f "$from" ]; then
            cat -- "$from" >"$to.tmp"
        elif [ -f "$from.gz" ]; then
            gzip -dc -- "$from.gz" >"$to.tmp"
        else
            echo "there is neither $from nor $from.gz; give a folder with the raw text of Multi30k" >&2
            exit 2
        fi
        if cmp -s "$to.tmp" "$to"; then rm "$to.tmp"; else mv "$to.tmp" "$to"; fi
    done
done

step "$raw"/train.{en,de} : "$raw"/train.all.{en,de} -- \
    clean --input "$raw/train.all" --output "$raw/train" --source-lang en --target-lang de
pieces 8000 "$raw/train" "$raw/valid.all" "$raw/test.all"
