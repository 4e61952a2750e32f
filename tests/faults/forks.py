"""Runs commands in real processes that cost little: forked from a server that has imported everything.

A fault is met at a numbered call: a write, fsync, rename, truncation, creation or removal of a file, counted
from the start of the command. What a file system holds depends on these calls alone, not on the moment.
"""

import builtins
import gc
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REFUSABLE = ("create", "write", "fsync", "rename")  # what a full or broken disk refuses
LASTING = ("create", "write", "fsync")  # and goes on to refuse


@dataclass(frozen=True)
class Fault:
    """What happens at call number `at` (from 1)."""

    at: int = -1  # -1: never
    signal: int = 0  # sent to the process itself
    code: int = 0  # of the OSError that is raised instead of the call
    lasts: bool = False  # later writes, creations and syncs fail, too
    half: bool = False  # a write has written a half of its bytes before
    unreadable: str = ""  # files whose name ends so cannot be opened for reading


class Result(NamedTuple):
    """How a command ended; a negative `code` is the signal it died of."""

    code: int
    calls: list[str]  # none if it was killed
    err: str


class Forks:
    """The client of a server process; use as a context manager."""

    def __enter__(self) -> "Forks":
        env = os.environ | {"OMP_NUM_THREADS": "1", "no_proxy": "127.0.0.1", "CUDA_VISIBLE_DEVICES": ""}
        env["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
        pipe = subprocess.PIPE
        self._server = subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, env=env)
        self._notes = tempfile.TemporaryDirectory()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.communicate(timeout=30)
        self._notes.cleanup()

    def run(self, command: str, argv: list[str], folder: Path, fault: Fault | None = None) -> Result:
        """Run `hat <command>` in `folder` and return how it ended."""
        said, calls = (Path(self._notes.name, name) for name in ("said", "calls"))
        request = [command, argv, str(folder), asdict(fault or Fault()), str(said), str(calls)]
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        return Result(code, json.loads(calls.read_text() or "[]"), said.read_text("utf-8", "replace"))


class Calls:
    """Counts the calls that change files, and lets the fault happen at one of them."""

    def __init__(self, fault: Fault) -> None:
        self.fault, self.names, self._hit = fault, list[str](), False

    def meet(self, name: str, half: Callable[[], object] = lambda: None) -> None:
        self.names.append(name)
        fault, now = self.fault, len(self.names) == self.fault.at
        if now and fault.half:
            half()
        if now and fault.signal:
            os.kill(os.getpid(), fault.signal)
        elif now or (self._hit and fault.lasts and name in LASTING):
            self._hit = True
            raise OSError(fault.code, os.strerror(fault.code))

    def install(self) -> None:
        """Put the counting in front of the system's calls."""
        for call, name in (("fsync", "fsync"), ("replace", "rename"), ("unlink", "remove")):
            setattr(os, call, self._counted(getattr(os, call), name))
        os.ftruncate = self._counted(os.ftruncate, "truncate")
        real_write, real_open, real_builtin, calls = os.write, os.open, builtins.open, self

        def write(fd: int, data: Any) -> int:
            calls.meet("write", lambda: real_write(fd, data[: len(data) // 2]))
            return real_write(fd, data)

        def open_fd(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & os.O_CREAT:
                calls.meet("create")
            return real_open(path, flags, *args, **kwargs)

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                return write(self.fileno(), bytes(data))

        def open_file(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
            bad = calls.fault.unreadable
            if bad and "r" in mode and str(file).endswith(bad):
                raise OSError(5, os.strerror(5))  # as a read would: it names no file
            if not set(mode) & set("wax") or "+" in mode or buffering == 0 or "opener" in kwargs:
                return real_builtin(file, mode, buffering, *args, **kwargs)
            calls.meet("create")
            buffered = io.BufferedWriter(Raw(file, mode.replace("b", "").replace("t", "")))
            return buffered if "b" in mode else io.TextIOWrapper(buffered, *args, **kwargs)

        os.write, os.open = write, open_fd
        builtins.open = io.open = open_file  # type: ignore[assignment]

    def _counted(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.meet(name)
            return real(*args, **kwargs)

        return call


def child(command: str, argv: list[str], folder: str, fault: dict, said: str, names: str) -> None:
    """Run the command of a request; never returns."""
    code, calls = 70, Calls(Fault(**fault))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    signal.alarm(100)
    sys.stderr = open(said, "w", encoding="utf-8")  # noqa: SIM115
    os.dup2(sys.stderr.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    record = open(names, "w")  # noqa: SIM115
    try:
        os.chdir(folder)
        main = watched_reader.main if command == "watched_reader" else load(command)
        calls.install()
        code = main(argv)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        json.dump(calls.names, record)
        record.close()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Answer requests, one a line, until standard input ends."""
    torch.set_num_threads(1)
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.sum().backward()
    torch.optim.AdamW([weight], fused=True).step()
    torch.save(weight, io.BytesIO())
    fix_latencies(pytest.MonkeyPatch())
    gc.freeze()  # else a child's collections copy every page
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            child(*json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    import encodings.cp437  # noqa: F401
    import encodings.utf_8_sig  # noqa: F401
    import multiprocessing.synchronize  # noqa: F401

    import numpy.ma  # noqa: F401
    import pytest
    import torch
    import watched_reader
    from commands import COMMANDS
    from fixed_latencies import fix_latencies

    import hat.train.legacy  # noqa: F401  # as others above, what children would import anew
    from hat.cli.main import load

    for each in COMMANDS.values():
        load(each.line.split()[0])
    sys.modules["matplotlib"] = None  # type: ignore[assignment]  # figures cost more than all the rest
    serve()
