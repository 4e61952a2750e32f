"""Row 9, data and YAML: what is wrong is refused by file and line, what is right keeps its meaning."""

import gzip
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml
from foreign import mutated
from forks import ROOT
from tally import Tally, count

from hat.cli.main import load
from hat.cli.options import command
from hat.cli.settings import parse_settings
from hat.data.pairs import PairDataset

RARE = ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\u00a0", "\u200b", "\u3000")
BAD_UTF8 = (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80", b"\x80", b"\xe2\x82")


@pytest.fixture(autouse=True)
def in_tmp_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


preprocess = load("preprocess")


Main = Callable[[Sequence[str]], int]
Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return what a command says on refusing, nothing if it does not refuse; `notes` may stand before it."""

    def refused(main: Main, argv: Sequence[str], notes: bool = False) -> str:
        capsys.readouterr()
        code, said = main(argv), capsys.readouterr().err
        assert code == 0 or code == 2 and "Error: " in said and (notes or said.count("\n") == 1), said
        return said if code else ""

    return refused


def corpus(rng: random.Random) -> list[bytes]:
    words = ["the", "a", "man", "house", "\u00e4ber", "\u4eba", "@@", "x&y", "12:30"]
    return [" ".join(rng.choices(words, k=rng.randint(1, 6))).encode() for _ in range(rng.randint(4, 30))]


def spoilt(lines: list[bytes], kind: str, rng: random.Random) -> bytes:
    """Return the content of a text file with one fault of that kind."""
    lines, at = list(lines), rng.randrange(len(lines))
    inserted = {"bad UTF-8": rng.choice(BAD_UTF8), "NUL": b"\0" * rng.choice((1, 4096))}
    inserted |= {"carriage returns": b"\r", "U+2028 and its like": rng.choice(RARE).encode()}
    if kind in inserted:  # between two characters, perhaps inside a word
        text = lines[at].decode()
        cut = rng.randrange(len(text) + 1)
        lines[at] = text[:cut].encode() + inserted[kind] + text[cut:].encode()
    if kind == "carriage returns" and rng.random() < 0.5:
        lines = [line + b"\r" for line in lines]
    if kind == "unequal lines":
        lines[at : at + 1] = rng.choice(([], [lines[at]] * 2, [lines[at], b""], [b""], [b" \t\r"]))
    content = b"\n".join(lines) + (b"\n" if lines and rng.random() < 0.9 else b"")
    packed = gzip.compress(content)
    return packed[: rng.randint(10, len(packed))] if kind == "packed" else content


KINDS = ("bad UTF-8", "NUL", "carriage returns", "U+2028 and its like", "unequal lines", "packed")


def expected(content: bytes) -> list[list[str]] | int:
    """Return the tokens of each line, or the number of the first line that no text may hold."""
    lines = content.split(b"\n")
    lines = lines[:-1] if not lines[-1] else lines
    found = []
    for number, line in enumerate(lines, 1):
        try:
            tokens = line.decode("utf-8").removeprefix("\ufeff").split()
        except UnicodeDecodeError:
            return number
        if not tokens or "\0" in line.decode():
            return number
        found.append(tokens)
    return found


PAIR = ["--source-lang=en", "--target-lang=de", "--trainpref=train", "--destdir=out"]


@pytest.mark.parametrize("kind", KINDS)
def test_text(kind: str, refused: Refused) -> None:
    rng, seen = random.Random(kind), set[bool]()
    with Tally(9, kind) as tally:
        for _ in range(count(12, 200)):
            first, side = corpus(rng), rng.choice(("en", "de"))
            lines = {"en": first, "de": rng.sample(first, len(first))}
            texts = {lang: b"\n".join(lines[lang]) + b"\n" for lang in lines}
            texts[side] = spoilt(lines[side], kind, rng)
            for lang, content in texts.items():
                Path(f"train.{lang}").write_bytes(content)
            want = {lang: expected(content) for lang, content in texts.items()}
            with tally.fault():
                said = refused(preprocess, PAIR)
                seen.add(bool(said))
                if said and isinstance(want[side], int):
                    assert re.search(rf"train.{side}(:{want[side]} | is packed)", said), said
                elif said:
                    assert len(want["en"]) != len(want["de"]) or not want[side]
                    assert all(f"{len(want[lang])}" in said for lang in want) and side in said, said
                else:
                    pairs = PairDataset.load("out", "train")
                    data = {"en": pairs.source, "de": pairs.target}
                    vocabs = {"en": pairs.source_vocab, "de": pairs.target_vocab}
                    for lang, ids in data.items():
                        found = [vocabs[lang].decode(ids[n]) for n in range(len(ids))]
                        assert found == [" ".join(tokens) for tokens in want[lang]], (kind, texts[lang])
    assert (kind not in ("carriage returns", "U+2028 and its like")) in seen


def test_a_line_without_end(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hat.data.text.MAX_LINE_BYTES", 1 << 20)
    with Tally(9, "a line without end") as tally, tally.fault():
        for lang in ("en", "de"):
            Path(f"train.{lang}").write_bytes(b"first line\n" + bytes(3 << 20))
        assert "train.en:2 has more than" in refused(preprocess, PAIR)


VALUES = ("no", "010", "12:30", "1e400", "nan", "7", "0.9, 0.98", "[1, 2]", "[1, no]", "''", "{a: 1}", "*x")


@command
def all_settings(argv: Sequence[str] | None = None) -> int:
    parse_settings(argv, prog="train.py", description="", config_flags=("--configs",))
    return 0


def test_mutated_configurations(refused: Refused) -> None:
    """A wrong value, a key twice, or damage anywhere: refused by line, or no key is lost."""
    rng, path, seen = random.Random(3), Path("a.yml"), set[bool]()
    known = rng.sample(sorted((ROOT / "configs").glob("*/s*transformer/**/*.yml")), 3)
    with Tally(9, "mutated YAML") as tally:
        for number in range(count(40, 400)):
            lines = known[number % 3].read_text("utf-8").split("\n")
            key = rng.choice([line.split(":")[0] for line in lines if re.match(r"[a-z]", line)])
            line = f"{key}: {rng.choice(VALUES)}"
            changed = [line if old.startswith(f"{key}:") else old for old in lines]
            text = "\n".join([lines, [*lines, line], changed, [*lines, f"# {line}"]][number % 4]) + "\n"
            path.write_bytes(text.encode() if number % 4 else mutated(text.encode(), rng))
            with tally.fault():
                said = refused(all_settings, ["--configs=a.yml"], notes=True)
                seen.add(bool(said))
                assert not said or re.search(r" a.yml:\d+: ", said), said
                if not said:
                    keys = [key.value for key, _ in yaml.compose(path.read_text("utf-8")).value]
                    assert len(keys) == len(set(keys))
    assert seen == {True, False}
