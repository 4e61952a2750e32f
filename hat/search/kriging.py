"""A guess of the losses of architectures from those that are scored, with its uncertainty."""

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from hat.search.constraints import Candidate
from hat.space import DIMS, Arch, SearchSpace

Points = NDArray[np.float64]  # [points, coordinates]
RATES = (1 / 64, 1 / 16, 1 / 4, 1.0, 4.0)  # how fast two architectures become unlike along one dimension
NOISES = (0.0003, 0.003, 0.03, 0.2)  # variance of what no dimension explains, as a share of the kernel's


class Kriging:
    """A Gaussian process over the dimensions of the space (Rasmussen and Williams 2006, chapters 2 and 5).

    The covariance of two losses is exp(-sum of rate * distance) over dimensions. The distance is the mean
    over layers of the difference in rank among the choices, so a loss may rise and fall along a dimension.
    One after another, each rate and the noise is set to that with the highest likelihood.

    Args:
        space: search space of the architectures.
        scored: architectures with their losses.
        settings: rates and noise, if they are known.
    """

    def __init__(
        self, space: SearchSpace, scored: Sequence[Candidate], settings: Sequence[float] | None = None
    ) -> None:
        losses = np.array([each.loss for each in scored])
        self._space, self._known = space, ranks(space, [each.arch for each in scored])
        self._mean, self._spread = float(np.mean(losses)), float(np.std(losses)) or 1.0
        self._losses = (losses - self._mean) / self._spread
        far = distances(self._known, self._known)
        self.settings = [*settings] if settings else [RATES[1]] * len(DIMS) + [NOISES[1]]
        misfit = self._fit(far)
        for place in [] if settings else [*range(len(self.settings))] * 2:
            for value in NOISES if place == len(DIMS) else RATES:
                old, self.settings[place] = self.settings[place], value
                if (new := self._fit(far)) < misfit:
                    misfit = new
                else:
                    self.settings[place] = old
        self._fit(far)

    def _fit(self, far: Points) -> float:
        """Solve for the losses; returns their negative log likelihood, but for a constant."""
        count, (*rates, noise) = len(self._losses), self.settings
        self._root = np.linalg.cholesky(np.exp(-np.tensordot(rates, far, 1)) + noise * np.eye(count))
        self._white = np.linalg.solve(self._root, self._losses)
        self._variance = max(float(self._white @ self._white) / count, 1e-9)
        # rounded, so that the last bits of the arithmetic do not choose
        return round(count / 2 * math.log(self._variance) + float(np.log(self._root.diagonal()).sum()), 6)

    def guess(self, archs: Sequence[Arch]) -> tuple[Points, Points]:
        """Return the expected loss of each architecture and its standard deviation."""
        far = distances(self._known, ranks(self._space, archs))
        shared = np.linalg.solve(self._root, np.exp(-np.tensordot(self.settings[:-1], far, 1)))
        variance = self._variance * np.maximum(1 - (shared**2).sum(axis=0), 1e-9)
        means = np.asarray(self._mean + self._spread * (self._white @ shared), np.float64)
        return means, np.asarray(self._spread * np.sqrt(variance), np.float64)


def ranks(space: SearchSpace, archs: Sequence[Arch]) -> list[Points]:
    """Return, for each dimension, where each architecture lies among its choices, from 0 (the smallest) to 1.
    An array [architectures, layers] for a dimension of layers, in which an unused layer holds the mean of the
    others, else [architectures, 1].
    """
    found = []
    for dim in DIMS:
        choices = sorted(set(space[dim]))
        rank = {value: place / max(1, len(choices) - 1) for place, value in enumerate(choices)}
        layers = getattr(space, dim.side).super_layers if dim.per_layer else 1
        rows = [[rank[value] for value in arch[dim]] for arch in archs]
        found.append(np.array([row + [fmean(row)] * (layers - len(row)) for row in rows]))
    return found


def distances(these: Sequence[Points], those: Sequence[Points]) -> Points:
    """Return the mean difference of ranks [dimensions, these, those]."""
    return np.array([np.abs(a[:, None] - b).mean(axis=2) for a, b in zip(these, those, strict=True)])
