"""Latency tables and predictors of something else: rows A2 and A7 to A9 of the cases, and their siblings."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fixed_latencies import fix_latencies
from toy_rows import rows_of

from hat.cli.latency_predictor import main as train_predictor
from hat.errors import ConfigError
from hat.latency.measure import MeasureConfig, collect
from hat.latency.predictor import LatencyPredictor, check_valid, conditions_of_space
from hat.latency.table import LatencyTable, Row, TableWriter, read_table
from hat.run import read_record
from hat.space import DecoderSpace, EncoderSpace, SearchSpace

SPACE = SearchSpace(
    EncoderSpace(16, 24, 2, (16, 12), (24, 8), (2, 1), (4, 2)),
    DecoderSpace(16, 24, 6, (16, 12), (24, 8), (3, 2, 1), (4, 2), (4, 2), (1, 2)),
    8,
)
DEEPER = replace(SPACE, decoder=replace(SPACE.decoder, layers_choice=(6, 5, 4)))
SMALLER = replace(SPACE, decoder=replace(SPACE.decoder, ffn_choice=(8,)))
CFG = MeasureConfig(12, 12, beam=2, dtype="fp32")
TASK = conditions_of_space(SPACE, 100) | {"source_len": "12", "target_len": "12"}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., LatencyTable]:
    """Return a function that collects a table in which nothing is measured."""
    fix_latencies(monkeypatch)
    monkeypatch.setattr("os.fsync", lambda fd: None)

    def rows(count: int, path: Path | None = None, **other: object) -> LatencyTable:
        how: dict = {"space": SPACE, "vocab_sizes": (100, 100), "config": CFG} | other
        return collect(how.pop("space"), count, out=path, **how)

    return rows


# --- A2, A8: going on with a table under other conditions


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"space": SMALLER}, "decoder-ffn-embed-dim-choice 8, 24, here it is 8"),  # A8
        ({"space": DEEPER}, "decoder-layer-num-choice 1, 2, 3, here it is 4, 5, 6"),
        ({"space": replace(SPACE, qkv_dim=16)}, "qkv_dim 8, here it is 16"),
        ({"vocab_sizes": (100, 101)}, "vocab_size 100, here it is 101"),
        ({"config": replace(CFG, source_len=60)}, "source_len 12, here it is 60"),
        ({"config": replace(CFG, beam=4)}, "beam 2, here it is 4"),
        ({"config": replace(CFG, dtype="bf16")}, "dtype fp32, here it is bf16"),
        ({"config": replace(CFG, row_budget_s=9.0)}, "lat-row-budget 1.0 -> 9.0"),
        ({"seed": 7}, "seed 1 -> 7"),
    ],
)
def test_rows_measured_in_other_ways_are_refused(measured, other, named: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    measured(8, path)
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    with pytest.raises(
        ConfigError, match="must not mix: give another --lat-dataset-path, or --new-run"
    ) as error:
        measured(12, path, **other)
    assert named in str(error.value)
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before
    old = read_record(path).identity.digest[:8]
    assert measured(12, path, **other, new_run=True).new_rows == 12
    moved = path.with_name(f"t.csv.{old}")
    assert moved.read_bytes() == before[path] and read_record(moved).identity.digest[:8] == old


@pytest.mark.parametrize("what", ["device", "torch", "threads"])
def test_a_table_of_another_machine_gets_no_rows(measured, what: str, tmp_path: Path, monkeypatch) -> None:
    """A2, also for the version of PyTorch and the threads."""
    path = tmp_path / "t.csv"
    measured(3, path)
    there = {
        "device": ("hat.latency.measure.device_name", lambda device: "another processor"),
        "torch": ("torch.__version__", "9.9"),
        "threads": ("torch.get_num_threads", lambda: 77),
    }
    monkeypatch.setattr(*there[what])
    with pytest.raises(ConfigError, match=f"holds rows measured with {what} .*, here it is (another|9.9|77)"):
        measured(4, path)


def test_a_table_of_medians_gets_no_rows(measured, tmp_path: Path) -> None:
    """Tables of version 0.1 hold other columns and another estimate; they are learnt as they are."""
    path, (first, *rest) = tmp_path / "t.csv", measured(12)
    with TableWriter(path) as table:
        for row in (first, *rest):
            known = {name: row.conditions[name] for name in ("device", "threads", "beam", "source_len")}
            table.append(replace(row, conditions=known))
    with pytest.raises(ConfigError, match="measured with estimate median, here it is minimum of each step"):
        measured(14, path)
    assert LatencyPredictor.fit(path).conditions["source_len"] == "12"


# --- A7: searching with a predictor of something else


@pytest.mark.parametrize(
    ("here", "named"),
    [
        (conditions_of_space(DEEPER, 100), "valid for decoder-layer-num-choice 1, 2, 3, here it is 4, 5, 6"),
        ({"source_len": "60"}, "valid for source_len 12, here it is 60"),
        ({"vocab_size": "200"}, "valid for vocab_size 100, here it is 200"),
        ({"qkv_dim": "16"}, "valid for qkv_dim 8, here it is 16"),
    ],
)
def test_what_a_predictor_is_not_valid_for_is_refused(here, named: str) -> None:
    with pytest.raises(ConfigError, match="measure a table for this with latency_dataset.py") as error:
        check_valid("x.pt", TASK, TASK | here)
    assert f"x.pt is {named}" in str(error.value)


def test_what_changes_little_or_is_not_known_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    check_valid("x.pt", TASK, TASK)
    check_valid("x.pt", TASK, TASK | conditions_of_space(SMALLER, 100))
    assert capsys.readouterr().err == ""
    check_valid("x.pt", TASK, TASK | {"vocab_size": "104"})
    assert (
        "valid for vocab_size 100, here it is 104, which changes latencies by little"
        in capsys.readouterr().err
    )
    check_valid("x.pt", {"device": "TITAN Xp"}, TASK)
    (line,) = capsys.readouterr().err.splitlines()
    assert "could not be checked: qkv_dim, source_len, target_len, vocab_size, the search space" in line


def test_a_predictor_says_what_it_is_valid_for(measured, tmp_path: Path) -> None:
    LatencyPredictor.fit(measured(12)).save(tmp_path / "x.pt")
    known = LatencyPredictor.load(tmp_path / "x.pt").conditions
    wanted = "device threads dtype torch runtime estimate anchor reference_ms beam"
    assert TASK.items() <= known.items() and set(wanted.split()) <= set(known)


# --- A9: tables glued together, rows repeated


def glued(path: Path, *parts: list[Row]) -> list[str]:
    with TableWriter(path) as table:
        for part in parts:
            for row in part:
                table.append(row)
    return [f"--lat-dataset-path={path}", f"--ckpt-path={path.parent}/x.pt", "--no-progress-bar"]


@pytest.mark.parametrize(
    ("name", "value"), [("torch", "9.9"), ("reference_ms", "80.0000"), ("beam", "4"), ("device", "another")]
)
def test_tables_glued_together_are_refused(measured, name: str, value: str, tmp_path: Path, capsys) -> None:
    rows = measured(24)
    other = [replace(row, conditions={**row.conditions, name: value}) for row in rows[12:]]
    argv = glued(tmp_path / "t.csv", rows[:12], other)
    assert train_predictor(argv) == 2
    said = capsys.readouterr().err
    assert f"measured with {name} {rows[0].conditions[name]}, that of row 13 is {value}" in said
    assert "--mixed" in said and not (tmp_path / "x.pt").exists()
    assert train_predictor([*argv, "--mixed"]) == 0
    assert name not in LatencyPredictor.load(tmp_path / "x.pt").conditions


@pytest.mark.parametrize("times", [2, 4])
def test_rows_of_one_architecture_stay_on_one_side(times: int) -> None:
    rows = rows_of(60, noise=0.3)
    once, repeated = LatencyPredictor.fit(rows), LatencyPredictor.fit(rows * times)
    mape = [each.report["mape_percent"] for each in (once, repeated) if each.report]
    assert mape[1] > 0.5 * mape[0], "what is tested was not learnt"
    again = rows_of(60, seed=5, noise=0.3)
    mixed = [row for pair in zip(rows, again, strict=True) for row in (pair[0], pair[1], pair[0])]
    random.Random(1).shuffle(mixed)
    learnt = LatencyPredictor.fit(mixed).report
    assert learnt and learnt["mape_percent"] > 0.5 * mape[0]


def test_a_cut_table_is_no_finished_one(measured, tmp_path: Path, capsys) -> None:
    path = tmp_path / "t.csv"
    measured(16, path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:11]))
    assert train_predictor([f"--lat-dataset-path={path}", f"--ckpt-path={tmp_path / 'p.pt'}"]) == 0
    assert f"{path} is not as it was measured: its record" in capsys.readouterr().err
    assert len(read_table(path)) == 10
    assert measured(16, path).new_rows == 6, "the rows are measured again, not taken as done"
