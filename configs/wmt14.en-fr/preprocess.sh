#!/usr/bin/env bash
# WMT'14 English-French -> data/binary/wmt14_en_fr
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: bash configs/wmt14.en-fr/preprocess.sh [workers=60]

Makes data/binary/wmt14_en_fr of Europarl 7, Common Crawl, UN, News Commentary 9 and Giga: Moses punctuation and
tokens with split hyphens, every 1333rd pair for validation, 40000 joint BPE merges, 1 to 250 tokens on a side and
at most 1.5 times as many as on the other, the dictionary of the 2020 release. Test: newstest2014.
Needs about 110 GB of disk, of which the download is 7 GB, 15 GB of memory and 8 core hours, 2 of them in one process
(estimates); 60 stands for as many workers as there are cores. Steps that are up to date are skipped; a run that
was stopped goes on. data/text/wmt14_en_fr/{raw,tok,split,bpe,clean} may be removed at the end, but a later run
would make them again.
Environment: RAW_DIR (folder of the archives and the dictionary, default data/text/wmt14_en_fr/orig; nothing that
is there is downloaded), PYTHON (default python), BPE_MERGES (default 40000).
TEXT
}

src=en tgt=fr work=data/text/wmt14_en_fr binary=data/binary/wmt14_en_fr
# shellcheck source=scripts/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/steps.sh"
begin 1 "$@"
count_workers "${1:-}"

statmt=https://www.statmt.org
take training-parallel-europarl-v7.tgz $statmt/wmt13/training-parallel-europarl-v7.tgz \
    training/europarl-v7.fr-en.{en,fr}
take training-parallel-commoncrawl.tgz $statmt/wmt13/training-parallel-commoncrawl.tgz \
    commoncrawl.fr-en.{en,fr}
take training-parallel-un.tgz $statmt/wmt13/training-parallel-un.tgz \
    un/undoc.2000.fr-en.{en,fr}
take training-parallel-nc-v9.tgz $statmt/wmt14/training-parallel-nc-v9.tgz \
    training/news-commentary-v9.fr-en.{en,fr}
take training-giga-fren.tar $statmt/wmt10/training-giga-fren.tar giga-fren.release2.fixed.{en,fr}.gz
take test-full.tgz $statmt/wmt14/test-full.tgz test-full/newstest2014-fren-{src.en,ref.fr}.sgm
for lang in en fr; do
    giga=$work/raw/giga-fren.release2.fixed.$lang
    step "$giga" : "$giga.gz" -- fetch --to "$giga.gz" --unpack "$work/raw" --members "$(basename "$giga")"
done

moses=(--normalize --printable --tokenize --hyphens split --replace-invalid)
corpora=(training/europarl-v7.fr-en commoncrawl.fr-en un/undoc.2000.fr-en training/news-commentary-v9.fr-en
    giga-fren.release2.fixed)
for corpus in "${corpora[@]}"; do
    text "tok/$corpus" "$corpus.en" = "$corpus.fr" -- "${moses[@]}"
done
split_text split/train split/valid 1333 "${corpora[@]/#/tok/}"
text split/test test-full/newstest2014-fren-src.en.sgm = test-full/newstest2014-fren-ref.fr.sgm -- \
    --markup segments --tokenize --hyphens split
subwords "${BPE_MERGES:-40000}" bpe split/train split/valid split/test
clean bpe/train clean/train --max-length 250 --ratio 1.5
clean bpe/valid clean/valid --max-length 250 --ratio 1.5
dictionary wmt14enfr_dict.txt 'https://www.dropbox.com/s/sgx2z11oo5mgube/wmt14enfr_dict.txt?dl=1'
binarise clean/train clean/valid bpe/test --joined-dictionary --srcdict "$archives/wmt14enfr_dict.txt"
