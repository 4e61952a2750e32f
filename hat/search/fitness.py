"""The fitness of the search: validation loss of a slice with inherited weights."""

from collections.abc import Callable, Sequence

import torch

from hat.arch.config import Arch
from hat.data.pairs import Batch
from hat.model.transformer import Transformer
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
