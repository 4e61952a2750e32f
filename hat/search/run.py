"""One search as a function: score what a strategy asks for, choose and measure winners, write the results."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import islice, product
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from tqdm import tqdm

from hat.data.batching import EpochBatches
from hat.data.pairs import Batch, PairDataset
from hat.errors import ConfigError, HatError, RankError
from hat.files.atomic import check_writable, write_text_atomic
from hat.files.journal import Journal, read_journal
from hat.latency.predictor import COVERAGE, LatencyPredictor
from hat.log import RunLog, say
from hat.model.precision import device_name
from hat.model.transformer import Transformer
from hat.rng import rng_for
from hat.run import Run, digest_of, record_path
from hat.search.constraints import Constraints, Pool, Score, Scored
from hat.search.finalists import DeviceTimer, Winner, about, choose_finalists
from hat.search.front import Point, compare, front_numbers, growth, worst
from hat.search.record import (
    CachedFitness,
    arch_text,
    evaluations_csv,
    old_losses,
    plain_of,
    search_header,
    write_front,
)
from hat.search.strategies import (
    EvolutionConfig,
    ParetoConfig,
    Problem,
    SearchConfig,
    Strategy,
    objective_values,
    strategy_of,
)
from hat.space import Arch, gene_choices, gene_of, sample
from hat.train.ranks import ALONE, Ranks
from hat.train.trainer import evaluate

TIMED = 3  # scores that the forecast is made from, after one that warms up


class ValidationFitness:
    """Scores architectures on batches that stay on the device; one forward pass each, no gradient."""

    def __init__(
        self,
        model: Transformer,
        batches: Sequence[Batch],
        label_smoothing: float,
        device: torch.device,
        on_score: Callable[[], object] = lambda: None,
    ) -> None:
        self._model = model.eval()
        self._batches = [batch.to(device) for batch in batches]
        self._label_smoothing, self._device, self._on_score = label_smoothing, device, on_score

    def __call__(self, archs: Sequence[Arch]) -> list[float]:
        """Return the smoothed validation loss (base 2, per target token) of each architecture."""
        losses = []
        for arch in archs:
            found = evaluate(self._model, self._batches, arch, self._label_smoothing, self._device)
            losses.append(found.loss)
            self._on_score()
        return losses


class SharedFitness:
    """A fitness whose architectures are divided among processes: rank r of k scores the r-th of k.

    Rank 0 alone searches: it calls this, inside a `with` block, while the others `serve`. Each architecture
    is scored by one process as it would be alone, so the search is the same with any number of processes.
    """

    def __init__(self, fitness: Score, group: Ranks) -> None:
        self._fitness, self._group = fitness, group
        self.result: Any = None  # what `serve` returns in the other processes

    @property
    def at_once(self) -> int:
        """Return how many architectures are scored at the same time."""
        return self._group.size

    def __call__(self, archs: list[Arch]) -> list[float]:
        """Return the loss of each architecture; the error of a process is raised here."""
        losses: list[float] = []
        for start in range(0, len(archs), self.at_once):
            part = archs[start : start + self.at_once]
            self._group.of_first(("score", part))
            for result in self._score(part)[: len(part)]:
                if isinstance(result, HatError):
                    raise result
                losses.append(result)
        return losses

    def serve(self) -> Any:
        """Score what rank 0 hands out until it leaves its block; returns its `result`.

        Raises SystemExit with code 2 if rank 0 left with an error, which it reports itself.
        """
        while True:
            order, content = self._group.of_first(("", None))
            if order == "score":
                self._score(content)
            elif order == "failed":
                raise SystemExit(2)
            else:
                return content

    def __enter__(self) -> "SharedFitness":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        """Let the other processes go; after anything but a user's error they find out by themselves."""
        if value is None or (isinstance(value, HatError | OSError) and not isinstance(value, RankError)):
            with suppress(RankError):  # it would hide the error that ended the block
                self._group.of_first(("done", self.result) if value is None else ("failed", None))

    def _score(self, archs: list[Arch]) -> list[float | HatError]:
        mine: float | HatError = 0.0
        if self._group.rank < len(archs):
            try:
                (mine,) = self._fitness([archs[self._group.rank]])
            except HatError as error:
                mine = error
        return self._group.gather_objects(mine)


class Forecast:
    """Says once, after the first scores, how long each stage of a search takes."""

    def __init__(
        self, tell: Callable[[str], object] = say, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._tell, self._clock = tell, clock
        self.stages: Mapping[str, int] = {}  # architectures that each stage is still to score
        self.at_once, self._count, self._start = 1, 0, 0.0

    def scored(self) -> None:
        """Count one score of this process."""
        self._count += 1
        if self._count == 1:
            self._start = self._clock()
        elif self._count == 1 + TIMED:
            each_s = (self._clock() - self._start) / TIMED / self.at_once
            left = {name: count for name, count in self.stages.items() if count}
            times = (f"{name}: {count} evaluations, {about(count * each_s)}" for name, count in left.items())
            self._tell("; ".join(times))


@dataclass(frozen=True)
class SearchResult:
    """What a search found; latencies in ms."""

    winners: dict[float, Winner]  # by limit; infinity if the limits are on other things than the latency
    front: tuple[Scored, ...]  # not dominated in loss and objectives, lowest loss first
    scored: tuple[Scored, ...]  # in the order of scoring
    histories: dict[float | None, list[dict[str, Any]]]  # states by limit; under None those of one run for all
    reference: Point  # of the hypervolume: the worst of the first generation
    hypervolume: float  # share of the box below `reference` that the front dominates
    ablations: dict[str, tuple[Scored, ...]]  # "random" architectures, a grid of "depth"
    comparison: dict[str, Any] | None  # of the ablations, see hat.search.front.compare
    coverage: float  # share of measurements below the bound; 0 if limits are kept by the mean
    conditions: dict[str, str]  # that finalists were measured under; empty if they were not
    paths: dict[float, Path]  # YAML file of each winner
    whole_front: bool  # one run of the strategy served all limits
    objectives: tuple[str, ...]
    scoring_s: float
    seconds: float  # with measuring

    @property
    def history(self) -> list[dict[str, Any]]:
        """Return the states of the one run of the strategy; empty if there were several."""
        return next(iter(self.histories.values())) if len(self.histories) == 1 else []

    def summary(self) -> dict[str, Any]:
        """Return everything but the scores as plain values, as summary.json holds it."""
        winners = [
            {
                "write_config_path": str(self.paths[limit_ms]) if limit_ms in self.paths else None,
                "constraint_ms": known_ms(limit_ms),
                **winner.plain(),
                "measured_ms": winner.measured_ms,
                "within": winner.holds if limit_ms < math.inf else None,
                "finalists": [
                    {**each.candidate.plain(), "measured_ms": list(each.measured_ms)}
                    for each in winner.finalists
                ],
            }
            for limit_ms, winner in self.winners.items()
        ]
        single = winners[0] if len(winners) == 1 and not self.whole_front else {}
        more = {"conditions": self.conditions, "comparison": self.comparison}
        return {
            **single,
            "mode": "pareto" if self.whole_front else "constraint",
            "objectives": list(self.objectives),
            "coverage": self.coverage or None,
            "evaluations": len(self.scored),
            "seconds": round(self.seconds, 2),
            "history": self.history,
            "histories": {"front" if ms is None else f"{ms:g}": few for ms, few in self.histories.items()},
            "reference": list(self.reference),
            "hypervolume": self.hypervolume,
            "winners": winners,
            "front": [each.plain() for each in self.front],
            **{name: value for name, value in more.items() if value},
        }


def search(
    model: Any,
    dataset: Any,
    predictor: LatencyPredictor,
    limits_ms: Sequence[float] = (),
    *,
    config: SearchConfig | None = None,
    strategy: type[Strategy] | None = None,
    measure: bool = True,
    seed: int = 1,
    out: Path | None = None,
    write_to: Path | None = None,
    warm_start: Path | None = None,
    inputs: Mapping[str, Path] | None = None,
    settings: Mapping[str, Any] | None = None,
    group: Ranks | AbstractContextManager[Ranks] = ALONE,
    progress: bool = False,
) -> SearchResult:
    """Return the best architectures under latency limits, or the whole front of loss against latency.

    Args:
        model: a SuperTransformer, or what holds one as `network`; it is scored on its device, in its type.
        dataset: a `Dataset`, or the pairs of its validation split.
        predictor: predicts latencies. Its upper bound must keep a limit; its prediction, if
            config.limit_by is "mean" or if it has no bound, as predictors of the 2020 release.
        limits_ms: highest latencies in ms; a search for the front can do without.
        config: options of the search.
        strategy: class that is asked for architectures (default: NSGA2 if config.pareto, else Evolution).
        measure: measure the finalists in fresh processes if this is the device of the predictor.
        seed: seed of everything random; the same seed gives the same search.
        out: folder of journal, log, table and summary; a search that was stopped goes on from there.
        write_to: YAML file for the winner; with several limits, each name ends in @<limit>ms.
        warm_start: journal of an older search, whose losses are taken and whose architectures start this one.
        inputs: files that `model` ("checkpoint") and `predictor` ("predictor") came from.
        settings: options that the record of the run holds (default: `config`).
        group: processes that share the scoring, or a context that connects them for as long as it lasts. All
            but rank 0 return what was scored, nothing measured.
        progress: show a progress bar.

    Raises ConfigError for limits that cannot be, Infeasible if no architecture keeps one, and TrainingError
    for a loss that is not finite.
    """
    config = config or SearchConfig()
    found = _Searches(model, dataset, predictor, limits_ms, config, strategy or strategy_of(config), seed)
    paths = _paths_of(write_to, found.limits_ms)
    for path in paths.values():
        check_writable(path)
    start = time.perf_counter()
    with ExitStack() as files:
        with nullcontext(group) if isinstance(group, Ranks) else group as ranks:
            shared = SharedFitness(found.fitness(ranks), ranks)
            if ranks.first:
                with shared, found.bar(progress):
                    facts = found.facts(inputs or {})
                    header, old = found.header(facts, warm_start)
                    anchors = found.within_reach()
                    opened = found.open(out, header, shared, old, files)
                    found.run = _record(...)
                    shared.result = found.score(...)
            else:
                out, paths, measure = None, {}, False
                found.take(shared.serve())
