"""Who wins under a limit once finalists are measured."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hat.errors import HatError
from hat.files.journal import Journal, read_journal
from hat.search.constraints import ROUNDS, Candidate, DeviceTimer, Winner, choose_finalists
from hat.space import Arch, DecoderArch, EncoderArch


def candidate(number: int, predicted_ms: float) -> Candidate:
    """Return one that is the better the lower its number."""
    arch = Arch(EncoderArch(8 + number, (8,), (1,)), DecoderArch(8, (8,), (1,), (1,), (1,)))
    return Candidate(arch, (), predicted_ms, predicted_ms * 1.02, 100, 200, loss=1 + number / 100)


class Clock:
    """Measures by a table; `drift` comes on top in each later process."""

    def __init__(self, truth: dict[Arch, float], drift: float = 0.0) -> None:
        self.truth, self.drift = truth, drift
        self.processes: list[list[Arch]] = []

    def __call__(self, archs: Sequence[Arch]) -> list[float]:
        late = self.drift * len(self.processes)
        self.processes.append(list(archs))
        return [self.truth[arch] + late for arch in archs]


def choose(
    candidates: Sequence[Candidate], measured: Sequence[float], count: int, drift: float = 0.0
) -> tuple[Clock, list[str], Winner]:
    """Return the clock, what the user was told, and the winner under 10 ms."""
    clock = Clock({each.arch: ms for each, ms in zip(candidates, measured, strict=True)}, drift)
    told: list[str] = []
    return clock, told, choose_finalists({10.0: candidates}, count, clock, told.append)[10.0]


def test_the_best_that_holds_twice_wins() -> None:
    few = [candidate(n, 9.5) for n in range(4)]
    clock, told, winner = choose(few, [10.2, 9.8, 9.0, 1.0], 3)
    assert winner.arch == few[1].arch and winner.holds and winner.measured_ms == 9.8 and not told
    assert clock.processes == [[each.arch for each in few[:3]], [few[1].arch]], "two processes, no more"
    assert [each.measured_ms for each in winner.finalists] == [(10.2,), (9.8, 9.8), (9.0,)]


def test_one_that_holds_only_once_does_not_win() -> None:
    few = [candidate(n, 9.5) for n in range(3)]
    _, told, winner = choose(few, [9.9, 9.7, 9.0], 3, drift=0.2)
    assert winner.arch == few[2].arch and winner.holds and winner.measured_ms == pytest.approx(9.6)
    assert [len(each.measured_ms) for each in winner.finalists] == [2, 2, 2] and not told


def test_if_no_finalist_holds_the_next_ones_that_should_are_measured() -> None:
    few = [candidate(n, ms) for n, ms in enumerate([9.8, 9.7, 9.6, 9.0, 8.0, 7.0])]
    clock, told, winner = choose(few, [1.2 * each.predicted_ms for each in few], 2)
    assert winner.arch == few[4].arch and winner.holds, "1.2 * 8 ms are within"
    assert [few[2].arch] not in clock.processes and len(told) == 1
    assert "none of 2 finalists measures within 10 ms (measured / predicted: 1.200)" in told[0]
    assert "2 predicted below 8.33 ms" in told[0]


def test_if_nothing_holds_the_fastest_is_said_to_be_above() -> None:
    few = [candidate(n, ms) for n, ms in enumerate([9.8, 9.7, 9.6])]
    _, told, winner = choose(few, [12.0, 11.0, 13.0], 5)
    assert winner.arch == few[1].arch and winner.holds is False and winner.measured_ms == 11.0
    assert "none of 3 finalists measures within 10 ms, the fastest takes 11.00 ms" in told[-1]


@pytest.mark.parametrize("again_ms", [9.7, 10.3])
def test_what_the_last_round_finds_must_hold_twice_as_well(again_ms: float) -> None:
    """Each round brings two candidates; those of the last one are the first that measure within the limit."""
    few = [candidate(n, 9 - n / 20) for n in range(2 * ROUNDS + 4)]
    one, other = (each.arch for each in few[2 * ROUNDS : 2 * ROUNDS + 2])
    counts: Counter[Arch] = Counter()
    told: list[str] = []

    def clock(archs: Sequence[Arch]) -> list[float]:
        counts.update(archs)
        times = {one: (9.5, 10.4), other: (9.6, again_ms)}
        return [times[arch][counts[arch] - 1] if arch in times else 10.05 for arch in archs]

    winner = choose_finalists({10.0: few}, 2, clock, told.append)[10.0]
    assert len(winner.finalists) == 2 * ROUNDS + 2 and counts[one] == counts[other] == 2
    assert [each.measured_ms for each in winner.finalists[-2:]] == [(9.5, 10.4), (9.6, again_ms)]
    assert winner.holds == (again_ms <= 10)
    if winner.holds:
        assert winner.arch == other and winner.measured_ms == 9.7
        assert not any("the fastest takes" in text for text in told)
    else:
        assert winner.measured_ms == 10.05 and "within 10 ms, the fastest takes 10.05 ms" in told[-1]


def test_the_finalists_of_all_limits_share_a_process() -> None:
    few = [candidate(n, ms) for n, ms in enumerate([9.0, 7.0, 5.0])]
    clock = Clock({each.arch: each.predicted_ms for each in few})
    winners = choose_finalists({10.0: few, 8.0: few[1:], 6.0: few[2:]}, 2, clock)
    assert [winners[limit].arch for limit in (10.0, 8.0, 6.0)] == [each.arch for each in few]
    assert [len(archs) for archs in clock.processes] == [3, 3]


def test_without_a_device_the_loss_decides() -> None:
    few = [candidate(n, 9.0) for n in range(3)]
    winner = choose_finalists({10.0: few}, 2, None)[10.0]
    assert winner.arch == few[0].arch and winner.holds is None and winner.measured_ms is None
    assert [each.candidate for each in winner.finalists] == few[:2]


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
            yield SimpleNamespace(total_ms=9 + self.count / 100, conditions={"run": str(self.count)})


@pytest.mark.parametrize("before", range(8))
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
                    winners = choose_finalists({10.0: few, 9.035: few}, 3, timer)
                except HatError:
                    assert device.count == before < 6
                else:
                    ends.append((winners, timer.conditions))
        assert device.count == len(read_journal(tmp_path / f"{name}.jsonl"))
        assert sum(map(len, device.processes)) == device.count == 6, "each of three twice"
    assert len(ends) >= 4 and all(end == ends[0] for end in ends)


def test_measurements_of_other_conditions_do_not_count(tmp_path: Path) -> None:
    device, arch = Device(), candidate(0, 9.5).arch
    with Journal(tmp_path / "j") as journal:
        timer_of = partial(DeviceTimer, device, journal=journal)
        first, other = (timer_of({"beam": beam})([arch]) for beam in "45")
        assert first != other and device.count == 2
        again = timer_of({"beam": "4"})
        assert again([arch]) == first and again([arch]) == [9.03], "in another process"
