"""Archives that are damaged or mean harm, and the means to write them."""

import gzip
import io
import os
import stat
import struct
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


def lying_zip() -> bytes:
    """Return a zip whose member claims to hold fewer bytes than it does, under a wrong checksum."""
    data = bytearray(zipped(("a/x", GOOD * 1000)))
    at = data.index(b"PK\x01\x02")
    struct.pack_into("<I", data, at + 24, 4)
    return bytes(data)


def long_name(name: str) -> bytes:
    info, _ = entry("././@LongLink", name.encode() + b"\0", tarfile.GNUTYPE_LONGNAME)
    head = raw_tar(info, name.encode() + b"\0")[:-1024]
    return head + tar(entry("short"))


def pax(record: bytes, size: int | None = None) -> bytes:
    line = b"%d %s\n" % (len(record) + 4, record) if len(record) < 95 else record
    info, _ = entry("pax", line, tarfile.XHDTYPE)
    if size is not None:
        info.size = size
    return raw_tar(info, line)[:-1024] + tar(entry("a/x"))


def damaged_gzip() -> bytes:
    data = bytearray(gzip.compress(tar(entry("a/x", os.urandom(5000)))))
    data[len(data) // 2] ^= 255
    return bytes(data)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "parent path": (tar(entry("a/x"), entry("../x")), "leads out"),
    "parent path ends": (tar(entry("a/x"), entry("a/..")), "leads out"),
    "absolute path": (tar(entry("a/x"), entry("/tmp/hat-hostile")), "leads out"),
    "backslashes": (tar(entry("a/x"), entry("..\\x")), "leads out"),
    "long name upwards": (long_name("../" * 60 + "x"), "leads out"),
    "symbolic link": (tar(entry("a/x", b"", tarfile.SYMTYPE, linkname="/etc/passwd")), "not a plain file"),
    "link, then file": (
        tar(entry("a/x", b"", tarfile.SYMTYPE, linkname="/tmp/hat-hostile"), entry("a/x")),
        "not a plain file",
    ),
    "device": (tar(entry("a/x", b"", tarfile.CHRTYPE, devmajor=1, devminor=3)), "not a plain file"),
    "folder": (tar(entry("a/x", b"", tarfile.DIRTYPE)), "no member"),
    "sparse file": (raw_tar(entry("a/x", b"", tarfile.GNUTYPE_SPARSE)[0]), "not a plain file"),
    "twice": (tar(entry("a/x"), entry("./a/x", b"other\n")), "there twice"),
    "missing": (tar(entry("b/x")), "no member"),
    "too short": (raw_tar(entry("a/x", size=9_000_000)[0], GOOD), "unexpected end of data"),
    "giant extension header": (pax(b"path=a/x", size=1 << 40), "damaged"),
    "cut gzip": (gzip.compress(tar(entry("a/x", os.urandom(9000))))[:-4000], "damaged"),
    "damaged gzip": (damaged_gzip(), "damaged|no whole|middle"),
    "no archive": (b"just some text\n" * 100, "no whole tar"),
    "empty": (b"", "no whole tar"),
    "zip parent path": (zipped(("a/x", GOOD), ("../x", GOOD)), "leads out"),
    "zip link": (zip_link(), "not a plain file"),
    "zip folder": (zipped(("a/x/", b"")), "no member"),
    "zip locked": (locked_zip(), "not a plain file"),
    "zip cut": (zipped(("a/x", os.urandom(5000)))[:-60], "damaged"),
    "zip lies": (lying_zip(), "damaged"),
    "link to an earlier member": (
        tar(entry("a/y"), entry("a/x", b"", tarfile.LNKTYPE, linkname="a/y")),
        "not a plain file",
    ),
    "link as folder": (
        tar(entry("a", b"", tarfile.SYMTYPE, linkname="/tmp"), entry("a/x")),
        "not a plain file",
    ),
    "home": (tar(entry("~/x")), "no member"),
    "many members": (tar(*[entry(f"b/{n}", b"") for n in range(1000)]) * 100, "no member"),
}
