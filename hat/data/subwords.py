"""Words <-> subwords by sentencepiece or by byte-pair encoding (BPE), and plain sentences <-> ids."""

import contextlib
import functools
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hat.data.corpora import detokenizer, line_function
from hat.data.folder import CODES_FILE, MODEL_FILE
from hat.data.text import Chunk, Workers, chunks, read_lines, split_tokens, where
from hat.data.vocab import Vocab
from hat.errors import ConfigError, DataError, package
from hat.files.atomic import write_atomic, write_text_atomic

Kind = Literal["sentencepiece", "subword_nmt"]
Split = Callable[[str], list[str]]
SPACE_MARK = "\u2581"  # sentencepiece writes a space as this character
GOOGLE_HYPHEN = "##AT##-##AT##"  # a hyphen inside a word in the WMT'16 text of the release; Moses writes @-@
APPLY_CHUNK = 1 << 22
MODEL_FILES = {"sentencepiece": MODEL_FILE, "subword_nmt": CODES_FILE}


def remove_subwords(line: str, kind: str | None) -> str:
    """Return the words of a line of subwords of kind None, "@@ ", subword_nmt or sentencepiece."""
    if kind is None:
        return line
    if kind in ("@@ ", "subword_nmt"):
        return (line + " ").replace("@@ ", "").rstrip(" ")
    if kind == "sentencepiece":
        return line.replace(" ", "").replace(SPACE_MARK, " ").strip(" ")
    raise ConfigError(f"cannot join subwords of kind {kind!r}; allowed: '@@ ', subword_nmt, sentencepiece")


def plain_text(words: str, lang: str) -> str:
    """Return the sentence of a line of Moses tokens."""
    return detokenizer(lang)(words.replace(GOOGLE_HYPHEN, "@-@"))


def subword_kind(symbols: Iterable[str]) -> Kind | None:
    """Return how the symbols of a dictionary are joined to words, None if they are words themselves."""
    known = list(symbols)
    if any(symbol.startswith(SPACE_MARK) for symbol in known):
        return "sentencepiece"
    return "subword_nmt" if any(symbol.endswith("@@") for symbol in known) else None


def model_beside(place: Path, vocab: Vocab) -> bytes | None:
    """Return the content of the subword model of a dictionary, if any, in `place`, its file or folder."""
    if (kind := subword_kind(vocab)) is None:
        return None
    path = place / MODEL_FILES[kind] if place.is_dir() else place
    read = read_codes if kind == "subword_nmt" else Path.read_bytes
    return read(path) if path.is_file() else None


def read_codes(path: Path | str) -> bytes:
    """Return a file of merges without byte order mark. Raises DataError for what is no text."""
    return "".join(f"{line}\n" for line in read_lines(path)).encode()


def moses_rules(vocab: Vocab) -> tuple[str | None, bool]:
    """Return how BPE symbols write a hyphen inside a word, None if not apart, and if all are lower case."""
    mark = next((mark for mark in (GOOGLE_HYPHEN, "@-@") if mark in vocab), None)
    return mark, not any(symbol != symbol.lower() for symbol in vocab)


def splitter(vocab: Vocab, model: bytes | None, lang: str) -> Split:
    """Return the function that makes symbols of `vocab` of plain text, by the dictionary's subword model.
    Dictionaries of BPE hold Moses tokens: the text is tokenised, and put in lower case if no symbol has a
    capital. Symbols of dictionaries without subwords are words. Raises DataError if the model is missing.
    """
    if (kind := subword_kind(vocab)) is None:
        return split_tokens
    if model is None:
        found = f"{MODEL_FILES[kind]}, the subword model of the dictionaries, is missing"
        raise DataError(f"{found}; put it beside them")
    if kind == "sentencepiece":
        return load_pieces(model)
    mark, is_lower = moses_rules(vocab)
    steps = ("tokenize", "lowercase") if is_lower else ("tokenize",)
    tokens = line_function(lang, *steps, hyphens="split" if mark else "keep")
    bpe = load_bpe(model.decode("utf-8", "replace"))
    return lambda line: bpe(tokens(line).replace("@-@", mark or "@-@"))


def count_tokens(
    path: Path, workers: Workers, pieces: bytes = b"", *, allow_empty: bool = True
) -> tuple[int, Counter]:
    """Return the number of lines of a text, none empty if not allowed, and counts of words or pieces."""
    lines, counts = 0, Counter()
    for some, found in workers.run(_count_chunk, chunks(path), pieces=pieces, allow_empty=allow_empty):
        lines += some
        counts.update(found)
    return lines, counts


def _count_chunk(chunk: Chunk, pieces: bytes, allow_empty: bool) -> tuple[int, Counter]:
    split = load_pieces(pieces) if pieces else split_tokens
    lines, counts = 0, Counter()
    for lines, line in enumerate(read_lines(*chunk), 1):
        tokens = split(line)
        if not (tokens or allow_empty):
            raise DataError(f"{where(*chunk[:2], lines - 1)} is empty; remove the pair or give --allow-empty")
        counts.update(tokens)
    return lines, counts


def check_pieces(lines: Iterable[str], pieces: int, option: str) -> None:
    """Raise ConfigError, naming the option, if a sentencepiece model needs more pieces for its characters."""
    least = len({char for line in lines for word in split_tokens(line) for char in word}) + 2
    if pieces < least:
        raise ConfigError(f"{option} {pieces}: the characters of the text alone need {least}; give as many")


def learn_sentencepiece(files: Iterable[Path], model_path: Path, vocab_size: int, seed: int) -> None:
    """Learn a BPE model of at most `vocab_size` pieces on the lines of `files`, which were checked before,
    and write it to `model_path`, by `seed` alone; no normalisation, every character is covered. Of more than
    2,000,000 lines, as many are drawn. ConfigError for too few pieces and for a text without words.
    """
    sentencepiece = package("sentencepiece")
    words = (split_tokens(line) for path in files for line in read_lines(path))
    model, message = io.BytesIO(), "no text"
    sentencepiece.set_random_generator_seed(seed)
    options = {"model_type": "bpe", "vocab_size": vocab_size, "hard_vocab_limit": False, "num_threads": 1}
    options |= {"normalization_rule_name": "identity", "character_coverage": 1.0, "bos_id": -1, "eos_id": -1}
    options |= {"input_sentence_size": 2_000_000, "shuffle_input_sentence": True}  # it keeps them in memory
    options |= {"max_sentence_length": 1 << 16, "minloglevel": 3, "model_writer": model}
    lines = (" ".join(some) for some in words if some)
    try:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, **options)
    except (RuntimeError, ValueError, OSError) as error:
        message = " ".join(str(error).split())[-200:]
    if not model.getvalue():
        least = re.search(r"[0-9]+ vs ([0-9]+)", message)
        why = f"its characters alone need {least[1]}; give at least as many" if least else message
        raise ConfigError(f"--sentencepiece {vocab_size}: cannot learn so many pieces on the text: {why}")
    write_atomic(model_path, lambda file: file.write(model.getvalue()))


def load_pieces(model: bytes) -> Split:
    """Return the function that splits a raw line by the content of a sentencepiece model, else DataError."""
    processor = package("sentencepiece").SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        advice = "make it again with hat preprocess --sentencepiece"
        raise DataError(f"cannot load the sentencepiece model: {str(error)[-120:]!a}; {advice}") from error
    return lambda line: processor.encode(" ".join(split_tokens(line)), out_type=str)


def learn_bpe(files: Sequence[Path], codes: Path, merges: int, workers: int = 1) -> int:
    """Learn `merges` merges on all `files` as `subword-nmt learn-bpe` does; return how many were written."""
    learner, out = package("subword_nmt.learn_bpe"), io.StringIO()
    with Workers(workers) as pool:
        counts = sum((count_tokens(path, pool)[1] for path in files), Counter())
    if not any(len(word) > 1 for word in counts):
        raise DataError(f"{' '.join(map(str, files))}: words of two or more characters are needed for merges")
    with contextlib.redirect_stderr(io.StringIO()):  # a bar, and a line when the text has no more pairs
        learner.learn_bpe((f"{word} {n}" for word, n in counts.items()), out, merges, is_dict=True)
    write_text_atomic(codes, out.getvalue())
    return out.getvalue().count("\n") - 1


def apply_bpe(codes: Path, inputs: Sequence[Path], folder: Path, workers: int = 1) -> list[Path]:
    """Write each text of `inputs`, split into subwords, under its own name into `folder`; return paths."""
    outputs = [folder / path.name for path in inputs]
    if len(set(outputs)) != len(outputs) or folder.resolve() in [path.resolve().parent for path in inputs]:
        raise ConfigError(f"--to {folder}: give another folder than the texts', whose names must differ")
    content = read_codes(codes).decode()
    load_bpe(content, str(codes))  # what is wrong with the codes is told here, not in a worker
    with Workers(workers) as pool:
        for path, output in zip(inputs, outputs, strict=True):
            parts = pool.run(_apply_chunk, chunks(path, APPLY_CHUNK), codes=content)
            write_atomic(output, lambda file, parts=parts: file.writelines(parts))
    return outputs


def _apply_chunk(chunk: Chunk, codes: str) -> bytes:
    split = load_bpe(codes)
    return "".join(" ".join(split(line)) + "\n" for line in read_lines(*chunk)).encode()


@functools.lru_cache(maxsize=2)
def load_bpe(codes: str, name: str = "the file of merges") -> Split:
    """Return the function that splits the words of a line by `codes`, the text of a file called `name`."""
    first, *merges = codes.removesuffix("\n").split("\n")
    wrong = [line for line in merges if len(line.split(" ")) != 2 or not all(line.split(" "))]
    if not first.startswith("#version: 0.2") or not merges or wrong:
        needed = f"'#version: 0.2', then lines of two pieces, not {[first, *wrong][-1][:60]!r}"
        raise DataError(f"{name} is no file of merges, which holds {needed}; make it with hat learn-bpe")
    bpe = package("subword_nmt.apply_bpe").BPE(io.StringIO("\n".join([first, *merges, ""]), newline="\n"))

    def split(line: str) -> list[str]:
        if len(bpe.cache) > 1_000_000:  # real text has no end of words
            bpe.cache.clear()
        return bpe.segment_tokens(split_tokens(line))

    return split


@dataclass(frozen=True)
class TextCodec:
    """Plain sentences <-> ids, by two dictionaries and the subword model that belongs to them."""

    languages: tuple[str, str]  # source and target; Moses' rules are taken for these
    vocabs: tuple[Vocab, Vocab]
    model: bytes | None = None  # content of the sentencepiece model or of the file of BPE merges, if any

    @classmethod
    def load(cls, folder: Path, languages: tuple[str, str], vocabs: tuple[Vocab, Vocab]) -> "TextCodec":
        """Take the subword model that `hat preprocess` left in `folder`, if it is there."""
        return cls(languages, vocabs, model_beside(folder, vocabs[0]))

    @functools.cached_property
    def kind(self) -> Kind | None:
        """Return how subwords are marked in the dictionaries; None if their symbols are words."""
        return subword_kind(self.vocabs[0])

    @functools.cached_property
    def _split(self) -> Split:
        return splitter(self.vocabs[0], self.model, self.languages[0])

    def encode(self, sentence: str) -> np.ndarray:
        """Return the ids [tokens + 1] (int32, EOS last) of a plain sentence; DataError without model."""
        return self.vocabs[0].encode_tokens(self._split(sentence))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the plain sentence of ids of the target language; Moses' tokens of BPE text are joined."""
        words = remove_subwords(self.vocabs[1].decode(ids), self.kind)
        return plain_text(words, self.languages[1]) if self.kind == "subword_nmt" else words

    def to_plain(self) -> dict[str, Any]:
        """Return plain values and a tensor, as model files hold them; `from_plain` makes the codec again."""
        import torch  # late: text is split into subwords without it

        sides = self.vocabs[:1] if self.vocabs[0] is self.vocabs[1] else self.vocabs
        model = None if self.model is None else torch.frombuffer(bytearray(self.model), dtype=torch.uint8)
        return {"languages": list(self.languages), "vocabs": [side.text() for side in sides], "model": model}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> "TextCodec":
        """Return the codec whose `to_plain` gave `values`."""
        vocabs = [Vocab.parse(text.split("\n")[:-1], "dictionary") for text in values["vocabs"]]
        model = None if values["model"] is None else values["model"].numpy().tobytes()
        return cls(tuple(values["languages"]), (vocabs[0], vocabs[-1]), model)
