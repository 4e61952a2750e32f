"""Blocks of drifting rows: injected ones are found, noise raises no alarm."""

import random
from pathlib import Path

import numpy as np
import pytest
from toy_rows import draw_arch, rows_of, slowed, true_ms

from hat.latency.costs import drifting_rows, find_blocks
from hat.latency.predictor import LatencyPredictor
from hat.latency.table import read_table

RELEASED = Path(__file__).parents[2].parent / "shared" / "hat_release" / "latency_dataset"


def noise(count: int, scale: float, seed: int, heavy: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return scale * (rng.standard_t(3, count) if heavy else rng.standard_normal(count))


@pytest.mark.parametrize("percent", [5.0, 10.0, 17.7, -10.0])
@pytest.mark.parametrize(("first", "end"), [(0, 200), (300, 420), (800, 1000)])
def test_an_injected_block_is_found(percent: float, first: int, end: int) -> None:
    series = noise(1000, 0.02, 0)
    series[first:end] += np.log1p(percent / 100)
    (block,), weight = find_blocks(series)
    assert abs(block.first - first) <= 8 and abs(block.last + 1 - end) <= 8
    assert block.percent == pytest.approx(percent, abs=1.0)
    assert (weight[: max(0, first - 10)] == 1).all() and (weight[end + 10 :] == 1).all()
    assert weight[(first + end) // 2] < 0.3


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("scale", [0.005, 0.02, 0.05])
def test_noise_alone_raises_no_alarm(scale: float, heavy: bool) -> None:
    alarms = [
        len(find_blocks(noise(count, scale, seed, heavy))[0])
        for count in (100, 400, 2000)
        for seed in range(6)
    ]
    assert np.mean(np.array(alarms) > 0) <= 0.05


def test_a_level_that_wanders_is_one_block() -> None:
    series = noise(600, 0.01, 0)
    series[100:200] += 0.20
    series[150:200] += 0.05
    (block,), weight = find_blocks(series)
    assert abs(block.first - 100) <= 3 and abs(block.last - 199) <= 3


@pytest.mark.parametrize("percent", [5.0, 17.7])
def test_a_slow_block_of_a_table_is_reported_and_does_not_move_the_predictor(percent: float) -> None:
    rows = rows_of(400, noise=0.01)
    rows[200:280] = slowed(rows[200:280], percent)
    predictor = LatencyPredictor.fit(rows)
    assert predictor.report
    (block,) = predictor.report["drift"]
    assert abs(block["first"] - 200) <= 5 and abs(block["last"] - 279) <= 5
    assert block["percent"] == pytest.approx(percent, abs=1.0)
    archs = [draw_arch(random.Random(n)) for n in range(100)]
    predicted = np.array(predictor.predict_many(archs))
    assert abs(float(np.mean(predicted / [true_ms(arch) for arch in archs])) - 1) < 0.004


def test_a_slow_block_is_found_when_a_predictor_is_transferred() -> None:
    old = LatencyPredictor.fit(rows_of(300, noise=0.01), test=False)
    rows = slowed(rows_of(60, seed=7, noise=0.01), 100)
    clean = old.transferred(rows, seed=2)
    assert clean.report and clean.report["drift"] == clean.report["old_drift"] == []
    rows[24:42] = slowed(rows[24:42], 20)
    new = old.transferred(rows, seed=2)
    assert new.report
    (block,) = new.report["drift"]
    assert abs(block["first"] - 24) <= 2 and abs(block["last"] - 41) <= 2
    assert block["percent"] == pytest.approx(20, abs=1.5)
    archs = [draw_arch(random.Random(n)) for n in range(100)]
    level = float(np.mean(np.array(new.predict_many(archs)) / [2 * true_ms(arch) for arch in archs]))
    assert level == pytest.approx(1, abs=0.005)


@pytest.mark.skipif(not RELEASED.exists(), reason="the released tables are not in ../shared")
@pytest.mark.parametrize(
    ("name", "first", "last", "percent"),
    [
        ("iwslt14deen_gpu_titanxp_all", 25, 356, 26),
        ("wmt14ende_cpu_raspberrypi_all", 0, 120, 43),
        ("wmt14ende_gpu_titanxp_all", 1263, 1499, 28),
    ],
)
def test_known_blocks_of_the_released_tables(name: str, first: int, last: int, percent: float) -> None:
    rows = read_table(RELEASED / f"{name}.csv")
    features = np.array([row.features for row in rows])
    blocks, weight = drifting_rows(features, np.array([row.total_ms for row in rows]))
    largest = max(blocks, key=lambda block: (block.last - block.first) * block.percent)
    assert (largest.first, largest.last) == (first, last)
    assert largest.percent == pytest.approx(percent, abs=1)
    assert weight[first:last].max() < 0.1
