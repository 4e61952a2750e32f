"""Short trainings from slices of a SuperTransformer: they rank architectures better than the slices do."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from hat.model.layers import count_params
from hat.search.strategies import Points, ScoringOptions, ridge
from hat.space import Arch, SearchSpace, layer_columns
from hat.train.loop import LoopConfig, TrainConfig

LEAST = 10  # short trainings that a regression is made from
Train = Callable[[Sequence[Arch], int], list[float]]  # validation losses after so many updates from the slice


def rounds_of(count: int, options: ScoringOptions) -> list[tuple[int, int]]:
    """Return how many architectures are trained in each round, and for how many updates each."""
    if options.rerank_by == "ridge":
        return [(min(count, max(options.rerank, LEAST)), options.rerank_updates)]
    count, rounds, updates = min(count, options.rerank), list[tuple[int, int]](), options.rerank_updates
    while count > 1:
        rounds.append((count, updates))
        count, updates = (count + 1) // 2, 2 * updates
    return rounds


def short_training(config: TrainConfig, updates: int) -> TrainConfig:
    """Return the options of a training of so many updates; its warm-up is at most a fifth of it."""
    optim, schedule = config.optim, config.schedule
    return replace(
        config,
        optim=replace(optim, max_update=updates, max_epoch=None),
        schedule=replace(schedule, warmup_updates=min(schedule.warmup_updates, updates // 5)),
        # validated at the end alone
        loop=LoopConfig(validate_interval=10**9, keep_last_epochs=0, log_interval=10**9, no_tensorboard=True),
    )


def halving(ranked: Sequence[Arch], rounds: Sequence[tuple[int, int]], train: Train) -> list[Arch]:
    """Return the architectures in the order that successive halving gives them, best first.

    Those that leave in a round follow those that stay; what is trained in no round keeps its order
    (Jamieson and Talwalkar 2016, Non-stochastic best arm identification).
    """
    order = list(ranked)
    for count, updates in rounds:
        losses = dict(zip(order[:count], train(order[:count], updates), strict=True))
        order[:count] = sorted(losses, key=losses.__getitem__)
    return order


def spread(ranked: Sequence[Arch], count: int) -> list[Arch]:
    """Return `count` architectures, evenly spread over those that are ranked, the first and the last too."""
    places = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
    return [ranked[place] for place in places]


def guess_trained(
    space: SearchSpace, slices: Mapping[Arch, float], trained: Mapping[Arch, float]
) -> dict[Arch, float]:
    """Return a guess of the loss of each architecture of `slices` after the training that `trained` had.

    Ridge regression on the loss of its slice, the logarithm of its decoder's depth, its parameters, and what
    each layer holds; the latter count together as much as one of the former.
    """

    def columns(archs: Iterable[Arch]) -> Points:
        few = [[slices[arch], math.log(arch.decoder.num_layers), count_params(arch, space)] for arch in archs]
        return np.hstack([few, [layer_columns(arch, space) for arch in archs]])

    wanted = columns(slices)
    weights = np.full(wanted.shape[1], 1 / math.sqrt(wanted.shape[1] - 3))
    weights[:3] = 1.0
    guessed = ridge(columns(trained), list(trained.values()), wanted, weights)
    return dict(zip(slices, guessed.tolist(), strict=True))
