"""Runs that measure: tables in memory and in files, fresh processes, profiles. Tiny models, few repeats."""

from pathlib import Path
from typing import Any

import pytest

from hat.errors import ConfigError
from hat.latency import measure as runs
from hat.latency.measure import MeasureConfig, Subject, Timing, collect, measure_fresh, profile
from hat.latency.predictor import LatencyPredictor
from hat.latency.table import read_table
from hat.run import read_record
from hat.space import DecoderSpace, EncoderSpace, SearchSpace

SPACE = SearchSpace(
    EncoderSpace(16, 24, 2, (16, 12), (24, 8), (2, 1), (4, 2)),
    DecoderSpace(16, 24, 2, (16, 12), (24, 8), (2, 1), (4, 2), (4, 2), (1, 2)),
    8,
)
CFG = MeasureConfig(4, 4, beam=1, max_iterations=3, interval_percent=100.0, dtype="fp32")


def test_rows_in_memory_train_a_predictor() -> None:
    table = collect(SPACE, 12, vocab_sizes=(11, 13), config=CFG)
    assert len(table) == table.new_rows == 12 and table.path is None
    assert len({row.arch for row in table}) == 12
    assert all(row.conditions["vocab_size"] == "13" and row.total_ms > 0 for row in table)
    predictor = LatencyPredictor.fit(table)
    assert predictor.conditions["beam"] == "1"
    assert predictor.predict_ms(SPACE.largest()) > 0


def test_a_table_goes_on_and_mixes_no_conditions(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    first = collect(SPACE, 3, vocab_sizes=(11, 11), config=CFG, out=path)
    second = collect(SPACE, 5, vocab_sizes=(11, 11), config=CFG, out=path)
    assert (first.new_rows, second.new_rows, len(second)) == (3, 2, 5)
    assert read_table(path) == second and second[:3] == first
    whole = collect(SPACE, 5, vocab_sizes=(11, 11), config=CFG)
    assert [row.arch for row in whole] == [row.arch for row in second]  # by the seed, not by the sittings
    record = read_record(path)
    assert record.kind == "latency-table" and record.state == "done" and record.results["rows"] == 5
    assert record.cost and record.cost.sittings == 2 and "t.csv" in record.outputs
    for other in ({"vocab_sizes": (11, 12)}, {"config": MeasureConfig(4, 4, beam=2, dtype="fp32")}):
        before = path.read_bytes()
        with pytest.raises(ConfigError, match="t.csv holds rows measured with (vocab_size|beam)"):
            collect(SPACE, 6, **{"vocab_sizes": (11, 11), "config": CFG} | other, out=path)
        assert path.read_bytes() == before and read_record(path) == record


def test_rows_of_all_groups_are_at_the_speed_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is twice as slow for every further group."""
    monkeypatch.setattr(runs, "TOGETHER", (2, 2))
    slower = [1.0]

    def in_turn(models: Any, cfg: Any, anchor: Any) -> list[Timing]:
        slower[0] *= 2
        assert len(anchor) == 2
        return [Timing(slower[0], 9 * slower[0], 0, 0, 0, {}, 20 * slower[0]) for _ in models]

    monkeypatch.setattr(runs, "measure_in_turn", in_turn)
    table = collect(SPACE, 5, vocab_sizes=(11, 11), config=CFG)
    assert [row.total_ms for row in table] == pytest.approx([20.0] * 5)
    assert {row.conditions["reference_ms"] for row in table} == {"40.0000"}
    assert table.drift_percent == pytest.approx(300)


def test_the_budget_of_a_table_is_shared_and_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, shares = [0.0], []

    def in_turn(models: Any, cfg: MeasureConfig, anchor: Any) -> list[Timing]:
        models = list(models)
        shares.append(cfg.row_budget_s)
        now[0] += 2 * len(models)  # slower than wanted: the least turns take so long
        return [Timing(1.0, 9.0, 0, 0, 0, {}, 20.0) for _ in models]

    monkeypatch.setattr(runs, "TOGETHER", (2, 2))
    monkeypatch.setattr(runs, "measure_in_turn", in_turn)
    monkeypatch.setattr(runs.time, "perf_counter", lambda: now[0])
    assert len(collect(SPACE, 8, vocab_sizes=(11, 11), config=CFG, budget_s=7.2)) == 4
    assert shares == pytest.approx([0.9, (7.2 - 4) / 6]), "the rest is shared among the rest"
    assert "the budget of 7.2 s has ended; 4 rows instead of 8" in capsys.readouterr().err


def test_a_small_space_ends(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    only = [SPACE.largest(), SPACE.smallest()]
    monkeypatch.setattr(runs, "sample", lambda space, rng: rng.choice(only))
    assert len(collect(SPACE, 5, vocab_sizes=(11, 11), config=CFG)) == 2
    assert "no further architectures; 2 rows instead of 5" in capsys.readouterr().err


def test_a_fresh_process_measures_in_order() -> None:
    """The one test that starts the process."""
    archs = [SPACE.smallest(), SPACE.largest()]
    conditions = {"threads": "1", "beam": "2", "source_len": "3", "dtype": "fp32"}
    timings = list(measure_fresh(archs, Subject(SPACE, (11, 12), CFG), conditions))
    assert len(timings) == 2
    for timing in timings:
        held = timing.conditions
        assert conditions.items() <= held.items() and held["vocab_size"] == "12" and timing.anchor_ms
        assert held["target_len"] == "3" and timing.total_ms > 0


def test_profile() -> None:
    subject, arch = Subject(SPACE, (11, 11), CFG), SPACE.largest()
    size, whole = profile(subject, arch), profile(subject, arch, flops=True, timed=True)
    assert size["params"] > 0 and size["flops"] is None and size["latency_ms"] is None
    latency = whole["latency_ms"]
    assert whole["params"] == size["params"] and whole["flops"] > 0
    assert latency["total"] == pytest.approx(latency["encoder"] + latency["decoder"])
    assert latency["interval"] >= 0 and whole["conditions"]["beam"] == "1"
