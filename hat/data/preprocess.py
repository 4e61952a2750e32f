"""Parallel text -> `dict.<lang>.txt` and `<split>.<src>-<tgt>.<lang>.{bin,idx}`, by several processes."""

import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hat.data.folder import keep_other_splits, replacing
from hat.data.indexed import merge_indexed, write_ids
from hat.data.text import Pieces, learn_sentencepiece, read_lines, split_tokens, where
from hat.data.vocab import UNK, Vocab
from hat.data.workers import Chunk, Workers, chunks
from hat.errors import ConfigError, DataError


@dataclass(frozen=True)
class PreprocessConfig:
    """Text to binary data"""

    source_lang: str
    """source language, the ending of its files, for example en"""
    target_lang: str
    """target language, the ending of its files, for example de"""
    destdir: str
    """folder to write; data of an earlier run in it is replaced at the end, in one step; splits not given now
    stay if the dictionaries do"""
    trainpref: str | None = None
    """path of the training text without .<language>"""
    validpref: str | None = None
    """path of the validation text without .<language>"""
    testpref: str | None = None
    """path of the test text without .<language>"""
    joined_dictionary: bool = False
    """one dictionary for both languages"""
    thresholdsrc: int = 0
    """leave source tokens seen fewer times than this out of the dictionary"""
    thresholdtgt: int = 0
    """the same for the target"""
    nwordssrc: int = -1
    """size of the source dictionary with the four special symbols; -1: all tokens"""
    nwordstgt: int = -1
    """the same for the target"""
    srcdict: str | None = None
    """use this source dictionary as it is"""
    tgtdict: str | None = None
    """use this target dictionary as it is"""
    workers: int = 1
    """number of processes; the result does not depend on it"""
    allow_empty: bool = False
    """take empty lines as sentences without words instead of stopping"""
    sentencepiece: int | None = None
    """learn a joint sentencepiece model of this many pieces on the training text and apply it; without it
    the text is taken as already split into subwords"""
    seed: int = 1
    """draws the lines that sentencepiece learns on when the text is longer than 2,000,000 lines"""

    def __post_init__(self) -> None:
        for name in ("source_lang", "target_lang"):
            lang = getattr(self, name)
            if not lang or any(c in "/.- \n\0" for c in lang):
                self._refuse(name, lang, "a language code without '/', '.', '-' and spaces is allowed")
        if self.source_lang == self.target_lang:
            self._refuse("target_lang", self.target_lang, "it must differ from the source language")
        if not self.destdir:
            self._refuse("destdir", self.destdir, "a folder is needed")
        for name, least in (("thresholdsrc", 0), ("thresholdtgt", 0), ("workers", 1), ("sentencepiece", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                self._refuse(name, value, f"{least} or more is allowed")
        for name in ("nwordssrc", "nwordstgt"):
            if getattr(self, name) != -1 and getattr(self, name) < 5:
                self._refuse(name, getattr(self, name), "-1 (all) or 5 and more are allowed")
        if not (self.trainpref or self.validpref or self.testpref):
            self._refuse("trainpref", None, "give at least one of --trainpref, --validpref and --testpref")
        given = bool(self.srcdict), bool(self.tgtdict)
        if self.joined_dictionary and all(given):
            self._refuse("tgtdict", self.tgtdict, "a joined dictionary takes one of --srcdict and --tgtdict")
        enough = any(given) if self.joined_dictionary else all(given)
        if not self.trainpref and (self.sentencepiece or not enough):
            self._refuse("trainpref", None, "dictionary and sentencepiece are learnt on it; give --trainpref")
        if self.joined_dictionary and (
            self.thresholdtgt not in (0, self.thresholdsrc) or self.nwordstgt not in (-1, self.nwordssrc)
        ):
            self._refuse("thresholdtgt", self.thresholdtgt, "a joined dictionary obeys the source's limits")

    def _refuse(self, name: str, value: object, allowed: str) -> None:
        shown = "is missing" if value is None else repr(value)
        raise ConfigError(f"--{name.replace('_', '-')} {shown}: {allowed}; see preprocess.py --help")

    @property
    def pair(self) -> str:
        """Return `<src>-<tgt>`."""
        return f"{self.source_lang}-{self.target_lang}"

    @property
    def languages(self) -> tuple[str, str]:
        """Return source and target language."""
        return self.source_lang, self.target_lang

    def texts(self) -> dict[str, dict[str, Path]]:
        """Return the text file of each split given and each language."""
        prefixes = {"train": self.trainpref, "valid": self.validpref, "test": self.testpref}
        return {
            split: {lang: Path(f"{prefix}.{lang}") for lang in self.languages}
            for split, prefix in prefixes.items()
            if prefix
        }


class Scan(NamedTuple):
    """What the first reading of a text finds."""

    lines: int
    counts: Counter


def preprocess(cfg: PreprocessConfig, say: Callable[[str], None] = lambda line: None) -> dict:
    """Write the binary data of `cfg` and return its statistics.

    Everything is built in a temporary folder beside `cfg.destdir` which takes its place at the end: a run
    that fails or is killed leaves the earlier data as it was. `say` receives one line for each thing done.
    Returns {"dictionary": {lang: size}, "splits": {split: {"sentences", lang: {"tokens", "unk_percent"}}}}.
    Raises DataError for text that is missing, not UTF-8, of unequal length or (unless allowed) empty.
    """
    with Workers(cfg.workers) as workers:
        return _preprocess(cfg, say, workers)


def _preprocess(cfg: PreprocessConfig, say: Callable[[str], None], workers: Workers) -> dict:
    texts = cfg.texts()
    pieces_needed = cfg.sentencepiece is not None
    scans = _scan_all(cfg, texts, workers, count=not pieces_needed)
    with replacing(Path(cfg.destdir), cfg.pair, cfg.languages) as folder:
        model = None
        if pieces_needed:
            model = folder / "sentencepiece.model"
            learn_sentencepiece(texts["train"].values(), model, cfg.sentencepiece, cfg.seed)
            say(f"sentencepiece: learnt on {2 * scans['train'][cfg.source_lang].lines} lines")
            scans["train"] = {
                lang: _scan(cfg, path, workers, count=True, model=model)
                for lang, path in texts["train"].items()
            }
        vocabs = _dictionaries(cfg, {lang: scan.counts for lang, scan in scans.get("train", {}).items()})
        result: dict = {"dictionary": {lang: len(vocab) for lang, vocab in vocabs.items()}, "splits": {}}
        for lang, vocab in vocabs.items():
            vocab.save(folder / f"dict.{lang}.txt")
            say(f"[{lang}] dictionary: {len(vocab)} types")
        for split, files in texts.items():
            stats: dict = {"sentences": scans[split][cfg.source_lang].lines}
            for lang, path in files.items():
                prefix = folder / f"{split}.{cfg.pair}.{lang}"
                tokens, unknown = _binarise(workers, path, prefix, vocabs[lang], model)
                stats[lang] = {"tokens": tokens, "unk_percent": round(100 * unknown / max(1, tokens), 4)}
                say(
                    f"[{lang}] {path}: {stats['sentences']} sentences, {tokens} tokens, "
                    f"{stats[lang]['unk_percent']:.3g}% replaced by <unk>"
                )
                if pieces_needed and split != "train":
                    shutil.copyfile(path, f"{prefix}.txt")
            result["splits"][split] = stats
        keep_other_splits(Path(cfg.destdir), folder, [f"dict.{lang}.txt" for lang in cfg.languages])
    say(f"wrote {cfg.destdir}")
    return result


def _dictionaries(cfg: PreprocessConfig, counts: dict[str, Counter]) -> dict[str, Vocab]:
    if cfg.joined_dictionary:
        if given := cfg.srcdict or cfg.tgtdict:
            return dict.fromkeys(cfg.languages, Vocab.load(given))
        joined = sum(counts.values(), Counter())
        return dict.fromkeys(cfg.languages, Vocab.build(joined, cfg.thresholdsrc, cfg.nwordssrc))
    limits = {
        cfg.source_lang: (cfg.srcdict, cfg.thresholdsrc, cfg.nwordssrc),
        cfg.target_lang: (cfg.tgtdict, cfg.thresholdtgt, cfg.nwordstgt),
    }
    return {
        lang: Vocab.load(given) if given else Vocab.build(counts[lang], threshold, nwords)
        for lang, (given, threshold, nwords) in limits.items()
    }


def _scan_all(
    cfg: PreprocessConfig, texts: dict[str, dict[str, Path]], workers: Workers, count: bool
) -> dict[str, dict[str, Scan]]:
    """Read every text once: check it, count its lines and, in the training text, its tokens if `count`."""
    scans = {}
    for split, files in texts.items():
        wanted = count and split == "train"
        scans[split] = {lang: _scan(cfg, path, workers, wanted, None) for lang, path in files.items()}
        source, target = (scans[split][lang].lines for lang in cfg.languages)
        if source != target:
            raise DataError(
                f"{files[cfg.source_lang]} has {source} lines but {files[cfg.target_lang]} has {target}; "
                "line i of one must be the translation of line i of the other; nothing was written; repair "
                "the files"
            )
        if not source:
            raise DataError(
                f"{files[cfg.source_lang]} is empty; at least one sentence is needed; check the path"
            )
    return scans


def _scan(cfg: PreprocessConfig, path: Path, workers: Workers, count: bool, model: Path | None) -> Scan:
    tasks = [(chunk, cfg.allow_empty, count, model) for chunk in chunks(path)]
    lines, counts = 0, Counter()
    for part in workers.map(_scan_chunk, tasks):
        lines += part.lines
        counts.update(part.counts)
    return Scan(lines, counts)


def _scan_chunk(task: tuple[Chunk, bool, bool, Path | None]) -> Scan:
    chunk, allow_empty, count, model = task
    split = Pieces(model).split if model else split_tokens
    lines, counts = 0, Counter()
    for line in read_lines(*chunk):
        tokens = split(line)
        if not tokens and not allow_empty:
            raise DataError(
                f"{where(chunk.path, chunk.start, lines)} is empty; a sentence needs at least one word; "
                "remove the line in both languages, or pass --allow-empty"
            )
        if count:
            counts.update(tokens)
        lines += 1
    return Scan(lines, counts)


def _binarise(
    workers: Workers, path: Path, prefix: Path, vocab: Vocab, model: Path | None
) -> tuple[int, int]:
    """Write one text as indexed data; return its numbers of tokens (with EOS) and of unknown ones."""
    tasks = [(chunk, Path(f"{prefix}.part{index}"), vocab, model) for index, chunk in enumerate(chunks(path))]
    parts, tokens, unknown = [], 0, 0
    for sizes, num_unknown in workers.map(_binarise_chunk, tasks):
        parts.append((tasks[len(parts)][1], sizes))
        tokens += sum(sizes)
        unknown += num_unknown
    merge_indexed(prefix, parts, len(vocab))
    for part, _ in parts:
        part.unlink()
    return tokens, unknown


def _binarise_chunk(task: tuple[Chunk, Path, Vocab, Path | None]) -> tuple[array, int]:
    chunk, part, vocab, model = task
    split = Pieces(model).split if model else split_tokens
    sizes, unknown = array("i"), 0

    def sentences() -> Iterator:
        nonlocal unknown
        for line in read_lines(*chunk):
            ids = vocab.encode_tokens(split(line))
            unknown += int((ids == UNK).sum())
            yield ids

    write_ids(part, sentences(), sizes, len(vocab))
    return sizes, unknown
