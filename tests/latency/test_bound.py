"""The upper bound of a predictor, and its move to another device."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from toy_rows import draw_arch, rows_of, true_ms

from hat.errors import ConfigError
from hat.latency.costs import fit_costs
from hat.latency.predictor import LatencyPredictor
from hat.latency.table import Row
from hat.space import features


def test_the_bound_covers_what_it_promises() -> None:
    held = []
    for seed in range(4):
        predictor = LatencyPredictor.fit(rows_of(100, seed=seed, noise=0.03), seed=seed, test=False)
        fresh = rows_of(200, seed=1000 + seed, noise=0.03)
        upper = [predictor.upper_ms(row.arch) for row in fresh if row.arch]
        held.append(np.mean([row.total_ms <= ms for row, ms in zip(fresh, upper, strict=True)]))
    assert 0.92 <= np.mean(held) <= 0.98


def test_the_bound_is_the_conformal_quantile() -> None:
    predictor = LatencyPredictor.fit(rows_of(60, noise=0.03), test=False)
    arch = draw_arch(random.Random(0))
    margins = [predictor.margin(coverage) for coverage in (0.1, 0.5, 0.9, 0.95, 60 / 61)]
    assert margins == sorted(margins) and margins[0] < 1 < margins[2]
    assert predictor.upper_ms(arch, 0.9) == predictor.predict_ms(arch) * predictor.margin(0.9)
    assert predictor.max_coverage == 60 / 61
    residuals = sorted(predictor._residuals)
    assert margins[3] == math.exp(residuals[math.ceil(61 * 0.95) - 1]) and margins[4] == math.exp(
        residuals[-1]
    )


def test_a_bound_beyond_the_rows_is_refused() -> None:
    predictor = LatencyPredictor.fit(rows_of(18), test=False)
    with pytest.raises(
        ConfigError, match="needs 19 rows left out, this predictor has 18; ask for at most 0.947"
    ):
        predictor.upper_ms(draw_arch(random.Random(0)), 0.95)
    assert LatencyPredictor.fit(rows_of(19), test=False).margin() > 0
    for coverage in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="must lie between 0 and 1"):
            predictor.margin(coverage)


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
        assert errors[0] < 0.02 and new.conditions == {"device": "new"}
        assert new.report and new.report["rows"] == 20 and new.report["bound"] is None
        assert new.report["mape_percent"] < 4 and len(new.report["baselines"]) == 2
        assert new.margin() > 0.97
    assert np.mean(gains) < 0.7
    assert new.predict_many(archs) == old.transferred(few, seed=seed).predict_many(archs)
    assert old.predict_ms(archs[0]) == pytest.approx(true_ms(archs[0]), rel=0.03)  # the old one is left alone
