"""Share links of Dropbox and Google Drive, and the pages that stand before a file."""

from functools import partial
from pathlib import Path

import pytest
from local_site import Site

from hat.errors import DataError
from hat.files.download import OVERLAP, direct_url, download

get = partial(download, pause=0.0, timeout=2.0)


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


def test_dropbox_through_a_proxy(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", site.url.removesuffix("/file"))
    monkeypatch.setenv("no_proxy", "")
    get("http://www.dropbox.com/s/abc/model.pt?dl=0", tmp_path / "a.pt")
    assert site.asked[0][0] == "http://www.dropbox.com/s/abc/model.pt?dl=1"


@pytest.mark.parametrize("shape", [0, 1])
def test_google_drive_asks_first(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: int
) -> None:
    monkeypatch.setenv("http_proxy", site.url.removesuffix("/file"))
    monkeypatch.setenv("no_proxy", "")
    link = "http://drive.google.com/file/d/FILE_id-1/view"
    site.plan = [("drive", shape)] * 2
    get(link, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == site.content
    assert shape or site.asked[1][0].startswith("http://drive.usercontent.google.com/download?id=FILE_id-1&")
    assert shape or site.asked[1][0].endswith("uuid=a%26b")
    site.plan, site.asked, site.sent = (
        [("drive", shape), ("serve", 150_000), ("drive", shape), ("drive", shape)],
        [],
        0,
    )
    get(link, tmp_path / "b.pt")  # cut, asked again, gone on with
    assert [start is not None for _, start, _ in site.asked] == [False, False, False, True]
    assert site.sent <= len(site.content) + 2 * OVERLAP + 2000
    site.plan = []  # a small file comes without a question
    get(link, tmp_path / "c.pt")


@pytest.mark.parametrize(("shape", "match"), [(2, "leads to another site"), (3, "titled 'Google Drive'")])
def test_other_pages_of_google_drive(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: int, match: str
) -> None:
    monkeypatch.setenv("http_proxy", site.url.removesuffix("/file"))
    monkeypatch.setenv("no_proxy", "")
    site.plan = [("drive", shape)]
    with pytest.raises(DataError, match=match):
        get("http://drive.google.com/uc?id=FILE_id-1", tmp_path / "a.pt")
    assert len(site.asked) == 1 and not list(tmp_path.iterdir())
