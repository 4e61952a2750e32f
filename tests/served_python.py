"""Bash scripts whose `python -m hat ...` runs in the process of the test, where torch is imported already."""

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hat.cli.main import main

CLIENT = f"""#!{sys.executable} -SE
import json, os, socket, sys
if sys.argv[1:3] != ["-m", "hat"]:
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect(os.environ["HAT_SERVER"])
    server.sendall(json.dumps([sys.argv[3:], os.getcwd()]).encode())
    server.shutdown(socket.SHUT_WR)
    code, out, err = json.loads(b"".join(iter(lambda: server.recv(65536), b"")))
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


def in_process(main, words: Sequence[str]) -> tuple[int, str, str]:
    """Run the `main` of a command; returns exit code, output and errors."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*words])
    return code, out.getvalue(), err.getvalue()


Served = Callable[[Sequence[str]], tuple[int | None, str, str]]


def run_script(
    words: Sequence[str],
    folder: Path,
    serve: Served = lambda argv: in_process(main, argv),
    cwd: Path | None = None,
    **more: str,
) -> tuple[int, str, str]:
    """Run a command that may start Python; `folder` keeps the client and the socket.

    `serve` does what `python -m hat` was asked for; if it returns no exit code, the command is killed.
    Returns exit code, output and errors.
    """
    folder.mkdir(exist_ok=True)
    client, socket_path = folder / "python", folder / "socket"
    client.write_text(CLIENT)
    (folder / "getconf").write_text("#!/bin/sh\necho 1\n")  # cores: no worker processes, which import much
    for path in (client, folder / "getconf"):
        path.chmod(0o755)
    socket_path.unlink(missing_ok=True)
    env = os.environ | {"PYTHON": str(client), "HAT_SERVER": str(socket_path)} | more
    env["PATH"] = f"{folder}:{env['PATH']}"
    here = os.getcwd()
    with (
        socket.socket(socket.AF_UNIX) as server,
        open(folder / "out", "w+") as out,
        open(folder / "err", "w+") as err,
    ):
        server.bind(str(socket_path))
        server.listen()
        server.settimeout(0.02)
        with subprocess.Popen(words, cwd=cwd, env=env, stdout=out, stderr=err) as process:
            while process.poll() is None:
                with contextlib.suppress(TimeoutError):
                    connection, _ = server.accept()
                    with connection:
                        connection.settimeout(None)
                        argv, place = json.loads(b"".join(iter(lambda: connection.recv(65536), b"")))  # noqa: B023
                        os.chdir(place)
                        try:
                            answer = serve(argv)
                        finally:
                            os.chdir(here)
                        if answer[0] is None:
                            process.kill()
                            process.wait()
                        with contextlib.suppress(OSError):
                            connection.sendall(json.dumps(answer).encode())
        out.seek(0)
        err.seek(0)
        return process.returncode, out.read(), err.read()
