"""Rows 1, 2, 4, 6, 10: commands killed, ended or refused at any call that changes files, damaged products.

One thing holds of them all: what a command had made before is whole, or what it makes now is, and the same
command then ends as if nothing had happened.
"""

import errno
import random
from pathlib import Path

import pytest
from commands import (
    COMMANDS,
    LAST,
    LONG,
    SAVE_EVERY,
    TRAINING,
    Made,
    Run,
    assert_refused,
    copy_of,
    log,
    products,
    state_of,
)
from forks import REFUSABLE, Fault
from tally import Tally, count, is_full

from hat.errors import HatError
from hat.latency.table import read_table
from hat.train.checkpoint import load, numbered

NAMES = [name for name in COMMANDS if is_full() or name not in ("sub", "front", "generate")]
KILLS = {"SIGKILL": {"signal": 9}, "SIGKILL in a write": {"signal": 9, "half": True}}
SIGNALS = {"SIGTERM": {"signal": 15}, "Ctrl-C": {"signal": 2}}
REFUSALS = {
    "full disk": {"code": errno.ENOSPC, "lasts": True, "half": True},
    "write error": {"code": errno.EIO, "lasts": True},
    "no permission": {"code": errno.EACCES},
}
ROWS = {1: KILLS, 10: SIGNALS, 6: REFUSALS}
CODES = {9: -9, 15: 143, 2: 130, 0: 2}
POINTS = {1: 30, 10: 10, 6: 10}  # of each command, in full


def assert_held(name: str, work: Path, had: int, end: Path) -> int:
    """Check what a fault left in the run folder; returns how many units of work are lost."""
    run, command = work / "run", COMMANDS[name]
    held = command.held(run)
    assert len(held) >= had, "less than before"
    if name in TRAINING:
        states = {load(path).state["trainer"]["num_updates"]: path for path in numbered(end / "run")}
        assert not held or len(held) not in states or held[-1] == state_of(load(states[len(held)]))
        lost = max([0, *(line["update"] - len(held) for line in log(run))])
        assert lost <= SAVE_EVERY, "more than one save interval"
        return lost
    expected = command.held(end / "run")
    assert held == expected[: len(held)]
    return 0


# a command that ends within a second is not asked to; tests/files refuses what a single atomic file needs
BRIEF = ("predict", "average", "unpack")
CASES = [
    (name, row)
    for name in NAMES
    for row in ROWS
    if name in LONG or row == 1 or (row == 6 and (is_full() or name not in BRIEF))
]


@pytest.mark.parametrize(("name", "row"), CASES)
def test_a_fault_at_a_call(name: str, row: int, run: Run, made: Made, tmp_path: Path) -> None:
    start, end, calls = made(name, begun=row == 6)
    want, work = products(end), tmp_path / "work"
    had, rng = len(COMMANDS[name].held(start / "run")), random.Random(f"{name} {row}")
    able = [at for at, call in enumerate(calls, 1) if call in REFUSABLE or row != 6]
    able = able[len(able) // 8 :] if row == 10 else able  # until then it has not begun
    kinds = list(ROWS[row].items())
    points = rng.sample(able, min(len(able), count(1 + (row == 1 and name == "super"), POINTS[row])))
    with Tally(row, f"calls of {name}") as tally:
        for turn, at in enumerate(sorted(points)):
            for kind, how in kinds if is_full() and row == 6 else [kinds[(turn + len(name)) % len(kinds)]]:
                with tally.fault():
                    try:
                        done = run(name, copy_of(start, work), Fault(at=at, **how))
                        # not every folder can be synchronised, and a signal may come when all is done
                        if done.code or not (kind == "no permission" or row == 10):
                            assert done.code == CODES[how.get("signal", 0)], (done.code, done.err)
                        if done.code == 2:
                            assert_refused(done)
                        elif done.code > 0:
                            assert "same command" in done.err and "Traceback" not in done.err, done.err
                        assert done.code == -9 or not list(work.rglob("*.unfinished"))
                        lost = assert_held(name, work, had, end)
                        tally.lose("updates, made again", lost)
                        again = run(name, work)
                        assert again.code == 0, again.err
                        assert products(work) == want, "the resumed run has other products"
                    except AssertionError as error:
                        where = f"{kind} in {name} at call {at} of {len(calls)}, {calls[at - 1]}"
                        raise AssertionError(f"{where}: {error}") from error


@pytest.mark.parametrize("name", [name for name in NAMES if COMMANDS[name].inputs])
def test_what_cannot_be_read(name: str, run: Run, made: Made, tmp_path: Path) -> None:
    """Refused, with the file named; the newest checkpoint is the only file with another before it."""
    with Tally(6, f"read errors in {name}") as tally:
        for file in COMMANDS[name].inputs[-count(1, 9) :]:
            with tally.fault():
                done = run(
                    name, copy_of(made(name, begun=True).start, tmp_path / "work"), Fault(unreadable=file)
                )
                if file.startswith(LAST) and not done.code:
                    assert "trying the one before it" in done.err, done.err
                else:
                    assert_refused(done, file)


def flipped(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def zeroed(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(-(-len(content) // 4096)) * 4096
    return content[:at] + bytes(len(content[at : at + 4096])) + content[at + 4096 :]


DAMAGE = {"single bits": (flipped, 8, 170), "cuts": (cut, 4, 50), "zeroed blocks": (zeroed, 3, 50)}
SUMMED = {  # those of the products that have checksums
    "super": ["checkpoint_last.pt", "checkpoint_last.pt", "checkpoint_last.pt.sha256"],
    "collect": ["rows.csv"],
    "search": ["journal.jsonl"],
    "predict": ["predictor.pt"],
    "preprocess": ["bin/*"],
    "average": ["mean.pt"],
}


@pytest.mark.parametrize("name", [*SUMMED, "table"])
def test_damage_is_not_read(
    name: str, made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused by name, or the state before it or fewer records are read, each said."""
    by, rng = "collect" if name == "table" else name, random.Random(name)
    folder = copy_of(made(by).end, tmp_path / "work") / "run"
    read = (lambda run: read_table(run / "rows.csv")) if name == "table" else COMMANDS[by].read
    paths = [path for pattern in SUMMED[by] for path in sorted(folder.glob(pattern))]
    intact, expected = {path: path.read_bytes() for path in paths}, read(folder)
    for kind, (damage, few, many) in DAMAGE.items():
        with Tally(2, kind) as tally:
            for _ in range(count(few, many)):
                path = rng.choice(paths)
                damaged = damage(intact[path], rng)
                path.write_bytes(damaged)
                capsys.readouterr()
                with tally.fault():
                    try:
                        found = read(folder)
                    except HatError as error:
                        assert path.name in str(error), error
                        found = expected
                    lost, said = len(expected) - len(found), capsys.readouterr().err
                    is_cut = damaged == intact[path][: len(damaged)]  # between two records it is not seen
                    assert not lost or path.name.removesuffix(".sha256") in said or is_cut, path
                    if name == "super" and lost:
                        assert lost <= SAVE_EVERY
                    else:
                        assert found == expected[: len(found)]
                    tally.lose("units of work, done again", lost)
                path.write_bytes(intact[path])
    assert read(folder) == expected
