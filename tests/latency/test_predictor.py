"""The latency predictor: recovery, determinism, bound, move to another device; files that are refused."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import Runs
from toy_predictor import released_weights
from toy_rows import draw_arch, rows_of, true_ms

from hat.errors import CheckpointError, ConfigError
from hat.latency.costs import depth_only, fit_costs
from hat.latency.predictor import FORMAT, LatencyPredictor, kendall_tau
from hat.latency.table import Row
from hat.space import Arch, DecoderArch, EncoderArch, features

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "hat_release" / "predictors"
NORM = [640.0, 6.0, 2048.0, 6.0, 640.0, 6.0, 2048.0, 6.0, 6.0, 2.0]
ARCHS = [draw_arch(random.Random(n)) for n in range(40)]


@pytest.fixture(scope="module")
def fitted() -> LatencyPredictor:
    return LatencyPredictor.fit(rows_of(300))


def test_additive_latency_is_recovered(fitted: LatencyPredictor) -> None:
    assert fitted.predict_many(ARCHS) == pytest.approx([true_ms(arch) for arch in ARCHS], rel=0.02)
    report = fitted.report
    assert report and report["mape_percent"] < 0.5 and report["kendall_tau"] > 0.98
    assert report["baselines"]["depth_only"]["mape_percent"] > 2


def test_same_seed_same_predictor_whatever_the_global_state(fitted: LatencyPredictor) -> None:
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    again = LatencyPredictor.fit(rows_of(300))
    assert torch.equal(state, torch.random.get_rng_state())
    assert json.loads(json.dumps(again.report)) == fitted.report and fitted.predict_many([]) == []
    assert again.predict_many(ARCHS) == fitted.predict_many(ARCHS)
    assert fitted.predict_many(ARCHS) == pytest.approx([fitted.predict_ms(a) for a in ARCHS], rel=1e-12)


def test_constant_features_say_nothing_and_far_architectures_stay_finite(fitted: LatencyPredictor) -> None:
    width, decoder = ARCHS[3].encoder.embed_dim, ARCHS[3].decoder
    deep, flat = (Arch(EncoderArch(width, (2048,) * n, (8,) * n), decoder) for n in (600, 6))
    assert fitted.predict_ms(deep) == pytest.approx(fitted.predict_ms(flat), rel=1e-6)
    few = LatencyPredictor.fit(rows_of(10, noise=0.02), seed=0)
    assert all(1 / 3 < few.predict_ms(arch) / true_ms(arch) < 3 for arch in ARCHS)
    same = LatencyPredictor.fit(rows_of(1) * 20, seed=0)
    assert same.predict_ms(ARCHS[0]) == pytest.approx(rows_of(1)[0].total_ms, rel=1e-3)
    assert same.report and same.report["kendall_tau"] == 0
    giant = Arch(EncoderArch(10**6, (10**6,), (1,)), DecoderArch(1, *[(1,) * 60] * 4))
    assert 0 < fitted.predict_ms(giant) < math.inf


@pytest.mark.parametrize(
    ("predicted", "measured", "tau"),
    [
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, 2, 4, 3], 4 / 6),
        ([1, 1, 2, 3], [1, 2, 3, 4], 5 / 6),  # 5 pairs ordered in both, (1, 1) tied in the prediction only
        ([1, 2, 3, 4], [1, 1, 2, 3], 1.0),  # the tie is in what was measured: no pair to order
        ([1, 1, 2, 3], [1, 2, 3, 3], 4 / 5),  # 4 agree, none disagree, one tie on each side
        ([1, 2, 3], [1, 1, 1], 0.0),
        ([1], [1], 0.0),
    ],
)
def test_kendall_by_hand(predicted: list[float], measured: list[float], tau: float) -> None:
    first, second = np.array(predicted, float), np.array(measured, float)
    assert kendall_tau(first, second) == pytest.approx(tau)


def test_a_line_on_the_depth() -> None:
    raw = np.array([features(arch) for arch in ARCHS])
    line = 5 + 7 * raw[:, 5]
    np.testing.assert_allclose(depth_only(raw, line)(raw), line)
    np.testing.assert_allclose(depth_only(raw[:1], line[:1])(raw), line[0])


def test_the_network_learns_what_does_not_add_up_and_hardly_counts_where_all_does() -> None:
    rows = rows_of(400, noise=0.005)
    x = np.array([features(row.arch) for row in rows if row.arch])
    ms = np.array([row.total_ms for row in rows])
    stepped = ms * np.where((x[:, 5] > 3) == (x[:, 4] > 600), 1.2, 1.0)
    for target, most in ((ms, 1.05), (stepped, 0.4)):
        model, residuals = fit_costs(x, target, seed=1)
        alone = np.mean(np.abs(np.log(target / model.base_ms(x))))
        assert np.mean(np.abs(residuals)) < most * alone + 1e-3
        assert any(weight.any() for weight, _ in model.layers)  # it always takes part


def test_the_bound_covers_what_it_promises() -> None:
    held = []
    for seed in range(4):
        predictor = LatencyPredictor.fit(rows_of(100, seed=seed, noise=0.03), seed=seed, test=False)
        fresh = rows_of(200, seed=1000 + seed, noise=0.03)
        upper = [predictor.upper_ms(row.arch) for row in fresh if row.arch]
        held.append(np.mean([row.total_ms <= ms for row, ms in zip(fresh, upper, strict=True)]))
    assert 0.92 <= np.mean(held) <= 0.98


def test_the_bound_is_the_conformal_quantile_and_refused_beyond_the_rows() -> None:
    predictor = LatencyPredictor.fit(rows_of(60, noise=0.03), test=False)
    assert predictor.upper_ms(ARCHS[0], 0.9) == predictor.predict_ms(ARCHS[0]) * predictor.margin(0.9)
    residuals = sorted(predictor._residuals)
    assert predictor.max_coverage == 60 / 61 and predictor.margin(60 / 61) == math.exp(residuals[-1])
    assert predictor.margin(0.95) == math.exp(residuals[math.ceil(61 * 0.95) - 1])
    few = LatencyPredictor.fit(rows_of(18), test=False)
    with pytest.raises(ConfigError, match="needs 19 rows left out, .* has 18; ask for at most 0.947"):
        few.upper_ms(ARCHS[0], 0.95)
    for coverage in (0.0, 1.0, math.nan):
        with pytest.raises(ConfigError, match="must lie between 0 and 1"):
            few.margin(coverage)


def test_twenty_rows_and_an_old_device_beat_twenty_rows() -> None:
    def other(row: Row) -> Row:
        assert row.arch
        ms = 0.3 * row.total_ms + 0.8 * row.arch.decoder.num_layers
        return replace(row, latency_mean_encoder=0.1 * ms, latency_mean_decoder=0.9 * ms)

    old = LatencyPredictor.fit(rows_of(300, noise=0.01), test=False)
    truth = rows_of(200, seed=9)
    archs = [row.arch for row in truth if row.arch]
    expected = np.array([other(row).total_ms for row in truth])
    gains = []
    for seed in range(2):
        few = [replace(other(row), conditions={"device": "new"}) for row in rows_of(20, 50 + seed, 0.01)]
        new = old.transferred(few, seed=seed)
        alone = LatencyPredictor.fit(few, seed=seed, test=False)
        errors = [np.mean(np.abs(np.array(p.predict_many(archs)) / expected - 1)) for p in (new, alone)]
        gains.append(errors[0] / errors[1])
        assert errors[0] < 0.02 and new.conditions == {"device": "new"} and new.margin() > 0.97
        assert new.report and new.report["rows"] == 20 and new.report["bound"] is None
        assert new.report["mape_percent"] < new.report["baselines"]["depth_only"]["mape_percent"]
    assert np.mean(gains) < 0.7
    assert new.predict_many(archs) == old.transferred(few, seed=seed).predict_many(archs)
    assert old.predict_ms(archs[0]) == pytest.approx(true_ms(archs[0]), rel=0.03)  # the old one is left alone


# --- files


def test_save_then_load(fitted: LatencyPredictor, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "p.pt"
    fitted.save(path)
    loaded = LatencyPredictor.load(path, feature_norm=(1,) * 10, lat_norm=3)
    assert loaded.predict_many(ARCHS) == fitted.predict_many(ARCHS) and loaded.margin() == fitted.margin()
    assert loaded.report == fitted.report and loaded.conditions == {"device": "toy"}
    assert torch.load(path)["format"] == FORMAT == 3


BROKEN = {
    "format": [FORMAT + 1, None, 2],
    "feature_names": [["x"], None],
    "mean": [[1.0] * 10, [math.nan] * 17],
    "base": [[[1.0] * 3], None],
    "floor_ms": [math.inf],
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


def test_other_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot read .*q.pt.*latency_predictor.py"):
        LatencyPredictor.load("q.pt")
    broken = ({"predict.bias": torch.tensor([math.nan])}, {"layers.0.weight": torch.zeros(4, 5)})
    evil = {"first_layer.weight": Runs(Path("ran").touch)}
    for content in ([1, 2], evil, *(released_weights(4) | each for each in broken)):
        torch.save(content, "q.pt")
        with pytest.raises(CheckpointError):
            LatencyPredictor.load("q.pt", NORM, 200.0)
    assert not Path("ran").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "latency_dataset" / "predictors").glob("*.pt")), ids=str)
def test_shipped_predictors_load(path: Path) -> None:
    assert 1 < LatencyPredictor.load(path).predict_ms(ARCHS[0]) < 10_000


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
    with pytest.raises(CheckpointError, match="of the 2020 release can only predict"):
        predictor.save("q.pt")
    with pytest.raises(CheckpointError, match="of the 2020 release can only predict"):
        predictor.transferred(rows_of(20))
