"""The command scripts/predictor_study.py: resumable, table, CSV and picture."""

import csv
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hat.latency.study
from hat.cli.predictor_study import _table, main
from hat.files.journal import Journal
from hat.latency.table import TableWriter, read_table, row_of
from hat.space import Arch, DecoderArch, EncoderArch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("os.fsync", lambda fd: None)
    paths = []
    for name, factor in (("old", 1.0), ("new", 0.4)):
        paths.append(str(tmp_path / f"{name}.csv"))
        rng = random.Random(1)
        with TableWriter(paths[-1]) as table:
            for _ in range(60):
                depth = rng.randint(1, 6)
                ffn = tuple(rng.choices((1024, 2048), k=depth))
                arch = Arch(
                    EncoderArch(640, (1024,) * 6, (8,) * 6),
                    DecoderArch(rng.choice((512, 640)), ffn, (8,) * depth, (4,) * depth, (1,) * depth),
                )
                ms = factor * (5 + depth * 20 + sum(ffn) / 300) * rng.gauss(1, 0.01)
                table.append(row_of(arch, (5.0 * factor, 0.1), (ms, 0.1), {"device": name}))
    return paths


CHEAP = ["--methods", "predictor", "least_squares", "depth_only", "--rows", "10", "25", "0", "--seeds=2"]


def test_a_study_goes_on_where_it_was_interrupted(
    tables: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["--tables", *tables, *CHEAP, f"--out-dir={tmp_path}/out"]
    real, calls = hat.latency.study.split, []

    def interrupted(count: int, seed: int):  # noqa: ANN202
        calls.append(seed)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return real(count, seed)

    monkeypatch.setattr("hat.latency.study.split", interrupted)
    assert main(argv) == 130
    said = capsys.readouterr().err
    assert "0 of 36 trainings" in said and "predictor: 12 left, about 0.1 min" in said
    assert main(argv) == 0
    captured = capsys.readouterr()
    assert "19 of 36 trainings" in captured.err and len(calls) == 20 + 17
    for text in (
        "old: MAPE % / Kendall tau",
        "ours",
        "least squares",
        "decoder depth alone",
        "bound held",
        "all",
    ):
        assert text in captured.out
    assert "2020 recipe" not in captured.out
    records = list(csv.DictReader((tmp_path / "out" / "study.csv").open()))
    assert len(records) == 2 * 3 * 3
    best = {(r["table"], r["method"], r["rows"]): float(r["mape_percent"]) for r in records}
    for name in ("old", "new"):
        assert best[name, "predictor", "all"] < 2 < best[name, "depth_only", "all"]
    assert (tmp_path / "out" / "study.png").read_bytes().startswith(b"\x89PNG")
    assert main(argv) == 0
    again = capsys.readouterr()
    assert again.out == captured.out and "36 of 36 trainings" in again.err and len(calls) == 37


def test_changed_tables_are_studied_anew(
    tables: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "--tables",
        tables[0],
        "--methods=depth_only",
        "--rows=0",
        "--seeds=1",
        f"--out-dir={tmp_path}/out",
    ]
    assert main(argv) == 0
    path = Path(tables[0])
    path.write_bytes(b"\n".join(path.read_bytes().split(b"\n")[:-2]) + b"\n")
    assert main(argv) == 0
    assert capsys.readouterr().err.count("0 of 1 trainings") == 2


def test_results_of_another_version_are_not_mixed_in(
    tables: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["--tables", tables[0], "--methods", "depth_only", "least_squares", "--rows=0", "--seeds=1"]
    argv.append(f"--out-dir={tmp_path}/out")
    old = {name: 0.0 for name in ("mape_percent", "rmse_ms", "kendall_tau", "seconds")}
    old |= {"table": "old", "digest": _table(Path(tables[0])).digest, "rows": 0, "seed": 1}
    with Journal(tmp_path / "out" / "journal.jsonl") as journal:  # of before there were versions
        for method in ("depth_only", "least_squares"):
            journal.append(old | {"method": method, "source": "", "source_digest": ""})
    assert main(argv) == 0
    captured = capsys.readouterr()
    assert "0 of 2 trainings" in captured.err and "0.00 / 0.000" not in captured.out
    assert main(argv) == 0
    assert "2 of 2 trainings" in capsys.readouterr().err
    monkeypatch.setitem(hat.latency.study.VERSIONS, "depth_only", 2)
    assert main(argv) == 0
    assert "1 of 2 trainings" in capsys.readouterr().err


def test_rows_that_a_table_does_not_have_are_named(
    tables: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--tables", *tables, "--methods=depth_only", "--seeds=1", f"--out-dir={tmp_path}/out"]
    assert main([*argv, "--rows", "25", "500", "0"]) == 0
    said = capsys.readouterr().err
    for name in ("old", "new"):
        assert f"--rows 500 left out: {name} has 60; give at most 53, or 0 for all but the test rows" in said
    assert main([*argv, "--rows", "500"]) == 2  # also where the journal holds other numbers
    captured = capsys.readouterr()
    assert captured.out == "" and "ConfigError: --rows 500: old has 60 rows" in captured.err
    assert main([*argv, "--rows", "25", "0"]) == 0
    assert "left out" not in capsys.readouterr().err


def test_transfer(tables: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--tables", *tables, "--transfer", "--seeds=2", f"--out-dir={tmp_path}/out"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "old, 20 rows" in out and "alone" in out and "with new" in out
    records = list(csv.DictReader((tmp_path / "out" / "transfer.csv").open()))
    found = {(r["table"], r["source"]): float(r["mape_percent"]) for r in records}
    assert set(found) == {("old", ""), ("old", "new"), ("new", ""), ("new", "old")}
    assert found["new", "old"] < found["new", ""]


def test_rows_measured_again(tables: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = tmp_path / "second.csv"
    with TableWriter(second) as table:
        for row in read_table(tables[0])[:20]:
            assert row.arch
            slower = (1.02 * row.latency_mean_decoder, 0.1)
            table.append(row_of(row.arch, (row.latency_mean_encoder, 0.1), slower, {"device": "old"}))
    argv = ["--methods=depth_only", "--rows=0", "--seeds=1", f"--out-dir={tmp_path}/out"]
    # neither the file itself nor another device's table of the same architectures is what was measured anew
    assert main(["--tables", str(second), tables[1], tables[0], "--again", str(second), *argv]) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "measured again" in line]
    assert re.fullmatch(r"old: \d+ rows measured again: MAPE 1\.\d\d%, Kendall tau 0\.9\d\d", line)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tables", "none.csv"], "cannot read the latency table none.csv"),
        (["--methods=forest"], "--methods allows"),
        (["--again", str(ROOT / "tests" / "data" / "none.csv")], "cannot read the latency table"),
        (["--seeds=0"], "--seeds must be at least 1, got 0"),
        (["--transfer", "--again", "a.csv"], "leave it out or --transfer"),
        (["--tables", "a/x.csv", "b/x.csv"], "two of --tables are named x"),
        (["--transfer"], "no two of the tables are of one search space"),
    ],
)
def test_user_errors(
    tables: list[str], flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [f"--out-dir={tmp_path}/out", "--tables", tables[0], *flags]
    assert main(argv) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_recipe_uses_the_normalisers_of_the_release(tables: list[str], tmp_path: Path) -> None:
    released = tmp_path / "wmt14ende_cpu_xeon_all.csv"
    released.write_bytes(Path(tables[0]).read_bytes())
    assert _table(released).lat_norm == 300 and _table(released).feature_norm[2] == 2048
    own = _table(Path(tables[0]))
    assert own.lat_norm == max(row.total_ms for row in own.rows) and own.feature_norm[2] == 1024


def test_script() -> None:
    command = [sys.executable, "scripts/predictor_study.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "transfer" in done.stdout
