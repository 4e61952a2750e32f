"""Reading text line by line, and the way from raw sentences to subwords and back."""

import io
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

from hat.errors import ConfigError, DataError, HatError
from hat.files.atomic import write_atomic

SPACE_MARK = "\u2581"  # sentencepiece writes a space as this character
MAX_LINE_BYTES = 1 << 24  # a longer line is no sentence, and would take memory without bound
MAX_LEARN_SENTENCES = 2_000_000  # sentencepiece keeps its training sentences in memory; more are sampled


def read_lines(
    path: Path | str, start: int = 0, end: int | None = None, errors: str = "strict"
) -> Iterator[str]:
    """Yield the lines of a UTF-8 file without their newline; only "\\n" ends a line.

    With `start` and `end` (byte offsets, `start` at the beginning of a line) only lines that begin in
    [start, end) are read. Memory holds one line. Raises DataError for a missing file or, with the line
    number, for bytes that are not UTF-8, NUL and lines of more than 16 MiB; with `errors` "replace" such
    bytes become U+FFFD instead.
    """
    try:
        with open(path, "rb") as file:
            file.seek(start)
            position = start
            for number, raw in enumerate(iter(partial(file.readline, MAX_LINE_BYTES + 1), b"")):
                if end is not None and position >= end:
                    return
                position += len(raw)
                check_line(path, start, number, raw)
                if b"\0" in raw:
                    if errors == "strict":
                        raise DataError(
                            f"{where(path, start, number)} holds a NUL character at byte "
                            f"{raw.index(0) + 1} of the line, as damaged files do; restore the file, or "
                            "remove it with tr -d '\\000'"
                        )
                    raw = raw.replace(b"\0", "\ufffd".encode())
                try:
                    yield raw.removesuffix(b"\n").decode("utf-8", errors)
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{where(path, start, number)} is not UTF-8: {error.reason} at byte {error.start + 1}"
                        " of the line; convert the file, for example with iconv -f latin1 -t utf-8"
                    ) from error
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}; a readable text file is needed; check the path"
        ) from error


def check_line(path: Path | str, start: int, index: int, line: bytes) -> None:
    """Raise DataError where `line`, number `index` after byte `start`, is too long for a sentence."""
    if len(line) > MAX_LINE_BYTES:
        raise DataError(
            f"{where(path, start, index)} has more than {MAX_LINE_BYTES} bytes; text with one sentence on a "
            "line is needed; look into the file"
        )


def where(path: Path | str, start: int, index: int) -> str:
    """Return `file:line` of line `index` (from 0) after byte `start`; reads the file up to there."""
    before = 0
    with open(path, "rb") as file:
        while start > 0 and (block := file.read(min(start, 1 << 20))):
            before += block.count(b"\n")
            start -= len(block)
    return f"{path}:{before + index + 1}"


def split_tokens(line: str) -> list[str]:
    """Return the tokens of a line: runs without space, tab or carriage return.

    Other characters that Unicode calls white space (U+2028, U+00A0, ...) belong to their token.
    """
    if "\t" in line or "\r" in line:
        line = line.replace("\t", " ").replace("\r", " ")
    return [token for token in line.split(" ") if token]


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


def subword_kind(symbols: Iterable[str]) -> str | None:
    """Return how the symbols of a dictionary are joined to words, as `remove_subwords` names it."""
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
    sentencepiece = _sentencepiece()
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

    model = io.BytesIO()
    message = ""
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


def _sentencepiece() -> ModuleType:
    try:
        import sentencepiece
    except ImportError as error:
        raise ConfigError(
            "the package sentencepiece is not installed; run: pip install sentencepiece, or give text "
            "that is "
            "already split into subwords"
        ) from error
    return sentencepiece


class Pieces:
    """A loaded sentencepiece model; splits raw lines into pieces."""

    def __init__(self, model_path: Path | str) -> None:
        """Load `model_path`. Raises DataError when it is missing or no sentencepiece model."""
        sentencepiece = _sentencepiece()
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=Path(model_path).read_bytes())
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"cannot load the sentencepiece model {model_path}: {' '.join(str(error).split())[-120:]}; "
                "make it again with scripts/preprocess.py --sentencepiece"
            ) from error

    def split(self, line: str) -> list[str]:
        """Return the pieces of a raw line; `remove_subwords(" ".join(pieces), "sentencepiece")` undoes it."""
        return self._model.encode(" ".join(split_tokens(line)), out_type=str)


def detokenize(lines: Iterable[str], lang: str) -> Iterator[str]:
    """Yield each line of Moses tokens as plain text by the rules of language `lang`.

    Raises ConfigError when sacremoses is not installed.
    """
    try:
        from sacremoses import MosesDetokenizer
    except ImportError as error:
        raise ConfigError(
            "Moses detokenisation needs the package sacremoses, which is not installed; "
            "run: pip install -e '.[text]'"
        ) from error
    moses = MosesDetokenizer(lang=lang)
    return (moses.detokenize(split_tokens(line)) for line in lines)
