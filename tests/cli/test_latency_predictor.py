"""The command latency_predictor.py: release-style YAML in, predictor, settings and picture out."""

import json
import random
from pathlib import Path

import pytest
import torch
from toy_predictor import released_weights

from hat.cli.latency_predictor import identity, main, parsed
from hat.latency.predictor import LatencyPredictor
from hat.latency.table import TableWriter, read_table, row_of
from hat.run import read_record
from hat.space import Arch, DecoderArch, EncoderArch

YAML = """\
lat-dataset-path: {folder}/toy_all.csv
feature-norm: [640, 6, 2048, 6, 640, 6, 2048, 6, 6, 2]
lat-norm: 200
feature-dim: 10
hidden-dim: 16
hidden-layer-num: 1
ckpt-path: {folder}/out/toy.pt
train-steps: 60
bsz: 16
lr: 1e-5
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    with TableWriter(tmp_path / "toy.csv") as table:
        for n in range(40):
            rng = random.Random(n)
            depth = rng.randint(1, 6)
            ffn = tuple(rng.choices((1024, 2048), k=depth))
            arch = Arch(
                EncoderArch(640, (1024,) * 6, (8,) * 6),
                DecoderArch(rng.choice((512, 640)), ffn, (8,) * depth, (4,) * depth, (1,) * depth),
            )
            table.append(row_of(arch, (5.0, 0.1), (depth * 20 + sum(ffn) / 500, 0.1), {"device": "toy"}))
    path = tmp_path / "toy.yml"
    path.write_text(YAML.format(folder=tmp_path))
    return f"--configs={path}"


def test_release_yaml(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    torch.save(released_weights(4), tmp_path / "out" / "toy.pt")
    assert main([config, "--json", "--no-progress-bar"]) == 0
    captured = capsys.readouterr()
    assert "toy_all.csv does not exist; reading" in captured.err
    assert "toy.pt, of the 2020 release, is replaced" in captured.err
    keys = "feature-norm, feature-dim, hidden-dim, hidden-layer-num, train-steps, bsz, lat-norm, lr"
    assert f"{keys}: no effect here; the predictor finds its scales, size and steps itself" in captured.err
    report = json.loads(captured.out.splitlines()[-1])
    scores = {"mape_percent", "rmse_ms", "kendall_tau"}
    assert set(report) == scores | {"baselines", "rows", "bound"}
    assert report["rows"] == 4
    bound = report["bound"]
    assert bound["coverage"] == 0.95 and bound["above_percent"] < 10 and 0 <= bound["held"] <= 1
    assert {name: set(values) for name, values in report["baselines"].items()} == {"depth_only": scores}
    assert report["mape_percent"] < 3
    for name in ("predictor", "depth_only", "MAPE %", "RMSE ms", "Kendall tau", "upper bound: prediction +"):
        assert name in captured.out
    assert LatencyPredictor.load(tmp_path / "out" / "toy.pt").report == report
    assert (tmp_path / "out" / "toy.png").read_bytes().startswith(b"\x89PNG")


def test_the_resolved_config_repeats_the_run(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([config, "--json", "--seed", "7"]) == 0
    first = capsys.readouterr().out.splitlines()[-1]
    record = read_record(tmp_path / "out" / "toy.pt")
    assert identity(parsed([config, "--seed", "7"])).digest == record.identity.digest
    assert record.kind == "predictor" and json.loads(first).items() <= record.results.items()
    (tmp_path / "again.yml").write_text(json.dumps(record.settings))
    assert main([f"--configs={tmp_path}/again.yml", "--json"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == first
    again = read_record(tmp_path / "out" / "toy.pt")
    assert again.identity == record.identity and set(again.inputs) == {"table"}
    assert main([config, "--json", "--seed", "8"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] != first


def write_slower(path: Path, factor: float) -> None:
    """Write 40 rows of the toy table as a device measures them that is slower by a factor."""
    with TableWriter(path) as table:
        for n, row in enumerate(read_table(path.with_name("toy.csv"))):
            ms = factor * row.latency_mean_decoder * random.Random(n).gauss(1, 0.005)
            assert row.arch
            table.append(row_of(row.arch, (5.0 * factor, 0.1), (ms, 0.1), {"device": "other"}))


def test_transfer_from_a_table_and_from_a_predictor(config: str, tmp_path: Path, capsys) -> None:
    write_slower(tmp_path / "new.csv", 2.0)
    assert main([config]) == 0
    own = [f"--lat-dataset-path={tmp_path}/new.csv", f"--ckpt-path={tmp_path}/new.pt", "--json"]
    row = read_table(tmp_path / "toy.csv")[10]
    for name in ("toy.csv", "out/toy.pt"):
        assert main([config, *own, f"--transfer-from={tmp_path}/{name}"]) == 0
        report = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert report["rows"] == 40 and report["bound"] is None
        new = LatencyPredictor.load(tmp_path / "new.pt")
        assert row.arch and new.predict_ms(row.arch) == pytest.approx(2 * row.total_ms, rel=0.05)
        record = read_record(tmp_path / "new.pt")
        assert record.settings["transfer-from"] == f"{tmp_path}/{name}" and "transfer-from" in record.inputs
