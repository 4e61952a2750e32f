"""Choose the architecture of each limit: by loss, and by latencies measured where this is the device."""

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hat.cli.forecast import about
from hat.cli.remeasure import condition_flags, remeasure
from hat.cli.settings import Settings
from hat.files.journal import Journal
from hat.latency.predictor import LatencyPredictor
from hat.log import say
from hat.model.cpu import device_name
from hat.search.limits import Cost
from hat.space import Arch

Clock = Callable[[Sequence[Arch]], list[float]]  # measured ms of each, in one fresh process
ROUNDS = 4  # of following candidates


class Candidate(NamedTuple):
    """A scored architecture that keeps a limit as predicted."""

    arch: Arch
    loss: float
    cost: Cost


class Finalist(NamedTuple):
    """A candidate and its measured latencies, each from another process."""

    candidate: Candidate
    measured_ms: tuple[float, ...]


class Choice(NamedTuple):
    """The winner under one limit, and what was measured for it."""

    winner: Candidate
    measured_ms: float | None  # the highest of its measurements
    holds: bool | None  # None: not measured
    finalists: tuple[Finalist, ...]


def by_prediction(candidates: Sequence[Candidate], count: int) -> Choice:
    """Return the first of `candidates`, which stand best first."""
    return Choice(candidates[0], None, None, tuple(Finalist(each, ()) for each in candidates[:count]))


class Jury:
    """Measures finalists, no architecture more often than needed; `tell` hears what a user should know."""

    def __init__(self, clock: Clock, count: int, tell: Callable[[str], object]) -> None:
        self._clock, self._count, self._tell = clock, count, tell
        self._measured: dict[Arch, tuple[float, ...]] = {}

    def choose(self, ranked: Mapping[float, Sequence[Candidate]]) -> dict[float, Choice]:
        """Return the choice under each limit in ms; `ranked` holds its candidates, best first.

        The winner is the best whose latency keeps the limit in two processes. Where none of the first
        finalists does, the next ones follow that should, by how far measured and predicted lie apart; where
        none holds at all it is the fastest one measured.
        """
        self._measure([each.arch for few in ranked.values() for each in few[: self._count]])
        firsts = {limit: self._first(few[: self._count], limit) for limit, few in ranked.items()}
        self._measure([each.arch for each in firsts.values() if each], times=2)
        return {limit: self._choice(few, limit) for limit, few in ranked.items()}

    def _choice(self, candidates: Sequence[Candidate], limit_ms: float) -> Choice:
        tried = list(candidates[: self._count])
        for turn in range(ROUNDS + 1):
            while winner := self._first(tried, limit_ms):
                if len(self._measured[winner.arch]) > 1:
                    return self._made(winner, tried, limit_ms)
                self._measure([winner.arch], times=2)
            ratio = statistics.median(self._highest(each) / each.cost.predicted_ms for each in tried)
            following = [
                each
                for each in candidates
                if each not in tried and ratio * each.cost.predicted_ms <= limit_ms
            ][: self._count]
            if not following or turn == ROUNDS:
                break
            self._tell(
                f"none of {len(tried)} finalists measures within {limit_ms:g} ms (measured / predicted: "
                f"{ratio:.3f}); going on with {len(following)} predicted below {limit_ms / ratio:.2f} ms"
            )
            self._measure([each.arch for each in following])
            tried += following
        fastest = min(tried, key=self._highest)  # above the limit, as none keeps it
        self._tell(
            f"none of {len(tried)} finalists measures within {limit_ms:g} ms, the fastest takes "
            f"{self._highest(fastest):.2f} ms; measure a larger latency dataset, or raise the limit"
        )
        return self._made(fastest, tried, limit_ms)

    def _first(self, candidates: Sequence[Candidate], limit_ms: float) -> Candidate | None:
        return next((each for each in candidates if self._highest(each) <= limit_ms), None)

    def _highest(self, candidate: Candidate) -> float:
        return max(self._measured[candidate.arch])

    def _measure(self, archs: Sequence[Arch], times: int = 1) -> None:
        new = [arch for arch in dict.fromkeys(archs) if len(self._measured.get(arch, ())) < times]
        if new:
            for arch, ms in zip(new, self._clock(new), strict=True):
                self._measured[arch] = (*self._measured.get(arch, ()), ms)

    def _made(self, winner: Candidate, tried: Sequence[Candidate], limit_ms: float) -> Choice:
        ms = self._highest(winner)
        finalists = tuple(Finalist(each, self._measured[each.arch]) for each in tried)
        return Choice(winner, ms, ms <= limit_ms, finalists)


class Bench:
    """This device, where it is the one of the predictor: measures in fresh processes as its rows were.

    Every measurement is kept in the journal `path`, and taken from there by a search that goes on.
    """

    def __init__(self, path: Path, settings: Settings, dataset: Mapping[str, str], *, gpu: bool) -> None:
        self._path, self._settings, self._dataset, self._gpu = path, settings, dataset, gpu
        flags = " ".join(condition_flags(dataset))
        self._asked = {"device": dataset["device"], "torch": torch.__version__, "flags": flags}
        self._asked["latiter"] = str(settings.profile.latiter)
        self._asked["lat_interval"] = str(settings.profile.lat_interval)
        self._processes: Counter[Arch] = Counter()  # in which each was measured
        self.conditions: dict[str, str] = {}  # of the last measurement

    @classmethod
    def of(cls, predictor: LatencyPredictor, settings: Settings, path: Path) -> "Bench | None":
        """Return a bench, or None, saying so, where the predictor is of another device."""
        there = predictor.conditions.get("device", "an unnamed device")
        gpu = torch.cuda.is_available() and there == torch.cuda.get_device_name()
        here = torch.cuda.get_device_name() if gpu else device_name(torch.device("cpu"))
        if there != here:
            print(f"not measured: the predictor is of {there}, this is {here}")
            return None
        return cls(path, settings, predictor.conditions, gpu=gpu)

    def measure(self, archs: Sequence[Arch]) -> list[float]:
        """Return the latency of each architecture in ms, all measured in one fresh process.

        The n-th call with an architecture returns its n-th measurement under these conditions. Only those
        that the journal does not hold are made, and each is on disk before the next is made.
        """
        with Journal(self._path) as journal:
            held = self._held(journal)
            new = [arch for arch in archs if len(held[arch]) == self._processes[arch]]
            if len(new) < len(archs):
                say(f"{self._path}: {len(archs) - len(new)} of {len(archs)} finalists are measured already")
            if new:
                start = time.perf_counter()
                results = remeasure(new, self._settings, self._dataset, gpu=self._gpu)
                for number, (arch, result) in enumerate(zip(new, results, strict=True), 1):
                    if number == 1 < len(new):
                        left = about((len(new) - 1) * (time.perf_counter() - start))
                        say(f"finalists: {len(new) - 1} more to measure, {left}")
                    if not self.conditions:
                        facts = ", ".join(f"{name} {value}" for name, value in result["conditions"].items())
                        say(f"finalists are measured in fresh processes: {facts}")
                    self.conditions = result["conditions"]
                    record = {
                        "arch": arch.to_yaml(),
                        "process": self._processes[arch] + 1,
                        "asked": self._asked,
                        "measured_ms": result["total"],
                        "conditions": result["conditions"],
                    }
                    journal.append(record)
                    held[arch].append(record)
        found = [held[arch][self._processes[arch]] for arch in archs]
        self._processes.update(archs)
        self.conditions = found[-1]["conditions"]
        return [record["measured_ms"] for record in found]

    def _held(self, journal: Journal) -> dict[Arch, list[dict[str, Any]]]:
        """Return the measurements of each architecture under the conditions of this bench, in their order."""
        held: dict[Arch, list[dict[str, Any]]] = defaultdict(list)
        for record in journal.records:
            if record.get("asked") == self._asked:
                held[Arch.from_yaml(record["arch"])].append(record)
        return held


def choose(
    ranked: Mapping[float, Sequence[Candidate]], count: int, bench: Bench | None
) -> dict[float, Choice]:
    """Return the choice under each limit in ms, measured where there is a bench for it."""
    if bench is None:
        return {limit_ms: by_prediction(few, count) for limit_ms, few in ranked.items()}
    return Jury(bench.measure, count, print).choose(ranked)
