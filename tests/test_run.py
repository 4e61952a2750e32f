"""The record of a run: what it holds, that sittings add up, and that records of version 0.1 are read."""

import json
from pathlib import Path

import pytest

from hat.errors import DataError, HatError
from hat.files.atomic import file_digest
from hat.run import Cost, Run, identity_of, read_record, record_path


def run_in(folder: Path, **more: object) -> Run:
    return Run(record_path(folder, folder=True), "train", settings={"seed": 1, "none": None}, **more)


def test_a_record_says_what_a_run_is(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_text("x")
    with run_in(tmp_path, inputs={"data": data, "known": "ab"}, device={"device": "a CPU"}, threads=2) as run:
        assert read_record(tmp_path).state == "running"
        run.results["best_loss"] = 4.5
        run.vouch(data)
    found = read_record(tmp_path)
    assert (found.kind, found.state, found.format) == ("train", "done", 1)
    assert found.settings == {"seed": 1} and found.results == {"best_loss": 4.5}
    digests = {"data": file_digest(data)}
    assert found.inputs == digests | {"known": "ab"} and found.outputs == digests
    assert found.device["device"] == "a CPU" and found.device["threads"] == 2
    assert found.versions["torch"] and found.identity == identity_of("train", {"seed": 1}, found.inputs)
    assert json.loads((tmp_path / "run.json").read_text())["identity"] == found.identity


def test_sittings_add_up_and_a_new_start_does_not(tmp_path: Path) -> None:
    for _ in range(2):
        with run_in(tmp_path, threads=3, processes=2, gpus=1):
            pass
    cost = read_record(tmp_path).cost
    assert cost is not None and (cost.sittings, cost.threads, cost.gpus) == (2, 6, 1)
    with run_in(tmp_path, goes_on=False):
        pass
    assert read_record(tmp_path).cost.sittings == 1


def test_cpu_time_counts_for_every_process(tmp_path: Path, monkeypatch) -> None:
    times = iter([(1.0, 2.0), (1.0, 2.0), (7.0, 9.0)])
    monkeypatch.setattr("hat.run._cpu_seconds", lambda: next(times))
    with run_in(tmp_path, processes=4):
        pass
    assert read_record(tmp_path).cost.cpu_s == 4 * 6 + 7


@pytest.mark.parametrize(("error", "state"), [(ValueError, "failed"), (KeyboardInterrupt, "stopped")])
def test_how_a_run_ended(tmp_path: Path, error: type[BaseException], state: str) -> None:
    with pytest.raises(error), run_in(tmp_path):
        raise error
    assert read_record(tmp_path).state == state


def test_no_folder_means_no_file(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Run.folder(None, "train", advice="", settings={}, inputs={"a": Path("missing")}) as run:
        run.vouch(Path("missing"))
    assert not list(tmp_path.iterdir())


def test_a_folder_is_written_by_one_process(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    same = {"advice": "wait for it", "settings": {}}
    with Run.folder(folder, "train", **same):
        with pytest.raises(HatError, match="wait for it"), Run.folder(folder, "x", **same):
            pass
        assert read_record(folder).kind == "train"


def test_records_of_version_0_1_are_read(tmp_path: Path) -> None:
    sitting = {"wall_s": 2.0, "cpu_s": 3.0, "threads": 2, "processes": 1, "gpus": 0}
    (tmp_path / "run").mkdir()
    for prefix in (f"{tmp_path}/run/", f"{tmp_path}/a."):
        Path(f"{prefix}config.yml").write_text("max-update: 5\n")
        Path(f"{prefix}version.json").write_text('{"threads": "2", "device": "a CPU", "torch": "2"}')
        Path(f"{prefix}cost.json").write_text(json.dumps({"sittings": [sitting, sitting]}))
    (tmp_path / "a.csv").touch()
    for record in (read_record(tmp_path / "run"), read_record(tmp_path / "a.csv")):
        assert record.format == 0 and record.settings == {"max-update": 5}
        assert record.device == {"threads": "2", "device": "a CPU"} and record.versions == {"torch": "2"}
        assert record.cost == Cost(4.0, 6.0, 0.0, 2, 0, 2)
    assert read_record(tmp_path / "nothing", folder=True).kind == ""


@pytest.mark.parametrize("content", ["{", "[]", "[" * 10**5, '{"format": 99}', "\udcff"])
def test_damaged_records(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match="run.json is damaged"):
        read_record(tmp_path)
    notes: list[str] = []
    assert read_record(tmp_path, note=notes.append).settings == {} and "left out" in notes[0]
    with run_in(tmp_path):  # a run does not fail for an older record
        pass
    assert read_record(tmp_path).state == "done"


def test_missing_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read .*missing"):
        run_in(tmp_path, inputs={"data": tmp_path / "missing"})
