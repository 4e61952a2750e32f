"""What a report says of the rows of a latency table: only those that training left out are called so."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from toy_rows import rows_of, slowed

from hat.cli.report import write_report
from hat.latency.predictor import LatencyPredictor, split
from hat.latency.table import Row, TableWriter
from hat.report.collect import collect
from hat.report.latencies import latencies_of
from hat.report.pictures import pictures
from hat.report.run import Latencies, Run

ROWS = rows_of(64, noise=0.03)


@pytest.fixture(scope="module")
def predictor() -> LatencyPredictor:
    return LatencyPredictor.fit(ROWS, seed=3)


def left_out(rows: Sequence[Row]) -> tuple[float, ...]:
    return tuple(rows[i].total_ms for i in split(len(rows), 3)[1])


def caption(latencies: Latencies) -> str:
    run = Run("toy", "folder", latencies=latencies)
    return next(picture.caption for picture in pictures(run) if picture.section == "latency")


@pytest.mark.parametrize("added", [0, 1, 40])
def test_rows_appended_after_training_move_no_split(added: int, predictor: LatencyPredictor) -> None:
    rows = [*ROWS, *rows_of(added, seed=5)]
    found = latencies_of(predictor, rows, {"seed": 3}, "t.csv")
    assert found.measured_ms == left_out(ROWS) and found.learnt is False
    assert found.predicted_ms == tuple(predictor.predict_rows([ROWS[i] for i in split(64, 3)[1]]))
    assert found.source == f"6 of the {64 + added} rows of t.csv, which the predictor did not learn from"


def test_a_predictor_from_another_device_learnt_from_all(predictor: LatencyPredictor, tmp_path: Path) -> None:
    rows = slowed(rows_of(24, seed=5), 50)
    predictor.transferred(rows, seed=3).save(tmp_path / "p.pt")
    moved = LatencyPredictor.load(tmp_path / "p.pt")
    found = latencies_of(moved, rows, {"seed": 3, "transfer-from": "old.pt"}, "t.csv")
    assert found.measured_ms == tuple(row.total_ms for row in rows) and found.learnt
    pytest.importorskip("matplotlib")
    assert "learnt from all 24 rows" in caption(found) and "not learn" not in caption(found)


@pytest.mark.parametrize("moved", [False, True])
def test_the_page_of_a_folder(moved: bool, predictor: LatencyPredictor, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "log.jsonl").write_text('{"kind": "train", "update": 1, "loss_base2": 7.0, "train_s": 5.0}\n')
    used = predictor.transferred(ROWS, seed=3) if moved else predictor
    used.save(tmp_path / "predictor.pt")
    (tmp_path / "predictor.config.yml").write_text("seed: 3\n" + "transfer-from: old.pt\n" * moved)
    with TableWriter(tmp_path / "latency.csv") as table:
        for row in [*ROWS, *rows_of(20, seed=5)]:
            table.append(row)
    write_report(tmp_path, tmp_path / "report")
    text = (tmp_path / "report/index.html").read_text("utf-8")
    assert ("which the predictor did not learn from" in text) is not moved
    assert ("rows not learnt from (6)" in text) is not moved and "rows learnt from" not in text
    assert ("learnt from all 64 rows that it was given" in text) is moved  # of 84 in the table by now
    latencies = collect(tmp_path).latencies
    assert latencies and (moved or latencies.measured_ms == left_out(ROWS))


@pytest.mark.parametrize("case", ["another seed", "another table", "no scores"])
def test_what_is_not_known_is_not_claimed(case: str, predictor: LatencyPredictor) -> None:
    rows = rows_of(64, seed=9, noise=0.03) if case == "another table" else ROWS
    if case == "no scores":
        predictor = LatencyPredictor(predictor._model, predictor._feature_names)
    found = latencies_of(predictor, rows, {"seed": 4 if case == "another seed" else 3}, "t.csv")
    assert len(found.measured_ms) == 64 and found.learnt is None
    assert "which of them the predictor learnt from is not known" in found.source
