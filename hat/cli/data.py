"""Commands that make data: preprocess, prepare, clean, split-pairs, learn-bpe, apply-bpe, toy-data."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.cli.options import OutputOptions, command, only, parse
from hat.config import Options, option
from hat.data import corpora, subwords, toy
from hat.data import preprocess as binary


@dataclass(frozen=True)
class CleanOptions:
    """Cleaning"""

    input: str
    """path of the text without .<language>"""
    output: str
    """path of the cleaned text without .<language>"""
    source_lang: str
    """ending of the source text"""
    target_lang: str
    """ending of the target text"""


@dataclass(frozen=True)
class SplitOptions:
    """Splitting"""

    inputs: tuple[str, ...]
    """paths of the texts without .<language>, joined in this order"""
    source_lang: str
    """ending of the source texts"""
    target_lang: str
    """ending of the target texts"""
    train: str
    """path of the training text to write, without .<language>"""
    valid: str | None = None
    """path of the validation text to write, without .<language>"""
    every: int = 0
    """make each pair of this number validation: 23 takes pairs 23, 46, ... of the joined text"""


@dataclass(frozen=True)
class LearnBpeOptions(Options):
    """Byte-pair encoding"""

    inputs: tuple[str, ...]
    """texts to learn on together"""
    codes: str
    """file of merges to write"""
    merges: int = option(10000, low=1)
    """number of merges"""
    workers: int = option(1, low=1)
    """number of processes that count words; the result does not depend on it"""


@dataclass(frozen=True)
class ApplyBpeOptions(Options):
    """Byte-pair encoding"""

    codes: str
    """file of merges"""
    inputs: tuple[str, ...]
    """texts to split"""
    to: str
    """folder to write to; each text keeps its name"""
    workers: int = option(1, low=1)
    """number of processes; the result does not depend on it"""


@dataclass(frozen=True)
class ToyOptions:
    """Toy data"""

    to: str = "data/raw/toy.en-de"
    """folder to write {train,valid,test}.{en,de} to"""
    seed: int = 1
    """the same seed gives the same text everywhere"""
    train: int = 19_000
    """training pairs"""
    valid: int = 500
    """validation pairs"""
    test: int = 500
    """test pairs"""


def _pair(prefix: str, cfg: CleanOptions | SplitOptions) -> tuple[Path, Path]:
    return Path(f"{prefix}.{cfg.source_lang}"), Path(f"{prefix}.{cfg.target_lang}")


@command
def preprocess(argv: Sequence[str] | None = None) -> int:
    """Turn parallel text into dictionaries and memory-mapped ids; return the exit status."""
    cfg, output = parse(
        argv,
        binary.PreprocessConfig,
        only(OutputOptions, "json"),
        prog="hat preprocess",
        description="Turn parallel text, one sentence per line, into dictionaries and binary data.",
    )
    start = time.perf_counter()
    result = binary.preprocess(cfg, say=lambda line: print(line, flush=True))
    seconds = time.perf_counter() - start
    sentences = sum(split["sentences"] for split in result["splits"].values())
    print(f"{sentences} pairs in {seconds:.1f} s, {sentences / seconds:,.0f} pairs/s")
    if output.json:
        print(json.dumps(result | {"seconds": round(seconds, 3)}))
    return 0


@command
def prepare(argv: Sequence[str] | None = None) -> int:
    """Write the sentences of a published corpus in both languages; return the exit status."""
    (cfg,) = parse(
        argv,
        corpora.PrepareConfig,
        prog="hat prepare",
        description="Take the sentences out of a published corpus and do the steps of the Moses scripts.",
    )
    result = corpora.prepare(cfg)
    parts = f" ({' + '.join(map(str, result.sentences))})" if len(result.sentences) > 1 else ""
    print(f"{cfg.output}: {sum(result.sentences)} pairs{parts}")
    if result.invalid and cfg.replace_invalid:
        print(f"{cfg.output}: {result.invalid} lines have bytes that are not UTF-8, or U+FFFD")
    return 0


@command
def clean(argv: Sequence[str] | None = None) -> int:
    """Copy the pairs of a parallel text that are within the limits; return the exit status."""
    cfg, limits = parse(
        argv,
        CleanOptions,
        corpora.Limits,
        prog="hat clean",
        description="Copy parallel text without pairs that have an empty side or are beyond limits.",
    )
    kept, dropped = corpora.clean_pairs(_pair(cfg.input, cfg), _pair(cfg.output, cfg), limits)
    why = "with an empty side" if limits == corpora.Limits() else "outside the limits"
    print(f"{cfg.output}: {kept} pairs kept, {dropped} {why} dropped")
    return 0


@command
def split_pairs(argv: Sequence[str] | None = None) -> int:
    """Join corpora and put every n-th pair aside for validation; return the exit status."""
    (cfg,) = parse(
        argv,
        SplitOptions,
        prog="hat split-pairs",
        description="Join parallel texts and put every n-th pair aside for validation.",
    )
    inputs = [_pair(prefix, cfg) for prefix in cfg.inputs]
    valid = _pair(cfg.valid, cfg) if cfg.valid else None
    kept, aside = corpora.split_pairs(inputs, _pair(cfg.train, cfg), valid, cfg.every)
    print(f"{cfg.train}: {kept} pairs" + (f", {cfg.valid}: {aside}" if cfg.valid else ""))
    return 0


@command
def learn_bpe(argv: Sequence[str] | None = None) -> int:
    """Learn merges on text; return the exit status."""
    (cfg,) = parse(
        argv,
        LearnBpeOptions,
        prog="hat learn-bpe",
        description="Learn byte-pair merges with subword-nmt.",
    )
    merges = subwords.learn_bpe(tuple(map(Path, cfg.inputs)), Path(cfg.codes), cfg.merges, cfg.workers)
    print(f"{cfg.codes}: {merges} merges")
    return 0


@command
def apply_bpe(argv: Sequence[str] | None = None) -> int:
    """Split the words of texts into subwords; return the exit status."""
    (cfg,) = parse(
        argv, ApplyBpeOptions, prog="hat apply-bpe", description="Split words into subwords with subword-nmt."
    )
    inputs = tuple(map(Path, cfg.inputs))
    for path in subwords.apply_bpe(Path(cfg.codes), inputs, Path(cfg.to), cfg.workers):
        print(f"{path} written")
    return 0


@command
def toy_data(argv: Sequence[str] | None = None) -> int:
    """Write generated English-German pairs; return the exit status."""
    (cfg,) = parse(
        argv,
        ToyOptions,
        prog="hat toy-data",
        description="Write generated English-German sentence pairs, no sentence in more than one split.",
    )
    sizes = toy.write_toy(cfg.to, cfg.seed, cfg.train, cfg.valid, cfg.test)
    print(f"{cfg.to}: " + ", ".join(f"{size} {split}" for split, size in sizes.items()) + " pairs")
    return 0
