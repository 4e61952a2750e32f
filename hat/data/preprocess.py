"""Parallel text -> `dict.<lang>.txt` and `<split>.<src>-<tgt>.<lang>.{bin,idx}`, by several processes."""

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
        joined, given = self.joined_dictionary, (bool(self.srcdict), bool(self.tgtdict))
        known = any(given) if joined else all(given)
        source, target = (re.fullmatch(r"[^/.\- \n\0]+", lang) for lang in self.languages)
        same_limits = self.thresholdtgt in (0, self.thresholdsrc) and self.nwordstgt in (-1, self.nwordssrc)
        for name, good, allowed in (
            ("source_lang", source, "a language code without '/', '.', '-' and spaces is allowed"),
            ("target_lang", target, "a language code without '/', '.', '-' and spaces is allowed"),
            ("target_lang", self.target_lang != self.source_lang, "it must differ from the source language"),
            ("destdir", self.destdir, "a folder is needed"),
            ("bpe_codes", not (self.sentencepiece and self.bpe_codes), "not allowed with --sentencepiece"),
            ("trainpref", self.trainpref or self.validpref or self.testpref, "or another text is needed"),
            ("tgtdict", not (joined and all(given)), "a joined dictionary has no second one"),
            (
                "trainpref",
                self.trainpref or (known and not self.sentencepiece),
                "dictionaries are learnt on it",
            ),
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


def preprocess(cfg: PreprocessConfig, say: Callable[[str], object] = lambda line: None) -> dict:
    """Write the binary data of `cfg` and return its statistics.

    Everything is built in a temporary folder beside `cfg.destdir` which takes its place at the end: a run
    that fails or is killed leaves the earlier data as it was. `say` receives one line for each thing done.
    Returns {"dictionary": {lang: size}, "splits": {split: {"sentences", lang: {"tokens", "unk_percent"}}}}.
    Raises DataError for text that is missing, not UTF-8, of unequal length or (unless allowed) empty.
    """
    prefixes = zip(SPLITS, (cfg.trainpref, cfg.validpref, cfg.testpref), strict=True)
    texts = {
        split: {lang: Path(f"{prefix}.{lang}") for lang in cfg.languages}
        for split, prefix in prefixes
        if prefix
    }
    train, model = texts.get("train", {}), None
    with Workers(cfg.workers) as workers, replacing(Path(cfg.destdir), cfg.languages) as folder:
        sizes: dict[str, int] = {}
        counts: dict[str, Counter] = {}
        for split, files in texts.items():
            counting = split == "train" and cfg.sentencepiece is None
            lines = []
            for lang, path in files.items():
                some, found = count_tokens(path, workers, allow_empty=cfg.allow_empty, count=counting)
                lines.append(some)
                if counting:
                    counts[lang] = found
            if lines[0] != lines[1]:
                raise unequal(*files.values(), lines)
            if not lines[0]:
                raise DataError(f"{files[cfg.source_lang]} is empty; at least one sentence is needed")
            sizes[split] = lines[0]
        if cfg.sentencepiece is not None:
            model = folder / MODEL_FILE
            learn_sentencepiece(train.values(), model, cfg.sentencepiece, cfg.seed)
            say(f"sentencepiece: learnt on {2 * sizes['train']} lines")
            counts = {lang: count_tokens(path, workers, model=model)[1] for lang, path in train.items()}
        if cfg.bpe_codes:
            shutil.copyfile(cfg.bpe_codes, folder / CODES_FILE)
        vocabs = _dictionaries(cfg, counts)
        result: dict = {"dictionary": {lang: len(vocab) for lang, vocab in vocabs.items()}, "splits": {}}
        for lang, vocab in vocabs.items():
            vocab.save(folder / f"dict.{lang}.txt")
            say(f"[{lang}] dictionary: {len(vocab)} types")
        for split, files in texts.items():
            stats = result["splits"][split] = {"sentences": sizes[split]}
            for lang, path in files.items():
                prefix = folder / f"{split}.{'-'.join(cfg.languages)}.{lang}"
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
    def made(given: str | None, threshold: int, nwords: int, *langs: str) -> Vocab:
        if given:
            return Vocab.load(given)
        return Vocab.build(sum((counts[lang] for lang in langs), Counter()), threshold, nwords)

    if cfg.joined_dictionary:
        given = cfg.srcdict or cfg.tgtdict
        return dict.fromkeys(cfg.languages, made(given, cfg.thresholdsrc, cfg.nwordssrc, *cfg.languages))
    return {
        cfg.source_lang: made(cfg.srcdict, cfg.thresholdsrc, cfg.nwordssrc, cfg.source_lang),
        cfg.target_lang: made(cfg.tgtdict, cfg.thresholdtgt, cfg.nwordstgt, cfg.target_lang),
    }


def _binarise(
    workers: Workers, path: Path, prefix: Path, vocab: Vocab, model: Path | None
) -> tuple[int, int]:
    """Write one text as indexed data; return its numbers of tokens (with EOS) and of unknown ones."""
    tokens = unknown = 0

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        nonlocal tokens, unknown
        tasks = [(chunk, vocab, model) for chunk in chunks(path)]
        for ids, lengths in workers.run(_binarise_chunk, tasks):
            tokens += len(ids)
            unknown += int((ids == UNK).sum())
            yield ids, lengths

    write_parts(prefix, parts(), len(vocab))
    return tokens, unknown


def _binarise_chunk(task: tuple[Chunk, Vocab, Path | None]) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of all sentences of a chunk back to back, and their lengths."""
    chunk, vocab, model = task
    split = load_pieces(model) if model else split_tokens
    sentences = [vocab.encode_tokens(split(line)) for line in read_lines(*chunk)]
    return np.concatenate(sentences), np.array([len(ids) for ids in sentences])
