#!/usr/bin/env bash
# WMT'14 English-German (training data of WMT'16) -> data/binary/wmt16_en_de
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: bash configs/wmt14.en-de/preprocess.sh [archive=data/wmt16_en_de.tar.gz] [workers=60]

Makes data/binary/wmt16_en_de of an archive whose text is tokenised, cleaned and split by 32000 joint BPE merges:
a joint dictionary of 32768 entries. Validation: newstest2013, test: newstest2014. About 4.5 million training pairs.
The archive is downloaded from Google Drive (0.5 GB) unless it is there.
Needs about 4 GB of disk and, with 2 workers, 5 minutes; 60 stands for as many workers as there are cores. Steps
that are up to date are skipped; a run that was stopped goes on.
Environment: RAW_DIR (folder with wmt16_en_de.tar.gz, when no archive is given), PYTHON (default python).
TEXT
}

src=en tgt=de work=data/text/wmt16_en_de binary=data/binary/wmt16_en_de
archive=${1:-${RAW_DIR:+$RAW_DIR/wmt16_en_de.tar.gz}}
RAW_DIR=${archive:+$(dirname -- "$archive")}
# shellcheck source=scripts/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/steps.sh"
begin 2 "$@"
archives=${RAW_DIR:-data}
count_workers "${2:-}"

texts=(train.tok.clean.bpe.32000 newstest2013.tok.bpe.32000 newstest2014.tok.bpe.32000)
take "$(basename -- "${archive:-wmt16_en_de.tar.gz}")" 'https://drive.google.com/uc?export=download&id=0B_bZck-ksdkpM25jRUN2X2UxMm8' \
    "${texts[@]/%/.en}" "${texts[@]/%/.de}"
binarise "${texts[@]/#/raw/}" --joined-dictionary --nwordssrc 32768 --nwordstgt 32768
