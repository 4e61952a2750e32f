"""What a tar archive holds, read once from front to back, whatever its headers claim.

The module tarfile keeps extension headers of any size in memory and seeks backwards in packed archives; here
memory is bounded and nothing is created. Headers themselves are taken apart by tarfile.
"""

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

BLOCK = tarfile.BLOCKSIZE
MAX_MEMBERS = 1_000_000
MAX_EXTENSION = 1 << 20  # bytes of an extension header; a long path has a few hundred
_COPY = 1 << 20


class BadArchive(Exception):
    """The archive is damaged or holds what no harmless one does."""


@dataclass(frozen=True)
class Member:
    """One entry of an archive. `blocks()` yields its content, once, before the next member is asked for."""

    name: str
    kind: str
    """ "file", "folder", or in words what else it is"""
    size: int | None
    """bytes, None where the archive does not say"""
    blocks: Callable[[], Iterator[bytes]]


@dataclass
class _Extensions:
    """What extension headers say about the next member."""

    name: str | None = None
    size: int | None = None
    is_sparse: bool = False


@dataclass
class _Body:
    """The bytes of a member that were not read yet."""

    left: int
    read: Callable[[int], bytes] = field(repr=False)

    def blocks(self) -> Iterator[bytes]:
        while self.left:
            block = self.read(min(self.left, _COPY))
            if not block:
                raise BadArchive("it ends in the middle of a member")
            self.left -= len(block)
            yield block


def members_of(read: Callable[[int], bytes]) -> Iterator[Member]:
    """Yield the members of a tar archive; `read(n)` gives its next n bytes, fewer only at the end.

    Raises BadArchive for damage, too many members and extension headers beyond measure.
    """
    extensions, ended = _Extensions(), False
    for number in range(MAX_MEMBERS):
        header = _header(read, number > 0)
        if header is None:
            ended = True
            break
        if header.size < 0:
            raise BadArchive("a member has a negative size")
        if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            _extend(extensions, header.type, _small(read, header.size))
            continue
        if header.type in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            _small(read, header.size)
            continue
        size = header.size if extensions.size is None else extensions.size
        kind = _kind(header, extensions.is_sparse)
        body = _Body(size if kind not in ("folder", "link", "device") else 0, read)
        padding = -body.left % BLOCK
        yield Member(extensions.name or header.name, kind, body.left, body.blocks)
        for _block in body.blocks():
            pass  # not wanted, or not wanted to its end
        if len(read(padding)) < padding:
            raise BadArchive("it ends in the middle of a member")
        extensions = _Extensions()
    if not ended:
        raise BadArchive(f"it has more than {MAX_MEMBERS} members")
    for _block in iter(partial(read, _COPY), b""):
        pass  # to the end, so that a checksum there is verified


def _header(read: Callable[[int], bytes], may_end: bool) -> tarfile.TarInfo | None:
    """Return the next header, or None at the end of the archive."""
    block = read(BLOCK)
    if not block and may_end:  # some programs write no end, and tar takes that
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:
        return None
    except tarfile.HeaderError as error:
        raise BadArchive(f"it is no whole tar archive ({error})") from error


def _kind(header: tarfile.TarInfo, is_sparse: bool) -> str:
    if is_sparse or header.type == tarfile.GNUTYPE_SPARSE:
        return "sparse file"
    if header.isdir():
        return "folder"
    if header.issym() or header.islnk():
        return "link"
    if header.isdev():
        return "device"
    return "file" if header.type in (tarfile.REGTYPE, tarfile.AREGTYPE) else "special file"


def _small(read: Callable[[int], bytes], size: int) -> bytes:
    if size > MAX_EXTENSION:
        raise BadArchive(f"an extension header of {size} bytes")
    padded = size + -size % BLOCK
    content = read(padded)
    if len(content) < padded:
        raise BadArchive("it ends in the middle of an extension header")
    return content[:size]


def _extend(extensions: _Extensions, kind: bytes, content: bytes) -> None:
    """Note the long path of GNU tar, or path, size and sparseness out of the records of a pax header."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        extensions.name = content.split(b"\0")[0].decode("utf-8", "surrogateescape")
        return
    while content:
        length, space, _ = content.partition(b" ")
        if not (space and length.isdigit() and len(length) < 8 and len(length) < int(length) <= len(content)):
            raise BadArchive("a damaged extension header")
        record, content = content[len(length) + 1 : int(length)], content[int(length) :]
        key, _, value = record.removesuffix(b"\n").partition(b"=")
        if key == b"path":
            extensions.name = value.decode("utf-8", "surrogateescape")
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise BadArchive("a damaged size in an extension header")
            extensions.size = int(value)
        elif key.startswith(b"GNU.sparse"):
            extensions.is_sparse = True
