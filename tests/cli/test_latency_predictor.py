"""The command latency_predictor.py: release-style YAML in, predictor, settings and picture out."""

import builtins
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hat.arch.config import Arch, DecoderArch, EncoderArch
from hat.cli.latency_predictor import main
from hat.latency.network import LatencyNet
from hat.latency.predictor import LatencyPredictor
from hat.latency.table import TableWriter, row_of

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
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("os.fsync", lambda fd: None)
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


def test_a_released_predictor_is_set_aside(config: str, tmp_path: Path, capsys) -> None:
    own = tmp_path / "out" / "toy.pt"
    own.parent.mkdir()
    torch.save(LatencyNet(10, 4, 1).state_dict(), own)
    content = own.read_bytes()
    for _ in range(2):  # one's own is written over
        assert main([config, "--no-progress-bar"]) == 0
        assert own.with_name("toy.released.pt").read_bytes() == content
        LatencyPredictor.load(own)
    said = f"{own} was the predictor of the 2020 release; it was moved to {tmp_path}/out/toy.released.pt"
    assert capsys.readouterr().err.count(said) == 1


def test_release_yaml(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([config, "--json", "--no-progress-bar"]) == 0
    captured = capsys.readouterr()
    assert "toy_all.csv does not exist; reading" in captured.err
    assert "lr has no effect here" in captured.err
    report = json.loads(captured.out.splitlines()[-1])
    scores = {"mape_percent", "rmse_ms", "kendall_tau"}
    assert set(report) == scores | {"baselines"}
    assert {name: set(values) for name, values in report["baselines"].items()} == {
        "depth_only": scores,
        "least_squares": scores,
    }
    assert report["mape_percent"] < 3
    for name in ("predictor", "depth_only", "least_squares", "MAPE %", "RMSE ms", "Kendall tau"):
        assert name in captured.out
    assert LatencyPredictor.load(tmp_path / "out" / "toy.pt").report == report
    assert (tmp_path / "out" / "toy.png").read_bytes().startswith(b"\x89PNG")


def test_of_two_tables_the_named_one_is_read(config: str, tmp_path: Path, capsys) -> None:
    shutil.copy(tmp_path / "toy.csv", tmp_path / "toy_all.csv")
    assert main([config, "--train-steps=1"]) == 0
    captured = capsys.readouterr()
    assert f"40 rows of {tmp_path}/toy_all.csv" in captured.out
    assert f"reading the first; --lat-dataset-path={tmp_path}/toy.csv takes the other" in captured.err


def test_the_resolved_config_repeats_the_run(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([config, "--json", "--seed", "7", "--predictor-lr=1e-3"]) == 0
    first = capsys.readouterr().out.splitlines()[-1]
    assert main([f"--configs={tmp_path}/out/toy.config.yml", "--json"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == first
    assert main([config, "--json", "--seed", "8"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] != first


def test_without_matplotlib(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: object, **more: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    assert main([config]) == 0
    assert "matplotlib is not installed" in capsys.readouterr().err
    assert (tmp_path / "out" / "toy.pt").exists() and not (tmp_path / "out" / "toy.png").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lat-dataset-path=none.csv"], "DataError: no latency table: none.csv does not exist"),
        (["--train-step=1"], "did you mean --train-steps?"),
        (["--bsz=0"], "ConfigError: --bsz must be from 1"),
    ],
)
def test_user_errors(config: str, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([config, *flags]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.out == ""


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "--lat-dataset-path is not given" in capsys.readouterr().err
    assert main(["--lat-dataset-path=x.csv"]) == 2
    assert "--ckpt-path is not given" in capsys.readouterr().err


def test_script() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "latency_predictor.py", "--help"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--lat-dataset-path" in done.stdout
