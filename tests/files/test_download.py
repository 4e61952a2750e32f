"""The downloader against a local server that errs, cuts and lies: retries, resuming, share links."""

import gzip
import hashlib
import zipfile
from pathlib import Path

import pytest
from archives import entry, tar, zipped
from local_site import PAGE, Site, get, names, old_checkpoint, zip_checkpoint

from hat.errors import DataError, HatError
from hat.files.archive import check_file
from hat.files.download import Downloaded, _Part, direct_url, download


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the downloader would have slept."""
    found: list[float] = []
    monkeypatch.setattr("time.sleep", found.append)
    return found


def test_whole_recorded_and_verified(site: Site, tmp_path: Path) -> None:
    path, digest = tmp_path / "new" / "a.pt", hashlib.sha256(site.content).hexdigest()
    assert get(site.url, path) == Downloaded(path, len(site.content), digest, "downloaded")
    assert path.read_bytes() == site.content
    assert (path.parent / "a.pt.sha256").read_text() == f"{digest}  a.pt\n"
    assert names(path.parent) == ["a.pt", "a.pt.sha256"]
    assert get(site.url, path, sha256=digest.upper()).status == "intact" and len(site.asked) == 1
    (path.parent / "a.pt.sha256").unlink()
    assert get(site.url, path).status == get(site.url, path).status == "intact"
    assert len(site.asked) == 1
    with pytest.raises(DataError, match=f"its SHA-256 is {digest}, not 0000"):
        get(site.url, tmp_path / "b.pt", sha256="0" * 64)
    assert names(tmp_path) == ["new"]


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
    site: Site, tmp_path: Path, pauses: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    site.plan = [("stall", 100_000), ("error", 500), ("busy", 7), ("busy", 9_000)]
    get(site.url, tmp_path / "a.pt", timeout=1.0)  # of which only the stall takes all
    assert (tmp_path / "a.pt").read_bytes() == site.content
    assert pauses == [1, 7, 120] and not site.plan
    said = capsys.readouterr().err
    assert "a.pt: timed out; trying again" in said


def test_retries_are_bounded_and_back_off(site: Site, tmp_path: Path, pauses: list[float]) -> None:
    site.plan = [("error", 500)] * 9
    with pytest.raises(DataError, match=r"500 Server Error"):
        download(site.url, tmp_path / "a.pt", tries=7)
    assert pauses == [2, 4, 8, 16, 32] and len(site.plan) == 2
    site.plan = [("error", 404)] * 2
    with pytest.raises(DataError, match="404 Client Error"):
        get(site.url, tmp_path / "a.pt")
    assert len(site.plan) == 1 and names(tmp_path) == []
    # a byte now and then is no reason to go on for ever, a mebibyte is
    site.plan = [("serve", 20_000 + n) for n in range(9)]
    with pytest.raises(DataError, match="bytes are kept"):
        get(site.url, tmp_path / "a.pt", tries=3)
    assert len(site.plan) == 6
    site.content, site.plan = old_checkpoint(size=3 << 20), [("serve", (1 << 20) + 1)] * 2
    get(site.url, tmp_path / "b.pt", tries=1)
    assert (tmp_path / "b.pt").read_bytes() == site.content and not site.plan


def test_pages_are_refused_and_named(site: Site, tmp_path: Path) -> None:
    site.plan = [("page", 0)]
    with pytest.raises(DataError, match="a web page, not the file a.pt") as caught:
        get(site.url, tmp_path / "a.pt")
    assert str(caught.value).isprintable() and site.url in str(caught.value)
    assert len(site.asked) == 1 and names(tmp_path) == []
    site.plan = [("serve", 150_000), ("page", 0)]  # what was received is not thrown away for a page
    with pytest.raises(DataError, match="150000 bytes are kept"):
        get(site.url, tmp_path / "a.pt")
    get(site.url, tmp_path / "a.pt")
    assert site.asked[-1][1] == "bytes=150000-"
    site.plan = [("page", 0)]
    get(site.url, tmp_path / "page.html")


def test_other_shapes_of_answers(site: Site, tmp_path: Path) -> None:
    for number, answer in enumerate([("redirect", 0), ("chunks", 0), ("chunks", 100_000)]):
        site.plan = [answer]
        get(site.url, tmp_path / f"{number}.pt")
        assert (tmp_path / f"{number}.pt").read_bytes() == site.content
    refused = {"redirect": "redirects", "endless": "how long", "packed": "another kind", "leave": "cannot"}
    for name, match in refused.items():
        site.plan = [(name, 0)] * (40 if name == "redirect" else 1)
        with pytest.raises(DataError, match=match):
            get(site.url, tmp_path / "x.pt")
    assert not list(tmp_path.glob("x*"))


@pytest.mark.parametrize("version", ['"v1"', "date", "", 'W/"weak"'])
@pytest.mark.parametrize("make", [zip_checkpoint, old_checkpoint])
def test_cut_connections_are_gone_on_with(site: Site, tmp_path: Path, version: str, make) -> None:
    """If the server names a version; the next run goes on as well as the next try."""
    site.content, site.etag = make(), version
    if version == "date":
        site.etag, site.date = None, "Wed, 21 Oct 2015 07:28:00 GMT"
    kept = version in ('"v1"', "date")
    then = ["bytes=150000-", "bytes=170000-"] if kept else [None, None]
    site.plan = [("serve", 150_000)]
    with pytest.raises(DataError, match="150000 bytes are kept and the same command" if kept else "cannot"):
        get(site.url, tmp_path / "a.pt", tries=1)
    assert names(tmp_path) == (["a.pt.part", "a.pt.part.from"] if kept else [])
    site.plan = [("serve", 20_000)]
    get(site.url, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == site.content
    assert names(tmp_path) == ["a.pt", "a.pt.sha256"]
    assert [start for _, start in site.asked][1:] == then
    assert not kept or site.sent == len(site.content)


@pytest.mark.parametrize("change", ["part", "note", "address", "version"])
def test_a_part_of_something_else_is_not_built_on(site: Site, tmp_path: Path, change: str) -> None:
    site.plan, path = [("serve", 150_000)], tmp_path / "a.pt"
    with pytest.raises(DataError):
        get(site.url, path, tries=1)
    if change == "part":
        path.with_name("a.pt.part").write_bytes(bytes(150_000))
    elif change == "note":
        path.with_name("a.pt.part.from").write_text("what?")
    elif change == "version":
        site.content, site.etag = zip_checkpoint(2), '"v2"'
    get(site.url + ("?other" if change == "address" else ""), path)
    assert path.read_bytes() == site.content
    if change == "version":  # If-Range: the server sends the new one at once
        assert [start for _, start in site.asked] == [None, "bytes=150000-"]
    else:
        assert site.asked[-1][1] is None


def test_one_process_at_a_time(site: Site, tmp_path: Path) -> None:
    busy = pytest.raises(HatError, match="is being written by another process")
    with _Part(tmp_path / "a.pt", site.url), busy:
        get(site.url, tmp_path / "a.pt")
    get(site.url, tmp_path / "a.pt")


def test_checks_by_suffix(tmp_path: Path) -> None:
    whole = {
        "a.gz": gzip.compress(b"hello" * 100),
        "a.tgz": gzip.compress(tar(entry("a", b"x" * 2000))),
        "a.tar": tar(entry("a", b"x" * 2000)),
        "a.zip": zipped(("a", b"x" * 2000)),
        "a.pt": zip_checkpoint(size=500),
    }
    for name, content in whole.items():
        path = tmp_path / name
        path.write_bytes(content)
        check_file(path)
        for wrong in (PAGE, content[: len(content) // 8], b"", b"nonsense" * 99):
            path.write_bytes(wrong)
            with pytest.raises(ValueError, match="it is"):
                check_file(path)
    (tmp_path / "a.txt").write_bytes(b"hello")
    check_file(tmp_path / "a.txt")
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as file:
        file.writestr("x/other", b"")
    with pytest.raises(ValueError, match="not a checkpoint"):
        check_file(tmp_path / "b.pt")


def test_share_links() -> None:
    dropbox = "https://www.dropbox.com/s/abc/HAT_x@3.5s_bleu@25.8.pt"
    for given in ("", "?dl=0", "?dl=1"):
        assert direct_url(dropbox + given) == dropbox + "?dl=1"
    assert direct_url("https://dropbox.com/x?rlkey=k&dl=0") == "https://dropbox.com/x?rlkey=k&dl=1"
    drive = "https://drive.google.com/uc?export=download&id=A-b_1"
    for given in ("uc?id=A-b_1", "open?id=A-b_1", "file/d/A-b_1/view?usp=sharing"):
        assert direct_url(f"https://drive.google.com/{given}") == drive
    assert direct_url("http://mirror.example/s/abc/x.pt?dl=0") == "http://mirror.example/s/abc/x.pt?dl=1"
    for url in ("https://notdropbox.com/x?a=1&dl=0", "https://dropbox.com.evil.org/x", "http://x/y?id=3"):
        assert direct_url(url) == url


def test_share_links_through_a_proxy(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The local server stands for every other one; Google Drive asks first."""
    monkeypatch.setenv("http_proxy", site.url.removesuffix("/file"))
    monkeypatch.setenv("no_proxy", "")
    get("http://www.dropbox.com/s/abc/model.pt?dl=0", tmp_path / "dropbox.pt")
    assert site.asked.pop()[0] == "http://www.dropbox.com/s/abc/model.pt?dl=1"
    link = "http://drive.google.com/file/d/FILE_id-1/view"
    site.plan = [("drive", 0), ("serve", 150_000), ("drive", 0)]
    get(link, tmp_path / "a.pt")  # cut, asked again, gone on with
    assert (tmp_path / "a.pt").read_bytes() == site.content
    asked = site.asked[1][0]
    assert asked.startswith("http://drive.usercontent.google.com/download?id=FILE_id-1&")
    assert asked.endswith("uuid=a%26b")
    assert [start for _, start in site.asked] == [None, None, "bytes=150000-", "bytes=150000-"]
    site.plan = []  # a small file comes without a question
    get(link, tmp_path / "b.pt")
    for shape in (1, 2):
        site.plan, site.asked = [("drive", shape)], []
        with pytest.raises(DataError, match="it is a web page"):
            get("http://drive.google.com/uc?id=FILE_id-1", tmp_path / "c.pt")
        assert len(site.asked) == 1 and not list(tmp_path.glob("c*"))
