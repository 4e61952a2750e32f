"""Learning rates computed by hand."""

import math

import pytest

from hat.errors import ConfigError
from hat.train.policy import ScheduleConfig, learning_rate


def rates(cfg: ScheduleConfig, updates: list[int], max_update: int = 100) -> list[float]:
    return [learning_rate(cfg, update, max_update) for update in updates]


def test_inverse_sqrt() -> None:
    cfg = ScheduleConfig(lr=8e-4, warmup_updates=4)
    warm = [1e-7, 1e-7 + 0.25 * (8e-4 - 1e-7), 1e-7 + 0.5 * (8e-4 - 1e-7), 1e-7 + 0.75 * (8e-4 - 1e-7)]
    assert rates(cfg, [0, 1, 2, 3]) == pytest.approx(warm, rel=1e-12)
    assert rates(cfg, [4, 16, 64, 400]) == pytest.approx([8e-4, 4e-4, 2e-4, 8e-5], rel=1e-12)


def test_inverse_sqrt_without_warmup() -> None:
    cfg = ScheduleConfig(lr=1e-3)
    assert rates(cfg, [0, 1, 4, 100]) == pytest.approx([1e-3, 1e-3, 5e-4, 1e-4])


def test_cosine() -> None:
    cfg = ScheduleConfig("cosine", lr=1e-7, max_lr=1e-3, warmup_updates=10)
    assert rates(cfg, [0, 5]) == pytest.approx([1e-7, 1e-7 + 0.5 * (1e-3 - 1e-7)], rel=1e-12)
    span = 1e-3 - 1e-7
    expected = [1e-3, 1e-7 + span * (1 + math.sqrt(0.5)) / 2, 1e-7 + span / 2, 1e-7, 1e-7]
    assert rates(cfg, [10, 32, 55, 100, 150]) == pytest.approx(
        [1e-3, 1e-7 + span * 0.5 * (1 + math.cos(math.pi * 22 / 90)), *expected[2:]], rel=1e-9
    )
    assert rates(cfg, [10, 33], 102)[1] == pytest.approx(expected[1], rel=1e-9)  # a quarter of the way


def test_fixed() -> None:
    cfg = ScheduleConfig("fixed", lr=3e-4, max_lr=1.0, warmup_updates=2, warmup_init_lr=1e-4)
    assert rates(cfg, [0, 1, 2, 99]) == pytest.approx([1e-4, 2e-4, 3e-4, 3e-4])


def test_max_lr_belongs_to_cosine_only() -> None:
    assert rates(ScheduleConfig(lr=5e-4, max_lr=1.0), [1]) == [5e-4]


@pytest.mark.parametrize("max_update", [1, 5, 10])
def test_no_updates_after_warmup(max_update: int) -> None:
    cfg = ScheduleConfig("cosine", lr=1e-7, max_lr=1e-3, warmup_updates=10)
    assert all(1e-7 <= rate <= 1e-3 for rate in rates(cfg, list(range(20)), max_update))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_scheduler": "cosine"}, "needs --max-lr above --lr .*got max-lr None"),
        ({"lr_scheduler": "cosine", "max_lr": 5e-4}, "needs --max-lr above --lr"),
        ({"warmup_updates": -1}, "--warmup-updates must be at least 0, got -1"),
        ({"lr": -1.0}, "--lr must be at least 0, got -1"),
    ],
)
def test_impossible_schedules(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScheduleConfig(**options)
