"""Unpacking: the files asked for and nothing else, whatever the archive holds."""

import gzip
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import GOOD, entry, tar, zipped

from hat.errors import ConfigError, DataError, HatError
from hat.files.archive import unpack

PACKS: dict[str, Callable[[dict], bytes]] = {
    "tar": lambda files: tar(*(entry(n, c) for n, c in files.items())),
    "pax": lambda files: tar(*(entry(n, c) for n, c in files.items()), form=tarfile.PAX_FORMAT),
    "tgz with ./": lambda files: gzip.compress(tar(*(entry(f"./{n}", c) for n, c in files.items()))),
    "zip": lambda files: zipped(*files.items()),
}


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS)
def test_members_are_written_and_nothing_else(pack: Callable[[dict], bytes], tmp_path: Path) -> None:
    long = "a/" + "long" * 40 + "/y"
    files = {"a/x": GOOD, "b/other": b"no", long: b"\x00" * 512, "z": b"", "big": os.urandom(300_000)}
    (tmp_path / "archive").write_bytes(pack(files))
    names, out = ["big", "z", "a/x", long], tmp_path / "out"
    assert unpack(tmp_path / "archive", out, names) == [out / name for name in names]
    found = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert found == {name: files[name] for name in names}


def test_one_packed_file(tmp_path: Path) -> None:
    (tmp_path / "text.en.gz").write_bytes(gzip.compress(GOOD) + gzip.compress(GOOD))  # parts, as pigz makes
    unpack(tmp_path / "text.en.gz", tmp_path, ["text.en"])
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


@pytest.mark.parametrize("name", ["", "/x", "a/../x", "a//x", "."])
def test_wrong_member_names(name: str, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(tar(entry("x")))
    with pytest.raises(ConfigError, match="relative path"):
        unpack(tmp_path / "archive", tmp_path / "out", [name])
    with pytest.raises(ConfigError, match="without folders"):
        unpack(tmp_path / "archive", tmp_path / "out", ["a/x"], flat=True)


def test_an_earlier_file_stays_until_all_is_proven(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"before")
    (tmp_path / "archive").write_bytes(tar(entry("x"), entry("y"))[:1700])
    with pytest.raises(DataError, match="unexpected end of data"):
        unpack(tmp_path / "archive", tmp_path, ["x", "y"])
    assert (tmp_path / "x").read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["archive", "x"]
    with pytest.raises(HatError, match="No such file"):
        unpack(tmp_path / "nothing", tmp_path, ["x"])
