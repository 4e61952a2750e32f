"""Parallel text -> `dict.<lang>.txt` and `<split>.<src>-<tgt>.<lang>.{bin,idx}`, by several processes."""

import functools
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hat.config import Options, flag_of, option
from hat.data.folder import CODES_FILE, MODEL_FILE, SPLITS, replacing
from hat.data.indexed import write_parts
from hat.data.subwords import (
    MODEL_FILES,
    Segmenter,
    count_tokens,
    is_split,
    learn_sentencepiece,
    load_bpe,
    model_beside,
    subword_kind,
)
from hat.data.text import Chunk, Workers, chunks, read_lines, unequal
from hat.data.vocab import SPECIALS, UNK, Vocab
from hat.errors import ConfigError, DataError
from hat.files.atomic import write_text_atomic


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
    """use this source dictionary as it is; plain text is split by the subword model beside it"""
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
        counts: dict[Path, Counter] = {}
        for split, files in texts.items():
            read = [count_tokens(file, workers, allow_empty=cfg.allow_empty) for file in files]
            lines = [some for some, _ in read]
            if lines[0] != lines[1]:
                raise unequal(*files, lines)
            if not lines[0]:
                raise DataError(f"{files[0]} is empty; at least one sentence is needed")
            result["splits"][split] = {"sentences": lines[0]}
            counts |= {file: found for file, (_, found) in zip(files, read, strict=True)}
        model = _subword_model(cfg, texts, folder, result, info)
        if cfg.sentencepiece is not None:
            pieces = Segmenter("sentencepiece", model)
            counts |= {file: count_tokens(file, workers, pieces)[1] for file in texts["train"]}
        vocabs = _dictionaries(
            cfg, [counts[file] for file in texts["train"]] if "train" in texts else [Counter()] * 2
        )
        for lang, vocab in zip(cfg.languages, vocabs, strict=True):
            result["dictionary"][lang] = len(vocab)
            vocab.save(folder / f"dict.{lang}.txt")
            info(f"[{lang}] dictionary: {len(vocab)} types")
        for split, files in texts.items():
            stats = result["splits"][split]
            for lang, path, vocab in zip(cfg.languages, files, vocabs, strict=True):
                prefix, segmenter = folder / f"{split}.{'-'.join(cfg.languages)}.{lang}", Segmenter()
                kind, how = subword_kind(vocab), ""
                is_plain = kind and (cfg.sentencepiece is not None or not is_split(counts[path], kind))
                if kind and model:
                    applied = is_plain and not cfg.bpe_codes
                    segmenter = Segmenter.of(vocab, model, lang) if applied else segmenter
                    how = f", split by {MODEL_FILES[kind]}" if applied else ", taken as split already"
                tokens, unknown = _binarise(workers, path, prefix, vocab, segmenter)
                stats[lang] = {"tokens": tokens, "unk_percent": round(100 * unknown / tokens, 4)}
                shown = f"{tokens} tokens, {stats[lang]['unk_percent']:.3g}% replaced by <unk>{how}"
                if kind and is_plain and not segmenter.kind and 5 * unknown > tokens:
                    found = f"{path}: {shown}: the dictionary holds subwords, the text words"
                    raise DataError(f"{found}; put {MODEL_FILES[kind]}, which belongs to it, beside it")
                info(f"[{lang}] {path}: {stats['sentences']} sentences, {shown}")
                if segmenter.kind and split != "train":
                    shutil.copyfile(path, f"{prefix}.txt")
    info(f"wrote {cfg.destdir}")
    return result


def _subword_model(
    cfg: PreprocessConfig,
    texts: Mapping[str, list[Path]],
    folder: Path,
    result: dict,
    info: Callable[[str], object],
) -> bytes | None:
    """Return the subword model that belongs to the dictionaries, after writing it into `folder`.

    It is learnt, given as the file of merges, or lies beside a given dictionary.
    """
    if cfg.sentencepiece is not None:
        learn_sentencepiece(texts["train"], folder / MODEL_FILE, cfg.sentencepiece, cfg.seed)
        info(f"sentencepiece: learnt on {2 * result['splits']['train']['sentences']} lines")
        return (folder / MODEL_FILE).read_bytes()
    if cfg.bpe_codes:
        codes = "\n".join(read_lines(cfg.bpe_codes))
        load_bpe(codes, cfg.bpe_codes)
        write_text_atomic(folder / CODES_FILE, codes + "\n")
        return codes.encode()
    found: dict[bytes, Path] = {}
    for path in (Path(path) for path in (cfg.srcdict, cfg.tgtdict) if path):
        vocab = Vocab.load(path)
        for folder_of in (path.parent, path.resolve().parent):  # the name may be a link
            if (model := model_beside(folder_of, vocab)) is not None:
                found[model] = folder_of / MODEL_FILES[subword_kind(vocab) or "sentencepiece"]
                break
    if len(found) > 1:
        both = " and ".join(map(str, found.values()))
        raise DataError(f"--srcdict and --tgtdict have different subword models, {both}; give two of one set")
    for model, path in found.items():
        shutil.copyfile(path, folder / path.name)
        return model
    return None


def _dictionaries(cfg: PreprocessConfig, counts: list[Counter]) -> list[Vocab]:
    limits = (cfg.thresholdsrc, cfg.nwordssrc), (cfg.thresholdtgt, cfg.nwordstgt)
    if cfg.joined_dictionary:
        given = cfg.srcdict or cfg.tgtdict
        return [_given(given) if given else Vocab.build(counts[0] + counts[1], *limits[0])] * 2
    sides = zip((cfg.srcdict, cfg.tgtdict), counts, limits, strict=True)
    return [_given(given) if given else Vocab.build(count, *most) for given, count, most in sides]


def _given(path: str) -> Vocab:
    """Return the dictionary in a file; raises DataError if it has no symbols."""
    if len(vocab := Vocab.load(path)) > len(SPECIALS):
        return vocab
    raise DataError(f"{path} holds no symbols; give a dictionary that hat preprocess wrote, or none")


def _binarise(
    workers: Workers, path: Path, prefix: Path, vocab: Vocab, segmenter: Segmenter
) -> tuple[int, int]:
    """Write one text as indexed data; return its numbers of tokens (with EOS) and of unknown ones."""
    tokens = unknown = 0

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        nonlocal tokens, unknown
        work = functools.partial(_binarise_chunk, vocab=vocab, segmenter=segmenter)
        for ids, lengths in workers.run(work, chunks(path)):
            tokens += len(ids)
            unknown += int((ids == UNK).sum())
            yield ids, lengths

    write_parts(prefix, parts(), len(vocab))
    return tokens, unknown


def _binarise_chunk(chunk: Chunk, vocab: Vocab, segmenter: Segmenter) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids of all sentences of a chunk back to back, and their lengths."""
    split = segmenter.load()
    sentences = [vocab.encode_tokens(split(line)) for line in read_lines(*chunk)]
    return np.concatenate(sentences), np.array([len(ids) for ids in sentences])
