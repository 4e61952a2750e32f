"""Errors a user can cause. Each message says what failed, the value, what is allowed and what to do. Also
what such messages tell: similar names, how to install an extra, what text is that is not UTF-8.
"""

import codecs
import difflib
import importlib
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

BOM = codecs.BOM_UTF8
_MARKS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32"}  # before UTF-16, which begins alike
_MARKS |= {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
_PACKED = {rb"\x1f\x8b": "gzip", rb"BZh[1-9]1A": "bzip2", rb"\xfd7zXZ\0": "xz", rb"\x28\xb5\x2f\xfd": "zstd"}
_EIGHT_BIT = (
    "cp1252 cp1250 cp1251 cp1253 cp1254 cp1255 cp1256 cp1257 koi8_r gb18030 big5 shift_jis euc_jp cp949 cp874"
)


class HatError(Exception):
    """Base of all errors that are the input's fault; commands print it without a traceback and exit 2."""


class ConfigError(HatError):
    """An option or YAML key is unknown, missing or has a value that is not allowed."""


class ArchError(HatError):
    """An architecture or search space contradicts itself, or an architecture is outside its space."""


class DataError(HatError):
    """A data file is missing, damaged or does not fit the others."""


class CheckpointError(HatError):
    """A checkpoint or predictor file is missing, damaged or belongs to another model."""


class TrainingError(HatError):
    """Training cannot go on, for example because the loss is not finite."""


class RankError(HatError):
    """Another process of the same run died or does not answer."""


class Infeasible(HatError):
    """No architecture of the space meets the constraint."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return '; did you mean X?' for the nearest known name, or an empty string when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def brief(value: object, limit: int = 200) -> str:
    """Return the text of `value` for a message: what a file holds may be long or move the cursor."""
    return ascii(str(value))[1:-1][:limit]


def install(extra: str) -> str:
    """Return the command that installs the packages of one of the extras in setup.py."""
    return f"pip install 'hardware-aware-transformers[{extra}]'"


def package(name: str, extra: str = "text") -> ModuleType:
    """Import a package of one of HAT's extras. Raises ConfigError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = name.split(".")[0].replace("_", "-")
        raise ConfigError(f"the package {missing} is not installed; run: {install(extra)}") from error


def foreign(path: Path | str, head: bytes) -> str | None:
    """Return what is wrong with a file that begins with `head`, and what to do; None if it may be UTF-8. Seen
    are packed files, UTF-16 and UTF-32, with and without a byte order mark, whatever the name says.
    """
    if program := next((name for magic, name in _PACKED.items() if re.match(magic, head)), None):
        plain = Path(path).with_suffix("") if Path(path).suffix in (".gz", ".bz2", ".xz", ".zst") else None
        return f"is packed by {program}; unpack it with {_command(path, f'{program} -dc', plain)}"
    if wide := next((name for mark, name in _MARKS.items() if head.startswith(mark)), None) or _wide(head):
        return f"is {wide}, not UTF-8; convert it with {_command(path, f'iconv -f {wide} -t UTF-8')}"
    return None


def undecodable(path: Path | str, sample: bytes, error: UnicodeDecodeError) -> str:
    """Return what is wrong with a line that is not UTF-8, and what to do; `sample` begins with that line."""
    broken = sample.decode("utf-8", "replace").count("\ufffd")
    if sum(ord(char) > 127 for char in sample.decode("utf-8", "ignore")) > broken:
        repair = _command(path, "iconv -c -f UTF-8 -t UTF-8", end=" || true")
        return f"is not UTF-8 at byte {error.start + 1}: repair the line, or drop such bytes with {repair}"
    from charset_normalizer import from_bytes  # late: for an error only

    found = from_bytes(sample, cp_isolation=_EIGHT_BIT.split())
    best = max((match.coherence for match in found), default=0)
    western = [match for match in found if "cp1252" in [match.encoding, *match.could_be_from_charset]]
    name = "CP1252"  # of several that read well the most frequent one
    if found and all(match.coherence <= best - 0.02 for match in western):
        name = codecs.lookup(found[0].encoding).name.upper().replace("EUC_", "EUC-")  # as iconv calls it
    convert = _command(path, f"iconv -f {name} -t UTF-8")
    return f"is not UTF-8, perhaps {name}; convert the file with {convert} and look at the result"


def unwanted(path: Path | str, line: bytes) -> str | None:
    """Return what is wrong with a line that holds NUL, or line ends other than "\\n"; None if nothing is."""
    if b"\0" in line:
        drop = _command(path, r"tr -d '\000'")
        return f"holds a NUL at byte {line.index(0) + 1}; restore the file, or drop it with {drop}"
    if b"\r" in line.rstrip(b"\r") and not line.endswith(b"\n"):
        convert = _command(path, r"tr '\r' '\n'")
        return f"ends its lines with CR alone; convert it with {convert}"
    return None


def _command(path: Path | str, program: str, plain: Path | None = None, end: str = "") -> str:
    if str(path) == "/dev/stdin":
        return f"`{program}` before it"
    name, old = shlex.quote(str(path)), shlex.quote(f"{path}.old")
    if plain:
        return f"`{program} < {name} > {shlex.quote(str(plain))}` and give {plain}"
    return f"`mv {name} {old} && {program} < {old} > {name}{end}`"


def _wide(head: bytes) -> str | None:
    """Return the encoding of text of 2 or 4 bytes for each character, by its spaces and line ends."""
    ends = head.count(b" ") + head.count(b"\n")
    for name, size in (("UTF-32LE", 4), ("UTF-32BE", 4), ("UTF-16LE", 2), ("UTF-16BE", 2)):
        text = head[: len(head) // size * size].decode(name, "replace")
        wrong = b"\0" not in head or "\0" in text or "\ufffd" in text[:-1]  # the last one may be cut off
        if not wrong and 2 * (text.count(" ") + text.count("\n")) > ends:
            return name  # of plain ASCII with a NUL somewhere hardly one space stands beside it
    return None
