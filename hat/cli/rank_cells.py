"""The scores of a rank study: what each depends on, and the journal that keeps them."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hat.cli.rank_work import RankWork, remove_checkpoints
from hat.errors import DataError
from hat.files.journal import Journal, read_journal
from hat.log import say
from hat.model.transformer import Transformer
from hat.search.ranking import Score
from hat.space import Arch


@dataclass(frozen=True)
class Source:
    """A SuperTransformer of the study."""

    name: str
    path: Path
    digest: str


@dataclass(frozen=True)
class Cell:
    """One score: of a slice, or of a training from scratch (no source) or from a slice."""

    arch: Arch
    seed: int = 0
    updates: int = 0  # 0: the slice as it is
    source: Source | None = None

    @property
    def stage(self) -> str:
        """Return which part of the study this belongs to."""
        if self.source is None:
            return f"training from scratch, seed {self.seed}"
        return f"fine-tuning of {self.source.name}" if self.updates else f"slices of {self.source.name}"


class RankCells:
    """Runs cells and keeps their scores in the journal, under all that they depend on."""

    def __init__(self, work: RankWork, journal: Journal, folder: Path, *, keep: bool) -> None:
        self._work, self._journal, self._folder, self._keep = work, journal, folder, keep
        self._taken: tuple[Source, Transformer] | None = None
        self.done: dict[str, Score] = {}
        self._read(journal.path, journal.records)

    def _read(self, path: Path, records: Sequence[dict[str, Any]]) -> None:
        try:
            self.done |= {r["name"]: Score(r["loss"], r["bleu"]) for r in records}
        except (KeyError, TypeError) as error:
            raise DataError(f"{path} is no journal of a rank study; give another --out-dir") from error

    def take_others(self, *, running: bool) -> None:
        """Add the scores of this study's other journals.

        Where their processes must not be `running` any more, raises HatError while one of them is.
        """
        for path in sorted(self._folder.glob("journal*.jsonl")):
            if path == self._journal.path:
                continue
            if running:
                self._read(path, read_journal(path))
            else:
                with Journal(path) as other:
                    self._read(path, other.records)

    def name(self, cell: Cell) -> str:
        """Return a digest of all that the score of this cell depends on."""
        return _digest({"training": self._training(cell), "score": self._work.scoring()})

    def _training(self, cell: Cell) -> str:
        """Return a digest of all that the weights of this cell depend on."""
        return _digest(
            {
                "arch": cell.arch.to_yaml(),
                "seed": cell.seed,
                "updates": cell.updates,
                "source": cell.source.digest if cell.source else "",
                "recipe": self._work.identity(cell.updates or 1),
            }
        )

    def run(self, cell: Cell, place: str) -> None:
        """Score one cell, training it first where it asks for updates."""
        start = time.perf_counter()
        name, training = self.name(cell), self._training(cell)
        run = self._folder / "trainings" / f"{training}-dec{cell.arch.decoder.num_layers}-seed{cell.seed}"
        if cell.updates:
            restore = cell.source.path if cell.source else None
            trained = self._work.train(cell.arch, cell.updates, cell.seed, run, restore)
            score = self._work.score(self._work.trained(trained, cell.arch), cell.arch)
        else:
            assert cell.source is not None
            if self._taken is None or self._taken[0] != cell.source:
                self._taken = cell.source, self._work.take_up(cell.source.path)
            score = self._work.score(self._taken[1], cell.arch)
        seconds = time.perf_counter() - start
        facts = {"stage": cell.stage, "arch": cell.arch.to_yaml(), "updates": cell.updates}
        record = {"name": name, **asdict(score), **facts, "seed": cell.seed, "seconds": round(seconds, 1)}
        self._journal.append(record)
        self.done[name] = score
        if cell.updates and not self._keep:
            remove_checkpoints(run)
        shown = "" if score.bleu is None else f", BLEU {score.bleu:.2f}"
        say(f"{place}: {cell.stage}, loss {score.loss:.4f}{shown}, {seconds:.1f} s")


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
