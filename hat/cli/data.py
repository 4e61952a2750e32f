"""Commands that make data."""

import time
from dataclasses import dataclass
from pathlib import Path

from hat.cli.options import OutputOptions, only, takes
from hat.config import Options, option
from hat.data import corpora, subwords, toy
from hat.data import preprocess as binary
from hat.errors import ConfigError


@dataclass(frozen=True)
class PairOptions(Options):
    """Parallel text"""

    source_lang: str
    """ending of the source text"""
    target_lang: str
    """ending of the target text"""

    def pair(self, prefix: str) -> corpora.PathPair:
        """Return the two files of a text."""
        return Path(f"{prefix}.{self.source_lang}"), Path(f"{prefix}.{self.target_lang}")


@dataclass(frozen=True)
class CleanOptions(PairOptions):
    """Cleaning"""

    input: str = option(role="free")
    """path of the text without .<language>"""
    output: str = option(role="free")
    """path of the cleaned text without .<language>"""


@dataclass(frozen=True)
class SplitOptions(PairOptions):
    """Splitting"""

    inputs: tuple[str, ...] = option(role="free")
    """paths of the texts without .<language>, joined in this order"""
    train: str
    """path of the training text to write, without .<language>"""
    valid: str | None = None
    """path of the validation text to write, without .<language>"""
    every: int = 0
    """make each pair of this number validation: 23 takes pairs 23, 46, ... of the joined text"""
    test: str | None = None
    """path of the test text to write, for --held-out"""
    held_out: int = option(0, low=1, off=0)
    """draw so many distinct pairs for validation, and as many for --test; training has no sentence of them"""
    seed: int = 1
    """draws the pairs of --held-out"""


@dataclass(frozen=True)
class BpeOptions(Options):
    """Byte-pair encoding"""

    inputs: tuple[str, ...] = option(role="free")
    """texts to learn on together, or to split"""
    codes: str = option(role="free")
    """file of merges"""
    to: str = option(role="free")
    """folder to write to; each text keeps its name"""
    merges: int = option(10000, low=1)
    """number of merges"""
    workers: int = option(1, low=1, role="free")
    """number of processes; the result does not depend on it"""


@dataclass(frozen=True)
class ToyOptions(Options):
    """Toy data"""

    to: str = option("data/raw/toy.en-de", role="free")
    """folder to write {train,valid,test}.{en,de} to"""
    seed: int = 1
    """the same seed gives the same text everywhere"""
    train: int = option(12_000, low=0)
    """training pairs"""
    valid: int = option(200, low=0)
    """validation pairs"""
    test: int = option(400, low=0)
    """test pairs"""


@takes("hat preprocess", binary.PreprocessConfig, only(OutputOptions, "json"))
def preprocess(cfg: binary.PreprocessConfig, out: OutputOptions) -> dict:
    """Turn parallel text, one sentence per line, into dictionaries and binary data."""
    start = time.perf_counter()
    result = binary.preprocess(cfg, info=lambda line: print(line, flush=True))
    seconds = time.perf_counter() - start
    sentences = sum(split["sentences"] for split in result["splits"].values())
    print(f"{sentences} pairs in {seconds:.1f} s, {sentences / seconds:,.0f} pairs/s")
    return result | {"seconds": round(seconds, 3)}


@takes("hat prepare", corpora.PrepareConfig)
def prepare(cfg: corpora.PrepareConfig) -> None:
    """Take the sentences out of a published corpus and do the steps of the Moses scripts."""
    sentences, invalid = corpora.prepare(cfg)
    parts = f" ({' + '.join(map(str, sentences))})" if len(sentences) > 1 else ""
    print(f"{cfg.output}: {sum(sentences)} pairs{parts}")
    if invalid and cfg.replace_invalid:
        print(f"{cfg.output}: {invalid} lines have bytes that are not UTF-8, or U+FFFD")


@takes("hat clean", CleanOptions, corpora.Limits)
def clean(cfg: CleanOptions, limits: corpora.Limits) -> None:
    """Copy parallel text without pairs that have an empty side or are beyond limits."""
    kept, dropped = corpora.clean_pairs(cfg.pair(cfg.input), cfg.pair(cfg.output), limits)
    why = "with an empty side" if limits == corpora.Limits() else "outside the limits"
    print(f"{cfg.output}: {kept} pairs kept, {dropped} {why} dropped")


@takes("hat split-pairs", SplitOptions)
def split_pairs(cfg: SplitOptions) -> None:
    """Join parallel texts and put every n-th pair, or drawn ones, aside for validation."""
    inputs, train, valid, test = [*map(cfg.pair, cfg.inputs)], cfg.pair(cfg.train), cfg.valid, cfg.test
    if cfg.held_out:
        if not (valid and test) or cfg.every:
            raise ConfigError("--held-out needs --valid and --test, the texts to write, and no --every")
        both = cfg.pair(valid), cfg.pair(test)
        kept, aside = corpora.split_at_random(inputs, train, *both, cfg.held_out, cfg.seed)
    else:
        kept, aside = corpora.split_pairs(inputs, train, cfg.pair(valid) if valid else None, cfg.every)
    print(f"{cfg.train}: {kept} pairs" + (f", {cfg.valid}: {aside}" if cfg.valid else ""))


@takes("hat learn-bpe", only(BpeOptions, "inputs", "codes", "merges", "workers"))
def learn_bpe(cfg: BpeOptions) -> None:
    """Learn byte-pair merges with subword-nmt."""
    merges = subwords.learn_bpe([*map(Path, cfg.inputs)], Path(cfg.codes), cfg.merges, cfg.workers)
    print(f"{cfg.codes}: {merges} merges")


@takes("hat apply-bpe", only(BpeOptions, "inputs", "codes", "to", "workers"))
def apply_bpe(cfg: BpeOptions) -> None:
    """Split words into subwords with subword-nmt."""
    for path in subwords.apply_bpe(Path(cfg.codes), [*map(Path, cfg.inputs)], Path(cfg.to), cfg.workers):
        print(f"{path} written")


@takes("hat toy-data", ToyOptions)
def toy_data(cfg: ToyOptions) -> None:
    """Write generated English-German sentence pairs, no sentence in more than one split."""
    sizes = toy.write_toy(cfg.to, cfg.seed, cfg.train, cfg.valid, cfg.test)
    print(f"{cfg.to}: " + ", ".join(f"{size} {split}" for split, size in sizes.items()) + " pairs")
