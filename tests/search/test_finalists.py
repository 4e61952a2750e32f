"""Who wins under a limit once finalists are measured."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hat.errors import HatError
from hat.files.journal import Journal, read_journal
from hat.search.constraints import ROUNDS, Candidate, DeviceTimer, Finalist, Measured, choose_finalists
from hat.space import Arch, DecoderArch, EncoderArch


def candidate(number: int, predicted_ms: float) -> Candidate:
    """Return one that is the better the lower its number."""
    arch = Arch(EncoderArch(8 + number, (8,), (1,)), DecoderArch(8, (8,), (1,), (1,), (1,)))
    return Candidate(arch, (), predicted_ms, predicted_ms * 1.02, 100, 200, loss=1 + number / 100)


class Clock:
    """Measures by a table, each known to +- `interval_ms`."""

    def __init__(self, truth: dict[Arch, float], interval_ms: float = 0.1) -> None:
        self.truth, self.interval_ms = truth, interval_ms
        self.processes: list[list[Arch]] = []

    def __call__(self, archs: Sequence[Arch]) -> list[Measured]:
        self.processes.append(list(archs))
        return [Measured(self.truth[arch], self.interval_ms) for arch in archs]


def choose(
    candidates: Sequence[Candidate], measured: Sequence[float], count: int, interval_ms: float = 0.1
) -> tuple[Clock, list[str], Finalist]:
    """Return the clock, what the user was told, and the winner under 10 ms."""
    clock = Clock({each.arch: ms for each, ms in zip(candidates, measured, strict=True)}, interval_ms)
    told: list[str] = []
    return clock, told, choose_finalists({10.0: candidates}, count, clock, told.append)[10.0]


def test_the_best_that_is_sure_to_hold_wins() -> None:
    few = [candidate(n, 9.5) for n in range(4)]
    clock, told, winner = choose(few, [10.2, 9.95, 9.8, 1.0], 3)
    assert winner.arch == few[2].arch and winner.holds and winner.measured_ms == 9.8 and not told
    assert clock.processes == [[each.arch for each in few[:3]]], "each once"
    assert [each.holds for each in winner.finalists] == [False, None, True]
    plain = winner.plain()
    assert (plain["measured_ms"], plain["measured_interval_ms"], plain["within"]) == (9.8, 0.1, True)


def test_if_none_is_sure_to_hold_an_open_one_is_said_to_be_open() -> None:
    few = [candidate(n, 9.5) for n in range(3)]
    for best in (9.7, 10.3):
        _, told, winner = choose(few, (10.4, best, 10.2), 3, 0.35)
        assert winner.arch == few[1].arch and winner.holds is None and winner.plain()["within"] is None
        assert len(told) == 1 and "so this limit is open" in told[0]


def test_if_no_finalist_holds_the_next_ones_that_should_are_measured() -> None:
    few = [candidate(n, ms) for n, ms in enumerate([9.8, 9.7, 9.6, 9.0, 8.0, 7.0])]
    clock, told, winner = choose(few, [1.2 * each.predicted_ms for each in few], 2, 0.0)
    assert winner.arch == few[4].arch and winner.holds, "1.2 * 8 ms are within"
    assert clock.processes == [[few[0].arch, few[1].arch], [few[4].arch, few[5].arch]] and len(told) == 1
    assert "none of 2 finalists measures within 10 ms" in told[0] and "predicted: 1.200" in told[0]
    assert "2 predicted below 8.33 ms" in told[0]


def test_if_nothing_holds_the_fastest_is_said_to_be_above() -> None:
    few = [candidate(n, ms) for n, ms in enumerate([9.8, 9.7, 9.6])]
    _, told, winner = choose(few, [12.0, 11.0, 13.0], 5)
    assert winner.arch == few[1].arch and winner.holds is False and winner.measured_ms == 11.0
    assert "none of 3 finalists measures within 10 ms, the fastest takes 11.0 +- 0.1 ms" in told[-1]


def test_after_some_rounds_of_following_ones_it_ends() -> None:
    """Each round brings two candidates, which all measure too much although they should keep the limit."""
    few = [candidate(n, 9 - n / 20) for n in range(2 * ROUNDS + 9)]
    clock, _, winner = choose(few, [10.05] * len(few), 2, 0.0)
    assert len(winner.finalists) == 2 * ROUNDS + 2 and len(clock.processes) == ROUNDS + 1
    assert winner.holds is False


def test_the_finalists_of_all_limits_share_a_process_and_without_a_device_the_loss_decides() -> None:
    few = [candidate(n, ms) for n, ms in enumerate([9.0, 7.0, 5.0])]
    clock = Clock({each.arch: each.predicted_ms for each in few})
    winners = choose_finalists({10.0: few, 8.0: few[1:], 6.0: few[2:]}, 2, clock)
    assert [winners[limit].arch for limit in (10.0, 8.0, 6.0)] == [each.arch for each in few]
    assert clock.processes == [[each.arch for each in few]]
    winner = choose_finalists({10.0: few}, 2, None)[10.0]
    assert winner.arch == few[0].arch and winner.holds is None and winner.measured_ms is None
    assert [each.arch for each in winner.finalists] == [each.arch for each in few[:2]]


class Device:
    """Takes the place of a process that measures: no two measurements are alike, and it may break down."""

    def __init__(self) -> None:
        self.processes: list[list[Arch]] = []
        self.left, self.count = 1000, 0

    def __call__(self, archs: Sequence[Arch]) -> Iterator[Any]:
        self.processes.append([])
        for arch in archs:
            if not self.left:
                raise HatError("broken")
            self.left, self.count = self.left - 1, self.count + 1
            self.processes[-1].append(arch)
            known = {"run": str(self.count)}
            yield SimpleNamespace(total_ms=9 + self.count / 100, interval_ms=0.001, conditions=known)


@pytest.mark.parametrize("before", range(5))
def test_measurements_are_taken_from_the_journal(before: int, tmp_path: Path) -> None:
    """Whatever number of measurements an attempt before could make, the end is the same."""
    few = [candidate(n, 9.5) for n in range(4)]
    ends = []
    for name, lefts in (("whole", [1000, 0]), ("cut", [before, 1000, 0])):
        device = Device()
        for device.left in lefts:
            with Journal(tmp_path / f"{name}.jsonl") as journal:
                timer = DeviceTimer(device, {"beam": "4"}, journal)
                try:
                    winners = choose_finalists({10.0: few, 9.015: few}, 3, timer)
                except HatError:
                    assert device.count == before < 3
                else:
                    ends.append((winners, timer.conditions))
        assert device.count == len(read_journal(tmp_path / f"{name}.jsonl"))
        assert sum(map(len, device.processes)) == device.count == 3, "each of three once"
    assert len(ends) >= 4 and all(end == ends[0] for end in ends)


def test_measurements_of_other_conditions_or_without_an_interval_do_not_count(tmp_path: Path) -> None:
    device, arch = Device(), candidate(0, 9.5).arch
    with Journal(tmp_path / "j") as journal:
        journal.append({"arch": arch.to_yaml(), "asked": {"beam": "4"}, "measured_ms": 1.0, "process": 1})
        timer_of = partial(DeviceTimer, device, journal=journal)
        first, other = (timer_of({"beam": beam})([arch]) for beam in "45")
        assert first == [(9.01, 0.001)] and other == [(9.02, 0.001)]
        assert timer_of({"beam": "4"})([arch]) == first and device.count == 2
