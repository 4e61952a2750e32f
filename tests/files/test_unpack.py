"""Unpacking: the files asked for and nothing else, whatever the archive holds."""

import gzip
import io
import multiprocessing
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hat.cli.unpack import main
from hat.errors import ConfigError, DataError, HatError
from hat.files.unpack import unpack

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
    "parent path inside": (tar(entry("a/x"), entry("a/../../x")), "leads out"),
    "parent path ends": (tar(entry("a/x"), entry("a/..")), "leads out"),
    "absolute path": (tar(entry("a/x"), entry("/tmp/hat-hostile")), "leads out"),
    "backslashes": (tar(entry("a/x"), entry("..\\x")), "leads out"),
    "long name upwards": (long_name("../" * 60 + "x"), "leads out"),
    "pax name upwards": (pax(b"path=../x"), "leads out"),
    "symbolic link": (tar(entry("a/x", b"", tarfile.SYMTYPE, linkname="/etc/passwd")), "is a link"),
    "hard link": (tar(entry("a/x", b"", tarfile.LNKTYPE, linkname="/etc/passwd")), "is a link"),
    "link, then file": (
        tar(entry("a/x", b"", tarfile.SYMTYPE, linkname="/tmp/hat-hostile"), entry("a/x")),
        "is a link",
    ),
    "pipe": (tar(entry("a/x", b"", tarfile.FIFOTYPE)), "is a device"),
    "device": (tar(entry("a/x", b"", tarfile.CHRTYPE, devmajor=1, devminor=3)), "is a device"),
    "folder": (tar(entry("a/x", b"", tarfile.DIRTYPE)), "is a folder"),
    "sparse file": (raw_tar(entry("a/x", b"", tarfile.GNUTYPE_SPARSE)[0]), "is a sparse file"),
    "pax sparse file": (pax(b"GNU.sparse.realsize=9"), "is a sparse file"),
    "unknown kind": (raw_tar(entry("a/x", b"", b"Z")[0]), "is a special file"),
    "twice": (tar(entry("a/x"), entry("./a/x", b"other\n")), "there twice"),
    "missing": (tar(entry("b/x")), "no member"),
    "too short": (raw_tar(entry("a/x", size=9_000_000)[0], GOOD), "ends in the middle|no whole tar"),
    "negative size": (raw_tar(entry("a/x", size=-512)[0]), "negative size|no whole tar"),
    "giant extension header": (pax(b"path=a/x", size=1 << 40), "extension header of"),
    "damaged extension header": (pax(b"x" * 100), "damaged extension header"),
    "cut gzip": (gzip.compress(tar(entry("a/x", os.urandom(9000))))[:-4000], "damaged"),
    "damaged gzip": (damaged_gzip(), "damaged|no whole|middle"),
    "bomb": (gzip.compress(tar(entry("big", bytes(90_000_000)), entry("a/x"))), "unpacks to more than"),
    "no archive": (b"just some text\n" * 100, "no whole tar"),
    "empty": (b"", "no whole tar"),
    "zip parent path": (zipped(("a/x", GOOD), ("../x", GOOD)), "leads out"),
    "zip absolute path": (zipped(("a/x", GOOD), ("/tmp/hat-hostile", GOOD)), "leads out"),
    "zip link": (zip_link(), "is a link"),
    "zip folder": (zipped(("a/x/", b"")), "is a folder"),
    "zip locked": (locked_zip(), "locked"),
    "zip cut": (zipped(("a/x", os.urandom(5000)))[:-60], "damaged"),
    "zip lies": (lying_zip(), "damaged"),
    "zip bomb": (zipped(("a/x", bytes(90_000_000))), "unpacks to more than"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(what: str, tmp_path: Path) -> None:
    content, message = HOSTILE[what]
    (tmp_path / "archive").write_bytes(content)
    folder = tmp_path / "out"
    members = ["a", "a/x"] if what == "zip folder" else ["a/x"]
    if what == "folder":
        (folder / "a").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=message):
        unpack(tmp_path / "archive", folder, members)
    assert [path for path in sorted(tmp_path.rglob("*")) if path != folder and path not in before] == []
    assert not Path("/tmp/hat-hostile").exists()


@pytest.mark.parametrize(
    "pack",
    [
        lambda files: tar(*(entry(n, c) for n, c in files.items())),
        lambda files: tar(*(entry(n, c) for n, c in files.items()), form=tarfile.PAX_FORMAT),
        lambda files: gzip.compress(tar(*(entry(f"./{n}", c) for n, c in files.items()))),
        lambda files: zipped(*files.items()),
    ],
    ids=["tar", "pax", "tgz with ./", "zip"],
)
def test_members_are_written_and_nothing_else(pack: Callable[[dict], bytes], tmp_path: Path) -> None:
    files = {
        "a/x": GOOD,
        "b/other": b"no",
        "a/" + "long" * 40 + "/y": b"\x00" * 512,
        "z": b"",
        "big": os.urandom(3_000_000),
    }
    (tmp_path / "archive").write_bytes(pack(files))
    names = ["big", "z", "a/x", "a/" + "long" * 40 + "/y"]
    assert unpack(tmp_path / "archive", tmp_path / "out", names) == [tmp_path / "out" / n for n in names]
    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == set(names)
    assert all((tmp_path / "out" / name).read_bytes() == files[name] for name in names)


def test_one_packed_file(tmp_path: Path) -> None:
    (tmp_path / "text.en.gz").write_bytes(gzip.compress(GOOD) + gzip.compress(GOOD))  # parts, as pigz makes
    assert (
        main(["--archive", str(tmp_path / "text.en.gz"), "--to", str(tmp_path), "--members", "text.en"]) == 0
    )
    assert (tmp_path / "text.en").read_bytes() == 2 * GOOD
    (tmp_path / "none.gz").write_bytes(gzip.compress(b""))
    unpack(tmp_path / "none.gz", tmp_path, ["none"])
    assert (tmp_path / "none").read_bytes() == b""


def test_flat_names(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    path.write_bytes(tar(entry("top", b"", tarfile.DIRTYPE), entry("top/x"), entry("top/y/x.idx")))
    unpack(path, tmp_path / "out", ["x", "x.idx"], flat=True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["x", "x.idx"]
    path.write_bytes(tar(entry("one/x"), entry("two/x")))
    with pytest.raises(DataError, match="there twice"):
        unpack(path, tmp_path / "out", ["x"], flat=True)


@pytest.mark.parametrize("name", ["", "/x", "../x", "a/../x", "./x", "a//x", "a/", "."])
def test_wrong_member_names(name: str, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(tar(entry("x")))
    with pytest.raises(ConfigError, match="relative path"):
        unpack(tmp_path / "archive", tmp_path / "out", [name])
    with pytest.raises(ConfigError, match="without folders"):
        unpack(tmp_path / "archive", tmp_path / "out", ["a/x"], flat=True)


def test_links_that_lead_out_of_the_target_are_refused(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(tar(entry("a/x")))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HatError, match="leads out of it"):
        unpack(tmp_path / "archive", tmp_path / "out", ["a/x"])
    (tmp_path / "out" / "a").unlink()
    (tmp_path / "out" / "a").mkdir()
    (tmp_path / "elsewhere" / "kept").write_bytes(b"kept")
    (tmp_path / "out" / "a" / "x").symlink_to(tmp_path / "elsewhere" / "kept")
    unpack(tmp_path / "archive", tmp_path / "out", ["a/x"])  # the link itself is replaced
    assert (tmp_path / "elsewhere" / "kept").read_bytes() == b"kept"
    assert (tmp_path / "out" / "a" / "x").read_bytes() == GOOD


def test_an_earlier_file_stays_until_all_is_proven(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"before")
    (tmp_path / "archive").write_bytes(tar(entry("x"), entry("y"))[:1700])
    with pytest.raises(DataError, match="middle"):
        unpack(tmp_path / "archive", tmp_path, ["x", "y"])
    assert (tmp_path / "x").read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["archive", "x"]
    with pytest.raises(HatError, match="No such file"):
        unpack(tmp_path / "nothing", tmp_path, ["x"])


def _stop_in_the_middle(archive: Path, folder: Path) -> None:
    import hat.files.unpack as module

    module._move = lambda *args: os._exit(9)
    unpack(archive, folder, ["x"])


def test_a_killed_run_leaves_nothing_for_long(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(tar(entry("x")))
    process = multiprocessing.get_context("fork").Process(
        target=_stop_in_the_middle, args=(tmp_path / "archive", tmp_path / "out")
    )
    process.start()
    process.join()
    assert process.exitcode == 9 and not (tmp_path / "out" / "x").exists()
    unpack(tmp_path / "archive", tmp_path / "out", ["x"])
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["x"]
