"""Take named files out of an archive that is not trusted: tar (also packed), zip, and single gzip files.

Only regular members whose path was asked for are written, all of them or none. Nothing else that an archive
holds is ever created: the members are copied one by one, the archive never says where to.
"""

import gzip
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, NamedTuple

from hat.errors import ConfigError, DataError, HatError, brief
from hat.files.atomic import UNFINISHED, new_folders, write_all_atomic

ZIP_MAGIC = b"PK\x03\x04"
MAX_BYTES = 256 << 30  # that the members asked for may have together
_COPY = 1 << 20
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    RuntimeError,
    ValueError,
    MemoryError,
)


class _Entry(NamedTuple):
    """One entry of an archive; `content` is None for what is no plain file."""

    name: str
    kind: str
    content: IO[bytes] | gzip.GzipFile | None


def unpack(
    archive: Path, folder: Path, members: Sequence[str], *, flat: bool = False, max_bytes: int = MAX_BYTES
) -> list[Path]:
    """Write `members` of `archive` to the same paths below `folder` and return these.

    `flat`: members are named without their folders, wherever in the archive they are. `./` in front of a path
    in the archive is left out. A gzip file of something else than a tar archive has one member, named as the
    file without its suffix.
    Raises DataError, and writes nothing, if a member is missing, there twice, a link or no plain file, if any
    path in the archive is absolute or leads upwards, if the archive is damaged, or if the members have more
    than `max_bytes`; ConfigError for a wrong member name; HatError if the disk refuses.
    """
    wanted = list(dict.fromkeys(members))
    for name in wanted:
        if name in ("", ".") or _unsafe(name) or str(PurePosixPath(name)) != name or (flat and "/" in name):
            raise ConfigError(
                f"cannot unpack member {name!a}: a relative path without '..' is allowed"
                f"{', for --flat without folders' if flat else ''}; see --help"
            )
    targets = [folder / name for name in wanted]
    for target in targets:
        _check_inside(folder, target)
        for left in target.parent.glob(f".{target.name}.*{UNFINISHED}"):
            left.unlink(missing_ok=True)  # of a run that was killed

    def fill(files: list[BinaryIO]) -> None:
        try:
            _copy(archive, dict(zip(wanted, files, strict=True)), flat, max_bytes)
        except _DAMAGE as error:
            raise DataError(
                f"cannot unpack {archive}: {_reason(error)}; nothing was written; fetch the archive again, "
                "or look into it"
            ) from error

    try:
        archive.open("rb").close()
    except OSError as error:
        raise HatError(f"cannot unpack {archive}: {error.strerror}; check the path") from error
    with ExitStack() as folders:
        for target in targets:
            folders.enter_context(new_folders(target.parent))
        write_all_atomic(targets, fill)
    return targets


def _copy(archive: Path, files: dict[str, BinaryIO], flat: bool, left: int) -> None:
    """Write the members that `files` names into the open files; raises ValueError if one cannot be had."""
    found: set[str] = set()
    for entry in _entries(archive):
        if _unsafe(entry.name):
            raise ValueError(f"member {entry.name[:100]!a} leads out of the folder")
        path = str(PurePosixPath(entry.name))
        name = PurePosixPath(path).name if flat else path
        if name not in files or (flat and entry.kind == "folder"):
            continue
        if entry.content is None:
            raise ValueError(f"member {path!a} is a {entry.kind}, not a plain file")
        if name in found:
            raise ValueError(f"member {path!a} is there twice")
        found.add(name)
        while block := entry.content.read(_COPY):
            left -= len(block)
            if left < 0:
                raise ValueError("it unpacks to more than was allowed")
            files[name].write(block)
    missing = [name for name in files if name not in found]
    if missing:
        raise ValueError(f"it has no member {missing[0]!a}")


def _entries(archive: Path) -> Iterator[_Entry]:
    """Yield what an archive holds, in its order; an entry is read before the next one is asked for."""
    with open(archive, "rb") as file:
        head = file.read(4)
    if head == ZIP_MAGIC:
        yield from _of_zip(archive)
        return
    try:
        tar = tarfile.open(archive)  # noqa: SIM115 - closed below
    except (tarfile.ReadError, EOFError, zlib.error) as error:
        if not head.startswith(b"\x1f\x8b"):
            raise ValueError("it is no whole tar, zip or gzip archive") from error
        with gzip.open(archive) as packed:
            yield _Entry(archive.name.removesuffix(".gz"), "file", packed)
            while packed.read(_COPY):
                pass
        return
    with tar:
        for member in tar:
            plain = member.isreg() and not member.issparse()
            yield _Entry(member.name, _kind(member), tar.extractfile(member) if plain else None)
        while tar.fileobj is not None and tar.fileobj.read(_COPY):
            pass  # to the end, so that the checksum there is compared


def _of_zip(archive: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
            if info.is_dir() or mode not in (0, stat.S_IFREG):
                kind = "folder" if info.is_dir() else "link or device"
                yield _Entry(info.orig_filename, kind, None)
            elif info.flag_bits & 1:
                yield _Entry(info.orig_filename, "locked file", None)
            else:
                with file.open(info) as content:
                    yield _Entry(info.orig_filename, "file", content)


def _kind(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "link"
    if member.isdir():
        return "folder"
    return "sparse file" if member.issparse() else "device or special file"


def check_archive(path: Path) -> None:
    """Raise ValueError for what is no whole tar, zip or gzip archive."""
    try:
        for entry in _entries(path):
            while entry.content is not None and entry.content.read(_COPY):
                pass
    except _DAMAGE as error:
        raise ValueError(f"it is no whole archive: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(error) if type(error) is ValueError else f"it is damaged ({brief(error, 100)})"


def _unsafe(name: str) -> bool:
    return name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or "\0" in name


def _check_inside(folder: Path, target: Path) -> None:
    """Refuse a target that a link inside `folder` leads elsewhere."""
    parent, root = target.parent.resolve(), folder.resolve()
    if root not in (parent, *parent.parents) or target.is_dir():
        raise HatError(
            f"cannot write {target}: it is a folder, or a link in {folder} leads out of it; remove it or "
            "choose another folder"
        )
