"""Machines of other people: rows B3, C3, C10, C11, C13 and C17 of the cases, and siblings of each."""

import contextlib
import errno
import io
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from strategies import random_model

from hat.cli.files import convert
from hat.cli.interrupt import Interrupt
from hat.cli.options import command, parse
from hat.config import Options
from hat.data.folder import replacing
from hat.errors import HatError
from hat.files.atomic import FolderLock, digest_matches, link_or_copy, write_text_atomic, write_with_digest
from hat.files.download import download
from hat.files.journal import Journal, read_journal
from hat.model.layers import ModelConfig
from hat.space import DecoderSpace, EncoderSpace, SearchSpace
from hat.train.checkpoint import load, pack, save

ROOT = Path(__file__).parents[2]


# --- B3: signals


def test_b3_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupt.asked is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_b3_a_short_command_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def main(argv: object = None) -> int:
        write_text_atomic(tmp_path / "new" / "a", str(os.kill(os.getpid(), signal.SIGHUP)))
        return 0

    assert main() == 129 and "terminated; run the same command again" in capsys.readouterr().err


# --- C3: shell scripts

STUB = """#!/bin/bash
{ echo "in $PWD"; printf '%s\\n' "$@" end; } >>"$CALLS"
case "$*" in
"-m venv "*) mkdir -p "$3/bin" && rm -f "$3/bin/python" && cp "$0" "$3/bin/python" ;;
"-c import configargparse") [ ! -e "$CALLS.broken" ] ;;
esac
"""


@dataclass
class Shell:
    """Runs scripts of a copied checkout, with a Python that only notes its arguments."""

    base: Path

    def __post_init__(self) -> None:
        self.checkout, self.python = self.base / "mein H\u00e4uschen (neu)", self.base / "python stub"
        for name in ("scripts", "configs/toy.en-de"):
            shutil.copytree(ROOT / name, self.checkout / name)
            (self.base / name).mkdir(parents=True)  # where CDPATH leads
        for name in ("setup.py", "constraints.txt"):
            shutil.copyfile(ROOT / name, self.checkout / name)
        for name in ("steps.sh", "environment.sh", "test.sh"):
            (self.base / "scripts" / name).write_text("echo wrong; exit 9\n")
        self.python.write_text(STUB)
        self.python.chmod(0o755)

    def __call__(self, *words: object, cwd: Path, code: int = 0, **more: str) -> list[list[str]]:
        """Return the arguments of each Python; CDPATH is set, the umask is 077, and there is no HOME."""
        calls = self.base / "calls"
        calls.write_text("")
        env = {name: value for name, value in os.environ.items() if name != "HOME"}
        env |= {"CDPATH": str(self.base), "PYTHON": str(self.python), "CALLS": str(calls)} | more
        line = ["bash", *map(str, words)]
        done = subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, umask=0o077)
        assert done.returncode == code and "wrong" not in done.stdout, done.stdout + done.stderr
        found = [call.split("\n") for call in calls.read_text().split("end\n")[:-1]]
        assert all(call[0] == f"in {self.checkout}" for call in found), found
        return [call[1:-1] for call in found]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_c3_scripts_run_in_their_checkout_from_anywhere(shell: Shell) -> None:
    run, task = shell.base / "my r\u00fcn", shell.checkout / "configs/toy.en-de"
    run.mkdir()
    (shell.base / "sub \u00e9.yml").touch()
    (generate,) = shell(task / "test.sh", "best.pt", "../sub \u00e9.yml", "sacre", cwd=run)
    assert generate[:3] == ["-m", "hat", "generate"] and f"--path={run}/best.pt" in generate
    assert f"--sub-configs={shell.base}/sub \u00e9.yml" in generate
    assert "--mode=sacre" in generate
    average = ["-m", "hat", "average", "--inputs", str(run), "--num-epoch-checkpoints=3"]
    assert shell(task / "average_checkpoint.sh", ".", 3, cwd=run) == [average]
    assert shell("average_checkpoint.sh", run, 3, cwd=task) == [average]
    (ran,) = shell(shell.checkout / "scripts/run_task.sh", "toy.en-de", "cpu", 6, "--", "--json", cwd=run)
    assert ran[:5] == ["-m", "hat", "run", "--task=toy.en-de", "--hardware=cpu"] and ran[-1] == "--json"
    raw = shell.checkout / "data/raw/toy.en-de"
    raw.mkdir(parents=True)
    for name in (f"{split}.{lang}" for split in ("train", "valid", "test") for lang in ("en", "de")):
        (raw / name).write_text("text that is there is taken\n")
    (call,) = shell("configs/toy.en-de/preprocess.sh", cwd=shell.checkout)
    assert call[2] == "preprocess"


@pytest.mark.parametrize(
    "script",
    sorted(path for path in [*ROOT.glob("scripts/*.sh"), *ROOT.glob("configs/*/*.sh")]),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_c3_help_in_another_folder_with_cdpath(script: Path, tmp_path: Path) -> None:
    shared = script.name in ("get_preprocessed.sh", "preprocess.sh") and script.parent.name == "scripts"
    if shared or script.name in ("steps.sh", "environment.sh", "run_tests.sh", "run_fault_tests.sh"):
        assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
        return
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/steps.sh").write_text("echo wrong; exit 9\n")
    env = os.environ | {"CDPATH": str(tmp_path)}
    words = ["task", "--"] if script.name == "test.sh" and script.parent.name == "scripts" else []
    argv = ["bash", str(script), *words, "--help"]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage:"), done.stdout + done.stderr


# --- C10 and C11: file systems


def refusing(code: int) -> Callable[..., None]:
    def refuse(*args: object, **more: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.fixture(params=["EINVAL", "EPERM", "ENOTSUP", "EACCES"])
def poor_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """What CIFS, vboxsf and FAT answer to what they cannot do; files themselves can be synchronised."""
    code, sync = getattr(errno, request.param), os.fsync

    def sync_files_only(fd: int) -> None:
        (refusing(code) if stat.S_ISDIR(os.fstat(fd).st_mode) else sync)(fd)

    monkeypatch.setattr("os.fsync", sync_files_only)
    for call in ("link", "symlink", "chmod"):
        monkeypatch.setattr(f"os.{call}", refusing(code))
    return int(code)


def replace_data(folder: Path, text: str) -> None:
    with replacing(folder, ("en", "de")) as fresh:
        (fresh / "dict.en.txt").write_text(text)


def test_c10_what_is_written_is_there(poor_disk: int, tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        write_with_digest(tmp_path / "a", content)
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b"two"
    assert digest_matches(tmp_path / "a", b"two")
    with FolderLock(tmp_path, "wait"), Journal(tmp_path / "j") as journal:
        journal.append({"n": 1})
    assert read_journal(tmp_path / "j") == [{"n": 1}]


def test_c10_binary_data_are_replaced(poor_disk: int, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for text in ("one", "two"):
        replace_data(folder, text)
        (folder / "notes").write_text("stay")
    assert (folder / "dict.en.txt").read_text() == "two" and (folder / "notes").read_text() == "stay"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("name", ["ENOSYS", "ENOTSUP", "EINVAL", "ENOLCK"])
def test_c11_locks_without_flock(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Lustre; tests/files/test_lock.py has owners that die."""
    monkeypatch.setattr("fcntl.flock", refusing(getattr(errno, name)))
    with FolderLock(tmp_path / "run", "wait"):
        with pytest.raises(HatError, match="run is being written by another process, says .*run.lock; wait"):
            FolderLock(tmp_path / "run", "wait")
        with FolderLock(tmp_path / "other", "wait"):
            pass
    with FolderLock(tmp_path / "run", "wait"):
        pass


def test_c11_nfs_locks_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", refusing(errno.EBADF))
    replace_data(tmp_path / "data", "one")
    with replacing(tmp_path / "data", ("en", "de")), pytest.raises(HatError, match="another process"):
        replace_data(tmp_path / "data", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_c10_inputs_may_be_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "in" / "a.txt", os.open
    path.parent.mkdir()
    path.write_bytes(b"there already")
    with Journal(path.parent / "j") as journal:
        journal.append({"n": 1})

    def only_read(name: str, flags: int, *more: int, **by_name: int) -> int:
        if str(path.parent) in str(name) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(name, flags, *more, **by_name)

    monkeypatch.setattr("os.open", only_read)
    monkeypatch.setattr("builtins.open", partial(open, opener=only_read))
    assert download("http://127.0.0.1:9/a.txt", path).status == "intact"
    assert read_journal(path.parent / "j") == [{"n": 1}]
    with pytest.raises(HatError, match="Read-only file system.*choose another folder"):
        FolderLock(path.parent, "wait")
    assert sorted(each.name for each in path.parent.iterdir()) == ["a.txt", "j"]


# --- C13: home folders, locales, pipes


@dataclass(frozen=True)
class Places(Options):
    """Places"""

    save_dir: str = "~/default"
    inputs: tuple[str, ...] = ()


def test_c13_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "a.yml").write_text("save-dir: ~/runs\n")

    def places(*words: str) -> Places:
        return parse(words, Places, prog="x", description="", config_flags=("--configs",))[0]

    assert places(f"--configs={tmp_path}/a.yml") == Places("/home/me/runs")
    assert places("--inputs", "~/a", "b/~c") == Places("/home/me/default", ("/home/me/a", "b/~c"))
    assert places("--save-dir=~").save_dir == "/home/me"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_c13_output_is_utf8_in_any_locale(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(sink, encoding=encoding))
    assert command(lambda argv: print("H-0\t\u00fc\u4e2d") or 0)(()) == 0
    assert sink.getvalue() == "H-0\t\u00fc\u4e2d\n".encode()


def test_c13_a_pipe_closes_quietly(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for lines in (1, 100_000):  # what stays in the buffer until the end, and what does not
        source, sink = os.pipe()
        os.close(source)
        with contextlib.closing(open(sink, "w")) as output:
            monkeypatch.setattr("sys.stdout", output)
            assert command(lambda argv: print("x\n" * argv[0]) or 0)((lines,)) == 141
    monkeypatch.setattr("sys.stdout", None)  # >&-
    assert command(lambda argv: print("x") or 0)(()) == 0
    assert capfd.readouterr().err == ""


# --- C17: what was there once


def environment(shell: Shell, install: bool) -> None:
    """Source environment.sh; says whether it must make the environment anew."""
    code = '. scripts/environment.sh; "$PYTHON" -c works'
    calls = shell("-c", code, cwd=shell.checkout, HAT_VENV=str(shell.base / "v env"))
    assert calls[-1] == ["-c", "works"]
    assert ["-m", "venv", str(shell.base / "v env")] in calls if install else len(calls) == 2, calls


def test_c17_an_environment_whose_python_is_gone_is_mended(shell: Shell) -> None:
    python = shell.base / "v env/bin/python"
    for install in (True, False):
        environment(shell, install)
    python.unlink()
    environment(shell, install=True)
    python.unlink()
    python.symlink_to("/nowhere/python3.9")  # the system has a newer one by now
    for install in (True, False):
        environment(shell, install)
    (shell.checkout / "constraints.txt").write_text("torch==0.4\n")
    environment(shell, install=True)
    (shell.base / "calls.broken").touch()  # it runs, and finds no packages: those were of another version
    environment(shell, install=True)


@pytest.mark.parametrize("value", [1e6, 65520.0, float("nan"), 65504.0])
def test_c17_half_precision_that_cannot_hold_a_weight_is_refused(
    value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = EncoderSpace(8, 8, 1, (8,), (8,), (1,), (2,))
    decoder = DecoderSpace(8, 8, 1, (8,), (8,), (1,), (2,), (2,), (1,))
    checkpoint = pack(random_model(SearchSpace(encoder, decoder, 8), ModelConfig()))
    checkpoint.weights["source_embed.weight"][4, 0] = value
    save(checkpoint, tmp_path / "in.pt")
    code = convert(["--input", str(tmp_path / "in.pt"), "--output", str(tmp_path / "out.pt"), "--fp16"])
    if value == 65504:
        assert code == 0 and load(tmp_path / "out.pt").weights["source_embed.weight"][4, 0] == value
    else:
        assert code == 2 and "source_embed.weight holds numbers beyond 65504" in capsys.readouterr().err
        assert not (tmp_path / "out.pt").exists()
