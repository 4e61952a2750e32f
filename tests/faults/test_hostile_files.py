"""Row 3, hostile model files: nothing they name happens, damage is one error.

A process that watches itself reads them, by every reader of model files there is.
"""

import json
from pathlib import Path

from foreign import CONTAINERS, gadgets
from forks import Forks
from model_files import benign, lies
from tally import Tally, count

READERS = ("foreign", "checkpoint", "predictor")


def watched(forks: Forks, folder: Path, seed: int) -> list[dict]:
    """Return what the watching process reports of each file and, last, of mutations."""
    (folder / "seeds").mkdir()
    for name, content in benign(folder / "seeds").items():
        (folder / f"{name}.ok").write_bytes(content)
    done = forks.run("watched_reader", [str(seed), str(count(60, 5_000))], folder)
    assert done.code == 0, done.err
    return json.loads((folder / "seen").read_text())


def test_nothing_that_a_file_names_happens(forks: Forks, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    bodies = gadgets(str(canary))
    assert len(bodies) >= 50
    every = [(name, container, reader) for name in bodies for container in CONTAINERS for reader in READERS]
    chosen = every[:: count(7, 1)]  # by turns, as 7 has no factor in common with either
    for name, container, reader in chosen:
        path = tmp_path / f"{reader}-gadget {name} {container}.bin"
        path.write_bytes(CONTAINERS[container](bodies[name]))
    for zipped in (True, False)[: count(1, 2)]:
        for name, content in lies(tmp_path, count(200, 20_000), zipped).items():
            (tmp_path / f"{name}.bin").write_bytes(content)
    results = watched(forks, tmp_path, 0)
    acting = [found for found in results if "-gadget " in found.get("name", "")]
    claiming = [found for found in results if "name" in found and found not in acting]
    assert len(acting) == len(chosen) and claiming
    with Tally(3, "gadgets") as tally:
        for found in acting:
            with tally.fault():
                assert found["events"] == [], found
        assert not canary.exists() and not (tmp_path / "x.py").exists()
        assert sum(found["verdict"] == "refused" for found in acting) > 0.6 * len(acting)
    with Tally(3, "descriptions of what is not there") as tally:
        for found in claiming:
            with tally.fault():
                assert found["events"] == [], found
                assert found["verdict"] == "refused" or "too many but fine" in found["name"], found
    check_mutations(results[-1])


def check_mutations(found: dict) -> None:
    with Tally(3, "mutations") as tally:
        tally.injected = found["read"] + found["refused"]
        assert found["events"] == [] and found["read"] and found["refused"]
        tally.survived = tally.injected
