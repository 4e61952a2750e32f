"""Parallel text -> `dict.<lang>.txt` and `<split>.<src>-<tgt>.<lang>.{bin,idx}`, by several processes."""

import functools
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hat.config import Options, flag_of, option
from hat.data.folder import CODES_FILE, MODEL_FILE, SPLITS, replacing
from hat.data.indexed import write_parts
from hat.data.subwords import count_tokens, learn_sentencepiece, load_pieces
from hat.data.text import Chunk, Workers, chunks, read_lines, split_tokens, unequal
from hat.data.vocab import UNK, Vocab
from hat.errors import ConfigError, DataError


@dataclass(frozen=True)
class PreprocessConfig(Options):
    """Text to binary data"""

    source_lang: str
    """source language, the ending of its files, for example en"""
    target_lang: str
    """target language, the ending of its files, for example de"""
    destdir: str = option(role="free")
    """folder to write; data of an earlier run in it is replaced at the end, in one step; splits not given now
    stay if the dictionaries do"""
    trainpref: str | None = option(None, role="file")
    """path of the training text without .<language>"""
    validpref: str | None = option(None, role="file")
    """path of the validation text without .<language>"""
    testpref: str | None = option(None, role="file")
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
    srcdict: str | None = option(None, role="file")
    """use this source dictionary as it is"""
    tgtdict: str | None = option(None, role="file")
    """use this target dictionary as it is"""
    workers: int = option(1, low=1, role="machine")
    """number of processes; the result does not depend on it"""
    allow_empty: bool = False
    """take empty lines as sentences without words instead of stopping"""
    sentencepiece: int | None = option(None, low=1)
    """learn a joint sentencepiece model of this many pieces on the training text and apply it; without it
    the text is taken as already split into subwords"""
    bpe_codes: str | None = option(None, role="file")
    """file of the merges that the text was split with: kept beside the dictionaries, so that plain text can
    be translated"""
    seed: int = 1
    """draws the lines that sentencepiece learns on when the text is longer than 2,000,000 lines"""

    def __post_init__(self) -> None:
        super().__post_init__()
        joined, given = self.joined_dictionary, (bool(self.srcdict), bool(self.tgtdict))
        known = (any(given) if joined else all(given)) and not self.sentencepiece
        code, needs_code = r"[^/.\- \n\0]+", "a language code without '/', '.', '-' and spaces is allowed"
        same_limits = self.thresholdtgt in (0, self.thresholdsrc) and self.nwordstgt in (-1, self.nwordssrc)
        for name, good, allowed in (
            ("source_lang", re.fullmatch(code, self.source_lang), needs_code),
            ("target_lang", re.fullmatch(code, self.target_lang), needs_code),
            ("target_lang", self.target_lang != self.source_lang, "it must differ from the source language"),
            ("destdir", self.destdir, "a folder is needed"),
            ("bpe_codes", not (self.sentencepiece and self.bpe_codes), "not allowed with --sentencepiece"),
            ("trainpref", self.trainpref or self.validpref or self.testpref, "or another text is needed"),
            ("tgtdict", not (joined and all(given)), "a joined dictionary has no second one"),
            ("trainpref", self.trainpref or known, "dictionaries are learnt on it"),
            ("thresholdtgt", not joined or same_limits, "a joined dictionary obeys the source's limits"),
        ):
            if not good:
                value = getattr(self, name)
                shown = "is missing" if value is None else repr(value)
                raise ConfigError(f"{flag_of(name)} {shown}: {allowed}; see hat preprocess --help")

    @property
    def languages(self) -> tuple[str, str]:
        """Return source and target language."""
        return self.source_lang, self.target_lang


def preprocess(cfg: PreprocessConfig, info: Callable[[str], object] = lambda line: None) -> dict:
    """Write the binary data of `cfg` and return its statistics.

    Everything is built in a temporary folder beside `cfg.destdir` which takes its place at the end: a run
    that fails or is killed leaves the earlier data as it was. `info` receives one line for each thing done.
    Returns {"dictionary": {lang: size}, "splits": {split: {"sentences", lang: {"tokens", "unk_percent"}}}}.
    Raises DataError for text that is missing, not UTF-8, of unequal length or (unless allowed) empty.
    """
    prefixes = zip(SPLITS, (cfg.trainpref, cfg.validpref, cfg.testpref), strict=True)
    texts = {
        split: [Path(f"{prefix}.{lang}") for lang in cfg.languages] for split, prefix in prefixes if prefix
    }
    with Workers(cfg.workers) as workers, replacing(Path(cfg.destdir), cfg.languages) as folder:
        result: dict = {"dictionary": {}, "splits": {}}
        counts, model = [Counter(), Counter()], None
        for split, files in texts.items():
            read = [count_tokens(file, workers, allow_empty=cfg.allow_empty) for file in files]
            lines = [some for some, _ in read]
            if lines[0] != lines[1]:
                raise unequal(*files, lines)
            if not lines[0]:
                raise DataError(f"{files[0]} is empty; at least one sentence is needed")
            result["splits"][split] = {"sentences": lines[0]}
            counts = [found for _, found in read] if split == "train" else counts
        if cfg.sentencepiece is not None:
            model = folder / MODEL_FILE
            learn_sentencepiece(texts["train"], model, cfg.sentencepiece, cfg.seed)
            info(f"sentencepiece: learnt on {2 * result['splits']['train']['sentences']} lines")
            counts = [count_tokens(file, workers, model)[1] for file in texts["train"]]
        if cfg.bpe_codes:
            shutil.copyfile(cfg.bpe_codes, folder / CODES_FILE)
        vocabs = _dictionaries(cfg, counts)
        for lang, vocab in zip(cfg.languages, vocabs, strict=True):
            result["dictionary"][lang] = len(vocab)
            vocab.save(folder / f"dict.{lang}.txt")
            info(f"[{lang}] dictionary: {len(vocab)} types")
        for split, files in texts.items():
            stats = result["splits"][split]
            for lang, path, vocab in zip(cfg.languages, files, vocabs, strict=True):
                prefix = folder / f"{split}.{'-'.join(cfg.languages)}.{lang}"
                tokens, unknown = _binarise(workers, path, prefix, vocab, model)
                stats[lang] = {"tokens": tokens, "unk_percent": round(100 * unknown / tokens, 4)}
                shown = f"{tokens} tokens, {stats[lang]['unk_percent']:.3g}% replaced by <unk>"
                info(f"[{lang}] {path}: {stats['sentences']} sentences, {shown}")
                if model and split != "train":
                    shutil.copyfile(path, f"{prefix}.txt")
    info(f"wrote {cfg.destdir}")
    return result


def _dictionaries(cfg: PreprocessConfig, counts: list[Counter]) -> list[Vocab]:
    limits = (cfg.thresholdsrc, cfg.nwordssrc), (cfg.thresholdtgt, cfg.nwordstgt)
    if cfg.joined_dictionary:
        given = cfg.srcdict or cfg.tgtdict
        return [Vocab.load(given) if given else Vocab.build(counts[0] + counts[1], *limits[0])] * 2
    sides = zip((cfg.srcdict, cfg.tgtdict), counts, limits, strict=True)
    return [Vocab.load(given) if given else Vocab.build(count, *most) for given, count, most in sides]


def _binarise(
    workers: Workers, path: Path, prefix: Path, vocab: Vocab, model: Path | None
) -> tuple[int, int]:
    """Write one text as indexed data; return its numbers of tokens (with EOS) and of unknown ones."""
    tokens = unknown = 0

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        nonlocal tokens, unknown
        work = functools.partial(_binarise_chunk, vocab=vocab, model=model)
        for ids, lengths in workers.run(work, chunks(path)):
            tokens += len(ids)
            unknown += int((ids == UNK).sum())
            yield ids, lengths

    write_parts(prefix, parts(), len(vocab))
    return tokens, unknown


def _binarise_chunk(chunk: Chunk, vocab: Vocab, model: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of all sentences of a chunk back to back, and their lengths."""
    split = load_pieces(model) if model else split_tokens
    sentences = [vocab.encode_tokens(split(line)) for line in read_lines(*chunk)]
    return np.concatenate(sentences), np.array([len(ids) for ids in sentences])
