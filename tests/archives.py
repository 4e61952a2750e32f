"""Archives that are damaged or mean harm, and the means to write them."""

import gzip
import io
import os
import stat
import tarfile
import zipfile

GOOD = b"one\ntwo\n"


def entry(name: str, content: bytes = GOOD, kind: bytes = tarfile.REGTYPE, **fields: object) -> tuple:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def tar(*entries: tuple, form: int = tarfile.GNU_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return file.getvalue()


def raw_tar(info: tarfile.TarInfo, content: bytes = b"") -> bytes:
    """Return a header as it is, with a content that need not fit it, and the end of an archive."""
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512) + bytes(1024)


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


def zip_link() -> bytes:
    info = zipfile.ZipInfo("a/x")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return zipped((info, b"/etc/passwd"))


def locked_zip() -> bytes:
    data = bytearray(zipped(("a/x", GOOD)))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def link(target: str, kind: bytes = tarfile.SYMTYPE, name: str = "a/x") -> tuple:
    return entry(name, b"", kind, linkname=target)


LEADS_OUT = {
    "parent path": tar(entry("a/x"), entry("../x")),
    "absolute path": tar(entry("a/x"), entry("/tmp/hat-hostile")),
    "backslashes": tar(entry("a/x"), entry("..\\x")),
    "zip parent path": zipped(("a/x", GOOD), ("../x", GOOD)),
}
NOT_PLAIN = {
    "symbolic link": tar(link("/etc/passwd")),
    "link, then file": tar(link("/tmp/hat-hostile"), entry("a/x")),
    "link to an earlier member": tar(entry("a/y"), link("a/y", tarfile.LNKTYPE)),
    "link as folder": tar(link("/tmp", name="a"), entry("a/x")),
    "device": tar(entry("a/x", b"", tarfile.CHRTYPE, devmajor=1, devminor=3)),
    "sparse file": raw_tar(entry("a/x", b"", tarfile.GNUTYPE_SPARSE)[0]),
    "zip link": zip_link(),
    "zip locked": locked_zip(),
}
DAMAGED = {
    "too short": raw_tar(entry("a/x", size=9_000_000)[0], GOOD),
    "cut gzip": gzip.compress(tar(entry("a/x", os.urandom(9000))))[:-4000],
    "no archive": b"just some text\n" * 100,
    "empty": b"",
    "zip cut": zipped(("a/x", os.urandom(5000)))[:-60],
}
MISSING = {
    "folder": tar(entry("a/x", b"", tarfile.DIRTYPE)),
    "zip folder": zipped(("a/x/", b"")),
    "missing": tar(entry("b/x")),
    "many members": tar(*[entry(f"b/{n}", b"") for n in range(1000)]) * 100,
}
HOSTILE = {  # what is said -> name -> archive
    "leads out": LEADS_OUT,
    "not a plain file": NOT_PLAIN,
    "damaged|no whole|middle|unexpected end": DAMAGED,
    "no member": MISSING,
    "there twice": {"twice": tar(entry("a/x"), entry("./a/x", b"other\n"))},
}
