#!/usr/bin/env bash
# IWSLT'14 German-English talks -> data/binary/iwslt14_de_en
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: bash configs/iwslt14.de-en/preprocess.sh [workers=60]

Makes data/binary/iwslt14_de_en of the talks in de-en.tgz: Moses tokens in lower case, 1 to 175 on a side and at
most 1.5 times as many as on the other, every 23rd pair for validation, 10000 joint BPE merges, a dictionary for
each language. About 160,000 training, 7,300 validation and 6,750 test pairs.
Needs about 0.3 GB of disk, of which the download is 20 MB, and 2 minutes with 2 workers; 60 stands for as many as
there are cores. Steps that are up to date are skipped; a run that was stopped goes on.
wit3.fbk.eu has moved its archives: where the download fails, put de-en.tgz into RAW_DIR.
Environment: RAW_DIR (folder of the archive, default data/text/iwslt14_de_en/orig; nothing that is there is
downloaded), PYTHON (default python), BPE_MERGES (default 10000).
TEXT
}

src=de tgt=en work=data/text/iwslt14_de_en binary=data/binary/iwslt14_de_en
# shellcheck source=scripts/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/steps.sh"
begin 1 "$@"
count_workers "${1:-}"

tests=(de-en/IWSLT14.{TED.dev2010,TEDX.dev2012,TED.tst2010,TED.tst2011,TED.tst2012}.de-en)
take de-en.tgz https://wit3.fbk.eu/archive/2014-01/texts/de/en/de-en.tgz \
    de-en/train.tags.de-en.{de,en} "${tests[@]/%/.de.xml}" "${tests[@]/%/.en.xml}"
text tok/train de-en/train.tags.de-en.de = de-en/train.tags.de-en.en -- --markup talks --tokenize
clean tok/train clean/train --max-length 175 --ratio 1.5
step "$work"/lower/train.{de,en} : "$work"/clean/train.{de,en} -- \
    prepare --source-lang de --target-lang en --output "$work/lower/train" --lowercase \
    --source-inputs "$work/clean/train.de" --target-inputs "$work/clean/train.en"
split_text split/train split/valid 23 lower/train
text split/test "${tests[@]/%/.de.xml}" = "${tests[@]/%/.en.xml}" -- --markup segments --tokenize --lowercase
subwords "${BPE_MERGES:-10000}" bpe split/train split/valid split/test
binarise bpe/train bpe/valid bpe/test
