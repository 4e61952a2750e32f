"""Predictor files: round trips, older formats, damage that is refused."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_predictor import released_weights
from toy_rows import draw_arch, rows_of

from hat.errors import CheckpointError, ConfigError
from hat.latency.predictor import FORMAT, LatencyPredictor

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "hat_release" / "predictors"
NORM = [640.0, 6.0, 2048.0, 6.0, 640.0, 6.0, 2048.0, 6.0, 6.0, 2.0]


@pytest.fixture(scope="module")
def fitted() -> LatencyPredictor:
    return LatencyPredictor.fit(rows_of(60))


def test_save_then_load(fitted: LatencyPredictor, tmp_path: Path) -> None:
    fitted.save(tmp_path / "deep" / "p.pt")
    loaded = LatencyPredictor.load(tmp_path / "deep" / "p.pt", feature_norm=(1,) * 10, lat_norm=3)
    archs = [draw_arch(random.Random(n)) for n in range(20)]
    assert loaded.predict_many(archs) == fitted.predict_many(archs) and loaded.margin() == fitted.margin()
    assert loaded.report == fitted.report and loaded.conditions == {"device": "toy"}
    assert torch.load(tmp_path / "deep" / "p.pt")["format"] == FORMAT == 3


BROKEN = {
    "format": [FORMAT + 1, None, 2],
    "feature_names": [["x"], None],
    "mean": [[1.0] * 10, [math.nan] * 17],
    "inverse_spread": [[1.0] * 16],
    "base": [[[1.0] * 3], None],
    "floor_ms": [math.inf, math.nan],
    "residuals": [[math.nan], 5],
    "conditions": [5],
    "weights": [[], None, ["x"], [torch.zeros(1, 17, 4), torch.zeros(1, 3, 1)]],
    "biases": [[], [torch.full((1, 1, 16), math.nan)] * 3],
}


@pytest.mark.parametrize("name", BROKEN)
def test_inconsistent_files_are_refused(fitted: LatencyPredictor, tmp_path: Path, name: str) -> None:
    fitted.save(tmp_path / "p.pt")
    for value in BROKEN[name]:
        torch.save(torch.load(tmp_path / "p.pt") | {name: value}, tmp_path / "q.pt")
        with pytest.raises(CheckpointError, match=r"q\.pt.*train it again with latency_predictor.py"):
            LatencyPredictor.load(tmp_path / "q.pt")


class Evil:
    def __reduce__(self) -> tuple:
        return (Path("ran").touch, ())


def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot read .*q.pt.*latency_predictor.py"):
        LatencyPredictor.load("q.pt")
    Path("q.pt").write_bytes(b"junk")
    with pytest.raises(CheckpointError):
        LatencyPredictor.load("q.pt")
    broken = ({"predict.bias": torch.tensor([math.nan])}, {"layers.0.weight": torch.zeros(4, 5)})
    for content in ([1, 2], {"first_layer.weight": Evil()}, *(released_weights(4) | each for each in broken)):
        torch.save(content, "q.pt")
        with pytest.raises(CheckpointError):
            LatencyPredictor.load("q.pt", NORM, 200.0)
    assert not Path("ran").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "latency_dataset" / "predictors").glob("*.pt")), ids=str)
def test_shipped_predictors_load(path: Path) -> None:
    assert 1 < LatencyPredictor.load(path).predict_ms(draw_arch(random.Random(0))) < 10_000


@pytest.mark.skipif(not SHARED.exists(), reason="the released predictors are not in ../shared")
@pytest.mark.parametrize("name", ["wmt14ende_cpu_xeon", "wmt14ende_gpu_titanxp"])
def test_released_predictor(name: str) -> None:
    expected = json.loads((SHARED / "expected.json").read_text())[name]
    predictor = LatencyPredictor.load(SHARED / f"{name}.pt", expected["feature_norm"], expected["lat_norm"])
    found = predictor.predict_features(np.array([case["features"] for case in expected["cases"]]))
    np.testing.assert_allclose(found, [case["latency_ms"] for case in expected["cases"]], rtol=1e-3)
    assert predictor.max_coverage == 0 and predictor.report is None
    with pytest.raises(ConfigError, match="2020 release has no upper bound; train it again"):
        predictor.margin()
    with pytest.raises(CheckpointError, match="give --feature-norm and --lat-norm"):
        LatencyPredictor.load(SHARED / f"{name}.pt")
    with pytest.raises(CheckpointError, match="cannot be written to .*; copy its file"):
        predictor.save("q.pt")
    with pytest.raises(CheckpointError, match="cannot be transferred; .*the table .CSV. of the old device"):
        predictor.transferred(rows_of(20))
