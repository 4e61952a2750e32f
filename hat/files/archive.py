"""Take named files, and no others, out of an archive (tar, also packed, zip, gz) that is not trusted."""

import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from hat.errors import ConfigError, DataError, HatError, brief
from hat.files.atomic import refuse_folder, remove_unfinished, write_all_atomic

ZIP_MAGIC = b"PK\x03\x04"
_COPY = 1 << 20
# What PyTorch wrote before 1.6 begins with a pickle of its number and one of its protocol.
_SEQUENCE_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)
_DAMAGE = (*_BROKEN, RuntimeError, ValueError, MemoryError)


def unpack(archive: Path, folder: Path, members: Sequence[str], *, flat: bool = False) -> list[Path]:
    """Write `members` of `archive`, all or none, to the same paths below `folder` and return these. `flat`:
    they are named without their folders. A gzip file of no tar archive has one member, its name without
    suffix. Raises DataError if a member is missing, there twice or no plain file, if a path in the archive
    leads out of it, or if it is damaged; ConfigError for a wrong member name; HatError if the disk refuses.
    """
    wanted = list(dict.fromkeys(members))
    for name in wanted:
        if name in ("", ".") or _unsafe(name) or str(PurePosixPath(name)) != name or (flat and "/" in name):
            allowed = "a relative path without '..', of binary data without folders, is allowed"
            raise ConfigError(f"cannot unpack member {name!a}: {allowed}; see --help")
    targets = [folder / name for name in wanted]
    for target in targets:
        refuse_folder(target)
        remove_unfinished(target.parent, f"{target.name}.")
    try:
        archive.open("rb").close()
    except OSError as error:
        raise HatError(f"cannot unpack {archive}: {error.strerror}; check the path") from error

    def fill(files: list[BinaryIO]) -> None:
        missing = dict(zip(wanted, files, strict=True))
        try:
            for name, content in _files_in(archive):
                if _unsafe(name):
                    raise ValueError(f"member {name[:100]!a} leads out of the folder")
                path = PurePosixPath(name)
                if (key := path.name if flat else str(path)) not in wanted:
                    continue
                if content is None or key not in missing:
                    wrong = "there twice" if content else "a link or device, or locked, not a plain file"
                    raise ValueError(f"member {str(path)!a} is {wrong}")
                shutil.copyfileobj(content, missing.pop(key), _COPY)
            for name in missing:
                raise ValueError(f"it has no member {name!a}")
        except _DAMAGE as error:
            advice = "nothing was written; fetch the archive again, or look into it"
            raise DataError(f"cannot unpack {archive}: {_reason(error)}; {advice}") from error

    write_all_atomic(targets, fill)
    return targets


def check_file(path: Path) -> None:
    """Raise ValueError for what is no whole archive or checkpoint, as its suffix says; unpickles nothing."""
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    suffix = Path(path.name.removesuffix(".part")).suffix.lower()
    old = suffix == ".pt" and head.startswith(_SEQUENCE_MAGIC)
    if suffix == ".pt" and not old and (not head.startswith(ZIP_MAGIC) or b"/data.pkl" not in head):
        raise ValueError("it is a file of another kind, not a checkpoint of torch.save")
    if suffix not in (".gz", ".tgz", ".tar", ".zip", ".pt") or old:
        return
    try:
        for _, content in _files_in(path):
            while content is not None and content.read(_COPY):
                pass
    except _DAMAGE as error:
        raise ValueError(f"it is no whole archive: {_reason(error)}") from error


def _files_in(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    # of all but folders path and content, which is None of what is no plain file, and read before the next
    with open(archive, "rb") as file:
        head = file.read(4)
    if head == ZIP_MAGIC:
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                mode = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
                plain = mode in (0, stat.S_IFREG) and not info.flag_bits & 1
                if not info.is_dir():
                    with zipped.open(info) if plain else nullcontext() as content:
                        yield info.orig_filename, content
        return
    try:
        tar = tarfile.open(archive)  # noqa: SIM115 - closed below
    except _BROKEN as error:
        if not head.startswith(b"\x1f\x8b"):
            raise ValueError("it is no whole tar, zip or gzip archive") from error
        with gzip.open(archive) as packed:
            yield archive.name.removesuffix(".gz"), packed  # type: ignore[misc]
            while packed.read(_COPY):
                pass
        return
    with tar:
        for member in tar:
            plain = member.isreg() and not member.issparse()
            if not member.isdir():
                yield member.name, tar.extractfile(member) if plain else None
        while tar.fileobj is not None and tar.fileobj.read(_COPY):
            pass  # to the end, so that the checksum there is compared


def _reason(error: Exception) -> str:
    return str(error) if type(error) is ValueError else f"it is damaged ({brief(error, 100)})"


def _unsafe(name: str) -> bool:
    return name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or "\0" in name
