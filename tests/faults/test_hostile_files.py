"""Row 3, hostile model files: nothing they name happens, nothing they claim costs, damage is one error.

A process that watches itself reads them, by every reader of model files there is.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from foreign import CONTAINERS
from model_files import benign, heavy, pickles, whole_files
from tally import Tally, count, is_full

ROOT = Path(__file__).resolve().parents[2]
CHILD = Path(__file__).with_name("watched_reader.py")
READERS = ("foreign", "checkpoint", "predictor")
SECONDS, MEMORY = 5, 256 << 20


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


def check(found: dict, size: int) -> None:
    assert found["events"] == [], found
    assert found["seconds"] < SECONDS, found
    assert found["used"] < 3 * size + MEMORY, found


def test_gadgets_giants_bombs_and_mutations(folder: Path) -> None:
    canary = folder / "canary"
    bodies = pickles(str(canary))
    assert len(bodies) >= 60
    all_of_them = [(name, c, reader) for name in bodies for c in CONTAINERS for reader in READERS]
    gadgets = all_of_them[:: count(8, 1)]  # by turns, as 8 has no factor in common with either
    for name, container, reader in gadgets:
        (folder / f"{reader}-gadget {name} {container}.bin").write_bytes(CONTAINERS[container](bodies[name]))
    containers = [True, False] if is_full() else [True]
    claims = whole_files(folder / "seeds", count(100 << 20, 1 << 30), count(2_000, 20_000), containers)
    if is_full():
        for name, body in heavy().items():
            claims |= {
                f"foreign-{name}, too many but fine {c}": CONTAINERS[c](body) for c in ("sequence", "zip")
            }
    for name, content in claims.items():
        (folder / f"{name}.bin").write_bytes(content)
    results = watched(folder, 0, count(100, 5_000))
    files = [found for found in results if "name" in found]
    assert len(files) == len(gadgets) + len(claims)
    with Tally(3, "gadgets") as tally:
        acting = [found for found in files if "-gadget " in found["name"]]
        for found in acting:
            with tally.fault():
                check(found, found["size"])
        assert not canary.exists() and not (folder / "x.py").exists()
        assert sum(found["verdict"] == "refused" for found in acting) > 0.6 * len(acting)
    with Tally(3, "giants and bombs") as tally:
        for found in [found for found in files if found not in acting]:
            with tally.fault():
                check(found, found["size"])
                assert found["verdict"] == "refused" or "too many but fine" in found["name"], found
    check_mutations([found for found in results if "name" not in found])


def check_mutations(batches: list[dict]) -> None:
    with Tally(3, "mutations") as tally:
        for found in batches:
            for _ in range(found["read"] + found["refused"]):
                with tally.fault():
                    check(found, 0)
        rounds = count(100, 5_000)
        assert tally.injected == rounds and 0 < sum(found["read"] for found in batches) < rounds


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_more_mutations(folder: Path, seed: int) -> None:
    check_mutations(watched(folder, seed, count(100, 5_000)))
