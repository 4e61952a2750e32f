# Sourced by the preprocess.sh and get_preprocessed.sh of the tasks, which define usage() and call begin first. Steps
# want $work (folder of intermediate files), $binary, $src and $tgt set. RAW_DIR: folder of the archives.
# A step is skipped while its flags, its inputs and what it wrote are the same: their content, not their times.

python=${PYTHON:-python}

# begin <most arguments> <argument>...: show the usage where that is asked for or needed, go to the root of the checkout
begin() {
    case "${2:-}" in
    -h | --help) usage && exit 0 ;;
    esac
    if [ $# -gt $(($1 + 1)) ]; then
        echo "$(($# - 1)) arguments are given (${*:2}), at most $1 allowed" >&2
        usage >&2
        exit 2
    fi
    if [ -n "${RAW_DIR:-}" ]; then RAW_DIR=$(realpath -m -- "$RAW_DIR"); fi
    CDPATH= cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
    archives=${RAW_DIR:-${work:-}/orig}
}

# sums <file>...: name and checksum of each file that is there
sums() {
    local file
    for file in "$@"; do
        if [ -f "$file" ]; then echo "${file/#"$archives"/archives} $(cksum <"$file")"; fi
    done
}

# count_workers [number]: set $workers; by default 60 as in the release, or as many as there are cores
count_workers() {
    local cores
    cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
    workers=${1:-$((cores < 60 ? cores : 60))}
    case "$workers" in
    0* | *[!0-9]*)
        echo "workers must be a number from 1 on, got $workers; see --help" >&2
        exit 2
        ;;
    esac
}

# is_done <stamp> <flags>: whether the step with the arrays $outputs and $inputs can be skipped
is_done() {
    local path sum
    [ -f "$1" ] && [ "$(head -n 1 "$1")" = "$2" ] || return 1
    for path in "${outputs[@]}"; do [ -e "$path" ] || return 1; done
    while IFS= read -r sum; do
        grep -Fxq -- "$sum" "$1" || return 1
    done < <(sums "${outputs[@]}" "${inputs[@]}")
}

# step <output>... : <input>... -- <command> <flag>...: run `python -m hat <command>` unless that was done
step() {
    local outputs=() inputs=() stamp flags before=()
    while [ "$1" != : ]; do outputs+=("$1") && shift; done
    shift
    while [ "$1" != -- ]; do inputs+=("$1") && shift; done
    shift
    stamp=$work/.done/${outputs[0]//\//_}
    flags="${*/#"$archives"/archives}"
    if is_done "$stamp" "$flags"; then return; fi
    rm -f "$stamp"
    case "$1" in
    prepare | learn-bpe | apply-bpe | preprocess) before=(--workers "$workers") ;;
    esac
    "$python" -m hat "$1" "${before[@]}" "${@:2}"
    mkdir -p "$work/.done"
    { echo "$flags" && sums "${outputs[@]}" "${inputs[@]}"; } >"$stamp.new"
    mv "$stamp.new" "$stamp"
}

# take <archive> <address> <member>...: those files of an archive below $work/raw; it is downloaded when missing
take() {
    local members=("${@:3}")
    step "${members[@]/#/$work/raw/}" : "$archives/$1" -- \
        fetch --url "$2" --to "$archives/$1" --unpack "$work/raw" --members "${@:3}"
}

# text <output> <file of $src>... = <file of $tgt>... -- <flag>...: the sentences of files below $work/raw
text() {
    local output=$work/$1 source=() target=()
    shift
    while [ "$1" != = ]; do source+=("$work/raw/$1") && shift; done
    shift
    while [ "$1" != -- ]; do target+=("$work/raw/$1") && shift; done
    shift
    step "$output".{$src,$tgt} : "${source[@]}" "${target[@]}" -- prepare --source-lang "$src" \
        --target-lang "$tgt" --source-inputs "${source[@]}" --target-inputs "${target[@]}" \
        --output "$output" "$@"
}

# split_text <output for training> <for validation, or nothing> <n> <text>...: join texts, set every n-th pair aside
split_text() {
    local train=$work/$1 valid=${2:+$work/$2} every=$3 inputs=("${@:4}")
    inputs=("${inputs[@]/#/$work/}")
    local outputs=("$train".{$src,$tgt}) flags=()
    if [ -n "$valid" ]; then
        outputs+=("$valid".{$src,$tgt})
        flags=(--valid "$valid" --every "$every")
    fi
    step "${outputs[@]}" : "${inputs[@]/%/.$src}" "${inputs[@]/%/.$tgt}" -- split-pairs --source-lang "$src" \
        --target-lang "$tgt" --inputs "${inputs[@]}" --train "$train" "${flags[@]}"
}

# clean <input> <output> <flag>...: drop pairs beyond limits; Moses also drops those with a word of over 1000
clean() {
    step "$work/$2".{$src,$tgt} : "$work/$1".{$src,$tgt} -- clean --source-lang "$src" --target-lang "$tgt" \
        --input "$work/$1" --output "$work/$2" --max-word-length 1000 "${@:3}"
}

# subwords <merges> <folder> <train> <valid> <test>: learn joint BPE on the training text, apply it to all three
subwords() {
    local codes=$work/code texts=() written=() name
    for name in "${@:3}"; do
        texts+=("$work/$name".{$src,$tgt})
        written+=("$work/$2/$(basename "$name")".{$src,$tgt})
    done
    step "$codes" : "$work/$3".{$src,$tgt} -- \
        learn-bpe --inputs "$work/$3".{$src,$tgt} --codes "$codes" --merges "$1"
    step "${written[@]}" : "$codes" "${texts[@]}" -- \
        apply-bpe --codes "$codes" --inputs "${texts[@]}" --to "$work/$2"
}

# dictionary <name> <address>: download a dictionary among the archives
dictionary() {
    step "$archives/$1" : -- fetch --url "$2" --to "$archives/$1"
}

# binarise <train> <valid> <test> <flag>...: make $binary; an empty line of a test set stays a sentence, and the BPE
# merges, if they were learnt here, are kept beside the dictionaries
binarise() {
    local texts=("$work/$1".{$src,$tgt} "$work/$2".{$src,$tgt} "$work/$3".{$src,$tgt}) codes=()
    if [ -f "$work/code" ]; then codes=(--bpe-codes "$work/code"); fi
    step "$binary/dict.$src.txt" "$binary"/{train,valid,test}.$src-$tgt.{$src,$tgt}.{bin,idx} : "${texts[@]}" -- \
        preprocess --source-lang "$src" --target-lang "$tgt" --trainpref "$work/$1" --validpref "$work/$2" \
        --testpref "$work/$3" --destdir "$binary" --allow-empty "${codes[@]}" "${@:4}"
    echo "$binary is up to date"
}

# ready_made <archive> <address>: make $binary out of an archive of binary data
ready_made() {
    step "$binary/dict.$src.txt" "$binary"/{train,valid,test}.$src-$tgt.{$src,$tgt}.{bin,idx} : "$archives/$1" -- \
        fetch --url "$2" --to "$archives/$1" --unpack "$binary" --source-lang "$src" --target-lang "$tgt"
    echo "$binary is up to date"
}

# pieces <number> <train> <valid> <test>: make $binary of plain text, with a joint sentencepiece model and dictionary
pieces() {
    step "$binary/dict.$src.txt" "$binary"/{train,valid,test}.$src-$tgt.{$src,$tgt}.{bin,idx} : \
        "$2".{$src,$tgt} "$3".{$src,$tgt} "$4".{$src,$tgt} -- preprocess --source-lang "$src" --target-lang "$tgt" \
        --trainpref "$2" --validpref "$3" --testpref "$4" --sentencepiece "$1" --joined-dictionary --destdir "$binary"
    echo "$binary is up to date"
}
