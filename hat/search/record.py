"""Keep every scored architecture on disk, so that a killed search goes on where it stopped."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hat.errors import ArchError, ConfigError, DataError
from hat.files.journal import Journal, read_journal
from hat.search.evolution import EvolutionConfig, finite_loss
from hat.search.pool import Score
from hat.space import Arch, SearchSpace, space_to_plain

LENGTHS = ("evo_iter", "pareto_evaluations")
# entries of a header that a loss depends on
SAME_LOSS = ("space", "checkpoint", "label_smoothing", "validation", "dtype")


def search_header(
    space: SearchSpace, cfg: EvolutionConfig, seed: int, *more: Any, **digests: str | float
) -> dict[str, Any]:
    """Return what must be equal for a search to go on: space, options, seed and digests of the files it uses.

    The number of iterations is left out: a search with more of them goes on from a shorter one. Of `more`
    dataclasses of options those fields stand here that are not at their default.
    """
    options = {name: value for name, value in asdict(cfg).items() if name not in LENGTHS}
    for group in more:
        default = type(group)()
        options |= {
            name: value
            for name, value in asdict(group).items()
            if name not in LENGTHS and value != getattr(default, name)
        }
    header = {
        "kind": "hat search",
        "format": 1,
        "seed": seed,
        **options,
        "space": space_to_plain(space),
        **digests,
    }
    plain: dict[str, Any] = json.loads(json.dumps(header))  # as it is read back: tuples are lists
    return plain


class CachedFitness:
    """A fitness that writes each score to a journal and reads known ones back instead of computing again.

    New architectures are scored `at_once` at a time, as many as there are processes to score them.

    `evolve` is deterministic, so a repeated search asks for the same architectures in the same order and ends
    as if it had never stopped. Raises ConfigError where the journal belongs to a search with another `header`
    and DataError where a record is damaged. The losses of `known` architectures, scored by an older search,
    are taken over into the journal when they are asked for.
    """

    def __init__(
        self,
        journal: Journal,
        fitness: Score,
        latency_ms: Score,
        header: dict[str, Any],
        at_once: int = 1,
        known: Mapping[Arch, float] | None = None,
    ) -> None:
        self._at_once, self._known = at_once, known or {}
        self._journal, self._fitness, self._latency_ms = journal, fitness, latency_ms
        self._header = header
        held = journal.records[0] if journal.records else header
        if held != header:
            names = [n for n in (*header, *held) if held.get(n) != header.get(n)] or ["order"]
            raise ConfigError(
                f"{journal.path} belongs to another search: {_difference(names[0], held, header)}; use "
                "another folder, or move the file away"
            )
        self._losses = dict(
            _entry(record, journal.path, n) for n, record in enumerate(journal.records[1:], 2)
        )
        self.resumed = len(self._losses)  # architectures scored by earlier runs

    def __call__(self, archs: list[Arch]) -> list[float]:
        """Return the loss of each architecture; new ones are on disk before the next are scored."""
        asked = list(dict.fromkeys(arch for arch in archs if arch not in self._losses))
        for arch in asked:
            if arch in self._known:
                self._keep(arch, self._known[arch])
        new = [arch for arch in asked if arch not in self._known]
        for start in range(0, len(new), self._at_once):
            part = new[start : start + self._at_once]
            for arch, loss in zip(part, self._fitness(part), strict=True):
                self._keep(arch, loss)
        return [self._losses[arch] for arch in archs]

    @property
    def losses(self) -> dict[Arch, float]:
        """Return the loss of each architecture in the journal, in the order of scoring."""
        return dict(self._losses)

    def _keep(self, arch: Arch, loss: float) -> None:
        (ms,) = self._latency_ms([arch])
        record = {"arch": arch.to_yaml(), "loss": finite_loss(loss, arch), "latency_ms": ms}
        if not self._journal.records:  # nothing is written for a search that finds nothing
            self._journal.append(self._header)
        self._journal.append(record)
        self._losses[arch] = loss


def old_losses(path: Path, header: Mapping[str, Any]) -> dict[Arch, float]:
    """Return the losses in the journal of an older search, which may have had other limits and options.

    Raises DataError where it is no such journal and ConfigError where its losses are of another space,
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
    return f"{name} is {_short(held.get(name))} there and {_short(header.get(name))} here"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
