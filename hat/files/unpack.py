"""Take named files out of an archive that is not trusted.

Only regular members whose path was asked for are written, all of them or none; nothing else an archive holds
is ever created. Archives of tar, tar.gz and zip, and single files packed with gzip, told by their content.
"""

import contextlib
import fcntl
import gzip
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from hat.errors import ConfigError, DataError, HatError
from hat.files.atomic import sync_directory
from hat.files.tar import BLOCK, BadArchive, Member, members_of

MAX_BYTES = 256 << 30  # that one archive may unpack to, what is skipped included
MAX_RATIO = 200  # of unpacked to packed bytes; text has less than 20
_COPY = 1 << 20
_SMALL = 64 << 20  # unpacked size below which the ratio does not matter
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile, struct.error, RuntimeError, ValueError)


def unpack(
    archive: Path, folder: Path, members: Sequence[str], *, flat: bool = False, max_bytes: int = MAX_BYTES
) -> list[Path]:
    """Write `members` of `archive` to the same paths below `folder` and return these.

    `flat`: members are named without their folders, wherever in the archive they are. `./` in front of a path
    in the archive is left out. A gzip file of something else than a tar archive has one member, named as the
    file without its suffix.
    Raises DataError, and writes nothing, where a member is missing, there twice, a link or no plain file,
    where any path is absolute or leads upwards, or where the archive is damaged or unpacks to more than
    `max_bytes`; ConfigError for a wrong member name; HatError where the disk refuses.
    """
    wanted = list(dict.fromkeys(members))
    for name in wanted:
        if name in ("", ".") or _unsafe(name) or str(PurePosixPath(name)) != name or (flat and "/" in name):
            raise ConfigError(
                f"cannot unpack member {name!a}: a relative path without '..' is allowed"
                f"{', for --flat without folders' if flat else ''}; see --help"
            )
    for name in wanted:
        _check_inside(folder, name)
    try:
        with _staging(folder, archive) as stage:
            try:
                found = _take(archive, wanted, flat, stage, max_bytes)
            except _DAMAGE as error:  # zipfile above all raises many kinds
                raise BadArchive(f"it is damaged ({ascii(str(error))[1:-1][:100]})") from error
            missing = [name for name in wanted if name not in found]
            if missing:
                raise BadArchive(f"it has no member {missing[0]!a}")
            return _move(stage, folder, wanted)
    except BadArchive as error:
        raise DataError(
            f"cannot unpack {archive}: {error}; nothing was written; fetch the archive again, or look into it"
        ) from error
    except OSError as error:
        raise HatError(
            f"cannot unpack {archive} to {folder}: {error.strerror or error}; check the paths, free disk "
            "space or choose another folder"
        ) from error


def _take(archive: Path, wanted: list[str], flat: bool, stage: Path, max_bytes: int) -> set[str]:
    """Write the wanted members into `stage`; return their names."""
    found: set[str] = set()
    with contextlib.closing(_members(archive, max_bytes)) as entries:
        for entry in entries:
            if _unsafe(entry.name):
                raise BadArchive(f"member {entry.name[:100]!a} leads out of the folder")
            path = str(PurePosixPath(entry.name))
            name = PurePosixPath(path).name if flat else path
            if name not in wanted or (flat and entry.kind == "folder"):
                continue
            if entry.kind != "file":
                raise BadArchive(f"member {path!a} is a {entry.kind}, not a plain file")
            if name in found:
                raise BadArchive(f"member {path!a} is there twice")
            found.add(name)
            _write(stage / name, entry)
    return found


def _write(path: Path, entry: Member) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if (entry.size or 0) > free:
        raise HatError(
            f"cannot unpack member {entry.name!a}: it has {entry.size} bytes, the disk has room for "
            f"{free}; free disk space or choose another folder"
        )
    with open(path, "xb") as file:
        for block in entry.blocks():
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


def _members(archive: Path, max_bytes: int) -> Iterator[Member]:
    """Yield what an archive holds, in its order; a member is read before the next one is asked for."""
    with open(archive, "rb") as file:
        head = file.read(4)
        file.seek(0)
        size = os.fstat(file.fileno()).st_size
        limit = min(max_bytes, max(_SMALL, size * MAX_RATIO))
        if head.startswith(b"\x1f\x8b"):
            yield from _of_gzip(file, archive, limit)
        elif head in (b"PK\x03\x04", b"PK\x05\x06"):
            yield from _of_zip(file, limit)
        else:
            yield from members_of(_bounded(file.read, limit))


def _of_gzip(file: IO[bytes], archive: Path, limit: int) -> Iterator[Member]:
    with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
        head = unpacked.read(BLOCK)
        rest = [head]
        read = _bounded(lambda n: rest.pop() if rest else unpacked.read(n), limit)
        if _is_tar(head):
            yield from members_of(_exact(read))
            return
        name = archive.name.removesuffix(".gz")
        yield Member(name, "file", None, lambda: iter(lambda: read(_COPY), b""))


def _of_zip(file: IO[bytes], limit: int) -> Iterator[Member]:
    left = limit
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
            kind = "folder" if info.is_dir() else "file" if mode in (0, stat.S_IFREG) else "link or device"
            if info.flag_bits & 1:
                kind = "locked file"
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                kind = "file packed in an unknown way"

            def blocks(info: zipfile.ZipInfo = info) -> Iterator[bytes]:
                nonlocal left
                with archive.open(info) as member:
                    while block := member.read(_COPY):
                        left -= len(block)
                        if left < 0:
                            raise BadArchive(f"it unpacks to more than {limit} bytes")
                        yield block

            yield Member(info.orig_filename, kind, info.file_size, blocks)


def _bounded(read: Callable[[int], bytes], limit: int) -> Callable[[int], bytes]:
    left = limit

    def bounded(size: int) -> bytes:
        nonlocal left
        block = read(size)
        left -= len(block)
        if left < 0:
            raise BadArchive(f"it unpacks to more than {limit} bytes")
        return block

    return bounded


def _exact(read: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Return a reader that gives as many bytes as asked for except at the end."""

    def exact(size: int) -> bytes:
        parts = []
        while size > 0 and (block := read(size)):
            parts.append(block)
            size -= len(block)
        return b"".join(parts)

    return exact


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        return isinstance(error, tarfile.EOFHeaderError) and len(head) == BLOCK
    return True


def _unsafe(name: str) -> bool:
    return name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or "\0" in name


def _check_inside(folder: Path, name: str) -> None:
    """Refuse a target that a link inside `folder` leads elsewhere."""
    target = (folder / name).parent
    if folder.resolve() not in (target.resolve(), *target.resolve().parents) or (folder / name).is_dir():
        raise HatError(
            f"cannot write {folder / name}: it is a folder, or a link in {folder} leads out of it; remove it "
            "or choose another folder"
        )


@contextlib.contextmanager
def _staging(folder: Path, archive: Path) -> Iterator[Path]:
    """Give an empty folder inside `folder`; it is gone afterwards, or after the next run if killed."""
    folder.mkdir(parents=True, exist_ok=True)
    outer = folder / f".{archive.name}.unpacking"
    outer.mkdir(exist_ok=True)
    fd = os.open(outer, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HatError(
                f"{archive} is being unpacked by another process; wait for it or stop it"
            ) from error
        try:
            _empty(outer.iterdir())
            stage = outer / "members"
            stage.mkdir()
            yield stage
        finally:
            _empty(outer.iterdir())
            outer.rmdir()
    finally:
        os.close(fd)


def _empty(paths: Iterable[Path]) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _move(stage: Path, folder: Path, names: list[str]) -> list[Path]:
    targets = []
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_inside(folder, name)
        os.replace(stage / name, target)
        sync_directory(target.parent)
        targets.append(target)
    return targets
