"""The downloader against a local server that errs and lies: retries, refusals, proofs of what came."""

import gzip
import hashlib
import io
import resource
import tarfile
import zipfile
from pathlib import Path

import pytest
from local_site import PAGE, SEQUENCE_MAGIC, Site, get, names, old_checkpoint, zip_checkpoint

from hat.errors import ConfigError, DataError, HatError
from hat.files.download import OVERLAP, Downloaded, Unreachable, download
from hat.files.download import check_file


def test_whole_recorded_and_verified(site: Site, tmp_path: Path) -> None:
    path, digest = tmp_path / "new" / "a.pt", hashlib.sha256(site.content).hexdigest()
    assert get(site.url, path) == Downloaded(path, len(site.content), digest, "downloaded")
    assert path.read_bytes() == site.content
    assert (path.parent / "a.pt.sha256").read_text() == f"{digest}  a.pt\n"
    assert names(path.parent) == ["a.pt", "a.pt.sha256"]
    assert get(site.url, path).status == "intact" and len(site.asked) == 1
    (path.parent / "a.pt.sha256").unlink()
    assert get(site.url, path).status == "recorded" and get(site.url, path).status == "intact"
    assert len(site.asked) == 1


def test_damaged_file_is_replaced_only_by_a_proven_one(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.pt"
    get(site.url, path)
    damaged = site.content[:-5] + b"\0" + site.content[-4:]
    path.write_bytes(damaged)
    site.plan = [("page", 0)]
    with pytest.raises(DataError, match="web page"):
        get(site.url, path)
    assert path.read_bytes() == damaged and names(tmp_path) == ["a.pt", "a.pt.sha256"]
    assert get(site.url, path).status == "downloaded" and path.read_bytes() == site.content
    assert f"{path} is damaged" in capsys.readouterr().err
    path.write_bytes(PAGE)  # without a record the structure decides
    (tmp_path / "a.pt.sha256").unlink()
    assert get(site.url, path).status == "downloaded" and path.read_bytes() == site.content


def test_stalls_and_errors_are_retried(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.plan = [("stall", 100_000), ("error", 500), ("error", 503), ("error", 429), ("stall", 50_000)]
    get(site.url, tmp_path / "a.pt", tries=6, timeout=0.2)
    assert (tmp_path / "a.pt").read_bytes() == site.content
    assert site.sent <= len(site.content) + 2 * OVERLAP
    said = capsys.readouterr().err
    assert "a.pt: no answer in time; trying again in 0 s" in said and "the server answered 500" in said


def test_retries_are_bounded_and_back_off(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("hat.files.download.time.sleep", pauses.append)
    site.plan = [("error", 500)] * 9
    with pytest.raises(DataError, match=r"answered 500 .*\(7 tries\)"):
        download(site.url, tmp_path / "a.pt", tries=7, pause=1.0)
    assert pauses == [1, 2, 4, 8, 16, 30] and len(site.plan) == 2
    site.plan = [("error", 404)] * 2
    with pytest.raises(DataError, match="answered 404"):
        get(site.url, tmp_path / "a.pt")
    assert len(site.plan) == 1 and names(tmp_path) == []
    site.plan = [("serve", 1)] * 9  # a byte now and then is no reason to go on for ever
    with pytest.raises(DataError, match="bytes are kept"):
        get(site.url, tmp_path / "a.pt", tries=3)
    assert len(site.plan) == 6


def test_progress_renews_the_tries(site: Site, tmp_path: Path) -> None:
    site.content = old_checkpoint(size=5 << 20)
    site.plan = [("serve", (1 << 20) + OVERLAP + 1)] * 4
    get(site.url, tmp_path / "a.pt", tries=1)
    assert (tmp_path / "a.pt").read_bytes() == site.content and len(site.asked) == 5


def test_pages_are_refused_and_named(site: Site, tmp_path: Path) -> None:
    site.plan = [("page", 0)]
    with pytest.raises(DataError, match="a web page titled 'Sign .x1b.31min', not a checkpoint") as caught:
        get(site.url, tmp_path / "a.pt")
    assert str(caught.value).isprintable() and site.url in str(caught.value)
    assert len(site.asked) == 1 and names(tmp_path) == []
    site.plan = [("serve", 150_000), ("page", 0)]  # what was received is not thrown away for a page
    with pytest.raises(DataError, match="150000 bytes are kept"):
        get(site.url, tmp_path / "a.pt")
    get(site.url, tmp_path / "a.pt")
    assert site.asked[-1][1] is not None
    site.plan = [("page", 0)]
    get(site.url, tmp_path / "page.html")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"version https://git-lfs.github.com/spec/v1\n",
        zip_checkpoint()[:-30],
        SEQUENCE_MAGIC[:15],
    ],
)
def test_other_files_are_no_checkpoints(site: Site, tmp_path: Path, content: bytes) -> None:
    site.content = content
    with pytest.raises(DataError, match=r"refused a.pt from .* it is "):
        get(site.url, tmp_path / "a.pt")
    assert len(site.asked) == 1 and names(tmp_path) == []


def test_other_shapes_of_answers(site: Site, tmp_path: Path) -> None:
    for number, (name, stop) in enumerate([("redirect", 0), ("chunks", 0), ("chunks", 100_000)]):
        site.plan = [(name, stop)]
        path = tmp_path / f"{number}.pt"
        get(site.url, path)
        assert path.read_bytes() == site.content
    site.plan = [("redirect", 0)] * 20
    for name, match in [
        ("redirect", "answered 302"),
        ("endless", "does not say how long"),
        ("packed", "encoded as gzip"),
        ("leave", "answered 302|redirected to"),
    ]:
        site.plan = [(name, 0)] * (20 if name == "redirect" else 1)
        with pytest.raises(DataError, match=match):
            get(site.url, tmp_path / "x.pt")
    assert not list(tmp_path.glob("x*"))


def test_expected_digest(site: Site, tmp_path: Path) -> None:
    digest = hashlib.sha256(site.content).hexdigest()
    get(site.url, tmp_path / "a.pt", sha256=digest.upper())
    with pytest.raises(DataError, match=f"its SHA-256 is {digest}, not 0000"):
        get(site.url, tmp_path / "b.pt", sha256="0" * 64)
    assert names(tmp_path) == ["a.pt", "a.pt.sha256"]


def test_no_network_is_said_soon(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"http://127.0.0.1:9/x: Connection refused \(2 tries\)"):
        get("http://127.0.0.1:9/x", tmp_path / "a")
    with pytest.raises(Unreachable, match="name of the server cannot be resolved"):
        get("http://nowhere.invalid/x", tmp_path / "a")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("ftp://x/y", {}),
        ("file:///etc/passwd", {}),
        ("http://x", {"tries": 0}),
        ("http://x", {"timeout": 0.0}),
        ("http://x", {"timeout": float("nan")}),
    ],
)
def test_wrong_options(tmp_path: Path, url: str, options: dict) -> None:
    with pytest.raises(ConfigError, match="http"):
        download(url, tmp_path / "a", **options)


@pytest.mark.parametrize("url", ["http://a b/", "http://a..b/", "http://127.0.0.1:port/", "http:///x"])
def test_wrong_addresses(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match="cannot download"):
        get(url, tmp_path / "a")


def test_a_disk_that_refuses(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(HatError, match="cannot write .*a.pt: File too large; the previous file"):
            get(site.url, tmp_path / "a.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []
    site.plan = [("serve", 150_000)]
    with pytest.raises(DataError):
        get(site.url, tmp_path / "a.pt", tries=1)
    with monkeypatch.context() as patch:
        patch.setattr("hat.files.partial.shutil.disk_usage", lambda path: Usage(7))
        with pytest.raises(HatError, match="more bytes are needed, the disk has 7"):
            get(site.url, tmp_path / "a.pt")
    get(site.url, tmp_path / "a.pt")  # and what was received had stayed
    assert site.asked[-1][1] is not None
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(HatError, match="it is a folder"):
        get(site.url, tmp_path / "folder.pt")
    with pytest.raises(HatError, match="cannot"):
        get(site.url, tmp_path / "a.pt" / "b.pt")
    with pytest.raises(HatError, match="cannot"):
        get(site.url, tmp_path / ("n" * 300))


class Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def test_one_process_at_a_time(site: Site, tmp_path: Path) -> None:
    with (
        Partial(tmp_path / "a.pt", site.url),
        pytest.raises(HatError, match="is being downloaded by another process"),
    ):
        get(site.url, tmp_path / "a.pt")
    get(site.url, tmp_path / "a.pt")


def test_checks_by_suffix(tmp_path: Path) -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        member = tarfile.TarInfo("a")
        member.size = 2000
        archive.addfile(member, io.BytesIO(b"x" * 2000))
    whole = {
        "a.gz": gzip.compress(b"hello" * 100),
        "a.tgz": gzip.compress(tar.getvalue()),
        "a.tar": tar.getvalue(),
        "a.zip": zip_checkpoint(size=500),
        "a.pt": zip_checkpoint(size=500),
    }
    for name, content in whole.items():
        path = tmp_path / name
        path.write_bytes(content)
        check_for(path)(path)
        for wrong in (PAGE, content[: len(content) // 8], b"", b"nonsense" * 99):
            path.write_bytes(wrong)
            with pytest.raises(ValueError, match="it is"):
                check_for(path)(path)
    text = tmp_path / "a.txt"
    text.write_bytes(b"hello")
    check_for(text)(text)
    archive = tmp_path / "b.pt"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x/other", b"")
    with pytest.raises(ValueError, match="without data.pkl"):
        check_checkpoint(archive)
    table = tmp_path / "a.csv"
    for content in ("a,b\n1,2\n", "a,b\n", "a,c\n1,2\n", "a,b\n1,2\n3", ""):
        table.write_text(content)
        if content == "a,b\n1,2\n":
            check_csv(table, ("a", "b"))
        else:
            with pytest.raises(ValueError, match="it is a CSV|its columns"):
                check_csv(table, ("a", "b"))
