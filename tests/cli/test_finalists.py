"""Who wins under a limit, once finalists are measured."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hat.cli.finalists import ROUNDS, Bench, Candidate, Jury, by_prediction
from hat.cli.settings import parse_settings
from hat.errors import HatError
from hat.files.journal import read_journal
from hat.search.limits import Cost
from hat.space import Arch, DecoderArch, EncoderArch


def candidate(number: int, predicted_ms: float) -> Candidate:
    """Return one that is the better the lower its number."""
    arch = Arch(EncoderArch(8 + number, (8,), (1,)), DecoderArch(8, (8,), (1,), (1,), (1,)))
    return Candidate(arch, 1 + number / 100, Cost(predicted_ms, predicted_ms * 1.02, 100, 200))


class Clock:
    """Measures by a table; `drift` comes on top in each later process."""

    def __init__(self, truth: dict[Arch, float], drift: float = 0.0) -> None:
        self.truth, self.drift = truth, drift
        self.processes: list[list[Arch]] = []

    def __call__(self, archs: Sequence[Arch]) -> list[float]:
        late = self.drift * len(self.processes)
        self.processes.append(list(archs))
        return [self.truth[arch] + late for arch in archs]


def jury(candidates: Sequence[Candidate], measured: Sequence[float], count: int, drift: float = 0.0):
    clock = Clock({each.arch: ms for each, ms in zip(candidates, measured, strict=True)}, drift)
    told: list[str] = []
    return clock, told, Jury(clock, count, told.append)


def test_the_best_that_holds_twice_wins() -> None:
    few = [candidate(n, 9.5) for n in range(4)]
    clock, told, panel = jury(few, [10.2, 9.8, 9.0, 1.0], 3)
    choice = panel.choose({10.0: few})[10.0]
    assert choice.winner == few[1] and choice.holds and choice.measured_ms == 9.8 and not told
    assert clock.processes == [[each.arch for each in few[:3]], [few[1].arch]], "two processes, no more"
    assert [each.measured_ms for each in choice.finalists] == [(10.2,), (9.8, 9.8), (9.0,)]


def test_one_that_holds_only_once_does_not_win() -> None:
    few = [candidate(n, 9.5) for n in range(3)]
    _, told, panel = jury(few, [9.9, 9.7, 9.0], 3, drift=0.2)
    choice = panel.choose({10.0: few})[10.0]
    assert choice.winner == few[2] and choice.holds and abs(choice.measured_ms - 9.6) < 1e-9
    assert [len(each.measured_ms) for each in choice.finalists] == [2, 2, 2] and not told


def test_where_no_finalist_holds_the_next_ones_that_should_are_measured() -> None:
    few = [candidate(n, ms) for n, ms in enumerate([9.8, 9.7, 9.6, 9.0, 8.0, 7.0])]
    clock, told, panel = jury(few, [1.2 * each.cost.predicted_ms for each in few], 2)
    choice = panel.choose({10.0: few})[10.0]
    assert choice.winner == few[4] and choice.holds, "1.2 * 8 ms are within"
    assert [few[2].arch] not in clock.processes and len(told) == 1
    assert "none of 2 finalists measures within 10 ms (measured / predicted: 1.200)" in told[0]
    assert "2 predicted below 8.33 ms" in told[0]


def test_where_nothing_holds_the_fastest_is_said_to_be_above() -> None:
    few = [candidate(n, ms) for n, ms in enumerate([9.8, 9.7, 9.6])]
    _, told, panel = jury(few, [12.0, 11.0, 13.0], 5)
    choice = panel.choose({10.0: few})[10.0]
    assert choice.winner == few[1] and choice.holds is False and choice.measured_ms == 11.0
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

    choice = Jury(clock, 2, told.append).choose({10.0: few})[10.0]
    assert len(choice.finalists) == 2 * ROUNDS + 2 and counts[one] == counts[other] == 2
    assert [each.measured_ms for each in choice.finalists[-2:]] == [(9.5, 10.4), (9.6, again_ms)]
    assert choice.holds == (again_ms <= 10)
    if choice.holds:
        assert choice.winner.arch == other and choice.measured_ms == 9.7
        assert not any("the fastest takes" in text for text in told)
    else:
        assert choice.measured_ms == 10.05 and "within 10 ms, the fastest takes 10.05 ms" in told[-1]


def test_the_finalists_of_all_limits_share_a_process() -> None:
    few = [candidate(n, ms) for n, ms in enumerate([9.0, 7.0, 5.0])]
    clock, _, panel = jury(few, [9.0, 7.0, 5.0], 2)
    choices = panel.choose({10.0: few, 8.0: few[1:], 6.0: few[2:]})
    assert [choices[limit].winner for limit in (10.0, 8.0, 6.0)] == few
    assert [len(archs) for archs in clock.processes] == [3, 3]


def test_without_a_device_the_loss_decides() -> None:
    few = [candidate(n, 9.0) for n in range(3)]
    choice = by_prediction(few, 2)
    assert choice.winner == few[0] and choice.holds is None and choice.measured_ms is None
    assert [each.candidate for each in choice.finalists] == few[:2]


CONDITIONS = {"device": "d", "beam": "4"}


class Device:
    """Takes the place of a process that measures: no two measurements are alike, and it may break down."""

    def __init__(self) -> None:
        self.processes: list[list[Arch]] = []
        self.left, self.count = 1000, 0

    def __call__(
        self, archs: Sequence[Arch], settings: object, conditions: object, *, gpu: bool
    ) -> Iterator[dict]:
        self.processes.append([])
        for arch in archs:
            if not self.left:
                raise HatError("broken")
            self.left, self.count = self.left - 1, self.count + 1
            self.processes[-1].append(arch)
            yield {"total": 9 + self.count / 100, "conditions": {"device": "d", "run": str(self.count)}}


def bench_of(path: Path, conditions: dict[str, str] = CONDITIONS, latiter: int = 300) -> Bench:
    argv = [f"--latiter={latiter}"]
    (settings,) = parse_settings(argv, prog="x", description="", config_flags=("--configs",))
    return Bench(path, settings, conditions, gpu=False)


@pytest.mark.parametrize("before", range(8))
def test_measurements_are_taken_from_the_journal(
    before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever number of measurements an attempt before could make, the end is the same."""
    few = [candidate(n, 9.5) for n in range(4)]
    ends = []
    for name, lefts in (("whole", [1000, 0]), ("cut", [before, 1000, 0])):
        device = Device()
        monkeypatch.setattr("hat.cli.finalists.remeasure", device)
        for device.left in lefts:
            bench = bench_of(tmp_path / f"{name}.jsonl")
            try:
                choice = Jury(bench.measure, 3, print).choose({10.0: few, 9.035: few})
            except HatError:
                assert device.count == before < 6
            else:
                ends.append((choice, bench.conditions))
        assert device.count == len(read_journal(tmp_path / f"{name}.jsonl"))
        assert sum(map(len, device.processes)) == device.count == 6, "each of three twice"
    assert len(ends) >= 4 and all(end == ends[0] for end in ends)


@pytest.mark.parametrize(
    ("conditions", "latiter"),
    [({"device": "d", "beam": "5"}, 300), ({"device": "e", "beam": "4"}, 300), ({"device": "d"}, 9)],
)
def test_measurements_of_other_conditions_do_not_count(
    conditions: dict, latiter: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, arch = Device(), candidate(0, 9.5).arch
    monkeypatch.setattr("hat.cli.finalists.remeasure", device)
    first = bench_of(tmp_path / "j").measure([arch])
    other = bench_of(tmp_path / "j", conditions, latiter).measure([arch])
    assert first != other and device.count == 2
    again = bench_of(tmp_path / "j")
    assert again.measure([arch]) == first and again.measure([arch]) == [9.03], "in another process"
