"""Text and data the figures are taken on, real and random."""

import hashlib
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch

import hat
from benchmarks.process import ROOT
from benchmarks.timing import Options

LANGS = ("en", "de")
PIECES = 8000
VALID_PAIRS = 1000
MULTI30K = ROOT / "configs/multi30k.en-de/supertransformer/space0.yml"
WMT14 = ROOT / "configs/wmt14.en-de/supertransformer/space0.yml"


class MissingData(hat.DataError):
    """The data of a figure is not at hand, which is no fault of anyone."""


def multi30k(options: Options, folder: Path, split: str = "valid") -> Path:
    """Return a folder with the binary data of Multi30k: that of `--data`, or made in `folder` from raw text.
    Raises MissingData if there is neither.
    """
    made = Path(options.data)
    if (made / f"{split}.en-de.en.idx").exists():
        return made
    text = Path(options.text) / "multi30k"
    if not (text / "val.en").exists():
        raise MissingData(
            f"there is no data in {made} and no raw text in {text}; make the data with bash "
            "configs/multi30k.en-de/preprocess.sh, or give --data or --text"
        )
    hat.preprocess(
        hat.PreprocessConfig(
            *LANGS,
            destdir=str(folder / "multi30k"),
            trainpref=str(text / "train"),
            validpref=str(text / "val"),
            testpref=str(text / "test_2016_flickr"),
            joined_dictionary=True,
            sentencepiece=PIECES,
            allow_empty=True,
        )
    )
    return folder / "multi30k"


def tatoeba_pieces(options: Options, folder: Path) -> Path:
    """Return the prefix of the Tatoeba text, split into pieces as the text of a large task is. Raises
    MissingData if there is no raw text.
    """
    import sentencepiece

    text = Path(options.text) / "tatoeba.en-de"
    sources = {lang: text / f"train.{lang}" for lang in LANGS}
    if not all(path.exists() for path in sources.values()):
        raise MissingData(f"there is no Tatoeba text {text}/train.en and train.de; give --text")
    sentencepiece.SentencePieceTrainer.train(
        input=[str(path) for path in sources.values()],
        model_prefix=str(folder / "pieces"),
        vocab_size=PIECES,
        input_sentence_size=100_000,
        shuffle_input_sentence=True,
        minloglevel=2,
    )
    splitter = sentencepiece.SentencePieceProcessor(model_file=str(folder / "pieces.model"))
    for lang, path in sources.items():
        pieces = splitter.encode(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), out_type=str)
        lines = "".join(" ".join(line) + "\n" for line in pieces)
        (folder / f"pieces.{lang}").write_text(lines, encoding="utf-8")
    return folder / "pieces"


def repeat_lines(prefix: Path, pairs: int, target: Path) -> None:
    """Write the first `pairs` pairs of an endless repetition of the text at `prefix`."""
    for lang in LANGS:
        lines = Path(f"{prefix}.{lang}").read_bytes().splitlines(keepends=True)
        with open(f"{target}.{lang}", "wb") as file:
            file.writelines(islice(cycle(lines), pairs))


def random_pairs(folder: Path, pairs: int, vocab_size: int = PIECES, split: str = "train") -> None:
    """Write a split of random sentences of 4 to 30 words, with its dictionaries."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab = hat.Vocab([f"w{index}" for index in range(vocab_size - 4)])
    for side, lang in enumerate(LANGS):
        rng = np.random.default_rng(side)

        def sentences(rng: np.random.Generator = rng) -> Iterator[np.ndarray]:
            words = rng.integers(4, vocab_size, 1 << 16, dtype=np.int32)
            lengths = rng.integers(4, 31, pairs)
            starts = rng.integers(0, len(words) - 31, pairs)
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
                ids = words[start : start + length + 1].copy()
                ids[-1] = hat.EOS
                yield ids

        hat.write_indexed(folder / f"{split}.en-de.{lang}", sentences(), vocab_size)
        vocab.save(folder / f"dict.{lang}.txt")


def random_task(folder: Path, pairs: int) -> None:
    """Write binary data as preprocessing does: a training and a small validation split, and their sums."""
    random_pairs(folder, pairs)
    random_pairs(folder, min(pairs, VALID_PAIRS), split="valid")
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def random_batch(sentences: int, length: int, vocab_size: int, seed: int) -> hat.Batch:
    """Return sentences of random words, all of one length, without padding."""
    noise = torch.Generator().manual_seed(seed)
    source, target = (
        torch.randint(hat.EOS + 2, vocab_size, (sentences, length), generator=noise) for _ in range(2)
    )
    source[:, -1] = target[:, -1] = hat.EOS
    shifted = torch.cat([target[:, -1:], target[:, :-1]], dim=1)
    return hat.Batch(torch.arange(sentences), source, shifted, target, sentences * length)


def scoring_batches(data: hat.PairDataset, pairs: int) -> list[hat.Batch]:
    """Return the batches that a search scores on, of the first `pairs` pairs."""
    plan = hat.EpochBatches(data, max_tokens=4096, seed=0, epoch=0, shuffle=False, drop_long=False)
    kept = (slot[slot < pairs] for slot in plan.slots if slot is not None)
    return [data.batch(numbers) for numbers in kept if len(numbers)]
