#!/usr/bin/env bash
# WMT'19 English-German -> data/binary/wmt19_en_de
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: bash configs/wmt19.en-de/preprocess.sh [workers=60]

Makes data/binary/wmt19_en_de of ParaCrawl 3, News Commentary 14, Wiki Titles 1, Europarl 9, Common Crawl and Rapid
2019: Moses punctuation and tokens with split hyphens, 40000 joint BPE merges, 1 to 250 tokens on a side and at
most 1.5 times as many as on the other, the dictionary of the 2020 release. Validation: newstest2017, test:
newstest2018.
Needs about 80 GB of disk, of which the download is 5 GB, 25 GB of memory and 8 core hours, 3 of them in one process
(estimates); 60 stands for as many workers as there are cores. Steps that are up to date are skipped; a run that
was stopped goes on. data/text/wmt19_en_de/{raw,tok,split,bpe,clean} may be removed at the end, but a later run
would make them again.
Environment: RAW_DIR (folder of the archives and the dictionary, default data/text/wmt19_en_de/orig; nothing that
is there is downloaded), PYTHON (default python), BPE_MERGES (default 40000).
TEXT
}

src=en tgt=de work=data/text/wmt19_en_de binary=data/binary/wmt19_en_de
# shellcheck source=scripts/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/steps.sh"
begin 1 "$@"
count_workers "${1:-}"

statmt=https://www.statmt.org data=https://data.statmt.org
take en-de.bicleaner07.txt.gz \
    https://s3.amazonaws.com/web-language-models/paracrawl/release3/en-de.bicleaner07.txt.gz en-de.bicleaner07.txt
take news-commentary-v14.de-en.tsv.gz \
    $data/news-commentary/v14/training/news-commentary-v14.de-en.tsv.gz news-commentary-v14.de-en.tsv
take wikititles-v1.de-en.tsv.gz $data/wikititles/v1/wikititles-v1.de-en.tsv.gz \
    wikititles-v1.de-en.tsv
take europarl-v9.de-en.tsv.gz $statmt/europarl/v9/training/europarl-v9.de-en.tsv.gz \
    europarl-v9.de-en.tsv
take training-parallel-commoncrawl.tgz $statmt/wmt13/training-parallel-commoncrawl.tgz \
    commoncrawl.de-en.{en,de}
take rapid2019.de-en.zip https://s3-eu-west-1.amazonaws.com/tilde-model/rapid2019.de-en.zip \
    rapid2019.de-en.{en,de}
take dev.tgz $data/wmt19/translation-task/dev.tgz \
    dev/newstest{2017,2018}-ende-{src.en,ref.de}.sgm

moses=(--normalize --printable --tokenize --hyphens split --replace-invalid)
text tok/paracrawl en-de.bicleaner07.txt = en-de.bicleaner07.txt -- \
    --markup columns --source-column 1 --target-column 2 "${moses[@]}"
for corpus in news-commentary-v14.de-en wikititles-v1.de-en europarl-v9.de-en; do
    text "tok/$corpus" "$corpus.tsv" = "$corpus.tsv" -- \
        --markup columns --source-column 2 --target-column 1 "${moses[@]}"
done
for corpus in commoncrawl.de-en rapid2019.de-en; do
    text "tok/$corpus" "$corpus.en" = "$corpus.de" -- "${moses[@]}"
done
split_text split/train "" 0 tok/{paracrawl,news-commentary-v14.de-en,wikititles-v1.de-en,europarl-v9.de-en} \
    tok/{commoncrawl.de-en,rapid2019.de-en}
for name in valid:2017 test:2018; do
    set_name=dev/newstest${name#*:}-ende
    text "split/${name%:*}" "$set_name-src.en.sgm" = "$set_name-ref.de.sgm" -- \
        --markup segments --tokenize --hyphens split
done
subwords "${BPE_MERGES:-40000}" bpe split/train split/valid split/test
clean bpe/train clean/train --max-length 250 --ratio 1.5
clean bpe/valid clean/valid --max-length 250 --ratio 1.5
dictionary wmt19ende_dict.txt 'https://www.dropbox.com/s/u9h8ns6xe8ux91d/wmt19ende_dict.txt?dl=1'
binarise clean/train clean/valid bpe/test --thresholdsrc 1 --thresholdtgt 1 --joined-dictionary \
    --srcdict "$archives/wmt19ende_dict.txt"
