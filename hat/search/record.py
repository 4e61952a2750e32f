"""What a search keeps on disk: a journal of every loss, so that it goes on after a kill, and its results."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hat.errors import ArchError, ConfigError, DataError
from hat.files.atomic import write_text_atomic
from hat.files.journal import Journal, read_journal
from hat.run import Run, record_path
from hat.search.constraints import LimitOptions, Score, Scored
from hat.search.finalists import Winner
from hat.search.front import Point
from hat.search.strategies import EvolutionConfig, ParetoConfig, SearchConfig, finite_loss
from hat.space import Arch, SearchSpace, space_to_plain

LENGTHS = ("evo_iter", "pareto_evaluations")  # a longer search goes on from a shorter one
# entries of a header that a loss depends on
SAME_LOSS = ("space", "checkpoint", "label_smoothing", "validation", "dtype")


def search_header(
    space: SearchSpace, config: SearchConfig, limits_ms: Sequence[float], seed: int, **facts: str | float
) -> dict[str, Any]:
    """Return what must be equal for a search to go on, the first record of its journal.

    It holds the space, the options, the seed, and `facts`: digests of what the search reads. Of the options
    those beyond version 0.1's first search stand there only if they are not at their default.
    """
    options: dict[str, Any] = {"latency_constraint": limits_ms[0] if len(limits_ms) == 1 else None}
    if len(limits_ms) > 1:
        options["latency_constraints"] = limits_ms
    for group, always in ((EvolutionConfig, True), (LimitOptions, False), (ParetoConfig, False)):
        for each in fields(group):
            value = getattr(config, each.name)
            if each.name not in LENGTHS and (always or value != each.default):
                options[each.name] = value
    if config.limit_by != "bound":
        options["limit_by"] = config.limit_by
    head = {"kind": "hat search", "format": 1, "seed": seed}
    plain: dict[str, Any] = json.loads(
        json.dumps({**head, **options, "space": space_to_plain(space), **facts})
    )
    return plain  # as it is read back: tuples are lists


class CachedFitness:
    """A fitness that computes each loss once, and keeps it in a journal if there is one.

    Strategies are deterministic, so a repeated search asks for the same architectures in the same order and
    ends as if it had never stopped.

    Args:
        journal: open journal, or None to keep losses in memory only.
        fitness: returns the loss of each architecture.
        predict_ms: returns the predicted latency of each architecture, which is kept beside its loss.
        header: see `search_header`.
        at_once: architectures scored at the same time; all of them are on disk before the next are scored.
        known: losses of an older search, taken over into the journal when they are asked for.

    Raises ConfigError if the journal belongs to a search with another header and DataError if a record is
    damaged.
    """

    def __init__(
        self,
        journal: Journal | None,
        fitness: Score,
        predict_ms: Score,
        header: dict[str, Any],
        at_once: int = 1,
        known: Mapping[Arch, float] | None = None,
    ) -> None:
        self._journal, self._fitness, self._predict_ms = journal, fitness, predict_ms
        self.header, self._at_once, self.known = header, at_once, known or {}
        self.losses: dict[Arch, float] = {}  # in the order of scoring
        if journal and journal.records:
            held, wanted = _comparable(journal.records[0]), _comparable(header)
            if held != wanted:
                names = [n for n in (*wanted, *held) if held.get(n) != wanted.get(n)] or ["order"]
                raise ConfigError(
                    f"{journal.path} belongs to another search: {_difference(names[0], held, wanted)}; use "
                    "another folder, or move the file away"
                )
            self.losses = dict(_entry(rec, journal.path, n) for n, rec in enumerate(journal.records[1:], 2))
        self.resumed = len(self.losses)  # architectures scored by earlier runs

    def __call__(self, archs: Sequence[Arch]) -> list[float]:
        """Return the loss of each architecture."""
        asked = list(dict.fromkeys(arch for arch in archs if arch not in self.losses))
        for arch in asked:
            if arch in self.known:
                self._keep(arch, self.known[arch])
        new = [arch for arch in asked if arch not in self.known]
        for start in range(0, len(new), self._at_once):
            part = new[start : start + self._at_once]
            for arch, loss in zip(part, self._fitness(part), strict=True):
                self._keep(arch, loss)
        return [self.losses[arch] for arch in archs]

    def _keep(self, arch: Arch, loss: float) -> None:
        finite_loss(loss, arch)
        if self._journal is not None:
            (ms,) = self._predict_ms([arch])
            if not self._journal.records:  # nothing is written for a search that finds nothing
                self._journal.append(self.header)
            self._journal.append({"arch": arch.to_yaml(), "loss": loss, "latency_ms": ms})
        self.losses[arch] = loss


def old_losses(path: Path, header: Mapping[str, Any]) -> dict[Arch, float]:
    """Return the losses in the journal of an older search, which may have had other limits and options.

    Raises DataError if it is no such journal and ConfigError if its losses are of another space,
    checkpoint, label smoothing, validation set or precision than those of `header`.
    """
    records = read_journal(path)
    held = records[0] if records else {}
    if held.get("kind") != header["kind"]:
        raise DataError(f"{path} is not the journal of a search; give the journal.jsonl of a search folder")
    for name in SAME_LOSS:
        if held.get(name) != header.get(name):
            raise ConfigError(
                f"{path} cannot be a warm start: {_difference(name, held, header)}, so its losses may be "
                "others; leave out --warm-start"
            )
    return dict(_entry(record, path, n) for n, record in enumerate(records[1:], 2))


def _comparable(header: Mapping[str, Any]) -> dict[str, Any]:
    """Return a header in which one limit is written as several are; several win over one in old headers."""
    one = header.get("latency_constraint")
    limits = header.get("latency_constraints") or ([] if one is None else [one])
    rest = {name: value for name, value in header.items() if name != "latency_constraint"}
    return rest | {"latency_constraints": limits}


def _entry(record: dict[str, Any], path: Path, line: int) -> tuple[Arch, float]:
    try:
        return Arch.from_yaml(record["arch"]), float(record["loss"])
    except (ArchError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}:{line}: not a scored architecture ({error!r}); move the file away to start anew"
        ) from error


def _difference(name: str, held: Mapping[str, Any], header: Mapping[str, Any]) -> str:
    if name in SAME_LOSS and name not in held:
        return f"it says nothing of {name}, as an older version of HAT wrote it"
    there, here = (
        text if len(text) <= 60 else f"{text[:57]}..."
        for text in map(repr, (held.get(name), header.get(name)))
    )
    return f"{name} is {there} there and {here} here"


@dataclass(frozen=True)
class SearchResult:
    """What a search found; latencies in ms."""

    winners: dict[float, Winner]  # by limit; infinity if the limits are on other things than the latency
    front: tuple[Scored, ...]  # not dominated in loss and objectives, lowest loss first
    scored: tuple[Scored, ...]  # in the order of scoring
    histories: dict[
        float | None, list[dict[str, Any]]
    ]  # states by limit; under None those of one run for all
    reference: Point  # of the hypervolume: the worst of the first generation
    hypervolumes: list[float]  # share of the box below `reference` that is dominated, after each score
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
            "hypervolume": self.hypervolumes[-1],
            "winners": winners,
            "front": [each.plain() for each in self.front],
            **{name: value for name, value in more.items() if value},
        }


def known_ms(limit_ms: float) -> float | None:
    """Return a latency limit as files hold it: None for infinity, if only other things are limited."""
    return limit_ms if limit_ms < math.inf else None


def under(limit_ms: float) -> str:
    """Return a latency limit in words."""
    return f"under {limit_ms:g} ms" if limit_ms < math.inf else "at any latency"


def evaluations_csv(rows: Sequence[Mapping[str, Any]], archs: Sequence[Arch]) -> str:
    """Return CSV text: the columns of `rows`, then the release's ten keys; lists are JSON, None is empty."""
    text = io.StringIO()
    plain = [
        {name: "" if value is None else value for name, value in row.items()}
        | {key: json.dumps(value) for key, value in arch.to_yaml().items()}
        for row, arch in zip(rows, archs, strict=True)
    ]
    writer = csv.DictWriter(text, list(plain[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain)
    return text.getvalue()


def write_table(out: Path | None, result: SearchResult) -> None:
    """Write evaluations.csv into the folder of a search: one row for each scored architecture."""
    if out is None:
        return
    finalists = [each for winner in result.winners.values() for each in winner.finalists]
    measured = {each.candidate.arch: max(each.measured_ms) for each in finalists if each.measured_ms}
    front = {each.arch for each in result.front}
    rows = [
        {
            "evaluation": number,
            "loss": each.loss,
            "predicted_ms": round(each.cost.predicted_ms, 4),
            "bound_ms": round(each.cost.bound_ms, 4),
            "measured_ms": round(measured[each.arch], 4) if each.arch in measured else None,
            "params": each.cost.params,
            "flops": each.cost.flops,
            "on_front": int(each.arch in front),
            "hypervolume": round(volume, 8),
        }
        for number, (each, volume) in enumerate(zip(result.scored, result.hypervolumes, strict=True), 1)
    ]
    archs = [each.arch for each in result.scored]
    write_text_atomic(out / "evaluations.csv", evaluations_csv(rows, archs))


def arch_text(scored: Scored, limit: str, coverage: float, sources: str) -> str:
    """Return the YAML file of an architecture: where it comes from, and the release's ten keys."""
    bound = f" (bound {scored.cost.bound_ms:.2f} ms)" if coverage else ""
    lines = [
        f"# found by evo_search.py {limit}: predicted {scored.cost.predicted_ms:.2f} ms{bound}, "
        f"validation loss {scored.loss:.4f} (inherited, base 2)",
        *([f"# {sources}"] if sources else []),
        *(f"{key}: {value}" for key, value in scored.arch.to_yaml().items()),
    ]
    return "\n".join(lines) + "\n"


def write_front(out: Path | None, result: SearchResult, sources: str) -> None:
    """Write one YAML file for each architecture of the front into front/, named by its predicted latency."""
    if out is None:
        return
    for stale in (out / "front").glob("front@*ms.yml"):
        stale.unlink()
    for each in result.front:
        path = out / "front" / f"front@{each.cost.predicted_ms:.2f}ms.yml"
        while path.exists():  # two of one latency, if parameters or FLOPs are objectives
            path = path.with_name(f"{path.stem.removesuffix('ms')}_ms.yml")
        write_text_atomic(path, arch_text(each, "on the front", result.coverage, sources))


def write_winners(result: SearchResult, sources: str, run: Run) -> None:
    """Write the YAML file of each winner, and beside it a record: that of the search with this winner."""
    for limit_ms, path in result.paths.items():
        winner = result.winners[limit_ms]
        write_text_atomic(path, arch_text(winner, under(limit_ms), result.coverage, sources))
        with Run(
            record_path(path, folder=False),
            "search",
            settings=run.record.settings,
            inputs=run.record.inputs,
            device=run.record.device,
            goes_on=False,
        ) as own:
            own.results |= {"constraint_ms": known_ms(limit_ms), **winner.plain()}
            own.results |= {"measured_ms": winner.measured_ms, "within": winner.holds}
            own.vouch(path)
