"""Parallel text -> `dict.<lang>.txt` and `<split>.<src>-<tgt>.<lang>.{bin,idx}`, by several processes."""

import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hat.config import Options, flag_of, option
from hat.data.folder import CODES_FILE, MODEL_FILE, replacing
from hat.data.indexed import merge_indexed, write_ids
from hat.data.subwords import Pieces, learn_sentencepiece
from hat.data.text import Chunk, Workers, chunks, read_lines, split_tokens, where
from hat.data.vocab import UNK, Vocab
from hat.errors import ConfigError, DataError


@dataclass(frozen=True)
class PreprocessConfig(Options):
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
    thresholdsrc: int = option(0, low=0)
    """leave source tokens seen fewer times than this out of the dictionary"""
    thresholdtgt: int = option(0, low=0)
    """the same for the target"""
    nwordssrc: int = option(-1, low=5, off=-1)
    """size of the source dictionary with the four special symbols; -1: all tokens"""
    nwordstgt: int = option(-1, low=5, off=-1)
    """the same for the target"""
    srcdict: str | None = None
    """use this source dictionary as it is"""
    tgtdict: str | None = None
    """use this target dictionary as it is"""
    workers: int = option(1, low=1)
    """number of processes; the result does not depend on it"""
    allow_empty: bool = False
    """take empty lines as sentences without words instead of stopping"""
    sentencepiece: int | None = option(None, low=1)
    """learn a joint sentencepiece model of this many pieces on the training text and apply it; without it
    the text is taken as already split into subwords"""
    bpe_codes: str | None = None
    """file of the merges that the text was split with: kept beside the dictionaries, so that plain text can
    be translated"""
    seed: int = 1
    """draws the lines that sentencepiece learns on when the text is longer than 2,000,000 lines"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("source_lang", "target_lang"):
            lang = getattr(self, name)
            if not lang or any(c in "/.- \n\0" for c in lang):
                self._refuse(name, "a language code without '/', '.', '-' and spaces is allowed")
        if self.source_lang == self.target_lang:
            self._refuse("target_lang", "it must differ from the source language")
        if not self.destdir:
            self._refuse("destdir", "a folder is needed")
        if self.sentencepiece and self.bpe_codes:
            self._refuse("bpe_codes", "text is split by --sentencepiece or by these, not by both")
        if not (self.trainpref or self.validpref or self.testpref):
            self._refuse("trainpref", "give at least one of --trainpref, --validpref and --testpref")
        given = bool(self.srcdict), bool(self.tgtdict)
        if self.joined_dictionary and all(given):
            self._refuse("tgtdict", "a joined dictionary takes one of --srcdict and --tgtdict")
        enough = any(given) if self.joined_dictionary else all(given)
        if not self.trainpref and (self.sentencepiece or not enough):
            self._refuse("trainpref", "dictionary and sentencepiece are learnt on it; give --trainpref")
        if self.joined_dictionary and (
            self.thresholdtgt not in (0, self.thresholdsrc) or self.nwordstgt not in (-1, self.nwordssrc)
        ):
            self._refuse("thresholdtgt", "a joined dictionary obeys the source's limits")

    def _refuse(self, name: str, allowed: str) -> None:
        value = getattr(self, name)
        shown = "is missing" if value is None else repr(value)
        raise ConfigError(f"{flag_of(name)} {shown}: {allowed}; see hat preprocess --help")

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


def preprocess(cfg: PreprocessConfig, say: Callable[[str], object] = lambda line: None) -> dict:
    """Write the binary data of `cfg` and return its statistics.

    Everything is built in a temporary folder beside `cfg.destdir` which takes its place at the end: a run
    that fails or is killed leaves the earlier data as it was. `say` receives one line for each thing done.
    Returns {"dictionary": {lang: size}, "splits": {split: {"sentences", lang: {"tokens", "unk_percent"}}}}.
    Raises DataError for text that is missing, not UTF-8, of unequal length or (unless allowed) empty.
    """
    with Workers(cfg.workers) as workers:
        return _preprocess(cfg, say, workers)


def _preprocess(cfg: PreprocessConfig, say: Callable[[str], object], workers: Workers) -> dict:
    texts = cfg.texts()
    train, model, counts = texts.get("train", {}), None, {}
    num_lines = {}
    for split, files in texts.items():
        scans = {
            lang: _scan(cfg, path, workers, None, count=split == "train" and cfg.sentencepiece is None)
            for lang, path in files.items()
        }
        num_lines[split] = _check_lines(files, [lines for lines, _ in scans.values()])
        counts |= {lang: found for lang, (_, found) in scans.items() if split == "train"}
    with replacing(Path(cfg.destdir), cfg.pair, cfg.languages) as folder:
        if cfg.sentencepiece is not None:
            model = folder / MODEL_FILE
            learn_sentencepiece(train.values(), model, cfg.sentencepiece, cfg.seed)
            say(f"sentencepiece: learnt on {2 * num_lines['train']} lines")
            counts = {lang: _scan(cfg, path, workers, model, count=True)[1] for lang, path in train.items()}
        if cfg.bpe_codes:
            shutil.copyfile(cfg.bpe_codes, folder / CODES_FILE)
        vocabs = _dictionaries(cfg, counts)
        result: dict = {"dictionary": {lang: len(vocab) for lang, vocab in vocabs.items()}, "splits": {}}
        for lang, vocab in vocabs.items():
            vocab.save(folder / f"dict.{lang}.txt")
            say(f"[{lang}] dictionary: {len(vocab)} types")
        for split, files in texts.items():
            stats = result["splits"][split] = {"sentences": num_lines[split]}
            for lang, path in files.items():
                prefix = folder / f"{split}.{cfg.pair}.{lang}"
                tokens, unknown = _binarise(workers, path, prefix, vocabs[lang], model)
                stats[lang] = {"tokens": tokens, "unk_percent": round(100 * unknown / max(1, tokens), 4)}
                say(
                    f"[{lang}] {path}: {stats['sentences']} sentences, {tokens} tokens, "
                    f"{stats[lang]['unk_percent']:.3g}% replaced by <unk>"
                )
                if model and split != "train":
                    shutil.copyfile(path, f"{prefix}.txt")
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


def _check_lines(files: dict[str, Path], lines: list[int]) -> int:
    """Return the number of lines that both texts of a split have."""
    source, target = files.values()
    if lines[0] != lines[1]:
        raise DataError(
            f"{source} has {lines[0]} lines but {target} has {lines[1]}; line i of one must be the "
            "translation of line i of the other; nothing was written; repair the files"
        )
    if not lines[0]:
        raise DataError(f"{source} is empty; at least one sentence is needed; check the path")
    return lines[0]


def _scan(
    cfg: PreprocessConfig, path: Path, workers: Workers, model: Path | None, *, count: bool
) -> tuple[int, Counter]:
    """Read a text once: check it, count its lines and, if `count`, its tokens."""
    tasks = [(chunk, cfg.allow_empty, count, model) for chunk in chunks(path)]
    lines, counts = 0, Counter()
    for some, found in workers.map(_scan_chunk, tasks):
        lines += some
        counts.update(found)
    return lines, counts


def _scan_chunk(task: tuple[Chunk, bool, bool, Path | None]) -> tuple[int, Counter]:
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
    return lines, counts


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
