"""What a search keeps on disk: a journal of every loss, so that it goes on after a kill, and its results."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hat.errors import ArchError, ConfigError, DataError, brief
from hat.files.atomic import write_text_atomic
from hat.files.journal import Journal, read_journal
from hat.log import info
from hat.run import Run, read_record, record_path
from hat.search.constraints import Candidate, Finalist, Point, Score
from hat.space import Arch

Histories = dict[float | None, list[dict[str, Any]]]  # states of a strategy by limit; None: one run for all
# entries of the first record of a journal that a loss depends on
SAME_LOSS = ("space", "checkpoint", "label_smoothing", "validation", "dtype")


class CachedFitness:
    """A fitness that computes each loss once, and keeps it in a journal if there is one.

    Strategies are deterministic, so a repeated search asks for the same architectures in the same order and
    ends as if it had never stopped.

    `fitness` is asked for `at_once` architectures, all of which are on disk before the next; `on_score` hears
    how many these were. The predicted latency is kept beside each loss. Losses `known` from an older search
    are taken over into the journal when they are asked for.

    Raises ConfigError if the journal belongs to a search with another header and DataError if a record is
    damaged.
    """

    def __init__(
        self,
        journal: Journal | None,
        fitness: Score,
        predict_ms: Score,
        at_once: int,
        header: dict[str, Any],
        known: Mapping[Arch, float] | None = None,
        on_score: Callable[[int], object] = lambda count: None,
    ) -> None:
        self._journal, self._fitness, self._predict_ms, self._header = journal, fitness, predict_ms, header
        self._at_once, self._known, self.on_score = at_once, known or {}, on_score
        self.losses: dict[Arch, float] = {}  # in the order of scoring
        if journal and journal.records:
            if journal.records[0] != header:
                raise ConfigError(
                    f"{journal.path} belongs to another search, or to one of an older version; use another "
                    f"folder (--search-dir), to which --warm-start={journal.path} brings its losses"
                )
            self.losses = _losses(journal.records, journal.path)

    def __call__(self, archs: Sequence[Arch]) -> list[float]:
        """Return the loss of each architecture."""
        asked = list(dict.fromkeys(arch for arch in archs if arch not in self.losses))
        for arch in asked:
            if arch in self._known:
                self._keep(arch, self._known[arch])
        new = [arch for arch in asked if arch not in self._known]
        for start in range(0, len(new), self._at_once):
            part = new[start : start + self._at_once]
            for arch, loss in zip(part, self._fitness(part), strict=True):
                self._keep(arch, loss)
            self.on_score(len(part))
        return [self.losses[arch] for arch in archs]

    def _keep(self, arch: Arch, loss: float) -> None:
        if self._journal:
            if not self._journal.records:  # nothing is written for a search that finds nothing
                self._journal.append(self._header)
            (ms,) = self._predict_ms([arch])
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
    for name in (name for name in SAME_LOSS if held.get(name) != header[name]):
        there, here = (brief(repr(each.get(name)), 60) for each in (held, header))
        why = f"{name} is {there} there and {here} here"
        advice = "so its losses may be others; leave out --warm-start"
        raise ConfigError(f"{path} cannot be a warm start: {why}, {advice}")
    return _losses(records, path)


def _losses(records: Sequence[Mapping[str, Any]], path: Path) -> dict[Arch, float]:
    found = {}
    for line, record in enumerate(records[1:], 2):
        try:
            found[Arch.from_yaml(record["arch"])] = float(record["loss"])
        except (ArchError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}:{line}: not a scored architecture ({error!r}); move the file away to start anew"
            ) from error
    return found


@dataclass(frozen=True)
class SearchResult:
    """What a search found; latencies in ms."""

    front: tuple[Candidate, ...]  # not dominated in loss and objectives, lowest loss first
    scored: tuple[Candidate, ...]  # in the order of scoring
    histories: Histories
    reference: Point  # of the hypervolume: the worst of the first generation
    hypervolumes: list[float]  # share of the box below `reference` that is dominated, after each score
    coverage: float  # share of measurements below the bound; 0 if limits are kept by the mean
    whole_front: bool  # one run of the strategy served all limits
    objectives: tuple[str, ...]
    sources: str  # of weights and predictor, for the files of architectures
    latency_of: dict[str, str]  # device, threads, runtime and dtype that latencies and limits are of
    paths: dict[float, Path]  # YAML file of each winner
    scoring_s: float
    ranked: dict[float, list[Candidate]]  # by limit: those that keep it, best first
    # known once winners are chosen
    winners: dict[float, Finalist] = field(default_factory=dict)  # by limit; infinity if there is none in ms
    conditions: dict[str, str] = field(default_factory=dict)  # that finalists were measured under, if any
    seconds: float = 0.0  # with measuring

    @property
    def history(self) -> list[dict[str, Any]]:
        """Return the states of the one run of the strategy; empty if there were several."""
        return next(iter(self.histories.values())) if len(self.histories) == 1 else []

    def summary(self) -> dict[str, Any]:
        """Return everything but the scores as plain values, as summary.json holds it."""
        winners: list[dict[str, Any]] = [
            {
                "write_config_path": str(self.paths[limit_ms]) if limit_ms in self.paths else None,
                "constraint_ms": known_ms(limit_ms),
                **winner.plain(),
                "finalists": [each.plain() for each in winner.finalists],
            }
            for limit_ms, winner in self.winners.items()
        ]
        return {
            **(winners[0] if len(winners) == 1 and not self.whole_front else {}),
            "mode": "pareto" if self.whole_front else "constraint",
            "objectives": list(self.objectives),
            "coverage": self.coverage or None,
            "latency_of": self.latency_of,
            "evaluations": len(self.scored),
            "seconds": round(self.seconds, 2),
            "history": self.history,
            "histories": {"front" if ms is None else f"{ms:g}": few for ms, few in self.histories.items()},
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
        rows = [
            {
                "evaluation": number,
                "loss": each.loss,
                "predicted_ms": round(each.predicted_ms, 4),
                "bound_ms": round(each.bound_ms, 4),
                "measured_ms": measured.get(each.arch),
                "params": each.params,
                "flops": each.flops,
                "on_front": int(each.arch in front),
                "hypervolume": round(volume, 8),
            }
            for number, (each, volume) in enumerate(zip(self.scored, self.hypervolumes, strict=True), 1)
        ]
        text = evaluations_csv(rows, [each.arch for each in self.scored])
        write_text_atomic(out / "evaluations.csv", text)
        for stale in (out / "front").glob("front@*ms.yml"):
            stale.unlink()
        for each in self.front if self.whole_front else ():
            path = out / "front" / f"front@{each.predicted_ms:.2f}ms.yml"
            while path.exists():  # two of one latency, if parameters or FLOPs are objectives
                path = path.with_name(f"{path.stem.removesuffix('ms')}_ms.yml")
            self._write_arch(path, each, "on the front")

    def write(self, out: Path | None, run: Run) -> None:
        """Write the YAML file of each winner, beside it a record of its own; into `out` table and summary."""
        made = run.record
        same: dict[str, Any] = {"settings": made.settings, "inputs": made.inputs, "device": made.device}
        same["identity"] = made.identity
        for limit_ms, path in self.paths.items():
            held = read_record(path, folder=False, note=info)
            if path.exists() and held.kind and held.identity.digest != made.identity.digest:
                info(f"{path}, which another search found, is replaced")
            self._write_arch(path, self.winners[limit_ms], under(limit_ms))
            with Run(record_path(path, folder=False), made.kind, goes_on=False, **same) as own:
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
        head += "".join(f"# {text}\n" for text in (self.sources, of and f"milliseconds of {of}") if text)
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
