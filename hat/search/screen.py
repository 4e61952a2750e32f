"""A cheap guess of the loss of architectures not scored yet, from those that are."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hat.space import Arch, SearchSpace, layer_columns

STIFFNESS = 1.0  # of the ridge; one scored architecture counts as much


def guess_losses(
    space: SearchSpace, scored: Sequence[tuple[Arch, float]], archs: Sequence[Arch]
) -> list[float]:
    """Return a guess of the loss of each of `archs`.

    Ridge regression on what each layer holds, so every layer's sizes and heads have an effect of their own;
    a layer that is not there has the effect of its depth. Rounded to 1e-6 so that the last bits of the
    arithmetic do not choose.
    """
    x = _columns(space, [arch for arch, _ in scored])
    y = np.array([loss for _, loss in scored])
    middle, spread, mean = x.mean(axis=0), x.std(axis=0), y.mean()
    spread[spread == 0] = 1.0
    z = (x - middle) / spread
    weights = np.linalg.solve(z.T @ z + STIFFNESS * np.eye(z.shape[1]), z.T @ (y - mean))
    guess = mean + (_columns(space, archs) - middle) / spread @ weights
    values: list[float] = np.round(guess, 6).tolist()
    return values


def _columns(space: SearchSpace, archs: Sequence[Arch]) -> NDArray[np.float64]:
    """Return [architectures, columns]: widths, one flag for each layer, and what the layer holds."""
    return np.array([layer_columns(arch, space) for arch in archs])
