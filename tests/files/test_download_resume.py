"""Downloads that are cut, killed or damaged half-way: what is kept, what is fetched again."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from local_site import Site, get, names, old_checkpoint, zip_checkpoint

from hat.errors import DataError
from hat.files.download import OVERLAP

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("make", [zip_checkpoint, old_checkpoint])
@pytest.mark.parametrize("at", [1, 2, 1000, 65_536, 65_537, 150_000, 199_999])
def test_cut_connections_are_gone_on_with(site: Site, tmp_path: Path, at: int, make) -> None:
    site.content = make()
    site.plan = [("serve", at), ("serve", 20_000)]
    get(site.url, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == site.content
    assert names(tmp_path) == ["a.pt", "a.pt.sha256"]
    overlap = min(OVERLAP, at // 2)
    assert [start for _, start, _ in site.asked][:2] == [None, f"bytes={at - overlap}-" if at > 0 else None]
    assert all(version == '"v1"' for _, _, version in site.asked[1:])
    assert site.sent <= len(site.content) + 2 * OVERLAP


def test_the_next_run_goes_on(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    site.plan = [("serve", 150_000)]
    with pytest.raises(DataError, match="150000 bytes are kept"):
        get(site.url, path, tries=1)
    assert names(tmp_path) == ["a.pt.part", "a.pt.part.json"]
    get(site.url, path)
    assert path.read_bytes() == site.content and site.sent <= len(site.content) + OVERLAP
    assert names(tmp_path) == ["a.pt", "a.pt.sha256"]


@pytest.mark.parametrize("damage", ["flip", "shorter", "state", "other address"])
def test_a_damaged_part_is_not_built_on(site: Site, tmp_path: Path, damage: str) -> None:
    path, part = tmp_path / "a.pt", tmp_path / "a.pt.part"
    site.content = old_checkpoint()
    site.plan = [("serve", 150_000)]
    with pytest.raises(DataError):
        get(site.url, path, tries=1)
    if damage == "flip":
        part.write_bytes(part.read_bytes()[:999] + bytes(5) + part.read_bytes()[1004:])
    elif damage == "shorter":
        part.write_bytes(part.read_bytes()[:-1])
    elif damage == "state":
        (tmp_path / "a.pt.part.json").write_text('{"bytes": "many"}')
    get(site.url + ("?other" if damage == "other address" else ""), path)
    assert path.read_bytes() == site.content and site.asked[-1][1] is None


def test_bytes_behind_the_saved_ones_are_dropped(site: Site, tmp_path: Path) -> None:
    site.plan = [("serve", 150_000)]
    with pytest.raises(DataError):
        get(site.url, tmp_path / "a.pt", tries=1)
    with open(tmp_path / "a.pt.part", "ab") as file:
        file.write(b"never saved")
    get(site.url, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == site.content and site.asked[-1][1] is not None


@pytest.mark.parametrize("answer", ["whole", "wrong_range", "new_etag", "new_bytes", "new_size"])
def test_answers_that_do_not_go_on_are_not_joined(site: Site, tmp_path: Path, answer: str) -> None:
    site.content = old_checkpoint()  # without checksums of its own
    site.plan = [("serve", 150_000), (answer, 0)]
    get(site.url, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == site.content
    assert len(site.asked) == (2 if answer == "whole" else 3)
    assert site.asked[1][1] is not None
    assert answer == "whole" or site.asked[2][1] is None


def test_a_new_version_comes_whole(site: Site, tmp_path: Path) -> None:
    site.plan = [("serve", 150_000)]
    with pytest.raises(DataError):
        get(site.url, tmp_path / "a.pt", tries=1)
    site.content, site.etag = zip_checkpoint(2), '"v2"'
    get(site.url, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == site.content
    assert site.asked[-1][1:] == (f"bytes={150_000 - OVERLAP}-", '"v1"')


def test_joined_parts_that_prove_wrong_are_fetched_whole(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    site.plan = [("serve", 150_000), ("new_tail", 0)]
    get(site.url, path)  # the zip's own checksums tell
    assert path.read_bytes() == site.content and site.asked[-1][1] is None
    path.unlink()
    site.content = old_checkpoint()  # this kind has none, the digest of an earlier download does
    (tmp_path / "a.pt.sha256").write_text(f"{hashlib.sha256(site.content).hexdigest()}  a.pt\n")
    site.plan = [("serve", 150_000), ("new_tail", 0)]
    get(site.url, path)
    assert path.read_bytes() == site.content


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_version_size_and_overlap_tell(site: Site, tmp_path: Path, etag: str | None) -> None:
    site.etag = etag
    path = tmp_path / "a.pt"
    site.plan = [("serve", 150_000)]
    get(site.url, path)
    assert [(start is not None, version) for _, start, version in site.asked] == [(False, None), (True, None)]
    assert path.read_bytes() == site.content
    path.unlink()
    for change in ("new_bytes", "new_size"):
        site.plan, site.asked = [("serve", 150_000), (change, 0), ("serve", 0)], []
        get(site.url, path)
        assert path.read_bytes() == site.content and site.asked[-1][1] is None
        path.unlink()
    site.plan = [("serve", 150_000)]
    with pytest.raises(DataError, match="are kept and the same command goes on there"):
        get(site.url, tmp_path / "b.pt", tries=1)
    site.asked.clear()
    get(site.url, tmp_path / "b.pt")
    assert site.asked[0][1] is not None and (tmp_path / "b.pt").read_bytes() == site.content


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
    site.plan = [("stall", 150_000)]
    code = (
        "import sys; from pathlib import Path; import hat.files.partial as p; p.SAVE_EVERY_S = 0.0; "
        "from hat.files.download import download; download(sys.argv[1], Path(sys.argv[2]))"
    )
    argv = [sys.executable, "-c", code, site.url, str(tmp_path / "a.pt")]
    with subprocess.Popen(argv, cwd=ROOT) as process:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not _saved(tmp_path / "a.pt.part.json", 150_000):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "a.pt").exists()
    site.woken.set()
    get(site.url, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == site.content and site.sent <= len(site.content) + OVERLAP


def _saved(state: Path, size: int) -> bool:
    return state.exists() and json.loads(state.read_text())["bytes"] == size
