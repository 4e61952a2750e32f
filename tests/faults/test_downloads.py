"""Row 5, download and unpack: no name before the proof, and nothing outside the folder asked for."""

import hashlib
import os
import re
from pathlib import Path

import pytest
from archives import HOSTILE
from local_site import Site, old_checkpoint, zip_checkpoint
from tally import Tally, is_full

from hat.cli.main import load
from hat.errors import DataError
from hat.files.download import download

OFFSETS = (1, 20_000, 65_537, 150_000, 199_990)
ANSWERS = ("serve", "stall", "whole", "wrong_range", "new_etag", "new_size", "new_tail", "page")


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("published", [False, True], ids=["hash unknown", "hash known"])
@pytest.mark.parametrize("earlier", [None, b"an earlier file"], ids=["new", "over an earlier one"])
def test_only_a_proven_file_gets_its_name(
    answer: str,
    published: bool,
    earlier: bytes | None,
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first answer is cut at an offset, the next one is the fault, all others are right."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    cases = [(make, offset) for make in (zip_checkpoint, old_checkpoint) for offset in OFFSETS]
    if answer == "new_tail" and not published:
        # Without a hash or checksums inside, other bytes under the same ETag and size are not seen.
        cases = [case for case in cases if case[0] is zip_checkpoint]
    if answer == "stall" and not is_full():
        cases = cases[2:3]
    timeout = 0.5 if answer == "stall" else 30.0
    with Tally(5, "answers") as tally:
        for make, offset in cases:
            path = tmp_path / f"{make.__name__}{offset}.pt"
            site.content, site.watched, site.states = make(), path, set()
            digest = hashlib.sha256(site.content).hexdigest()
            if earlier:
                path.write_bytes(earlier)
            site.plan = [("serve", offset), (answer, 20_000 if answer in ("serve", "stall") else 0)]
            with tally.fault():
                for _ in range(2):  # a page ends the first run, and the second goes on behind it
                    try:
                        download(site.url, path, timeout=timeout, sha256=digest if published else None)
                    except DataError as error:
                        assert answer == "page" and str(path) in str(error)
                        assert (path.read_bytes() if path.exists() else None) == earlier
                assert path.read_bytes() == site.content and site.states == {earlier}
                assert path.with_name(path.name + ".sha256").read_text() == f"{digest}  {path.name}\n"
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.parametrize("message", HOSTILE)
def test_hostile_archives(message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, archive = tmp_path / "in" / "out", tmp_path / "archive"
    target.mkdir(parents=True)
    (target / "kept").write_bytes(b"kept")
    with Tally(5, "archives") as tally:
        for name, content in HOSTILE[message].items():
            archive.write_bytes(content)
            before = listing(tmp_path)
            with tally.fault():
                members = ["a", "a/x"] if "folder" in name else ["a/x"]
                argv = ["--to", str(archive), "--unpack", str(target), "--members", *members]
                code, said = load("fetch")(argv), capsys.readouterr().err
                assert code == 2 and str(archive) in said and "nothing was written" in said, (name, said)
                assert re.search(message, said) and listing(tmp_path) == before, (name, said)
    assert not Path("/tmp/hat-hostile").exists()


def listing(folder: Path) -> dict[str, tuple[int, float]]:
    """Return name -> kind and, of files, time of all below `folder`, links not followed."""
    found = {str(path): os.lstat(path) for path in folder.rglob("*")}
    return {name: (seen.st_mode, os.path.isfile(name) and seen.st_mtime) for name, seen in found.items()}
