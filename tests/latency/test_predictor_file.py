"""Predictor files: round trips, older formats, damage that is refused."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_rows import SMALL, draw_arch, rows_of

from hat.errors import CheckpointError, ConfigError
from hat.files.atomic import digest_path
from hat.latency.network import LatencyNet
from hat.latency.predictor import LatencyPredictor
from hat.space import FEATURE_NAMES, features

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "hat_release" / "predictors"


@pytest.fixture(scope="module")
def fitted() -> LatencyPredictor:
    return LatencyPredictor.fit(rows_of(60), SMALL, seed=1)


def test_save_then_load(fitted: LatencyPredictor, tmp_path: Path) -> None:
    fitted.save(tmp_path / "deep" / "p.pt")
    loaded = LatencyPredictor.load(tmp_path / "deep" / "p.pt", feature_norm=(1,) * 10, lat_norm=3)
    archs = [draw_arch(random.Random(n)) for n in range(20)]
    assert loaded.predict_many(archs) == fitted.predict_many(archs)
    assert loaded.upper_many(archs) == fitted.upper_many(archs)
    assert loaded.report == fitted.report and loaded.conditions == {"device": "toy"}


def test_every_flipped_bit_is_refused(fitted: LatencyPredictor, tmp_path: Path) -> None:
    path = tmp_path / "p.pt"
    fitted.save(path)
    whole = path.read_bytes()
    for at in [*range(0, len(whole), 37), *range(60), len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match=r"p\.pt"):
            LatencyPredictor.load(path)
    for cut in range(0, len(whole), 503):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=r"p\.pt"):
            LatencyPredictor.load(path)


def test_without_digest_damage_to_the_weights_is_still_found(
    fitted: LatencyPredictor, tmp_path: Path
) -> None:
    path = tmp_path / "p.pt"
    fitted.save(path)
    digest_path(path).unlink()
    assert LatencyPredictor.load(path).report == fitted.report
    whole = path.read_bytes()
    weights = torch.load(path)["weights"][1].numpy().tobytes()
    at = whole.index(weights) + 100
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(CheckpointError, match="wrong checksum"):
        LatencyPredictor.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 3},
        {"format": None},
        {"feature_names": ["x"]},
        {"feature_names": None},
        {"mean": [1.0] * 10},
        {"mean": [math.nan] * 17},
        {"inverse_spread": [1.0] * 16},
        {"base": [[1.0] * 3] * 5},
        {"base": None},
        {"floor_ms": math.inf},
        {"floor_ms": -1.0},
        {"residuals": [math.nan]},
        {"residuals": 5},
        {"report": 5},
        {"conditions": 5},
        {"weights": []},
        {"weights": None},
        {"weights": [torch.zeros(5, 17, 4), torch.zeros(5, 3, 1)]},
        {"weights": ["x"]},
        {"biases": []},
    ],
)
def test_inconsistent_files_are_refused(fitted: LatencyPredictor, tmp_path: Path, change: dict) -> None:
    fitted.save(tmp_path / "p.pt")
    content = torch.load(tmp_path / "p.pt") | change
    torch.save(content, tmp_path / "q.pt")
    with pytest.raises(CheckpointError, match=r"q\.pt"):
        LatencyPredictor.load(tmp_path / "q.pt")


def test_weights_that_do_not_fit(fitted: LatencyPredictor, tmp_path: Path) -> None:
    fitted.save(tmp_path / "p.pt")
    content = torch.load(tmp_path / "p.pt")
    for key in ("weights", "biases"):
        for number, value in enumerate(content[key]):
            for broken in (torch.full_like(value, math.nan), torch.zeros(3), value.int(), value[:4]):
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


def format_1() -> dict:
    torch.manual_seed(0)
    return {
        "format": 1,
        "kind": "hat latency predictor",
        "feature_names": list(FEATURE_NAMES),
        "feature_norm": [640.0, 6.0, 2048.0, 6.0, 640.0, 6.0, 2048.0, 6.0, 6.0, 2.0],
        "lat_norm": 200.0,
        "hidden_dim": 4,
        "hidden_layer_num": 1,
        "target": "log_ratio",
        "base": [0.0] * 5 + [1.0] + [0.0] * 14 + [0.25],  # 1 * depth / 6 + 0.25
        "floor": 0.1,
        "report": None,
        "conditions": {"device": "toy"},
        "model": LatencyNet(10, 4, 1).state_dict(),
    }


def test_format_1_is_still_read_and_has_no_bound(tmp_path: Path) -> None:
    content = format_1()
    torch.save(content, tmp_path / "p.pt")
    predictor = LatencyPredictor.load(tmp_path / "p.pt")
    arch = draw_arch(random.Random(0))
    x = np.array(features(arch)) / np.array(content["feature_norm"])
    net = LatencyNet(10, 4, 1).double()
    net.load_state_dict(content["model"])
    expected = 200 * (x[5] + 0.25) * math.exp(float(net(torch.tensor(x)[None]).detach()))
    assert predictor.predict_ms(arch) == pytest.approx(expected, rel=1e-12)
    assert predictor.conditions == {"device": "toy"} and predictor.max_coverage == 0
    with pytest.raises(ConfigError, match="no upper bound.*earlier version.*latency_predictor.py"):
        predictor.upper_ms(arch)
    with pytest.raises(CheckpointError, match="copy that file"):
        predictor.save(tmp_path / "q.pt")
    with pytest.raises(CheckpointError, match="table .CSV. of the old device"):
        predictor.transferred(rows_of(20), seed=0)


@pytest.mark.parametrize(
    "change",
    [
        {"feature_names": ["x"]},
        {"feature_norm": [1.0] * 9},
        {"feature_norm": [0.0] * 10},
        {"feature_norm": [math.nan] * 10},
        {"feature_norm": None},
        {"lat_norm": math.inf},
        {"lat_norm": -1.0},
        {"lat_norm": "1"},
        {"hidden_dim": 17},
        {"hidden_layer_num": 2},
        {"target": "bleu"},
        {"target": "latency"},
        {"base": [1.0]},
        {"base": [math.nan] * 21},
        {"base": 5},
        {"floor": math.nan},
        {"report": 5},
        {"model": {}},
        {"model": None},
        {"model": {"first_layer.weight": torch.zeros(4, 10)}},
        {"model": {"first_layer.weight": "x"}},
        {"model": LatencyNet(10, 4, 1).half().state_dict() | {"predict.bias": torch.tensor([math.nan])}},
    ],
)
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
    norms = expected["feature_norm"], expected["lat_norm"]
    for predictor in (
        LatencyPredictor.from_release(SHARED / f"{name}.pt", *norms),
        LatencyPredictor.load(SHARED / f"{name}.pt", *norms),
    ):
        found = predictor.predict_features(np.array([case["features"] for case in expected["cases"]]))
        np.testing.assert_allclose(found, [case["latency_ms"] for case in expected["cases"]], rtol=1e-3)
        assert predictor.max_coverage == 0 and predictor.report is None
        with pytest.raises(ConfigError, match="no upper bound: it is of the 2020 release"):
            predictor.margin()
    with pytest.raises(CheckpointError, match="give --feature-norm and --lat-norm"):
        LatencyPredictor.load(SHARED / f"{name}.pt")
