"""What a search leaves: a YAML file for each architecture found, a table, a picture and a summary."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from hat.cli.finalists import Candidate, Choice
from hat.cli.search_run import Outcome, Searches
from hat.errors import ConfigError
from hat.files.atomic import write_text_atomic
from hat.log import say
from hat.report.front import evaluations_csv, front_numbers, plot_front
from hat.search.front import Point, growth
from hat.search.limits import known_ms, under
from hat.space import Arch

Rows = list[dict[str, Any]]


def paths_of(found: str | None, limits_ms: Sequence[float], *, several: bool) -> dict[float, Path]:
    """Return the YAML file of each limit; of several, each name ends in @<limit>ms."""
    if found is None:
        return {}
    path = Path(found)
    if not several:
        return {limit_ms: path for limit_ms in limits_ms}
    stem = path.stem.partition("@")[0]
    named = {limit_ms: path.with_name(f"{stem}@{limit_ms:g}ms{path.suffix}") for limit_ms in limits_ms}
    if len(set(named.values())) < len(named):
        raise ConfigError(
            f"--latency-constraints {limits_ms}: files named by six digits cannot tell them apart; leave out "
            "those that hardly differ"
        )
    return named


def arch_text(arch: Arch, origin: str, weights: str) -> str:
    """Return the YAML file of an architecture: where it comes from, and the release's ten keys."""
    lines = [f"# found by evo_search.py {origin}", f"# {weights}"]
    lines += [f"{key}: {value}" for key, value in arch.to_yaml().items()]
    return "\n".join(lines) + "\n"


def origin_of(winner: Candidate, limit_ms: float | None, coverage: float) -> str:
    """Return a line on a found architecture: its limit, its predicted latency and its loss."""
    bound = f" (bound {winner.cost.bound_ms:.2f} ms)" if coverage else ""
    where = "on the front" if limit_ms is None else under(limit_ms)
    return (
        f"{where}: predicted {winner.cost.predicted_ms:.2f} ms{bound}, validation loss {winner.loss:.4f} "
        "(inherited, base 2)"
    )


def winner_summary(choice: Choice, limit_ms: float, path: Path) -> dict[str, Any]:
    """Return what summary.json says of one limit."""
    winner = choice.winner
    return {
        "write_config_path": str(path),
        "constraint_ms": known_ms(limit_ms),
        "arch": winner.arch.to_yaml(),
        "loss": winner.loss,
        **winner.cost._asdict(),
        "measured_ms": choice.measured_ms,
        "within": choice.holds if limit_ms < math.inf else None,
        "finalists": [
            {
                "arch": each.candidate.arch.to_yaml(),
                "loss": each.candidate.loss,
                **each.candidate.cost._asdict(),
                "measured_ms": list(each.measured_ms),
            }
            for each in choice.finalists
        ],
    }


def evaluation_rows(scored: Sequence[Candidate], reference: Point, points: Sequence[Point]) -> Rows:
    """Return one row for each scored architecture, as nothing is measured yet."""
    best = set(front_numbers(points))
    volumes = growth(points, reference)
    return [
        {
            "evaluation": number + 1,
            "loss": each.loss,
            "predicted_ms": round(each.cost.predicted_ms, 4),
            "bound_ms": round(each.cost.bound_ms, 4),
            "measured_ms": None,
            "params": each.cost.params,
            "flops": each.cost.flops,
            "on_front": int(number in best),
            "hypervolume": round(volumes[number], 8),
        }
        for number, each in enumerate(scored)
    ]


def write_evaluations(
    folder: Path, scored: Sequence[Candidate], rows: Rows, measured: Mapping[Arch, float]
) -> None:
    """Write evaluations.csv into the search's folder; `measured` are those that were measured, in ms."""
    found = [
        row | ({"measured_ms": round(measured[each.arch], 4)} if each.arch in measured else {})
        for row, each in zip(rows, scored, strict=True)
    ]
    write_text_atomic(folder / "evaluations.csv", evaluations_csv(found, [each.arch for each in scored]))


def draw_front(
    folder: Path,
    scored: Sequence[Candidate],
    winners: Sequence[Mapping[str, Any]],
    others: Mapping[str, Sequence[Candidate]],
) -> None:
    """Write front.png into the search's folder, where matplotlib is there."""
    sets = {
        name: [(each.loss, each.cost.predicted_ms) for each in archs]
        for name, archs in others.items()
        if archs
    }
    try:
        plot_front(
            folder / "front.png", [(each.loss, each.cost.predicted_ms) for each in scored], winners, sets
        )
    except ImportError:
        say("no picture: matplotlib is not installed (pip install -e '.[report]')")


def write_front(folder: Path, front: Sequence[Candidate], weights: str, coverage: float) -> None:
    """Write one YAML file for each architecture of the front into front/, named by its predicted latency."""
    target = folder / "front"
    for stale in target.glob("front@*ms.yml"):
        stale.unlink()
    for each in front:
        path = target / f"front@{each.cost.predicted_ms:.2f}ms.yml"
        while path.exists():  # two of one latency, where parameters or FLOPs are objectives
            path = path.with_name(f"{path.stem.removesuffix('ms')}_ms.yml")
        write_text_atomic(path, arch_text(each.arch, origin_of(each, None, coverage), weights))


def measurements(choices: dict[float, Choice]) -> dict[Arch, float]:
    """Return the highest measured latency, in ms, of each finalist that was measured."""
    return {
        each.candidate.arch: max(each.measured_ms)
        for choice in choices.values()
        for each in choice.finalists
        if each.measured_ms
    }


def summary_of(
    searches: Searches,
    outcome: Outcome,
    choices: dict[float, Choice],
    paths: dict[float, Path],
    seconds: float,
) -> dict[str, Any]:
    """Return what summary.json holds; of a search under one limit also its winner's entries by themselves."""
    winners = [winner_summary(choice, limit_ms, paths[limit_ms]) for limit_ms, choice in choices.items()]
    single = winners[0] if len(winners) == 1 and not searches.front.pareto else {}
    points = searches.points(outcome.scored)
    return {
        **single,
        "mode": "pareto" if searches.front.pareto else "constraint",
        "objectives": list(searches.front.objectives),
        "coverage": searches.coverage or None,
        "evaluations": len(outcome.scored),
        "seconds": round(seconds, 2),
        "history": outcome.histories[next(iter(outcome.histories))] if len(outcome.histories) == 1 else [],
        "histories": {"front" if ms is None else f"{ms:g}": few for ms, few in outcome.histories.items()},
        "reference": list(outcome.reference),
        "hypervolume": growth(points, outcome.reference)[-1],
        "winners": winners,
        "front": [
            {"arch": each.arch.to_yaml(), "loss": each.loss, **each.cost._asdict()}
            for each in (outcome.scored[i] for i in front_numbers(points))
        ],
    }


def winner_lines(
    choice: Choice, limit_ms: float, path: Path, scored: int, seconds: float, coverage: float
) -> str:
    """Return what a user is told of the architecture found under one limit."""
    winner = choice.winner
    bound = f" ({100 * coverage:g}% bound {winner.cost.bound_ms:.2f} ms)" if coverage else ""
    limit = f" of {limit_ms:g} ms" if limit_ms < math.inf else ""
    text = (
        f"found {path}: validation loss {winner.loss:.4f} (base 2), {winner.cost.params / 1e6:.2f} M "
        f"parameters, predicted {winner.cost.predicted_ms:.2f} ms{bound}{limit}; {scored} "
        f"architectures scored in {seconds:.0f} s"
    )
    if choice.measured_ms is None:
        return text
    verdict = f"{'within' if choice.holds else 'ABOVE'} the constraint{limit}, " if limit else ""
    return (
        f"{text}\nmeasured {choice.measured_ms:.2f} ms, {verdict}in fresh processes; "
        f"{len(choice.finalists)} finalists measured"
    )


def limits_line(choices: Mapping[float, Choice]) -> str | None:
    """Return how many limits were kept, where several were measured."""
    below = [100 * (1 - each.measured_ms / limit) for limit, each in choices.items() if each.measured_ms]
    if len(below) < 2:
        return None
    held = sum(percent >= 0 for percent in below)
    return (
        f"{held} of {len(below)} limits hold as measured, on average {fmean(below):.1f}% below the limit "
        f"({min(below):.1f} to {max(below):.1f}%)"
    )
