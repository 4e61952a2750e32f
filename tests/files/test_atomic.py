"""Files are written whole or not at all, and a digest stays true across crashes."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from hat.errors import HatError
from hat.files.atomic import digest_matches, digest_path, write_atomic, write_text_atomic, write_with_digest
from hat.files.journal import Journal


class Crash(BaseException):
    """Stands for the end of the process."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_creates_folders_replaces_and_follows_the_umask(tmp_path: Path) -> None:
    path, before = tmp_path / "a" / "b" / "c.txt", os.umask(0o027)
    try:
        write_text_atomic(path, "one\n")
        write_text_atomic(path, "zwei \u00fc\n")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert path.read_bytes() == b"zwei \xc3\xbc\n" and names(path.parent) == ["c.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def refusing(code: int) -> Callable[..., None]:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


def test_what_fails_leaves_the_old_file_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fill(file: BinaryIO) -> None:
        file.write(b"new" * 100_000)
        raise Crash

    with pytest.raises(Crash):
        write_atomic(path, fill)
    for call in ("os.fsync", "os.replace", "builtins.open"):
        with monkeypatch.context() as patch, pytest.raises(HatError) as refused:
            patch.setattr(call, refusing(errno.ENOSPC))
            write_atomic(path, lambda file: file.write(b"new"))
        assert f"cannot write {path}: No space left on device; what was there" in str(refused.value)
        assert path.read_bytes() == b"old" and names(tmp_path) == ["a"]


def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path, tmp_path / "file" / "j"):
        with pytest.raises(HatError, match="cannot"):
            Journal(path)
    for path in (tmp_path / "file" / "a", tmp_path / "folder", tmp_path / ("n" * 300)):
        with pytest.raises(HatError, match="cannot write .*choose another folder"):
            write_text_atomic(path, "x")
    assert names(tmp_path) == ["file", "folder"]


def test_digest_format(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    assert digest_matches(path, b"x") is None
    write_with_digest(path, b"x")
    assert path.read_bytes() == b"x" and names(tmp_path) == ["a.pt", "a.pt.sha256"]
    first = digest_path(path).read_text().splitlines()[0]
    assert first == f"{hashlib.sha256(b'x').hexdigest()}  a.pt"  # as sha256sum writes it
    assert digest_matches(path, b"x") is True and digest_matches(path, b"y") is False
    for damaged in (b"", b"\xff\xfe", b"not a digest\n", b"\n \n"):
        digest_path(path).write_bytes(damaged)
        assert digest_matches(path, b"x") is False


def intact(path: Path) -> bytes:
    content = path.read_bytes()
    assert digest_matches(path, content) is True, f"{content!r} is taken for damaged"
    return content


def crash(number: int, path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write `content`, and crash in front of the n-th rename."""
    real, calls = os.replace, iter(range(1, 9))

    def replace(source: str, target: str) -> None:
        if next(calls) == number:
            raise Crash
        real(source, target)

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr("os.replace", replace)
        write_with_digest(path, content)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_what_a_crash_leaves_is_valid(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"copied here by hand")
    crash(2, path, b"new", monkeypatch)
    assert path.read_bytes() == b"copied here by hand"
    assert digest_matches(path, path.read_bytes()) is not False
    write_with_digest(path, b"two")
    crash(number, path, b"three", monkeypatch)
    assert intact(path) in (b"two", b"three") and not digest_matches(path, b"damaged")
    for n in range(5):  # started again and killed in its first save each time: the last good file stays
        kept = intact(path)
        crash(2, path, b"lost %d" % n, monkeypatch)
        assert intact(path) == kept
    write_with_digest(path, b"four")
    assert intact(path) == b"four"
