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


def pax(record: bytes, size: int) -> bytes:
    info, line = entry("pax", b"%d %s\n" % (len(record) + 4, record), tarfile.XHDTYPE)
    info.size = size
    return raw_tar(info, line)[:-1024] + tar(entry("a/x"))


def damaged_gzip() -> bytes:
    data = bytearray(gzip.compress(tar(entry("a/x", os.urandom(5000)))))
    data[len(data) // 2] ^= 255
    return bytes(data)


def link(target: str, kind: bytes = tarfile.SYMTYPE, name: str = "a/x") -> tuple:
    return entry(name, b"", kind, linkname=target)


LEADS_OUT = {
    "parent path": tar(entry("a/x"), entry("../x")),
    "absolute path": tar(entry("a/x"), entry("/tmp/hat-hostile")),
    "backslashes": tar(entry("a/x"), entry("..\\x")),
    "long name upwards": long_name("../" * 60 + "x"),
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
    "giant extension header": pax(b"path=a/x", size=1 << 40),
    "cut gzip": gzip.compress(tar(entry("a/x", os.urandom(9000))))[:-4000],
    "damaged gzip": damaged_gzip(),
    "no archive": b"just some text\n" * 100,
    "empty": b"",
    "zip cut": zipped(("a/x", os.urandom(5000)))[:-60],
    "zip lies": lying_zip(),
}
MISSING = {
    "folder": tar(entry("a/x", b"", tarfile.DIRTYPE)),
    "zip folder": zipped(("a/x/", b"")),
    "missing": tar(entry("b/x")),
    "home": tar(entry("~/x")),
    "many members": tar(*[entry(f"b/{n}", b"") for n in range(1000)]) * 100,
}
TWICE = {"twice": tar(entry("a/x"), entry("./a/x", b"other\n"))}
HOSTILE = {  # what is said -> name -> archive
    "leads out": LEADS_OUT,
    "not a plain file": NOT_PLAIN,
    "damaged|no whole|middle|unexpected end": DAMAGED,
    "no member": MISSING,
    "there twice": TWICE,
}
