"""Parallel text -> `dict.<lang>.txt` and `<split>.<src>-<tgt>.<lang>.{bin,idx}`, by several processes."""

import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hat.config import Options, flag_of, option
from hat.data import subwords
from hat.data.folder import MODEL_FILE, SPLITS, replacing
from hat.data.indexed import Flat, IndexedData, flat, write_parts
from hat.data.subwords import MODEL_FILES, splitter, subword_kind
from hat.data.text import Chunk, Workers, chunks, read_lines, split_tokens, unequal
from hat.data.vocab import SPECIALS, UNK, Vocab
from hat.errors import ConfigError, DataError


@dataclass(frozen=True)
class PreprocessConfig(Options):
    """Text to binary data"""

    source_lang: str = option(help="source language, the ending of its files, for example en")
    target_lang: str = option(help="target language, the ending of its files, for example de")
    destdir: str = option(role="free")
    """folder to write; earlier data in it is replaced at the end; splits not given stay if dictionaries do"""
    trainpref: str | None = option(None, "path of the training text without .<language>", role="free")
    validpref: str | None = option(None, "path of the validation text without .<language>", role="free")
    testpref: str | None = option(None, "path of the test text without .<language>", role="free")
    joined_dictionary: bool = option(False, "one dictionary for both languages")
    thresholdsrc: int = option(0, "leave out source tokens seen fewer times than this", low=0)
    thresholdtgt: int = option(0, "the same for the target", low=0)
    nwordssrc: int = option(-1, "size of the source dictionary with four specials; -1: all", low=5, off=-1)
    nwordstgt: int = option(-1, "the same for the target", low=5, off=-1)
    srcdict: str | None = option(None, role="free")
    """use this source dictionary as it is; plain text is split by the subword model beside it"""
    tgtdict: str | None = option(None, "use this target dictionary as it is", role="free")
    workers: int = option(1, "number of processes; the result does not depend on it", low=1, role="free")
    allow_empty: bool = option(False, "take empty lines as sentences without words instead of stopping")
    sentencepiece: int | None = option(None, low=1)
    """learn a joint sentencepiece model of this many pieces on the training text and apply it; without it
    the text is taken as already split into subwords"""
    bpe_codes: str | None = option(None, role="free")
    """file of the merges that the text was split with: kept beside the dictionaries, so that plain text can
    be translated"""
    seed: int = option(1, "draws the lines that sentencepiece learns on, of more than 2,000,000")

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


def preprocess(cfg: PreprocessConfig, info: Callable[[str], object] = lambda line: None) -> dict:
    """Write the binary data of `cfg` and return its statistics: {"dictionary": {lang: size}, "splits":
    {split: {"sentences", lang: {"tokens", "unk_percent"}}}}. A run that fails or is killed leaves the earlier
    data as it was. `info` receives one line for each thing done. Raises DataError for text that is missing,
    not UTF-8, of unequal length or (unless allowed) empty.
    """
    langs = cfg.source_lang, cfg.target_lang
    prefixes = zip(SPLITS, (cfg.trainpref, cfg.validpref, cfg.testpref), strict=True)
    texts = {split: [Path(f"{prefix}.{lang}") for lang in langs] for split, prefix in prefixes if prefix}
    with Workers(cfg.workers) as workers, replacing(Path(cfg.destdir), langs) as folder:
        splits: dict[str, dict] = {}
        counts: dict[Path, Counter] = {}
        for split, files in texts.items():
            read = [subwords.count_tokens(file, workers, allow_empty=cfg.allow_empty) for file in files]
            lines = [some for some, _ in read]
            if lines[0] != lines[1]:
                raise unequal(*files, lines)
            if not lines[0]:
                raise DataError(f"{files[0]} is empty; at least one sentence is needed")
            splits[split] = {"sentences": lines[0]}
            counts |= {file: found for file, (_, found) in zip(files, read, strict=True)}
        if cfg.sentencepiece is not None:
            subwords.learn_sentencepiece(texts["train"], folder / MODEL_FILE, cfg.sentencepiece, cfg.seed)
            info(f"sentencepiece: learnt on {2 * splits['train']['sentences']} lines")
            model = (folder / MODEL_FILE).read_bytes()
            counts |= {file: subwords.count_tokens(file, workers, model)[1] for file in texts["train"]}
        else:
            model = _given_model(cfg, folder)
        train = [counts[file] for file in texts["train"]] if "train" in texts else [Counter()] * 2
        vocabs = _dictionaries(cfg, train)
        for lang, vocab in zip(langs, vocabs, strict=True):
            vocab.save(folder / f"dict.{lang}.txt")
            info(f"[{lang}] dictionary: {len(vocab)} types")
        for split, files in texts.items():
            for lang, path, vocab in zip(langs, files, vocabs, strict=True):
                prefix, kind = folder / f"{split}.{'-'.join(langs)}.{lang}", subword_kind(vocab)
                # of the words of plain text hardly one is marked
                marked = (n for token, n in counts[path].items() if subword_kind([token]) == kind)
                is_plain = kind and (cfg.sentencepiece or 1000 * sum(marked) <= counts[path].total())
                applied = model if is_plain and not cfg.bpe_codes else None
                how = f", split by {MODEL_FILES[kind]}" if applied else ", taken as split already"
                parts = workers.run(_binarise, chunks(path), vocab=vocab, model=applied, lang=lang)
                write_parts(prefix, parts, len(vocab))
                tokens, unknown = IndexedData(prefix).count(UNK)
                splits[split][lang] = {"tokens": tokens, "unk_percent": round(100 * unknown / tokens, 4)}
                shown = f"{tokens} tokens, {100 * unknown / tokens:.3g}% replaced by <unk>"
                shown += how if kind and model else ""
                if is_plain and not applied and 5 * unknown > tokens:
                    found = f"{path}: {shown}: the dictionary holds subwords, the text words"
                    raise DataError(f"{found}; put {MODEL_FILES[kind]}, which belongs to it, beside it")
                info(f"[{lang}] {path}: {splits[split]['sentences']} sentences, {shown}")
                if applied and split != "train":
                    shutil.copyfile(path, f"{prefix}.txt")
    info(f"wrote {cfg.destdir}")
    return {"dictionary": dict(zip(langs, map(len, vocabs), strict=True)), "splits": splits}


def _given_model(cfg: PreprocessConfig, folder: Path) -> bytes | None:
    # that lies beside a given dictionary serves too
    models: dict = {}  # content -> kind
    if cfg.bpe_codes:
        model = subwords.read_codes(cfg.bpe_codes)
        subwords.load_bpe(model.decode(), cfg.bpe_codes)
        models[model] = "subword_nmt"
    else:
        for path in map(Path, filter(None, (cfg.srcdict, cfg.tgtdict))):
            vocab = Vocab.load(path)
            for folder_of in (path.parent, path.resolve().parent):  # the name may be a link
                if (found := subwords.model_beside(folder_of, vocab)) is not None:
                    models[found] = subword_kind(vocab)
                    break
    if len(models) > 1:
        raise DataError("--srcdict and --tgtdict have different subword models; give two of one set")
    for model, kind in models.items():
        (folder / MODEL_FILES[kind]).write_bytes(model)
    return next(iter(models), None)


def _dictionaries(cfg: PreprocessConfig, counts: list[Counter]) -> list[Vocab]:
    given, limits = [cfg.srcdict, cfg.tgtdict], [(cfg.thresholdsrc, cfg.nwordssrc)]
    limits += [(cfg.thresholdtgt, cfg.nwordstgt)]
    if cfg.joined_dictionary:
        given, counts, limits = [cfg.srcdict or cfg.tgtdict], [counts[0] + counts[1]], limits[:1]
    found = []
    for path, count, limit in zip(given, counts, limits, strict=True):
        found.append(Vocab.load(path) if path else Vocab.build(count, *limit))
        if path and len(found[-1]) == len(SPECIALS):
            raise DataError(f"{path} holds no symbols; give a dictionary that hat preprocess wrote, or none")
    return found * 2 if cfg.joined_dictionary else found


def _binarise(chunk: Chunk, vocab: Vocab, model: bytes | None, lang: str) -> Flat:
    split = splitter(vocab, model, lang) if model else split_tokens
    return flat([vocab.encode_tokens(split(line)) for line in read_lines(*chunk)])
