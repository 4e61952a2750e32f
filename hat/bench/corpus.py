"""Text and data the figures are taken on: real captions and sentences, and generated pairs of ids."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from hat.bench.request import BenchOptions
from hat.data.folder import SUMS, file_digest
from hat.data.indexed import write_indexed
from hat.data.pairs import Batch
from hat.data.preprocess import PreprocessConfig, preprocess
from hat.data.subwords import Pieces, learn_sentencepiece
from hat.data.text import read_lines
from hat.data.vocab import EOS, Vocab
from hat.errors import DataError

LANGS = ("en", "de")
PIECES = 8000
VALID_PAIRS = 1000


class MissingData(DataError):
    """The data of a figure is not at hand, which is no fault of anyone."""


def multi30k(options: BenchOptions, folder: Path, split: str = "valid") -> Path:
    """Return a folder with the binary data of Multi30k: the task's own, or made in `folder` from raw text.

    `split` has to be there. Raises MissingData where there is neither.
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
    preprocess(
        PreprocessConfig(
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


def tatoeba_pieces(options: BenchOptions, folder: Path) -> Path:
    """Return the prefix of the Tatoeba text, split into pieces as the text of a large task is.

    Raises MissingData where there is no raw text.
    """
    text = Path(options.text) / "tatoeba.en-de"
    sources = {lang: text / f"train.{lang}" for lang in LANGS}
    if not all(path.exists() for path in sources.values()):
        raise MissingData(f"there is no Tatoeba text {text}/train.en and train.de; give --text")
    learn_sentencepiece(sources.values(), folder / "pieces.model", PIECES, seed=1)
    pieces = Pieces(folder / "pieces.model")
    prefix = folder / "pieces"
    for lang, path in sources.items():
        with open(f"{prefix}.{lang}", "w", encoding="utf-8") as file:
            file.writelines(" ".join(pieces.split(line)) + "\n" for line in read_lines(path))
    return prefix


def repeat_lines(prefix: Path, pairs: int, target: Path) -> None:
    """Write the first `pairs` pairs of an endless repetition of the text at `prefix`."""
    for lang in LANGS:
        lines = Path(f"{prefix}.{lang}").read_bytes().splitlines(keepends=True)
        whole, rest = divmod(pairs, len(lines))
        with open(f"{target}.{lang}", "wb") as file:
            block = b"".join(lines)
            for _ in range(whole):
                file.write(block)
            file.writelines(lines[:rest])


def random_pairs(folder: Path, pairs: int, vocab_size: int = PIECES, split: str = "train") -> None:
    """Write a split of random sentences of 4 to 30 words, with its dictionaries."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab = Vocab([f"w{index}" for index in range(vocab_size - 4)])
    for side, lang in enumerate(LANGS):
        rng = np.random.default_rng(side)

        def sentences(rng: np.random.Generator = rng) -> Iterator[np.ndarray]:
            words = rng.integers(4, vocab_size, 1 << 16, dtype=np.int32)
            for length in rng.integers(4, 31, pairs):
                start = int(rng.integers(0, len(words) - length))
                ids = words[start : start + length + 1].copy()
                ids[-1] = EOS
                yield ids

        write_indexed(folder / f"{split}.en-de.{lang}", sentences(), vocab_size)
        vocab.save(folder / f"dict.{lang}.txt")


def random_task(folder: Path, pairs: int) -> None:
    """Write binary data as preprocessing does: a training and a small validation split, and their sums."""
    random_pairs(folder, pairs)
    random_pairs(folder, min(pairs, VALID_PAIRS), split="valid")
    sums = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
    (folder / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def random_batch(sentences: int, length: int, vocab_size: int, seed: int) -> Batch:
    """Return sentences of random words, all of one length, without padding."""
    noise = torch.Generator().manual_seed(seed)
    source, target = (
        torch.randint(EOS + 2, vocab_size, (sentences, length), generator=noise) for _ in range(2)
    )
    source[:, -1] = target[:, -1] = EOS
    shifted = torch.cat([target[:, -1:], target[:, :-1]], dim=1)
    return Batch(torch.arange(sentences), source, shifted, target, sentences * length)


def first_pairs(batches: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Return the batches without the pairs from number `count` on, as the search takes a part of a split."""
    kept = (indices[indices < count] for indices in batches)
    return [indices for indices in kept if len(indices)]
