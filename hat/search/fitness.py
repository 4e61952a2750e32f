"""The fitness of the search: validation loss of a slice with inherited weights."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType

import torch

from hat.data.pairs import Batch
from hat.errors import HatError, RankError
from hat.model.transformer import Transformer
from hat.search.pool import Score
from hat.space import Arch
from hat.train.distributed import ProcessGroup
from hat.train.trainer import evaluate


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
        self._label_smoothing = label_smoothing
        self._device = device
        self._on_score = on_score

    def __call__(self, archs: Sequence[Arch]) -> list[float]:
        """Return the smoothed validation loss (base 2, per target token) of each architecture."""
        losses = []
        for arch in archs:
            losses.append(
                evaluate(self._model, self._batches, arch, self._label_smoothing, self._device).loss
            )
            self._on_score()
        return losses


class SharedFitness:
    """A fitness whose architectures are divided among the ranks: rank r of k scores the r-th of k.

    Rank 0 alone searches: it calls this, inside a `with` block, while the others `serve`. Each architecture
    is scored by one rank as one process would score it, so the search is the same with any count of ranks.
    """

    def __init__(self, fitness: Score, ranks: ProcessGroup) -> None:
        self._fitness, self._ranks = fitness, ranks

    @property
    def at_once(self) -> int:
        """Return how many architectures are scored at the same time."""
        return self._ranks.size

    def __call__(self, archs: list[Arch]) -> list[float]:
        """Return the loss of each architecture; the error of a rank is raised here."""
        losses: list[float] = []
        for start in range(0, len(archs), self.at_once):
            round_ = archs[start : start + self.at_once]
            self._ranks.broadcast(("score", round_))
            for result in self._score(round_)[: len(round_)]:
                if isinstance(result, HatError):
                    raise result
                losses.append(result)
        return losses

    def serve(self) -> int:
        """Score what rank 0 hands out until it leaves its block; returns the exit code it left with."""
        while True:
            order, content = self._ranks.broadcast(("", None))
            if order == "leave":
                return int(content)
            self._score(content)

    def __enter__(self) -> "SharedFitness":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        """Let the other ranks go; after anything but a user's error they find out by themselves."""
        if value is None or (isinstance(value, HatError | OSError) and not isinstance(value, RankError)):
            with suppress(RankError):  # it would hide the error that ended the block
                self._ranks.broadcast(("leave", 0 if value is None else 2))

    def _score(self, archs: list[Arch]) -> list[float | HatError]:
        mine: float | HatError = 0.0
        if self._ranks.rank < len(archs):
            try:
                (mine,) = self._fitness([archs[self._ranks.rank]])
            except HatError as error:
                mine = error
        return self._ranks.gather_objects(mine)
