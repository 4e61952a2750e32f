"""What a search found, and what it writes of that."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hat.files.atomic import write_text_atomic
from hat.run import Run, record_path
from hat.search.constraints import Candidate, Finalist, Point
from hat.space import Arch


@dataclass(frozen=True)
class SearchResult:
    """What a search found; latencies in ms."""

    front: tuple[Candidate, ...]  # not dominated in loss and objectives, lowest loss first
    scored: tuple[Candidate, ...]  # in the order of scoring
    history: list[dict[str, Any]]  # states of the strategy, of all its runs
    reference: Point  # of the hypervolume: the worst of the first generation
    hypervolumes: list[float]  # share of the box below `reference` that is dominated, after each score
    coverage: float  # share of measurements below the bound; 0 if limits are kept by the mean
    whole_front: bool  # one run of the strategy served all limits
    objectives: tuple[str, ...]
    latency_of: dict[str, str]  # device, threads, runtime and dtype that latencies and limits are of
    scoring_s: float
    ranked: dict[float, list[Candidate]]  # by limit: those that keep it, best first
    # known once winners are chosen
    winners: dict[float, Finalist] = field(default_factory=dict)  # by limit; infinity if there is none in ms
    paths: dict[float, Path] = field(default_factory=dict)  # YAML file of each
    conditions: dict[str, str] = field(default_factory=dict)  # that finalists were measured under, if any
    seconds: float = 0.0  # with measuring

    def summary(self) -> dict[str, Any]:
        """Return everything but the scores as plain values, as summary.json holds it."""
        winners = list[dict[str, Any]]()
        for limit_ms, winner in self.winners.items():
            path = str(self.paths[limit_ms]) if limit_ms in self.paths else None
            finalists = {"finalists": [each.plain() for each in winner.finalists]}
            own = {"write_config_path": path, "constraint_ms": known_ms(limit_ms)}
            winners.append(own | winner.plain() | finalists)
        return {
            **(winners[0] if len(winners) == 1 and not self.whole_front else {}),
            "mode": "pareto" if self.whole_front else "constraint",
            "objectives": list(self.objectives),
            "coverage": self.coverage or None,
            "latency_of": self.latency_of,
            "evaluations": len(self.scored),
            "seconds": round(self.seconds, 2),
            "history": self.history,
            "reference": list(self.reference),
            "hypervolume": self.hypervolumes[-1],
            "winners": winners,
            "front": [each.plain() for each in self.front],
            **({"conditions": self.conditions} if self.conditions else {}),
        }

    def write_scores(self, out: Path) -> None:
        """Write evaluations.csv, a row for each scored architecture, and if wanted the front into front/."""
        finalists = [each for winner in self.winners.values() for each in winner.finalists]
        measured = {each.arch: round(each.measured_ms, 4) for each in finalists if each.measured_ms}
        front = {each.arch for each in self.front}
        rows = []
        for number, (each, volume) in enumerate(zip(self.scored, self.hypervolumes, strict=True), 1):
            row: dict[str, Any] = {"evaluation": number, "loss": each.loss}
            row |= {"predicted_ms": round(each.predicted_ms, 4), "bound_ms": round(each.bound_ms, 4)}
            row |= {"measured_ms": measured.get(each.arch), "params": each.params, "flops": each.flops}
            rows.append(row | {"on_front": int(each.arch in front), "hypervolume": round(volume, 8)})
        write_text_atomic(out / "evaluations.csv", evaluations_csv(rows, [each.arch for each in self.scored]))
        for stale in (out / "front").glob("front@*ms.yml"):
            stale.unlink()
        for each in self.front if self.whole_front else ():
            path = out / "front" / f"front@{each.predicted_ms:.2f}ms.yml"
            while path.exists():  # two of one latency, if parameters or FLOPs are objectives
                path = path.with_name(f"{path.stem.removesuffix('ms')}_ms.yml")
            self._write_arch(path, each, "on the front")

    def write(self, out: Path | None, run: Run) -> None:
        """Write the YAML file of each winner, beside it a record of its own; into `out` table and summary."""
        names = ("settings", "inputs", "device", "identity")
        same: dict[str, Any] = {name: getattr(run.record, name) for name in names}
        for limit_ms, path in self.paths.items():
            self._write_arch(path, self.winners[limit_ms], under(limit_ms))
            with Run(record_path(path, folder=False), run.record.kind, goes_on=False, **same) as own:
                own.results |= {"constraint_ms": known_ms(limit_ms), **self.winners[limit_ms].plain()}
                own.vouch(path)
        if out:
            self.write_scores(out)
            summary = self.summary()
            write_text_atomic(out / "summary.json", json.dumps(summary, indent=1) + "\n")
            told = ("evaluations", "hypervolume", "coverage", "latency_of", "conditions", "winners")
            run.results |= {name: summary[name] for name in told if name in summary}
            run.vouch(out / "summary.json", out / "evaluations.csv")

    def _write_arch(self, path: Path, found: Candidate, limit: str) -> None:
        bound = f" (bound {found.bound_ms:.2f} ms)" if self.coverage else ""
        head = f"# found by evo_search.py {limit}: predicted {found.predicted_ms:.2f} ms{bound}, "
        head += f"validation loss {found.loss:.4f} (inherited, base 2)\n"
        of = ", ".join(f"{name} {value}" for name, value in self.latency_of.items())
        head += f"# milliseconds of {of}\n" if of else ""
        lines = (f"{key}: {value}\n" for key, value in found.arch.to_yaml().items())
        write_text_atomic(path, head + "".join(lines))


def known_ms(limit_ms: float) -> float | None:
    """Return a latency limit as files hold it: None for infinity, if only other things are limited."""
    return limit_ms if limit_ms < math.inf else None


def under(limit_ms: float) -> str:
    """Return a latency limit in words."""
    return f"under {limit_ms:g} ms" if limit_ms < math.inf else "at any latency"


def evaluations_csv(rows: Sequence[Mapping[str, Any]], archs: Sequence[Arch]) -> str:
    """Return CSV text: the columns of `rows`, then the release's ten keys; lists are JSON, None is empty."""
    text = io.StringIO()
    keys = [{key: json.dumps(value) for key, value in arch.to_yaml().items()} for arch in archs]
    writer = csv.DictWriter(text, [*rows[0], *keys[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, **more} for row, more in zip(rows, keys, strict=True))
    return text.getvalue()
