"""Runs commands in real processes that cost little: forked from a server that has imported everything.

A fault is met at a numbered point: a write, fsync, rename, creation or removal of a file, counted from the
start of the command. `kill_after_s` kills at a moment instead.
"""

import builtins
import codecs
import contextlib
import errno
import fcntl
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hat.cli.main import load

ROOT = Path(__file__).parents[2]
COMMANDS = ("train", "latency-dataset", "latency-predictor", "evo-search", "average", "generate")
COMMANDS += ("preprocess",)
WRITES = ("write", "create", "fsync")  # what a full or broken disk refuses; renames and removals work


@dataclass(frozen=True)
class Fault:
    """What happens at point number `at` (from 1), and what else is wrong with the system."""

    at: int = -1  # -1: never
    code: int = 0  # of the OSError; 0 is SIGKILL
    lasts: bool = False  # later writes, creations and syncs fail, too
    half: bool = False  # a write has written a half of its bytes before
    signal: int = 0  # sent to the process itself instead
    user: int = 0  # run as this user
    unreadable: str = ""  # files whose name ends so cannot be read (EIO)


class Result(NamedTuple):
    """How a command ended; a negative `code` is the signal it died of."""

    code: int
    points: list[str]  # names of the calls, none where it was killed
    err: str
    seconds: float


class Forks:
    """The client of a server process; use as a context manager."""

    def __enter__(self) -> "Forks":
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        self._server = subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, env=env)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(10)

    def run(
        self,
        command: str,
        argv: list[str],
        folder: Path,
        fault: Fault | None = None,
        *,
        kill_after_s: float | None = None,
    ) -> Result:
        """Run `hat <command>` in `folder` and return how it ended."""
        request = {"command": command, "argv": argv, "folder": str(folder)}
        request |= {"fault": asdict(fault or Fault()), "kill_after_s": kill_after_s}
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        return Result(*json.loads(self._server.stdout.readline()))


class Points:
    """Counts the calls that change files, and lets the fault happen at one of them."""

    def __init__(self, fault: Fault) -> None:
        self.fault, self.names, self._hit = fault, list[str](), False

    def meet(self, name: str, half: Callable[[], object] | None = None) -> None:
        self.names.append(name)
        fault = self.fault
        now = len(self.names) == fault.at
        if now and fault.half and half:
            half()
        if now and fault.signal:
            os.kill(os.getpid(), fault.signal)
        elif now and not fault.code:
            os.kill(os.getpid(), signal.SIGKILL)
        elif now or (self._hit and fault.lasts and name in WRITES):
            self._hit = True
            raise OSError(fault.code, os.strerror(fault.code))

    def install(self) -> None:
        """Put the counting in front of the system's calls."""
        for name, shown in (("fsync", "fsync"), ("replace", "rename"), ("unlink", "remove")):
            setattr(os, name, self._counted(getattr(os, name), shown))
        os.ftruncate = self._counted(os.ftruncate, "truncate")
        real_open, real_write = os.open, os.write
        points = self

        def write(fd: int, data: bytes) -> int:
            points.meet("write", lambda: real_write(fd, data[: len(data) // 2]))
            return real_write(fd, data)

        def open_fd(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & os.O_CREAT:
                points.meet("create")
            return real_open(path, flags, *args, **kwargs)

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                return write(self.fileno(), bytes(data))

        class Broken(io.FileIO):
            def readinto(self, buffer: Any) -> int:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

            def readall(self) -> bytes:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        real_builtin = builtins.open

        def open_file(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
            bad = self.fault.unreadable
            if bad and "r" in mode and not isinstance(file, int) and str(file).endswith(bad):
                broken = io.BufferedReader(Broken(file, "r"))
                return broken if "b" in mode else io.TextIOWrapper(broken, *args, **kwargs)
            if not set(mode) & set("wax") or "+" in mode or buffering == 0 or "opener" in kwargs:
                return real_builtin(file, mode, buffering, *args, **kwargs)
            if not isinstance(file, int):
                points.meet("create")
            raw = Raw(file, mode.replace("b", "").replace("t", ""))
            buffered = io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, *args, **kwargs)

        os.write, os.open = write, open_fd
        builtins.open = io.open = open_file  # type: ignore[assignment]
        os.fdopen = lambda fd, mode="r", *args, **kwargs: open_file(fd, mode, *args, **kwargs)  # type: ignore

    def _counted(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.meet(name)
            return real(*args, **kwargs)

        return call


def child(request: dict, report: int, err: int, gate: int) -> None:
    """Run the command of a request; never returns."""
    code = 70
    points = Points(Fault(**request["fault"]))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        os.read(gate, 1)
        os.dup2(err, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os.chdir(request["folder"])
        if points.fault.user:
            os.setgroups([])
            os.setuid(points.fault.user)
        main = load(request["command"])
        points.install()
        code = main(request["argv"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        try:
            sys.stderr.flush()
            points.fault = Fault()
            with io.FileIO(report, "w") as file:
                file.write(json.dumps(points.names).encode())
        finally:
            os._exit(code)


def serve() -> None:
    """Answer requests until standard input ends."""
    import torch

    for name in COMMANDS:
        load(name)

    from hat.model.layers import sinusoids

    for name in ("ascii", "utf-8-sig"):
        codecs.lookup(name)  # loads what another user could not
    torch.set_num_threads(1)
    with torch.device("meta"):
        sinusoids(4, 4)  # imports what each child would import anew
    with contextlib.suppress(ImportError):
        importlib.import_module("matplotlib.backends.backend_agg")
        importlib.import_module("matplotlib.figure")
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.sum().backward()
    torch.optim.AdamW([weight], fused=True).step()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        (gate, release), (err, err_in), (report, report_in) = os.pipe(), os.pipe(), os.pipe()
        for pipe in (err, report):  # pipes, which no limit on the size of files meets
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)
        pid = os.fork()
        if pid == 0:
            child(request, report_in, err_in, gate)
        for fd in (gate, err_in, report_in):
            os.close(fd)
        start = time.monotonic()
        os.write(release, b"x")
        os.close(release)
        code = _waited(pid, start, request["kill_after_s"])
        seconds = time.monotonic() - start
        with open(err, "rb") as text, open(report, "rb") as names:
            said, points = text.read().decode(errors="replace"), json.loads(names.read() or b"[]")
        answer = (code, points, said, seconds)
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


def _waited(pid: int, start: float, kill_after_s: float | None) -> int:
    limit = 100.0 if kill_after_s is None else kill_after_s
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() - start > limit:
            os.kill(pid, signal.SIGKILL)
            limit = float("inf")
        time.sleep(0.001)


if __name__ == "__main__":
    serve()
