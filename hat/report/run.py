"""What a run left behind, as values: models, searches, trainings, measured latencies and costs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hat.space import Arch, SearchSpace


@dataclass(frozen=True)
class Model:
    """One architecture with what is known of it; None: not known."""

    name: str
    role: str  # largest, smallest or found
    weights: str  # inherited, trained, or "" where unknown
    arch: Arch | None = None
    params: int | None = None  # of the layers, without embeddings and output matrix
    flops: int | None = None
    size_bytes: int | None = None  # of the stand-alone file
    limit_ms: float | None = None
    predicted_ms: float | None = None
    measured_ms: float | None = None
    bleu: float | None = None
    signature: str | None = None
    inherited_loss: float | None = None  # validation loss (base 2) with the SuperTransformer's weights
    trained_loss: float | None = None  # with its own

    @property
    def within_limit(self) -> bool | None:
        """Return whether the measured latency keeps to the limit; None where either is unknown."""
        if self.limit_ms is None or self.measured_ms is None:
            return None
        return self.measured_ms <= self.limit_ms


class Evaluation(NamedTuple):
    """One architecture that a search scored."""

    loss: float
    predicted_ms: float
    bound_ms: float | None = None
    measured_ms: float | None = None
    arch: Arch | None = None


@dataclass(frozen=True)
class Search:
    """One search; steps are its iterations, oldest first."""

    name: str
    limits_ms: tuple[float, ...]
    steps: tuple[Mapping[str, float], ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    front: tuple[Evaluation, ...] = ()  # lowest loss first; of a search for the whole front only
    random: tuple[Evaluation, ...] = ()  # scored for comparison, as are those of the grid of depths
    depth: tuple[Evaluation, ...] = ()

    @property
    def is_front(self) -> bool:
        """Return whether the search was for the whole front; its steps tell the hypervolume."""
        return bool(self.front) or any("hypervolume" in step for step in self.steps)


@dataclass(frozen=True)
class Training:
    """One training; points are (update, loss in base 2)."""

    name: str
    train: tuple[tuple[float, float], ...]
    valid: Mapping[str, tuple[tuple[float, float], ...]]  # by what was validated: largest, smallest, sub


@dataclass(frozen=True)
class Latencies:
    """Measured rows of a table, and what a predictor says of them, in ms."""

    measured_ms: tuple[float, ...]
    predicted_ms: tuple[float, ...]
    report: Mapping[str, Any]  # scores of the predictor, as hat.latency.predictor.Report
    conditions: Mapping[str, str]
    source: str  # which rows these are
    learnt: bool | None  # whether the predictor learnt from them; None: not known


class StageCost(NamedTuple):
    """What one stage took; None: not recorded."""

    name: str
    wall_s: float
    cpu_s: float | None
    gpu_s: float
    threads: int | None
    sittings: int
    command: str = ""
    estimated: bool = False  # CPU time is wall time times threads: the run is older than the record of it


class Ranking(NamedTuple):
    """How a ranking of architectures agrees with that by training from scratch; None: not known."""

    name: str
    tau: float | None  # Kendall's, by validation loss
    equal_depth: float | None  # share of the pairs of equal decoder depth that it has right
    tau_bleu: float | None


@dataclass
class Run:
    """Everything a report shows; `notes` say what is missing and what would bring it."""

    title: str
    kind: str  # of what was found, for the headline
    models: list[Model] = field(default_factory=list)
    searches: list[Search] = field(default_factory=list)
    trainings: list[Training] = field(default_factory=list)
    latencies: Latencies | None = None
    stages: list[StageCost] = field(default_factory=list)
    space: SearchSpace | None = None
    machine: dict[str, str] = field(default_factory=dict)
    rankings: list[Ranking] = field(default_factory=list)  # of a rank study
    ceiling: Ranking | None = None  # how two trainings from scratch agree
    ranked: str = ""  # what the rankings are of
    notes: list[str] = field(default_factory=list)

    def scored(self, arch: Arch) -> Evaluation | None:
        """Return what the first search that scored an architecture, also for comparison, says of it."""
        kinds = (
            kind for search in self.searches for kind in (search.evaluations, search.depth, search.random)
        )
        return next((each for kind in kinds for each in kind if each.arch == arch), None)

    @property
    def found(self) -> list[Model]:
        """Return the models that a search found."""
        return [model for model in self.models if model.role == "found"]

    def one(self, role: str) -> Model | None:
        """Return the first model of a role."""
        return next((model for model in self.models if model.role == role), None)

    @property
    def winner(self) -> Model | None:
        """Return the found model with the best BLEU, or the lowest loss where none was translated with."""
        within = [model for model in self.found if model.within_limit is not False] or self.found
        scored = [model for model in within if model.bleu is not None]
        if scored:
            return max(scored, key=lambda model: model.bleu or 0.0)
        return min(within, key=lambda model: model.inherited_loss or float("inf"), default=None)

    @property
    def front_best(self) -> Evaluation | None:
        """Return the architecture with the lowest loss on a front that a search found."""
        ends = [search.front[0] for search in self.searches if search.front]
        return min(ends, key=lambda each: each.loss, default=None)


def pareto_front(evaluations: list[Evaluation]) -> list[Evaluation]:
    """Return those that no other is both at least as fast and better than, fastest first."""
    front: list[Evaluation] = []
    for each in sorted(evaluations, key=lambda e: (e.predicted_ms, e.loss)):
        if not front or each.loss < front[-1].loss:
            front.append(each)
    return front
