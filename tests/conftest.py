"""What tests of several folders use; property tests repeat, and do not fail slow machines."""

from collections.abc import Iterator

import pytest
from hypothesis import settings
from local_site import Site, serving

import hat

settings.register_profile("hat", deadline=None, derandomize=True)  # a run repeats the one before
settings.load_profile("hat")


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is not waited for."""
    monkeypatch.setattr("os.fsync", lambda fd: None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> hat.Dataset:
    """Data of 200 toy pairs."""
    sides = zip(*hat.toy_pairs(1, 200), strict=True)
    return hat.Dataset.from_text(*map(list, sides), pieces=150, folder=tmp_path_factory.mktemp("d") / "made")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A local server to download from."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving() as site:
        yield site
