"""The latency predictor: recovery, determinism, files that round-trip, damage that is refused."""

import json
import math
import random

import numpy as np
import pytest
import torch
from toy_rows import draw_arch, rows_of, true_ms

from hat.latency.costs import Scaling, depth_only, least_squares
from hat.latency.predictor import LatencyPredictor, kendall_tau
from hat.space import Arch, DecoderArch, EncoderArch, features


@pytest.fixture(scope="module")
def fitted() -> LatencyPredictor:
    return LatencyPredictor.fit(rows_of(300))


def test_additive_latency_is_recovered(fitted: LatencyPredictor) -> None:
    rng = random.Random(99)
    for _ in range(50):
        arch = draw_arch(rng)
        assert fitted.predict_ms(arch) == pytest.approx(true_ms(arch), rel=0.02)
    report = fitted.report
    assert report and report["mape_percent"] < 0.5 and report["kendall_tau"] > 0.98
    assert report["baselines"]["depth_only"]["mape_percent"] > 2
    assert report["baselines"]["least_squares"]["mape_percent"] > report["mape_percent"]


def test_same_seed_same_predictor_whatever_the_global_state(fitted: LatencyPredictor) -> None:
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    again = LatencyPredictor.fit(rows_of(300))
    assert torch.equal(state, torch.random.get_rng_state())
    assert again.report == fitted.report
    archs = [draw_arch(random.Random(n)) for n in range(33)]
    assert again.predict_many(archs) == fitted.predict_many(archs) and fitted.predict_many([]) == []
    assert fitted.predict_many(archs) == pytest.approx([fitted.predict_ms(a) for a in archs], rel=1e-12)


@pytest.mark.parametrize("count", [10, 25])
def test_few_rows(count: int) -> None:
    predictor = LatencyPredictor.fit(rows_of(count, noise=0.02), seed=0)
    assert json.loads(json.dumps(predictor.report)) == predictor.report
    for n in range(20):
        arch = draw_arch(random.Random(n))
        assert true_ms(arch) / 3 < predictor.predict_ms(arch) < true_ms(arch) * 3


def test_constant_features_say_nothing_about_other_values(fitted: LatencyPredictor) -> None:
    arch = draw_arch(random.Random(3))
    deeper = Arch(EncoderArch(arch.encoder.embed_dim, (2048,) * 600, (8,) * 600), arch.decoder)
    flat = Arch(EncoderArch(arch.encoder.embed_dim, (2048,) * 6, (8,) * 6), arch.decoder)
    assert fitted.predict_ms(deeper) == pytest.approx(fitted.predict_ms(flat), rel=1e-6)


def test_identical_rows_and_far_architectures_stay_finite(fitted: LatencyPredictor) -> None:
    same = LatencyPredictor.fit(rows_of(1) * 20, seed=0)
    assert same.predict_ms(draw_arch(random.Random(0))) == pytest.approx(rows_of(1)[0].total_ms, rel=1e-3)
    assert same.report and same.report["kendall_tau"] == 0
    giant = Arch(
        EncoderArch(10**6, (10**6,), (1,)), DecoderArch(1, (1,) * 60, (1,) * 60, (1,) * 60, (1,) * 60)
    )
    assert 0 < fitted.predict_ms(giant) < math.inf


@pytest.mark.parametrize(
    ("predicted", "measured", "tau"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, 2, 4, 3], 4 / 6),
        ([1, 1, 2, 3], [1, 2, 3, 4], 5 / 6),  # 5 pairs ordered in both, (1, 1) tied in the prediction only
        ([1, 2, 3, 4], [1, 1, 2, 3], 1.0),  # the tie is in what was measured: no pair to order
        ([1, 1, 2, 3], [1, 2, 3, 3], 4 / 5),  # 4 agree, none disagree, one tie on each side
        ([1, 1, 1], [1, 2, 3], 0.0),
        ([1, 2, 3], [1, 1, 1], 0.0),
        ([1], [1], 0.0),
    ],
)
def test_kendall_by_hand(predicted: list[float], measured: list[float], tau: float) -> None:
    first, second = np.array(predicted, float), np.array(measured, float)
    assert kendall_tau(first, second) == pytest.approx(tau)


def test_baselines_by_hand() -> None:
    raw = np.array([features(draw_arch(random.Random(n))) for n in range(40)])
    line = 5 + 7 * raw[:, 5]
    np.testing.assert_allclose(depth_only(raw, line)(raw), line)
    np.testing.assert_allclose(least_squares(raw, line)(raw), line)
    per_layer = 5 + raw[:, 0] + raw[:, 1] * (3 + 2 * raw[:, 2]) + raw[:, 5] * (raw[:, 6] + 4 * raw[:, 9])
    np.testing.assert_allclose(least_squares(raw, per_layer)(raw), per_layer)
    unknown = Scaling.of(raw).inverse_spread
    assert unknown[1] == 0 and unknown[5] > 0
