"""Row 4: records cut at any byte, writers killed at any moment, two writers at once."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import workplace
from forks import Forks
from tally import Tally, count, is_full

from hat.errors import HatError
from hat.files.journal import Journal
from hat.files.lock import FolderLock
from hat.latency.table import TableWriter, row_of
from hat.log import RunLog
from hat.space import Arch, DecoderArch, EncoderArch

RECORDS = 5
ARCH = Arch(EncoderArch(512, (1024,), (8,)), DecoderArch(512, (1024,), (8,), (8,), (1,)))


def journal_record(n: int) -> dict:
    return {"n": n, "text": "\u00e4\u20ac" * (n % 3), "loss": n / 3}


def append_record(path: Path, n: int) -> None:
    with Journal(path) as journal:
        journal.append(journal_record(n))


def numbers(path: Path) -> list[int]:
    with Journal(path) as journal:
        for record in journal.records:
            assert record == journal_record(record["n"])
        return [record["n"] for record in journal.records]


def append_row(path: Path, n: int) -> None:
    with TableWriter(path) as table:
        table.append(row_of(ARCH, (1.0, 0.1), (10.0 + n, 0.1), {"device": 'cpu "\u00e4", 2 GHz'}))


def row_numbers(path: Path) -> list[int]:
    with TableWriter(path) as table:
        assert all(row.conditions == {"device": 'cpu "\u00e4", 2 GHz'} for row in table.records)
        return [round(row.latency_mean_decoder - 10) for row in table.records]


KINDS = {"journal": (append_record, numbers), "table": (append_row, row_numbers)}


@pytest.mark.parametrize("kind", KINDS)
def test_cut_at_every_byte_of_the_last_three_records(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three restarts after each cut; the second of them is cut, too."""
    monkeypatch.setattr("os.fsync", lambda fd: None)
    append, read = KINDS[kind]
    path, rng = tmp_path / "file", random.Random(1)
    for n in range(RECORDS):
        append(path, n)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    after = ends[len(ends) - RECORDS :]  # the ends of the records, without that of the table's header
    step = 1 if is_full() else 7
    with Tally(4, f"cuts of a {kind}") as tally:
        for cut in [*range(after[-4], len(whole), step), len(whole)]:
            with tally.fault():
                kept = [n for n, end in enumerate(after) if end <= cut]
                path.write_bytes(whole[:cut])
                assert read(path) == kept  # first restart: does nothing
                append(path, 7)  # second restart: one record, then killed within the next
                acknowledged = path.read_bytes()
                append(path, 8)
                unfinished = path.read_bytes()
                path.write_bytes(unfinished[: rng.randrange(len(acknowledged), len(unfinished))])
                append(path, 9)  # third restart
                assert read(path) == [*kept, 7, 9]
                tally.lose("unacknowledged records", 2)


def in_child(work: Callable[[int], None]) -> tuple[int, int]:
    """Run `work` in a forked process; returns its id and a pipe on which it acknowledges."""
    source, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(source)
            work(sink)
        finally:
            os._exit(3)
    os.close(sink)
    return pid, source


@pytest.mark.parametrize("kind", KINDS)
def test_writers_killed_at_random_moments(kind: str, tmp_path: Path) -> None:
    append, read = KINDS[kind]
    opener = {"journal": Journal, "table": TableWriter}[kind]
    rng = random.Random(2)
    with Tally(4, f"killed writers of a {kind}") as tally:
        for turn in range(count(5, 60)):
            path = tmp_path / f"{turn}" / "file"
            acknowledged: list[int] = []
            for _ in range(3):  # restarts
                first = len(acknowledged)

                def work(sink: int, path: Path = path) -> None:
                    with opener(path) as held:
                        first = len(held.records)
                    for n in range(first, first + 10_000):
                        append(path, n)
                        os.write(sink, b"%d\n" % n)

                with tally.fault():
                    pid, source = in_child(work)
                    time.sleep(rng.uniform(0.003, 0.02))
                    os.kill(pid, signal.SIGKILL)
                    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
                    with open(source, "rb") as pipe:
                        said = [int(line) for line in pipe.read().split(b"\n")[:-1]]
                    found = read(path)
                    assert found == list(range(len(found))), "each once, in order"
                    assert set(said) <= set(found), "acknowledged, so it is there"
                    assert len(found) <= max([first - 1, *said], default=-1) + 2, "one unacknowledged more"
                    tally.lose("acknowledged records", len(set(said) - set(found)))
                    acknowledged = found


def test_a_record_that_did_not_fit_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes a part, or takes all and fails to sync; the writer goes on when there is room again."""
    real_write, real_sync = os.write, os.fsync

    def refuse(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with Tally(4, "refused records") as tally:
        for name, (append, read) in KINDS.items():
            for how in ("part", "sync"):
                path = tmp_path / f"{name}-{how}"
                append(path, 0)
                with tally.fault():
                    if how == "part":
                        monkeypatch.setattr("os.write", lambda fd, data: real_write(fd, data[:9]))
                    else:
                        monkeypatch.setattr("os.fsync", refuse)
                    before = path.read_bytes()
                    with pytest.raises((HatError, OSError)):
                        append(path, 1)
                    monkeypatch.setattr("os.write", real_write)
                    monkeypatch.setattr("os.fsync", real_sync)
                    assert path.read_bytes() == before
                    append(path, 1)
                    assert read(path) == [0, 1]
                    tally.lose("unacknowledged records", 1)


TAKE: dict[str, Callable[[Path], Journal | TableWriter | FolderLock]] = {
    "journal": Journal,
    "table": TableWriter,
    "folder": lambda path: FolderLock(path, "wait"),
}


@contextmanager
def owner(hold: Callable[[], object]) -> Iterator[int]:
    """A process that holds a lock and has started another program; it is killed in the end."""

    def work(sink: int) -> None:
        held = hold()
        helper = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        os.write(sink, b"%d\n" % helper.pid)
        signal.pause()
        del held

    pid, source = in_child(work)
    with open(source, "rb", buffering=0) as pipe:
        helper = int(pipe.readline() or b"0")
        try:
            yield pid
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            assert helper
            os.kill(helper, signal.SIGKILL)


@pytest.mark.parametrize("kind", TAKE)
def test_a_lock_dies_with_its_owner_though_a_program_it_started_lives(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with Tally(4, "two writers") as tally:
        for _ in range(count(1, 10)):
            with tally.fault(), owner(lambda: TAKE[kind](path)) as pid:
                with pytest.raises(HatError, match=f"{path} is being written by another process"):
                    TAKE[kind](path)
                os.kill(pid, signal.SIGKILL)
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                with TAKE[kind](path):
                    pass


LOCKED = {  # command: what locks its run folder, and how
    "super": ("folder", "run"),
    "collect": ("table", "run/rows.csv"),
    "search": ("journal", "run/journal.jsonl"),
}


@pytest.mark.parametrize("name", LOCKED)
def test_a_second_command_on_a_run_folder_touches_nothing(
    name: str, forks: Forks, place: Path, tmp_path: Path
) -> None:
    work = workplace.copy_of(place, tmp_path / "work")
    command, argv = workplace.ARGV[name]
    assert forks.run(command, argv, work).code == 0
    kind, target = LOCKED[name]

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (work / "run").iterdir() if path.is_file()}

    with Tally(4, "a second command") as tally, tally.fault():
        with TAKE[kind](work / target):  # this process stands for the first command
            before = contents()
            done = forks.run(command, argv, work)
            assert done.code == 2 and "is being written by another process" in done.err, done.err
            assert contents() == before
        again = forks.run(command, argv, work)
        assert again.code == 0, again.err


def test_a_log_goes_on_behind_a_line_that_was_cut_off(tmp_path: Path) -> None:
    with Tally(4, "cuts of a log") as tally:
        for cut in range(1, 40, count(8, 1)):
            with tally.fault():
                for update in (1, 2):
                    log = RunLog(tmp_path / str(cut), total=2, unit="updates", bar=False)
                    log.metrics("train", update, "", loss=1.0)
                    log.close()
                    path = tmp_path / str(cut) / "log.jsonl"
                    if update == 1:
                        path.write_bytes(path.read_bytes() * 2)
                        path.write_bytes(path.read_bytes()[:-cut])
                entries = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
                assert [entry["update"] for entry in entries] == [1, 2]
