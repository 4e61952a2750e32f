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
from hat.files.atomic import digest_path
from hat.latency.costs import FOLDS
from hat.latency.predictor import FORMAT, LatencyPredictor, is_released
from hat.space import FEATURE_NAMES, LAYER_FEATURE_NAMES, features

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
    assert loaded.predict_many(archs) == fitted.predict_many(archs)
    assert loaded.upper_many(archs) == fitted.upper_many(archs)
    assert loaded.report == fitted.report and loaded.conditions == {"device": "toy"}
    assert torch.load(tmp_path / "deep" / "p.pt")["format"] == FORMAT == 3


def test_every_flipped_bit_is_refused(fitted: LatencyPredictor, tmp_path: Path) -> None:
    path = tmp_path / "p.pt"
    fitted.save(path)
    whole = path.read_bytes()
    for at in [*range(0, len(whole), 137), *range(20), len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match=r"p\.pt"):
            LatencyPredictor.load(path)
    digest_path(path).unlink()
    path.write_bytes(whole)
    assert LatencyPredictor.load(path).report == fitted.report
    for cut in range(0, len(whole), 503):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=r"p\.pt"):
            LatencyPredictor.load(path)
    path.write_bytes(whole)
    at = whole.index(torch.load(path)["weights"][1].numpy().tobytes()) + 100
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(CheckpointError, match="damaged"):
        LatencyPredictor.load(path)


def each_of(changes: dict[str, list]) -> list[dict]:
    return [{name: value} for name, values in changes.items() for value in values]


BROKEN = {
    "format": [FORMAT + 1, None, 2],  # 2 has five members
    "feature_names": [["x"], None],
    "mean": [[1.0] * 10, [math.nan] * 17],
    "inverse_spread": [[1.0] * 16],
    "base": [[[1.0] * 3], None],
    "floor_ms": [math.inf, -1.0],
    "residuals": [[math.nan], 5],
    "report": [5],
    "conditions": [5],
    "drift": [[{"first": "x"}]],
    "weights": [[], None, ["x"], [torch.zeros(1, 17, 4), torch.zeros(1, 3, 1)]],
    "biases": [[]],
}


@pytest.mark.parametrize("change", each_of(BROKEN))
def test_inconsistent_files_are_refused(fitted: LatencyPredictor, tmp_path: Path, change: dict) -> None:
    fitted.save(tmp_path / "p.pt")
    torch.save(torch.load(tmp_path / "p.pt") | change, tmp_path / "q.pt")
    with pytest.raises(CheckpointError, match=r"q\.pt"):
        LatencyPredictor.load(tmp_path / "q.pt")


def test_weights_that_do_not_fit(fitted: LatencyPredictor, tmp_path: Path) -> None:
    fitted.save(tmp_path / "p.pt")
    content = torch.load(tmp_path / "p.pt")
    for key in ("weights", "biases"):
        for number, value in enumerate(content[key]):
            for broken in (torch.full_like(value, math.nan), torch.zeros(3), value[:0]):
                values = [broken if i == number else v for i, v in enumerate(content[key])]
                torch.save(content | {key: values}, tmp_path / "q.pt")
                with pytest.raises(CheckpointError, match=r"q\.pt"):
                    LatencyPredictor.load(tmp_path / "q.pt")
    for junk in (b"", b"junk", b"\x80\x02", json.dumps({}).encode()):
        (tmp_path / "q.pt").write_bytes(junk)
        with pytest.raises(CheckpointError):
            LatencyPredictor.load(tmp_path / "q.pt")
    torch.save([1, 2], tmp_path / "q.pt")
    with pytest.raises(CheckpointError):
        LatencyPredictor.load(tmp_path / "q.pt")


def test_format_2_is_the_mean_of_five(tmp_path: Path) -> None:
    """Each member: 30 ms for each decoder layer and a constant, times exp(a network of one ReLU)."""
    count = len(LAYER_FEATURE_NAMES)
    columns = 23  # of Scaling.columns for whole architectures; the last is the decoder's depth
    base = np.zeros((FOLDS, columns + 1))
    base[:, -2], base[:, -1] = 30.0, np.arange(FOLDS)
    weights = [torch.zeros(FOLDS, count, 1), torch.ones(FOLDS, 1, 1)]
    weights[0][:, LAYER_FEATURE_NAMES.index("decoder_layer_num")] = 0.1
    content = {
        "format": 2,
        "kind": "hat latency predictor",
        "feature_names": list(LAYER_FEATURE_NAMES),
        "mean": [0.0] * count,
        "inverse_spread": [1.0] * count,
        "base": base.tolist(),
        "floor_ms": 1.0,
        "weights": weights,
        "biases": [torch.zeros(FOLDS, 1, 1), torch.zeros(FOLDS, 1, 1)],
        "residuals": [0.01 * n for n in range(40)],
        "report": {
            "mape_percent": 1.0,
            "drift": [{"first": 3, "last": 20, "percent": 9.0}],
            "networks": True,
        },
        "conditions": {"device": "toy"},
    }
    torch.save(content, tmp_path / "p.pt")
    predictor = LatencyPredictor.load(tmp_path / "p.pt")
    arch = draw_arch(random.Random(0))
    depth = arch.decoder.num_layers
    expected = math.exp(np.mean([math.log(30 * depth + n) for n in range(FOLDS)]) + 0.1 * depth)
    assert predictor.predict_ms(arch) == pytest.approx(expected, rel=1e-6)
    assert predictor.margin(0.5) == pytest.approx(math.exp(0.2)) and predictor.drift[0].first == 3
    new = predictor.transferred(rows_of(20))
    assert new.report and new.report["mape_percent"] < 10 and new.report["old_drift"][0]["last"] == 20


def format_1() -> dict:
    return {
        "format": 1,
        "kind": "hat latency predictor",
        "feature_names": list(FEATURE_NAMES),
        "feature_norm": NORM,
        "lat_norm": 200.0,
        "hidden_dim": 4,
        "hidden_layer_num": 1,
        "target": "log_ratio",
        "base": [0.0] * 5 + [1.0] + [0.0] * 14 + [0.25],  # 1 * depth / 6 + 0.25
        "floor": 0.1,
        "report": None,
        "conditions": {"device": "toy"},
        "model": released_weights(4),
    }


def test_format_1_is_still_read_and_has_no_bound(tmp_path: Path) -> None:
    content = format_1()
    torch.save(content, tmp_path / "p.pt")
    predictor = LatencyPredictor.load(tmp_path / "p.pt")
    arch = draw_arch(random.Random(0))
    x = np.array(features(arch)) / NORM
    h = x
    for name in ("first_layer", "layers.0", "predict"):
        weight, bias = (content["model"][f"{name}.{part}"].double().numpy() for part in ("weight", "bias"))
        h = weight @ (h if name == "first_layer" else np.maximum(h, 0)) + bias
    assert predictor.predict_ms(arch) == pytest.approx(200 * (x[5] + 0.25) * math.exp(h[0]), rel=1e-12)
    assert predictor.conditions == {"device": "toy"} and predictor.max_coverage == 0
    with pytest.raises(ConfigError, match="no upper bound.*earlier version.*latency_predictor.py"):
        predictor.upper_ms(arch)
    with pytest.raises(CheckpointError, match="copy that file"):
        predictor.save(tmp_path / "q.pt")
    with pytest.raises(CheckpointError, match="table .CSV. of the old device"):
        predictor.transferred(rows_of(20))


BROKEN_1 = {
    "feature_names": [["x"]],
    "feature_norm": [[1.0] * 9, [0.0] * 10, [math.nan] * 10, None],
    "lat_norm": [math.inf, -1.0, "x"],
    "target": ["bleu", "latency"],
    "base": [[1.0], [math.nan] * 21, 5],
    "floor": [math.nan],
    "report": [5],
    "model": [{}, None, {"first_layer.weight": torch.zeros(4, 10)}, {"first_layer.weight": "x"}]
    + [released_weights(4) | {"predict.bias": torch.tensor([math.nan])}]
    + [released_weights(4) | {"layers.0.weight": torch.zeros(4, 5)}],
}


@pytest.mark.parametrize("change", each_of(BROKEN_1))
def test_inconsistent_files_of_format_1_are_refused(tmp_path: Path, change: dict) -> None:
    torch.save(format_1() | change, tmp_path / "q.pt")
    with pytest.raises(CheckpointError, match=r"q\.pt"):
        LatencyPredictor.load(tmp_path / "q.pt")


@pytest.mark.parametrize("path", sorted((ROOT / "latency_dataset" / "predictors").glob("*.pt")), ids=str)
def test_shipped_predictors_load(path: Path) -> None:
    assert 1 < LatencyPredictor.load(path).predict_ms(draw_arch(random.Random(0))) < 10_000


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"first_layer.weight": Evil()}, tmp_path / "q.pt")
    with pytest.raises(CheckpointError):
        LatencyPredictor.load(tmp_path / "q.pt", (1,) * 10, 1)
    assert not (tmp_path / "ran").exists()


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*none.pt.*latency_predictor.py"):
        LatencyPredictor.load(tmp_path / "none.pt")


@pytest.mark.skipif(not SHARED.exists(), reason="the released predictors are not in ../shared")
@pytest.mark.parametrize("name", ["wmt14ende_cpu_xeon", "wmt14ende_gpu_titanxp"])
def test_released_predictor(name: str) -> None:
    expected = json.loads((SHARED / "expected.json").read_text())[name]
    predictor = LatencyPredictor.load(SHARED / f"{name}.pt", expected["feature_norm"], expected["lat_norm"])
    found = predictor.predict_features(np.array([case["features"] for case in expected["cases"]]))
    np.testing.assert_allclose(found, [case["latency_ms"] for case in expected["cases"]], rtol=1e-3)
    assert predictor.max_coverage == 0 and predictor.report is None
    with pytest.raises(ConfigError, match="no upper bound: it is of the 2020 release"):
        predictor.margin()
    with pytest.raises(CheckpointError, match="give --feature-norm and --lat-norm"):
        LatencyPredictor.load(SHARED / f"{name}.pt")


def test_released_weights_are_known(fitted: LatencyPredictor, tmp_path: Path) -> None:
    path = tmp_path / "p.pt"
    assert not is_released(path)
    torch.save(released_weights(4), path)
    assert is_released(path)
    digest_path(path).write_text(f"{'0' * 64}  p.pt\n")
    assert not is_released(path)  # damaged
    fitted.save(path)
    assert not is_released(path)
