"""Draws of new architectures that keep the limits, each handed out once."""

from collections.abc import Callable
from itertools import cycle
from typing import NamedTuple

from hat.errors import Infeasible
from hat.search.limits import Gate
from hat.space import Arch, Gene, SearchSpace, arch_of_gene, gene_of

Score = Callable[[list[Arch]], list[float]]


class Found(NamedTuple):
    """An architecture that keeps the limits."""

    gene: Gene
    arch: Arch
    latency_ms: float  # predicted


class Pool:
    """Hands out architectures that keep the limits, each once in its life."""

    def __init__(self, space: SearchSpace, latency_ms: Score, gate: Gate, max_tries: int) -> None:
        self._space, self._latency_ms = space, latency_ms
        self._gate, self._max_tries = gate, max_tries
        self._taken: set[Arch] = set()

    def initial(self, draw: Callable[[], Gene], count: int, first: tuple[Arch, ...] = ()) -> list[Found]:
        """Return up to `count` architectures: `first`, then random ones; the smallest where these lack.

        Those of `first` that break a limit are left out. Raises Infeasible where nothing keeps the limits.
        """
        found = self.among(first, count)
        found += self.collect(draw, count - len(found))
        if len(found) < count:
            smallest = gene_of(self._space.smallest(), self._space)
            found += self.collect(lambda: smallest, 1, max_tries=1)
        if not found and not self._taken:
            raise Infeasible(self._gate.refusal(self._max_tries))
        return found

    def among(self, archs: tuple[Arch, ...], count: int | None = None) -> list[Found]:
        """Return those of `archs` that keep the limits and were never returned before, the first `count`."""
        genes = cycle([gene_of(arch, self._space) for arch in archs])
        found = self.offer(lambda: next(genes), len(archs), max_tries=len(archs))[:count] if archs else []
        self.take(found)
        return found

    def collect(self, draw: Callable[[], Gene], count: int, max_tries: int | None = None) -> list[Found]:
        """Return up to `count` architectures within the limits that were never returned before.

        Gives up after max_tries draws in a row brought none, so it draws about count * max_tries times
        at most.
        """
        found = self.offer(draw, count, max_tries)
        self.take(found)
        return found

    def offer(self, draw: Callable[[], Gene], count: int, max_tries: int | None = None) -> list[Found]:
        """Return architectures as `collect` does, but leave them to be returned again: see `take`."""
        max_tries = max_tries or self._max_tries
        found: list[Found] = []
        offered: set[Arch] = set()
        failures = 0
        while len(found) < count and failures < max_tries:
            genes = [draw() for _ in range(min(count, max_tries - failures))]
            archs = [arch_of_gene(gene, self._space) for gene in genes]
            unseen = list(dict.fromkeys(arch for arch in archs if arch not in self._taken | offered))
            latency = self._latency_ms(unseen) if unseen else []
            allowed = dict(zip(unseen, zip(latency, self._gate(unseen, latency), strict=True), strict=True))
            for gene, arch in zip(genes, archs, strict=True):
                ms, fits = allowed.get(arch, (0.0, False))
                if len(found) < count and fits and arch not in offered:
                    offered.add(arch)
                    found.append(Found(gene, arch, ms))
                    failures = 0
                else:
                    failures += 1
        return found

    def take(self, found: list[Found]) -> None:
        """Never return these again."""
        self._taken.update(each.arch for each in found)
