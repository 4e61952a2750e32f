"""Row 9, data and YAML: what is wrong is refused by file and line, what is right keeps its meaning."""

import gzip
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from foreign import mutated
from tally import Tally, count

from hat.cli.main import load
from hat.cli.options import command, parse
from hat.cli.settings import parse_settings
from hat.data.pairs import PairDataset

ROOT = Path(__file__).parents[2]
KEPT = ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\u00a0", "\ufeff", "\u3000")
BAD_UTF8 = (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80", b"\x80", b"\xe2\x82")


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda fd: None)


preprocess = load("preprocess")


def run(
    main: Callable[[Sequence[str]], int],
    argv: Sequence[str],
    capsys: pytest.CaptureFixture[str],
    notes: bool = False,
) -> str:
    """Return what a command says on refusing, nothing if it does not refuse; `notes` may stand before it."""
    capsys.readouterr()
    code = main(argv)
    said = capsys.readouterr().err
    assert code in (0, 2), said
    if not code:
        return ""
    assert (notes or said.count("\n") == 1) and "Error: " in said, said
    return said


def corpus(rng: random.Random) -> list[bytes]:
    words = ["the", "a", "man", "house", "\u00e4ber", "\u4eba", "@@", "x&y", "12:30"]
    return [" ".join(rng.choices(words, k=rng.randint(1, 6))).encode() for _ in range(rng.randint(4, 30))]


def at_a_space(line: bytes, inserted: bytes, rng: random.Random) -> bytes:
    """Return the line with something between two characters, perhaps inside a word."""
    text = line.decode()
    at = rng.randrange(len(text) + 1)
    return text[:at].encode() + inserted + text[at:].encode()


def spoilt(lines: list[bytes], kind: str, rng: random.Random) -> bytes:
    """Return the content of a text file with one fault of that kind."""
    lines, at = list(lines), rng.randrange(len(lines))
    if kind == "bad UTF-8":
        lines[at] = at_a_space(lines[at], rng.choice(BAD_UTF8), rng)
    elif kind == "NUL":
        lines[at] = at_a_space(lines[at], b"\0" * rng.choice((1, 4096)), rng)
    elif kind == "carriage returns":
        lines[at] = at_a_space(lines[at], b"\r", rng)
        if rng.random() < 0.5:
            lines = [line + b"\r" for line in lines]
    elif kind == "U+2028 and its like":
        lines[at] = at_a_space(lines[at], rng.choice(KEPT).encode(), rng)
    elif kind == "unequal lines":
        lines[at : at + 1] = rng.choice(([], [lines[at]] * 2, [lines[at], b""], [b""], [b" \t\r"]))
    content = b"\n".join(lines) + (b"\n" if lines and rng.random() < 0.9 else b"")
    if kind == "packed":
        content = gzip.compress(content)
        content = content[: rng.randint(10, len(content))]
    return content


KINDS = ("bad UTF-8", "NUL", "carriage returns", "U+2028 and its like", "unequal lines", "packed")


def expected(content: bytes) -> list[list[str]] | int:
    """Return the tokens of each line, or the number of the first line that no text may hold."""
    lines = content.split(b"\n")
    lines = lines[:-1] if not lines[-1] else lines
    found = []
    for number, line in enumerate(lines, 1):
        try:
            tokens = re.findall(r"[^ \t\r]+", line.decode("utf-8"))
        except UnicodeDecodeError:
            return number
        if not tokens or "\0" in line.decode():
            return number
        found.append(tokens)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_text(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng, out = random.Random(kind), tmp_path / "out"
    refused = read = 0
    argv = ["--source-lang=en", "--target-lang=de", f"--destdir={out}", f"--trainpref={tmp_path / 'train'}"]
    with Tally(9, kind) as tally:
        for _ in range(count(15, 200)):
            first = corpus(rng)
            texts = {"en": b"\n".join(first) + b"\n", "de": b"\n".join(rng.sample(first, len(first))) + b"\n"}
            side = rng.choice(("en", "de"))
            texts[side] = spoilt(texts[side].split(b"\n")[:-1], kind, rng)
            for lang, content in texts.items():
                (tmp_path / f"train.{lang}").write_bytes(content)
            want = {lang: expected(content) for lang, content in texts.items()}
            with tally.fault():
                said = run(preprocess, argv, capsys)
                refused, read, line = refused + bool(said), read + (not said), want[side]
                if said and isinstance(line, int):
                    assert f"{tmp_path}/train.{side}:{line} " in said, said
                elif said:
                    assert len(want["en"]) != len(want["de"]) or not line
                    assert all(f"{len(want[lang])}" in said for lang in want) and side in said, said
                else:
                    pairs = PairDataset.load(out, "train")
                    both = {
                        "en": (pairs.source_vocab, pairs.source),
                        "de": (pairs.target_vocab, pairs.target),
                    }
                    for lang, (vocab, data) in both.items():
                        found = [vocab.decode(data[n]) for n in range(len(data))]
                        assert found == [" ".join(tokens) for tokens in want[lang]], (kind, texts[lang])
    assert read if kind in ("carriage returns", "U+2028 and its like") else refused


def test_dictionaries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng, refused = random.Random(1), 0
    for lang in ("en", "de"):
        (tmp_path / f"train.{lang}").write_text("a b c\nd e f\n")
    argv = ["--source-lang=en", "--target-lang=de", f"--destdir={tmp_path / 'out'}", "--joined-dictionary"]
    argv += [f"--trainpref={tmp_path / 'train'}", f"--srcdict={tmp_path / 'dict'}"]
    whole = "".join(f"{symbol} {100 - n}\n" for n, symbol in enumerate("abcdefgh\u00e4\u2028")).encode()
    with Tally(9, "dictionaries") as tally:
        for _ in range(count(20, 200)):
            content = mutated(whole, rng)
            (tmp_path / "dict").write_bytes(content)
            with tally.fault():
                said = run(preprocess, argv, capsys)
                refused += bool(said)
                assert not said or re.search(rf"{tmp_path}/dict:\d+[: ]", said), said
                if not said:
                    written = (tmp_path / "out" / "dict.en.txt").read_bytes()
                    got = [line.rpartition(b" ")[0] for line in written.split(b"\n") if line]
                    assert got == [line.rpartition(b" ")[0] for line in content.split(b"\n") if line]
    assert refused


def test_a_line_without_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Tally(9, "a line of 3 GiB") as tally, tally.fault():
        for lang in ("en", "de"):
            with open(tmp_path / f"train.{lang}", "wb") as file:
                file.write(b"first line\n")
                file.truncate(3 << 30)  # a hole, so the disk holds nothing of it
        argv = [f"--destdir={tmp_path / 'out'}", f"--trainpref={tmp_path / 'train'}"]
        said = run(preprocess, ["--source-lang=en", "--target-lang=de", *argv], capsys)
        assert f"{tmp_path}/train.en:2 has more than" in said


@dataclass(frozen=True)
class Everything:
    """One option of each type"""

    whole: int | None = None
    real: float | None = None
    switch: bool = True
    word: str | None = None
    pair: tuple[float, float] | None = None
    wholes: tuple[int, ...] = ()


SCALARS: dict[str, dict[str, object]] = {  # text -> the fields that take it, and what it means there
    "no": {"switch": False, "word": "no"},
    "on": {"switch": True, "word": "on"},
    "true": {"switch": True, "word": "true"},
    "010": {"word": "010"},
    "0x1F": {"word": "0x1F"},
    "1_000": {"word": "1_000"},
    "12:30": {"word": "12:30"},
    "2026-01-01": {"word": "2026-01-01"},
    "1e-3": {"real": 0.001, "word": "1e-3"},
    "1e400": {"word": "1e400"},
    ".5": {"real": 0.5, "word": ".5"},
    "nan": {"word": "nan"},
    "7": {"whole": 7, "real": 7.0, "word": "7", "wholes": (7,)},
    "1.0": {"real": 1.0, "word": "1.0"},
    "\u0663": {"word": "\u0663"},
    "0.9, 0.98": {"word": "0.9, 0.98", "pair": (0.9, 0.98)},
    "[1, 2]": {"wholes": (1, 2), "pair": (1.0, 2.0)},
    "[0.9, 1e-3]": {"pair": (0.9, 0.001)},
    "[1, no]": {},
    "[010]": {},
    "''": {},
    "{a: 1}": {},
    "&x 1": {"whole": 1, "real": 1.0, "word": "1", "wholes": (1,)},
    "!!int 1": {},
    "*x": {},
}
HOSTILE: dict[str, str] = {
    "duplicate key": "word: a\nwhole: 1\nword: b\n",
    "alias bomb": "a: &a [x]\n" + "".join(f"k{n}: &k{n} [{'*a,' * 9}]\n" for n in range(30)),
    "merge": "<<: {word: a}\n",
    "deep lists": "wholes: " + "[" * 200_000,
    "deep dashes": "- " * 100_000,
    "line end of YAML only": "word: a\u2028whole: 1\n",
    "carriage return": "word: a\rwhole: 1\n",
    "NUL": "word: a\0\n",
    "escape": 'word: "\\UFFFFFFFF"\n',
    "long key": "k" * 2000 + ": 1\n",
    "huge": "word: " + "a" * (2 << 20) + "\n",
    "unknown key": "wrod: a\n",
}


def everything(argv: Sequence[str] | None) -> Everything:
    (found,) = parse(argv, Everything, prog="x", description="", config_flags=("--configs",))
    return found


@command
def one_of_each(argv: Sequence[str] | None = None) -> int:
    everything(argv)
    return 0


@command
def all_settings(argv: Sequence[str] | None = None) -> int:
    parse_settings(argv, prog="train.py", description="", config_flags=("--configs",))
    return 0


def test_scalars_are_what_their_field_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.yml"
    with Tally(9, "YAML scalars") as tally:
        for text, accepted in SCALARS.items():
            for field in ("whole", "real", "switch", "word", "pair", "wholes"):
                path.write_text(f"# first\n{field}: {text}\n", "utf-8")
                with tally.fault():
                    said = run(one_of_each, ["--configs", str(path)], capsys)
                    assert bool(said) == (field not in accepted), (field, text, said)
                    assert not said or f"{path}:2: " in said, said
                    if not said:
                        value = getattr(everything(["--configs", str(path)]), field)
                        assert (type(value), value) == (type(accepted[field]), accepted[field])


def test_hostile_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.yml"
    with Tally(9, "hostile YAML") as tally:
        for name, text in HOSTILE.items():
            path.write_bytes(text.encode())
            with tally.fault():
                said = run(one_of_each, ["--configs", str(path)], capsys)
                assert re.search(rf"{path}:\d+: ", said) or name == "huge" and str(path) in said, (name, said)
        for at, bad in enumerate(BAD_UTF8):
            path.write_bytes(b"whole: 1\n" * at + b"word: " + bad + b"\n")
            with tally.fault():
                assert f"{path}:{at + 1}: " in run(one_of_each, ["--configs", str(path)], capsys)


def test_mutated_configurations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong value, a key twice, or damage anywhere: refused by line, or no key is lost."""
    rng, path = random.Random(3), tmp_path / "a.yml"
    known = rng.sample(sorted((ROOT / "configs").glob("*/s*transformer/**/*.yml")), 3)
    refused = read = 0
    with Tally(9, "mutated YAML") as tally:
        for number in range(count(40, 400)):
            lines = known[number % 3].read_text("utf-8").split("\n")
            key = rng.choice([line.split(":")[0] for line in lines if re.match(r"[a-z]", line)])
            line = f"{key}: {rng.choice(list(SCALARS))}"
            changed = [line if old.startswith(f"{key}:") else old for old in lines]
            text = "\n".join([lines, [*lines, line], changed, [*lines, f"# {line}"]][number % 4]) + "\n"
            path.write_bytes(text.encode() if number % 4 else mutated(text.encode(), rng))
            with tally.fault():
                said = run(all_settings, ["--configs", str(path)], capsys, notes=True)
                refused, read = refused + bool(said), read + (not said)
                assert not said or re.search(rf"{path}:\d+: ", said), said
                if not said:
                    keys = [key.value for key, _ in yaml.compose(path.read_text("utf-8")).value]
                    assert len(keys) == len(set(keys))
    assert refused and read
