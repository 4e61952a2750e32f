"""The downloader against a local server that errs, cuts and lies: retries, resuming, share links."""

import gzip
import hashlib
import io
import resource
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from local_site import PAGE, SEQUENCE_MAGIC, Site, get, names, old_checkpoint, zip_checkpoint

from hat.errors import ConfigError, DataError, HatError
from hat.files.download import OVERLAP, Downloaded, Unreachable, _Part, check_file, direct_url, download

ROOT = Path(__file__).parents[2]


@pytest.fixture
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
    assert get(site.url, path).status == "recorded" and get(site.url, path).status == "intact"
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
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site.plan = [("stall", 100_000), ("error", 500), ("error", 503), ("error", 429), ("stall", 50_000)]
    get(site.url, tmp_path / "a.pt", tries=6, timeout=0.2)
    assert (tmp_path / "a.pt").read_bytes() == site.content
    assert site.sent <= len(site.content) + 2 * OVERLAP
    said = capsys.readouterr().err
    assert "a.pt: no answer in time; trying again" in said and "the server answered 500; trying" in said


def test_retries_are_bounded_and_back_off(site: Site, tmp_path: Path, pauses: list[float]) -> None:
    site.plan = [("error", 500)] * 9
    with pytest.raises(DataError, match=r"answered 500 "):
        download(site.url, tmp_path / "a.pt", tries=7, pause=1.0)
    assert pauses == [1, 2, 4, 8, 16] and len(site.plan) == 2
    site.plan = [("error", 404)] * 2
    with pytest.raises(DataError, match="answered 404"):
        get(site.url, tmp_path / "a.pt")
    assert len(site.plan) == 1 and names(tmp_path) == []
    site.plan = [
        ("serve", 20_000 + n) for n in range(9)
    ]  # a byte now and then is no reason to go on for ever
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
    with pytest.raises(DataError, match=r"a web page titled 'Sign .*31min', not a checkpoint") as caught:
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
    [b"", b"{}", b"version https://git-lfs.github.com/spec/v1\n", zip_checkpoint()[:-30], SEQUENCE_MAGIC[:9]],
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
    for name, match in [
        ("redirect", "redirects"),
        ("endless", "does not say how long"),
        ("packed", "another kind"),
        ("leave", "cannot download"),
    ]:
        site.plan = [(name, 0)] * (40 if name == "redirect" else 1)
        with pytest.raises(DataError, match=match):
            get(site.url, tmp_path / "x.pt")
    assert not list(tmp_path.glob("x*"))


@pytest.mark.parametrize("make", [zip_checkpoint, old_checkpoint])
@pytest.mark.parametrize("at", [1, OVERLAP, OVERLAP + 1, 150_000, 199_999])
def test_cut_connections_are_gone_on_with(site: Site, tmp_path: Path, at: int, make) -> None:
    site.content = make()
    site.plan = [("serve", at), ("serve", 20_000)]
    get(site.url, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == site.content
    assert names(tmp_path) == ["a.pt", "a.pt.sha256"]
    start = at - OVERLAP
    assert [start for _, start, _ in site.asked][:2] == [None, f"bytes={start}-" if start > 0 else None]
    assert all(version == '"v1"' for _, start, version in site.asked if start)
    assert site.sent <= len(site.content) + 3 * OVERLAP


@pytest.fixture
def cut(site: Site, tmp_path: Path) -> Path:
    """The path of a download that was cut behind 150,000 bytes in an earlier run."""
    site.content = old_checkpoint()  # without checksums of its own
    site.plan = [("serve", 150_000)]
    with pytest.raises(DataError, match="150000 bytes are kept and the same command goes on there"):
        get(site.url, tmp_path / "a.pt", tries=1)
    assert names(tmp_path) == ["a.pt.part", "a.pt.part.json"]
    return tmp_path / "a.pt"


def test_the_next_run_goes_on(site: Site, cut: Path) -> None:
    get(site.url, cut)
    assert cut.read_bytes() == site.content and site.sent <= len(site.content) + OVERLAP
    assert names(cut.parent) == ["a.pt", "a.pt.sha256"]


@pytest.mark.parametrize("damage", ["end", "longer", "shorter", "state", "other address"])
def test_a_damaged_part_is_not_built_on(site: Site, cut: Path, damage: str) -> None:
    part = cut.with_name("a.pt.part")
    received = part.read_bytes()
    part.write_bytes(
        {"end": received[:-9] + bytes(9), "longer": received + b"zeros", "shorter": received[:-1]}.get(
            damage, received
        )
    )
    if damage == "state":
        cut.with_name("a.pt.part.json").write_text('{"total": "many"}')
    get(site.url + ("?other" if damage == "other address" else ""), cut)
    assert cut.read_bytes() == site.content and (site.asked[-1][1] is None or damage == "shorter")


@pytest.mark.parametrize("answer", ["whole", "wrong_range", "new_etag", "new_bytes", "new_size"])
@pytest.mark.parametrize("etag", ['"v1"', None, 'W/"weak"'])
def test_answers_that_do_not_go_on_are_not_joined(
    site: Site, tmp_path: Path, answer: str, etag: str | None
) -> None:
    """Without a strong version size and overlap tell."""
    site.content, site.etag = old_checkpoint(), etag
    site.plan = [("serve", 150_000), (answer, 0), ("serve", 0)]
    get(site.url, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == site.content
    assert site.asked[1][1] is not None and (answer == "whole" or site.asked[2][1] is None)
    assert site.asked[1][2] == (etag if etag == '"v1"' else None)


def test_a_new_version_comes_whole(site: Site, cut: Path) -> None:
    site.content, site.etag = zip_checkpoint(2), '"v2"'
    get(site.url, cut)
    assert cut.read_bytes() == site.content
    assert site.asked[-1][1:] == (f"bytes={150_000 - OVERLAP}-", '"v1"')


@pytest.mark.parametrize("sha256", [False, True])
def test_joined_parts_that_prove_wrong_are_fetched_whole(site: Site, tmp_path: Path, sha256: bool) -> None:
    """The zip's own checksums tell, or a SHA-256 that is known."""
    site.content = old_checkpoint() if sha256 else zip_checkpoint()
    known = hashlib.sha256(site.content).hexdigest() if sha256 else None
    site.plan = [("serve", 150_000), ("new_tail", 0)]
    get(site.url, tmp_path / "a.pt", sha256=known)
    assert (tmp_path / "a.pt").read_bytes() == site.content and site.asked[-1][1] is None


def test_a_stream_without_size_or_version_is_not_joined(site: Site, tmp_path: Path) -> None:
    site.etag = None
    site.plan = [("chunks", 100_000)]
    with pytest.raises(DataError):
        get(site.url, tmp_path / "a.pt", tries=1)
    assert names(tmp_path) == []


def test_a_date_serves_as_version(site: Site, tmp_path: Path) -> None:
    site.etag, site.date = None, "Wed, 21 Oct 2015 07:28:00 GMT"
    site.plan = [("serve", 150_000)]
    get(site.url, tmp_path / "a.pt")
    assert site.asked[1][2] == site.date and site.sent < len(site.content) + 2 * OVERLAP


def test_a_killed_process_is_gone_on_with(site: Site, tmp_path: Path) -> None:
    site.content = old_checkpoint(size=3 << 20)
    site.plan = [("stall", 2 << 20)]
    code = "import sys; from pathlib import Path; from hat.files.download import download; "
    code += "download(sys.argv[1], Path(sys.argv[2]))"
    argv = [sys.executable, "-c", code, site.url, str(tmp_path / "a.pt")]
    part = tmp_path / "a.pt.part"
    with subprocess.Popen(argv, cwd=ROOT) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (part.exists() and part.stat().st_size >= 2 << 20):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "a.pt").exists()
    site.woken.set()
    get(site.url, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == site.content and site.sent <= len(site.content) + OVERLAP


def test_no_network_is_said_soon(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"http://127.0.0.1:9/x: Connection refused; check the network"):
        get("http://127.0.0.1:9/x", tmp_path / "a")
    with pytest.raises(Unreachable, match="not known|name resolution"):
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


def test_a_disk_that_refuses(site: Site, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(HatError, match="cannot write .*a.pt: File too large; the previous file"):
            get(site.url, tmp_path / "a.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(HatError, match="it is a folder"):
        get(site.url, tmp_path / "folder.pt")
    get(site.url, tmp_path / "a.pt")
    for path in (tmp_path / "a.pt" / "b.pt", tmp_path / ("n" * 300)):
        with pytest.raises(HatError, match="cannot"):
            get(site.url, path)


def test_one_process_at_a_time(site: Site, tmp_path: Path) -> None:
    with (
        _Part(tmp_path / "a.pt", site.url),
        pytest.raises(HatError, match="is being written by another process"),
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
    for given in (
        "uc?id=A-b_1",
        "open?id=A-b_1",
        "file/d/A-b_1/view?usp=sharing",
        "uc?id=A-b_1&export=download",
    ):
        assert direct_url(f"https://drive.google.com/{given}") == drive
    assert direct_url("http://mirror.example/s/abc/x.pt?dl=0") == "http://mirror.example/s/abc/x.pt?dl=1"
    for url in ("https://notdropbox.com/x?a=1&dl=0", "https://dropbox.com.evil.org/x", "http://x/y?id=3"):
        assert direct_url(url) == url


@pytest.fixture
def proxied(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The local server stands for every other one."""
    monkeypatch.setenv("http_proxy", site.url.removesuffix("/file"))
    monkeypatch.setenv("no_proxy", "")
    return site


def test_dropbox_through_a_proxy(proxied: Site, tmp_path: Path) -> None:
    get("http://www.dropbox.com/s/abc/model.pt?dl=0", tmp_path / "a.pt")
    assert proxied.asked[0][0] == "http://www.dropbox.com/s/abc/model.pt?dl=1"


@pytest.mark.parametrize("shape", [0, 1])
def test_google_drive_asks_first(proxied: Site, tmp_path: Path, shape: int) -> None:
    link = "http://drive.google.com/file/d/FILE_id-1/view"
    proxied.plan = [("drive", shape)] * 2
    get(link, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == proxied.content
    asked = proxied.asked[1][0]
    assert shape or asked.startswith("http://drive.usercontent.google.com/download?id=FILE_id-1&")
    assert shape or asked.endswith("uuid=a%26b")
    proxied.plan = [("drive", shape), ("serve", 150_000), ("drive", shape), ("drive", shape)]
    proxied.asked, proxied.sent = [], 0
    get(link, tmp_path / "b.pt")  # cut, asked again, gone on with
    assert [start is not None for _, start, _ in proxied.asked] == [False, False, False, True]
    assert proxied.sent <= len(proxied.content) + 2 * OVERLAP + 2000
    proxied.plan = []  # a small file comes without a question
    get(link, tmp_path / "c.pt")


@pytest.mark.parametrize(("shape", "match"), [(2, "leads to another site"), (3, "titled 'Google Drive'")])
def test_other_pages_of_google_drive(proxied: Site, tmp_path: Path, shape: int, match: str) -> None:
    proxied.plan = [("drive", shape)]
    with pytest.raises(DataError, match=match):
        get("http://drive.google.com/uc?id=FILE_id-1", tmp_path / "a.pt")
    assert len(proxied.asked) == 1 and not list(tmp_path.iterdir())
