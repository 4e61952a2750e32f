"""Row 2, bit rot: a damaged file is refused, or what came before it is read, and that is said."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from model_files import STATE, small_model
from tally import Tally, count
from toy_rows import rows_of

from hat.data.pairs import PairDataset
from hat.data.preprocess import PreprocessConfig, preprocess
from hat.errors import HatError
from hat.files.atomic import digest_path
from hat.files.journal import Journal
from hat.latency.predictor import LatencyPredictor
from hat.latency.table import TableWriter, read_table
from hat.train.checkpoint import load_newest, pack, save

BLOCK = 4096


@dataclass
class Target:
    """Files to damage, and how what they hold is read; the value is comparable."""

    paths: list[Path]
    read: Callable[[Callable[[str], None]], Any]
    whole: Any = None
    """what is read while nothing is damaged"""
    before: Any = None
    """what may be read instead, if that is said"""
    prefixes: bool = False
    """records one behind the other: without its end it is a shorter one"""


def checkpoint_of(folder: Path, say: Callable[[str], None]) -> Any:
    found = load_newest(folder, say)
    assert found is not None
    return found.state["trainer"]["num_updates"], [weight.tolist() for weight in found.weights.values()]


def checkpoints(folder: Path) -> Target:
    for update in (1, 2):
        state = {**STATE, "trainer": {"num_updates": update, "moments": torch.rand(3000)}}
        save(pack(small_model(update), state=state), folder / f"checkpoint_1_{update}.pt")
    last = folder / "checkpoint_1_2.pt"

    def read(say: Callable[[str], None]) -> Any:
        return checkpoint_of(folder, say)

    before = folder / "before"
    before.mkdir()
    for path in (folder / "checkpoint_1_1.pt", digest_path(folder / "checkpoint_1_1.pt")):
        (before / path.name).write_bytes(path.read_bytes())
    return Target([last, last, digest_path(last)], read, before=checkpoint_of(before, print))


def predictor(folder: Path) -> Target:
    path = folder / "predictor.pt"
    made = LatencyPredictor.fit(rows_of(60))
    made.save(path)
    archs = [row.arch for row in rows_of(5)]
    return Target([path], lambda say: LatencyPredictor.load(path).predict_many(archs))


def journal(folder: Path) -> Target:
    path = folder / "search.jsonl"
    with Journal(path) as file:
        for number in range(200):
            file.append({"gene": [number] * 5, "loss": number / 7, "text": "\u00e9\u2028 \\"})

    def read(say: Callable[[str], None]) -> Any:
        with Journal(path) as file:
            return file.records

    return Target([path], read, prefixes=True)


def table(folder: Path) -> Target:
    path = folder / "table.csv"
    with TableWriter(path) as file:
        for row in rows_of(60):
            file.append(row)
    return Target([path], lambda say: read_table(path), prefixes=True)


def open_table(folder: Path) -> Target:
    target = table(folder)

    def read(say: Callable[[str], None]) -> Any:
        with TableWriter(target.paths[0]) as file:
            return list(file.records)

    return Target(target.paths, read, prefixes=True)


def data(folder: Path) -> Target:
    rng = random.Random(1)
    words = [f"w{n}" for n in range(400)]
    for lang in ("en", "de"):
        lines = [" ".join(rng.choices(words, k=rng.randint(1, 20))) for _ in range(600)]
        (folder / f"train.{lang}").write_text("\n".join(lines) + "\n", "utf-8")
    made = folder / "data"
    preprocess(PreprocessConfig("en", "de", str(made), trainpref=str(folder / "train")))

    def read(say: Callable[[str], None]) -> Any:
        pairs = PairDataset.load(made, "train")
        every = pairs.batch(range(len(pairs)))
        vocabs = (pairs.source_vocab, pairs.target_vocab)
        symbols = [[vocab.symbol(n) for n in range(len(vocab))] for vocab in vocabs]
        return every.source.tolist(), every.target.tolist(), symbols

    return Target(sorted(made.iterdir()), read)


TARGETS = {
    "checkpoint": checkpoints,
    "predictor": predictor,
    "journal": journal,
    "CSV, read": table,
    "CSV, gone on with": open_table,
    "binary data": data,
}


def flipped(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def zeroed(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(-(-len(content) // BLOCK)) * BLOCK
    return content[:at] + bytes(len(content[at : at + BLOCK])) + content[at + BLOCK :]


DAMAGE = {"single bits": (flipped, 10, 1000), "cuts": (cut, 5, 300), "zeroed blocks": (zeroed, 3, 300)}


@pytest.mark.parametrize("kind", TARGETS)
def test_damage_is_not_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.fsync", lambda fd: None)
    torch.manual_seed(1)
    target = TARGETS[kind](tmp_path)
    whole = target.read(lambda text: None)
    intact = {path: path.read_bytes() for path in target.paths}
    rng = random.Random(kind)
    for name, (damage, few, many) in DAMAGE.items():
        with Tally(2, name) as tally:
            for _ in range(count(few, -(-many // len(TARGETS)))):
                path = rng.choice(target.paths)
                damaged = damage(intact[path], rng)
                if damaged == intact[path]:
                    continue
                path.write_bytes(damaged)
                with tally.fault():
                    check(target, whole, path, damaged == intact[path][: len(damaged)], capsys, tally)
                path.write_bytes(intact[path])
    assert target.read(lambda text: None) == whole


def check(
    target: Target, whole: Any, path: Path, is_cut: bool, capsys: pytest.CaptureFixture[str], tally: Tally
) -> None:
    """Read what is damaged: refused by name, or the state before it, or fewer records, each said."""
    said: list[str] = []
    capsys.readouterr()
    try:
        found = target.read(said.append)
    except HatError as error:
        assert path.name in str(error), error
        return
    said.append(capsys.readouterr().err)
    if target.before is not None and found == target.before:
        assert path.name.removesuffix(".sha256") in "".join(said), said
        tally.lose("save intervals")
    elif target.prefixes and found == whole[: len(found)] and len(found) < len(whole):
        # Cut between two records it is one with fewer; else the dropped rest is said.
        assert path.name in "".join(said) or is_cut
        tally.lose("records behind a cut, measured or drawn again", len(whole) - len(found))
    else:
        assert found == whole and (path.suffix in (".sha256", ".jsonl") or path.name == "SHA256SUMS")
