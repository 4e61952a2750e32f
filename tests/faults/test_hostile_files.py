"""Row 3, hostile model files: nothing they name happens, damage is one error.

A process that watches itself reads them, by every reader of model files there is.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from foreign import CONTAINERS
from model_files import benign, lies, pickles
from tally import Tally, count

ROOT = Path(__file__).resolve().parents[2]
CHILD = Path(__file__).with_name("watched_reader.py")
READERS = ("foreign", "checkpoint", "predictor")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "seeds").mkdir()
    for name, content in benign(tmp_path / "seeds").items():
        (tmp_path / f"{name}.ok").write_bytes(content)
    return tmp_path


def watched(folder: Path, *args: object) -> list[dict]:
    """Return what the watching process reports of each file, or of each batch of mutations."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, CHILD, folder, *map(str, args)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_nothing_that_a_file_names_happens(folder: Path) -> None:
    canary = folder / "canary"
    bodies = pickles(str(canary))
    assert len(bodies) >= 60
    all_of_them = [(name, c, reader) for name in bodies for c in CONTAINERS for reader in READERS]
    gadgets = all_of_them[:: count(8, 1)]  # by turns, as 8 has no factor in common with either
    for name, container, reader in gadgets:
        (folder / f"{reader}-gadget {name} {container}.bin").write_bytes(CONTAINERS[container](bodies[name]))
    for zipped in (True, False)[: count(1, 2)]:
        for name, content in lies(folder / "seeds", count(200, 20_000), zipped).items():
            (folder / f"{name}.bin").write_bytes(content)
    results = watched(folder, 0, count(60, 5_000))
    files = [found for found in results if "name" in found]
    acting = [found for found in files if "-gadget " in found["name"]]
    assert len(acting) == len(gadgets) < len(files)
    with Tally(3, "gadgets") as tally:
        for found in acting:
            with tally.fault():
                assert found["events"] == [], found
        assert not canary.exists() and not (folder / "x.py").exists()
        assert sum(found["verdict"] == "refused" for found in acting) > 0.6 * len(acting)
    with Tally(3, "descriptions of what is not there") as tally:
        for found in [found for found in files if found not in acting]:
            with tally.fault():
                assert found["events"] == [], found
                assert found["verdict"] == "refused" or "too many but fine" in found["name"], found
    check_mutations([found for found in results if "name" not in found])


def check_mutations(batches: list[dict]) -> None:
    with Tally(3, "mutations") as tally:
        for found in batches:
            assert found["events"] == [], found
            for _ in range(found["read"] + found["refused"]):
                with tally.fault():
                    pass
        rounds = count(60, 5_000)
        assert tally.injected == rounds and 0 < sum(found["read"] for found in batches) < rounds


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_more_mutations(folder: Path, seed: int) -> None:
    check_mutations(watched(folder, seed, count(60, 5_000)))
