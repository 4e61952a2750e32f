"""The record of a run: what it holds, that sittings add up, and that a folder is one run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from hat.config import Options, option, to_yaml_values
from hat.errors import DataError, HatError
from hat.files.atomic import file_digest
from hat.run import Identity, Run, claim, digest_of, read_record, record_path


def run_in(folder: Path, **more: object) -> Run:
    return Run(record_path(folder, folder=True), "train", settings={"seed": 1, "none": None}, **more)


@contextmanager
def claimed(folder: Path | None, identity: Identity | None = None, new_run: bool = False) -> Iterator[Run]:
    path = record_path(folder, folder=True) if folder else None
    with (
        claim(folder, identity, "wait for it", new_run=new_run),
        Run(path, "train", settings={}, identity=identity) as run,
    ):
        yield run


def test_a_record_says_what_a_run_is(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_text("x")
    with run_in(tmp_path, inputs={"data": data, "known": "ab"}, device={"device": "a CPU"}, threads=2) as run:
        assert read_record(tmp_path).state == "running"
        run.results["best_loss"] = 4.5
        run.vouch(data)
    found = read_record(tmp_path)
    assert (found.kind, found.state, found.format) == ("train", "done", 2)
    assert found.settings == {"seed": 1} and found.results == {"best_loss": 4.5}
    digests = {"data": file_digest(data)}
    assert found.inputs == digests | {"known": "ab"} and found.outputs == digests
    assert found.device["device"] == "a CPU" and found.device["threads"] == 2
    assert found.versions["torch"] and found.identity == Identity("train", {"seed": 1}, found.inputs)
    assert json.loads((tmp_path / "run.json").read_text())["identity"]["digest"] == found.identity.digest


def test_sittings_and_processes_add_up_and_a_new_start_does_not(tmp_path: Path, monkeypatch) -> None:
    times = iter(2 * [(1.0, 2.0), (1.0, 2.0), (7.0, 9.0)] + 3 * [(0.0, 0.0)])
    monkeypatch.setattr("hat.run.cpu_seconds", lambda: next(times))
    for _ in range(2):
        with run_in(tmp_path, threads=3, processes=2, gpus=1):
            pass
    cost = read_record(tmp_path).cost
    assert cost is not None and (cost.sittings, cost.threads, cost.gpus) == (2, 6, 1)
    assert cost.cpu_s == 2 * (2 * 6 + 7)
    with run_in(tmp_path, goes_on=False):
        pass
    assert read_record(tmp_path).cost.sittings == 1


@pytest.mark.parametrize(("error", "state"), [(ValueError, "failed"), (KeyboardInterrupt, "stopped")])
def test_how_a_run_ended(tmp_path: Path, error: type[BaseException], state: str) -> None:
    with pytest.raises(error), run_in(tmp_path):
        raise error
    assert read_record(tmp_path).state == state


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


@dataclass(frozen=True)
class Some(Options):
    dropout: float = 0.1
    sizes: tuple[int, ...] = (1, 2)
    log_interval: int = option(100, role="free")
    max_epoch: int | None = option(None, role="lengthens")
    amp: str = option("auto", role="free")
    data: str | None = option(None, role="free")


def of(options: Options, **inputs: Path | str) -> Identity:
    return Identity.of("train", options, settings={"seed": 1}, inputs=inputs)


def test_what_counts() -> None:
    assert to_yaml_values(Some(data="x", max_epoch=3), role="counts") == {"dropout": 0.1, "sizes": [1, 2]}
    base = of(Some())
    assert base.settings == {"seed": 1} and base.defaults == {"dropout": 0.1, "sizes": [1, 2]}
    same = Some(log_interval=1, max_epoch=3, amp="bf16", data="elsewhere")
    assert base.differences(of(same)) == [] and base.digest == of(same).digest
    assert of(same).lengths == {"max-epoch": 3}
    pinned = Identity.of("train", Some(max_epoch=3), settings={"max-epoch": 3, "sizes": None})
    assert pinned.settings == {"max-epoch": 3} and not pinned.lengths and "sizes" not in pinned.defaults


def test_differences_are_named() -> None:
    one = of(Some(), **{"train.de": "a", "dict.de": "b", "checkpoint": "c"})
    other = Identity.of(
        "train", Some(dropout=0.4, sizes=(3,)), settings={"seed": 7}, inputs={"train.de": "x", "p": "y"}
    )
    assert one.differences(other) == [
        "dropout 0.1 -> 0.4",
        "sizes [1, 2] -> [3]",
        "seed 1 -> 7",
        "train.de content",
        "dict.de is no longer given",
        "checkpoint is no longer given",
        "p is now given",
    ]
    assert one.differences(replace(one, version=2)) == ["train version 1 -> 2"]
    assert one.differences(replace(one, kind="search"))[0] == "kind train -> search"


def test_an_option_that_a_later_version_adds_changes_no_identity_at_its_default() -> None:
    @dataclass(frozen=True)
    class Later(Some):
        new: bool = False

    assert of(Some()).digest == of(Later()).digest and not of(Some()).differences(of(Later()))
    assert of(Some()).differences(of(Later(new=True))) == ["new not given -> True"]


def test_content_counts_and_neither_path_nor_time(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    one.write_text("x")
    other.write_text("x")
    assert digest_of(one) == digest_of(other) == file_digest(one)
    one.write_text("longer")
    assert digest_of(one) == file_digest(one) != digest_of(other)


def test_another_run_in_a_folder_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder, first, other = tmp_path / "run", of(Some()), of(Some(dropout=0.4))
    with claimed(folder, first), pytest.raises(HatError, match="wait for it"), claimed(folder):
        pass
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(HatError) as error, claimed(folder, other):
        pass
    aside = Path(f"{folder}.{first.digest[:8]}")
    assert str(error.value) == (
        f"{folder} holds another run: dropout 0.1 -> 0.4; give another folder, or --new-run, which moves "
        f"the old one to {aside}"
    )
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()} and not aside.exists()
    with claimed(folder, other, new_run=True):
        pass
    assert read_record(aside).identity == first and read_record(folder).identity == other
    aside.rename(folder.with_name("elsewhere"))  # a moved run is the same run
    with claimed(folder.with_name("elsewhere"), first, new_run=True):
        pass
    assert read_record(folder.with_name("elsewhere")).cost.sittings == 2


def test_moved_runs_never_replace_each_other(tmp_path: Path) -> None:
    folder, runs = tmp_path / "run", [of(Some(dropout=share)) for share in (0.1, 0.4, 0.1, 0.4, 0.1)]
    for identity in runs:
        with claimed(folder, identity, new_run=True):
            pass
    names = [f"run.{each.digest[:8]}{end}" for end in ("", ".2") for each in runs[:2]]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["run", *names])


def test_a_run_that_goes_on_elsewhere_says_so(tmp_path: Path, capsys) -> None:
    with run_in(tmp_path, device={"dtype": "float32"}, threads=2):
        pass
    with run_in(tmp_path, device={"dtype": "bfloat16"}, threads=4, processes=2):
        pass
    said = capsys.readouterr().err
    assert "goes on with dtype float32 -> bfloat16, threads 2 -> 4, processes 1 -> 2" in said
