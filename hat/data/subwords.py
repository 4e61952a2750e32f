"""Words <-> subwords by sentencepiece or by byte-pair encoding (BPE), and plain sentences <-> ids."""

import contextlib
import functools
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hat.data.corpora import detokenize, line_function, package
from hat.data.folder import CODES_FILE, MODEL_FILE
from hat.data.text import Chunk, Workers, chunks, read_lines, split_tokens
from hat.data.vocab import Vocab
from hat.errors import ConfigError, DataError, HatError
from hat.files.atomic import write_atomic, write_text_atomic

Kind = Literal["sentencepiece", "subword_nmt"]
SPACE_MARK = "\u2581"  # sentencepiece writes a space as this character
GOOGLE_HYPHEN = "##AT##-##AT##"  # a hyphen inside a word in the WMT'16 text of the release; Moses writes @-@
MAX_LEARN_SENTENCES = 2_000_000  # sentencepiece keeps its training sentences in memory; more are sampled
MAX_CACHED_WORDS = 1_000_000  # of one process; real text has no end of words
APPLY_CHUNK = 1 << 22


def remove_subwords(line: str, kind: str | None) -> str:
    """Return the words of a line of subwords.

    `kind` is None (nothing to join), "@@ " or "subword_nmt" (a piece ending in @@ continues), or
    "sentencepiece". Raises ConfigError for any other.
    """
    if kind is None:
        return line
    if kind in ("@@ ", "subword_nmt"):
        return (line + " ").replace("@@ ", "").rstrip(" ")
    if kind == "sentencepiece":
        return line.replace(" ", "").replace(SPACE_MARK, " ").strip(" ")
    raise ConfigError(
        f"cannot join subwords of kind {kind!r}; allowed are '@@ ', 'subword_nmt' and 'sentencepiece'; "
        "choose the one the text was made with"
    )


def subword_kind(symbols: Iterable[str]) -> Kind | None:
    """Return how the symbols of a dictionary are joined to words, None if they are words themselves."""
    continued = False
    for symbol in symbols:
        if symbol.startswith(SPACE_MARK):
            return "sentencepiece"
        continued = continued or symbol.endswith("@@")
    return "subword_nmt" if continued else None


def learn_sentencepiece(
    files: Iterable[Path | str], model_path: Path | str, vocab_size: int, seed: int
) -> None:
    """Learn a BPE model of at most `vocab_size` pieces on the lines of `files` and write it to `model_path`.

    The same text, size and seed give the same pieces; no normalisation, every character is covered. A text
    without so many pieces gives a smaller model. Of more than 2,000,000 lines, `seed` samples as many.
    Raises ConfigError for a size below the number of characters, DataError for an unreadable or empty text.
    """
    sentencepiece = package("sentencepiece")
    failure: list[HatError] = []  # an exception would be lost inside the trainer
    seen = 0

    def lines() -> Iterator[str]:
        nonlocal seen
        try:
            for path in files:
                for line in read_lines(path):
                    if text := " ".join(split_tokens(line)):
                        seen += 1
                        yield text
        except HatError as error:
            failure.append(error)

    model, message = io.BytesIO(), ""
    sentencepiece.set_random_generator_seed(seed)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines(),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            normalization_rule_name="identity",
            character_coverage=1.0,
            input_sentence_size=MAX_LEARN_SENTENCES,
            shuffle_input_sentence=True,
            max_sentence_length=1 << 16,
            bos_id=-1,
            eos_id=-1,
            num_threads=1,
            minloglevel=3,
        )
    except (RuntimeError, ValueError, OSError) as error:
        message = " ".join(str(error).split())
    if failure:
        raise failure[0]
    if not seen:
        raise DataError("no text to learn sentencepiece on: every line is empty; give training text")
    if message or not model.getvalue():
        raise ConfigError(
            f"cannot learn {vocab_size} sentencepiece pieces on {seen} sentences: {message[-200:]}; "
            "the number must exceed that of distinct characters; choose another with --sentencepiece"
        )
    write_atomic(Path(model_path), lambda file: file.write(model.getvalue()))


class Pieces:
    """A loaded sentencepiece model; splits raw lines into pieces."""

    def __init__(self, model: Path | bytes) -> None:
        """Load a file, or its content. Raises DataError if it is missing or no sentencepiece model."""
        try:
            content = model if isinstance(model, bytes) else Path(model).read_bytes()
            self._model = package("sentencepiece").SentencePieceProcessor(model_proto=content)
        except (RuntimeError, OSError) as error:
            name = "of this model" if isinstance(model, bytes) else str(model)
            raise DataError(
                f"cannot load the sentencepiece model {name}: {' '.join(str(error).split())[-120:]}; "
                "make it again with hat preprocess --sentencepiece"
            ) from error

    def split(self, line: str) -> list[str]:
        """Return the pieces of a raw line; `remove_subwords(" ".join(pieces), "sentencepiece")` undoes it."""
        return self._model.encode(" ".join(split_tokens(line)), out_type=str)


def learn_bpe(files: Sequence[Path], codes: Path, merges: int, workers: int = 1) -> int:
    """Learn at most `merges` merges on the words of all `files` together; return how many were written.

    The codes are those of `subword-nmt learn-bpe` on the joined text. Memory holds the distinct words. Raises
    DataError for text without two characters side by side.
    """
    subword_nmt = package("subword_nmt.learn_bpe")
    if merges < 1:
        raise ConfigError(f"{merges} merges: 1 or more is allowed; see --help")
    counts: Counter = Counter()
    with Workers(workers) as pool:
        for path in files:
            for part in pool.map(_count_chunk, chunks(path)):
                counts.update(part)
    if not any(len(word) > 1 for word in counts):
        raise DataError(
            f"no text to learn merges on in {', '.join(map(str, files))}: words of two or more characters "
            "are needed; check the files"
        )
    words = (f"{word} {count}" for word, count in counts.items())
    out = io.StringIO()
    with contextlib.redirect_stderr(io.StringIO()):  # a bar, and a line when the text has no more pairs
        subword_nmt.learn_bpe(words, out, merges, is_dict=True)
    write_text_atomic(codes, out.getvalue())
    return out.getvalue().count("\n") - 1


def apply_bpe(codes: Path, inputs: Sequence[Path], folder: Path, workers: int = 1) -> list[Path]:
    """Write each text of `inputs`, split into subwords, under its own name into `folder`; return the paths.

    Each is written whole or not at all and does not depend on the number of processes.
    """
    outputs = [folder / path.name for path in inputs]
    if len(set(outputs)) != len(outputs) or folder.resolve() in [path.resolve().parent for path in inputs]:
        raise ConfigError(
            f"cannot write {len(outputs)} texts to {folder}: names that differ, in another folder, are "
            "needed; choose another --to"
        )
    content = "\n".join(read_lines(codes))
    load_bpe(content, str(codes))  # what is wrong with the codes is told here, not in a worker
    with Workers(workers) as pool:
        for path, output in zip(inputs, outputs, strict=True):
            tasks = [(chunk, content) for chunk in chunks(path, APPLY_CHUNK)]
            write_atomic(output, lambda file, tasks=tasks: file.writelines(pool.map(_apply_chunk, tasks)))
    return outputs


def _count_chunk(chunk: Chunk) -> Counter:
    counts: Counter = Counter()
    for line in read_lines(*chunk):
        counts.update(split_tokens(line))
    return counts


def _apply_chunk(task: tuple[Chunk, str]) -> bytes:
    chunk, codes = task
    split = load_bpe(codes)
    return "".join(" ".join(split(split_tokens(line))) + "\n" for line in read_lines(*chunk)).encode()


@functools.lru_cache(maxsize=2)
def load_bpe(codes: str, name: str = "the file of merges") -> Callable[[list[str]], list[str]]:
    """Return the function that splits words into subwords by `codes`, the text of a file called `name`.

    Raises DataError if that is no file of merges.
    """
    lines = codes.removesuffix("\n").split("\n")
    merges = lines[1:] if lines[0].startswith("#version: 0.2") else None
    if not merges:
        raise DataError(
            f"{name} is no file of merges: a first line '#version: 0.2' and at least one merge are needed; "
            "make it with hat learn-bpe"
        )
    for number, line in enumerate(merges, 2):
        if len(line.split(" ")) != 2 or not all(line.split(" ")):
            raise DataError(
                f"{name}:{number}: {line[:60]!r} is no merge of two pieces separated by a space; make the "
                "file again with hat learn-bpe"
            )
    text = io.StringIO("".join(f"{line}\n" for line in lines), newline="\n")
    bpe = package("subword_nmt.apply_bpe").BPE(text)

    def split(words: list[str]) -> list[str]:
        if len(bpe.cache) > MAX_CACHED_WORDS:
            bpe.cache.clear()
        return bpe.segment_tokens(words)

    return split


@dataclass(frozen=True)
class TextCodec:
    """Plain sentences <-> ids, by two dictionaries and the subword model that belongs to them."""

    languages: tuple[str, str]
    """source and target language; Moses' rules are taken for these"""
    vocabs: tuple[Vocab, Vocab]
    model: bytes | None = None
    """content of the sentencepiece model or of the file of BPE merges; None if there is none"""

    @classmethod
    def load(cls, folder: Path, languages: tuple[str, str], vocabs: tuple[Vocab, Vocab]) -> "TextCodec":
        """Take the subword model that the dictionaries of `folder` were made with, if it is in `folder`.

        That is `sentencepiece.model`, as `hat preprocess --sentencepiece` leaves it there, or `bpe.codes`, as
        `hat preprocess --bpe-codes` does.
        """
        names = {"sentencepiece": MODEL_FILE, "subword_nmt": CODES_FILE}
        path = Path(folder) / names.get(subword_kind(vocabs[0]) or "", "")
        return cls(languages, vocabs, path.read_bytes() if path.is_file() else None)

    @functools.cached_property
    def kind(self) -> Kind | None:
        """Return how subwords are marked in the dictionaries; None if their symbols are words."""
        return subword_kind(self.vocabs[0])

    def encode(self, sentence: str) -> np.ndarray:
        """Return the ids [tokens + 1] (int32, EOS last) of a plain sentence of the source language.

        Dictionaries of BPE hold Moses tokens: the sentence is tokenised, and put in lower case if no symbol
        has a capital. Symbols of dictionaries without subwords are words between spaces.
        Raises DataError if the subword model is missing.
        """
        return self.vocabs[0].encode_tokens(self._split(sentence))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the plain sentence of ids of the target language; Moses' tokens of BPE text are joined."""
        words = remove_subwords(self.vocabs[1].decode(ids), self.kind)
        if self.kind != "subword_nmt":
            return words
        return next(detokenize([words.replace(GOOGLE_HYPHEN, "@-@")], self.languages[1]))

    @functools.cached_property
    def _split(self) -> Callable[[str], list[str]]:
        if self.kind is None:
            return split_tokens
        if self.model is None:
            missing, name = ("sentencepiece model is", MODEL_FILE)
            if self.kind == "subword_nmt":
                missing, name = ("BPE merges are", CODES_FILE)
            raise DataError(
                f"cannot split {self.languages[0]} text as the dictionaries need it: the {missing} missing; "
                f"put the file beside the dictionaries as {name}"
            )
        if self.kind == "sentencepiece":
            return Pieces(self.model).split
        vocab = self.vocabs[0]
        mark = next((mark for mark in (GOOGLE_HYPHEN, "@-@") if mark in vocab), None)
        tokens = line_function(
            self.languages[0],
            tokenize=True,
            hyphens="split" if mark else "keep",
            lowercase=not any(symbol != symbol.lower() for symbol in vocab),
        )
        bpe = load_bpe(self.model.decode("utf-8", "replace"))
        return lambda line: bpe(split_tokens(tokens(line).replace("@-@", mark or "@-@")))

    def to_plain(self) -> dict[str, Any]:
        """Return plain values and a tensor, as model files hold them; `from_plain` makes the codec again."""
        import torch  # late: text is split into subwords without it

        sides = self.vocabs[:1] if self.vocabs[0] is self.vocabs[1] else self.vocabs
        model = None if self.model is None else torch.frombuffer(bytearray(self.model), dtype=torch.uint8)
        texts = [vocab.text() for vocab in sides]
        return {"languages": list(self.languages), "vocabs": texts, "model": model}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> "TextCodec":
        """Return the codec whose `to_plain` gave `values`."""
        vocabs = [Vocab.parse(text.split("\n")[:-1], "dictionary") for text in values["vocabs"]]
        model = values["model"]
        return cls(
            tuple(values["languages"]),
            (vocabs[0], vocabs[-1]),
            None if model is None else model.numpy().tobytes(),
        )
