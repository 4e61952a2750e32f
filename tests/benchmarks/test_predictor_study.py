"""python -m benchmarks predictor-study: every method on the same rows, resumable, refusing."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_rows import rows_of

from benchmarks import predictor_study
from benchmarks.predictor_study import ALL, LABELS, Cell, Table, mean_records, run_cell, split, study
from hat.files.journal import read_journal
from hat.latency.table import TableWriter, row_of
from hat.space import Arch, DecoderArch, EncoderArch

NORM = (640.0, 6.0, 2048.0, 6.0, 640.0, 6.0, 2048.0, 6.0, 6.0, 2.0)


def table(name: str, count: int = 60, seed: int = 0) -> Table:
    return Table(name, f"digest of {name}", rows_of(count, seed, noise=0.01), NORM, 100.0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor_study, "STEPS", 3)


@pytest.mark.parametrize("method", LABELS)
def test_a_cell_sees_its_rows_alone_and_is_tested_on_others(method: str) -> None:
    held = table("a")
    train, test = split(60, 3)
    for count, numbers in {10: train[:10], ALL: train}.items() if method != "predictor" else [(ALL, train)]:
        first = run_cell(Cell(held, method, count, 3))
        hidden = [replace(row, latency_mean_decoder=1e5) for row in held.rows]
        for i in [*numbers, *test]:
            hidden[i] = held.rows[i]
        again = run_cell(Cell(held._replace(rows=hidden), method, count, 3))
        assert {**first, "seconds": 0} == {**again, "seconds": 0}
        for i in test:
            hidden[i] = replace(hidden[i], latency_mean_decoder=10 * hidden[i].latency_mean_decoder)
        assert run_cell(Cell(held._replace(rows=hidden), method, count, 3))["mape_percent"] > 80
    assert ("held" in first) == (method == "predictor")


def test_the_recipe_of_2020_step_by_step() -> None:
    rows = rows_of(200)
    x, ms = np.array([row.features for row in rows]), np.array([row.total_ms for row in rows])
    state = torch.random.get_rng_state()
    predict = predictor_study.recipe_2020(x, ms, table("a"), seed=4)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(4)
    sizes = (10, 400, 400, 400, 400, 1)
    linears = [torch.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
    net = torch.nn.Sequential(
        *(part for linear in linears[:-1] for part in (linear, torch.nn.ReLU())), linears[-1]
    )
    inputs, target = torch.tensor(x / NORM, dtype=torch.float32), torch.tensor(ms / 100, dtype=torch.float32)
    optimizer, rng = torch.optim.Adam(net.parameters(), lr=1e-5), torch.Generator().manual_seed(4)
    for _ in range(3):
        batch = torch.randperm(200, generator=rng)[:128]
        optimizer.zero_grad()
        ((net(inputs[batch]).squeeze(-1) - target[batch]) ** 2).mean().backward()
        optimizer.step()
    expected = 100 * net(inputs).squeeze(-1).detach().numpy()
    np.testing.assert_allclose(predict(x), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def tables(tmp_path: Path) -> list[str]:
    """Return two tables of invented devices, 60 rows each."""
    paths = []
    for name, factor in (("old", 1.0), ("new", 0.4)):
        paths.append(str(tmp_path / f"{name}.csv"))
        rng = random.Random(1)
        with TableWriter(paths[-1]) as writer:
            for _ in range(60):
                depth = rng.randint(1, 6)
                ffn = tuple(rng.choices((1024, 2048), k=depth))
                arch = Arch(
                    EncoderArch(640, (1024,) * 6, (8,) * 6),
                    DecoderArch(rng.choice((512, 640)), ffn, (8,) * depth, (4,) * depth, (1,) * depth),
                )
                ms = factor * (5 + depth * 20 + sum(ffn) / 300) * rng.gauss(1, 0.01)
                writer.append(row_of(arch, (5.0 * factor, 0.1), (ms, 0.1), {"device": name}))
    return paths


def test_a_study_goes_on_where_it_was_interrupted(
    tables: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["--tables", *tables, "--methods", "predictor", "depth_only", "--rows", "10", "25", "0"]
    argv += ["--seeds=2", f"--out-dir={tmp_path}/out"]
    real, calls = predictor_study.run_cell, []

    def interrupted(cell: Cell) -> dict:
        calls.append(cell)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return real(cell)

    monkeypatch.setattr(predictor_study, "run_cell", interrupted)
    assert study(argv) == 130
    assert "0 of 24 trainings" in capsys.readouterr().err
    assert study(argv) == 0
    first = capsys.readouterr()
    assert "19 of 24 trainings" in first.err and len(calls) == 20 + 5
    for text in ("old: MAPE % / Kendall tau", "ours", "decoder depth alone", "all"):
        assert text in first.out
    assert "2020 recipe" not in first.out
    records = mean_records(read_journal(tmp_path / "out" / "journal.jsonl"))
    best = {(r["table"], r["method"], r["rows"]): r["mape_percent"] for r in records}
    assert len(best) == 2 * 2 * 3 and best["old", "predictor", "all"] < best["old", "depth_only", "all"]
    assert study(argv) == 0
    again = capsys.readouterr()
    assert again.out == first.out and "24 of 24 trainings" in again.err and len(calls) == 25
    path = Path(tables[0])  # a changed table is studied anew
    path.write_bytes(b"\n".join(path.read_bytes().split(b"\n")[:-2]) + b"\n")
    assert study(argv) == 0 and "12 of 24 trainings" in capsys.readouterr().err


def test_transfer(tables: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study(["--tables", *tables, "--transfer", "--seeds=1", f"--out-dir={tmp_path}/out"]) == 0
    said = capsys.readouterr().out
    assert "old: MAPE" in said and "ours" in said and "with new" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tables", "none.csv"], "cannot read none.csv"),
        (["--methods=forest"], "--methods"),
        (["--rows", "9"], "--rows must be at least 10, or 0, got 9"),
        (["--seeds=0"], "--seeds must be at least 1, got 0"),
        (["--tables", "a/x.csv", "b/x.csv"], "the names of --tables, which must differ"),
        (["--transfer"], "no two of the tables are of one search space"),
    ],
)
def test_user_errors(
    tables: list[str], flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study([f"--out-dir={tmp_path}/out", "--tables", tables[0], *flags]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
