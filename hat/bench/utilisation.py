"""How much of a GPU's matrix-product rate updates of the WMT'14 SuperTransformer use."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from hat.bench.alternate import Samples, alternate, mean_of, ratio
from hat.bench.corpus import random_batch
from hat.bench.device import CPU, formats
from hat.bench.figure import Row, Target, median_row, rate_row
from hat.bench.products import BareProducts, Lengths, Product, training_products
from hat.bench.spaces import WMT14
from hat.latency.measure import sync_of
from hat.model.cpu import DTYPES
from hat.model.layers import ModelConfig
from hat.model.transformer import SuperTransformer
from hat.space import Arch, SearchSpace, draw_arch
from hat.train.policy import ScheduleConfig
from hat.train.trainer import OptimConfig, Trainer


@dataclass(frozen=True)
class UpdateConfig:
    """An update as configs/wmt14.en-de/supertransformer/space0.yml makes it: 16 batches of 4,096 tokens."""

    space: SearchSpace = WMT14
    vocab_size: int = 32768
    sentences: int = 136
    length: int = 30
    batches: int = 16
    dropout: float = 0.3
    attention_dropout: float = 0.1
    square: int = 8192  # rows, inner width and columns of the product that gives the rate
    random_archs: int = 8
    rounds: int = 7
    random_rounds: int = 3
    calls: int = 3
    seed: int = 1
    device: torch.device = CPU


class Utilisation(NamedTuple):
    """A part of the figure `train-step`."""

    rows: tuple[Row, ...]
    target: Target
    note: str


def time_updates(cfg: UpdateConfig) -> Utilisation:
    """Return the share of the rate of one large square product that updates reach, in the fast number format.

    Of updates only their matrix products are counted, forward and backward; both are timed in turn.
    """
    name = formats(cfg.device)[0]
    batches = [
        random_batch(cfg.sentences, cfg.length, cfg.vocab_size, cfg.seed + place).to(cfg.device)
        for place in range(cfg.batches)
    ]
    model_cfg = ModelConfig(cfg.dropout, cfg.attention_dropout, share_all_embeddings=True)
    trainer = Trainer(
        SuperTransformer(cfg.space, cfg.vocab_size, model_cfg),
        OptimConfig(label_smoothing=0.1, clip_norm=0.0),
        ScheduleConfig(lr=1e-7),  # the weights stay as they are
        dtype=DTYPES[name],
        device=cfg.device,
        seed=cfg.seed,
    )
    whole = Product("square", cfg.square, cfg.square, cfg.square)
    square = BareProducts([whole], DTYPES[name], device=cfg.device)

    def cases(arch: Arch) -> dict[str, Callable[[], object]]:
        return {"update": lambda: trainer.train_step(batches, arch), "square product": square.forward}

    def take(arch: Arch, rounds: int) -> dict[str, Samples]:
        return alternate(cases(arch), rounds, calls=cfg.calls, sync=sync_of(cfg.device))

    largest = cfg.space.largest()
    archs = [draw_arch(cfg.space, cfg.seed, update) for update in range(cfg.random_archs)]
    alone = take(largest, cfg.rounds)
    mean = mean_of([take(arch, cfg.random_rounds) for arch in archs])
    flops = statistics.fmean(update_flops(cfg, arch) for arch in archs)
    shares = [
        100 * ratio(samples["square product"], samples["update"]) * done / whole.flops
        for samples, done in ((alone, update_flops(cfg, largest)), (mean, flops))
    ]
    tokens = cfg.sentences * cfg.length * cfg.batches
    what = f"WMT'14 update, {name}"
    rows = (
        median_row(f"{what}, largest", alone["update"]),
        median_row(f"{what}, mean of {cfg.random_archs} random", mean["update"]),
        rate_row(f"{what}, largest", alone["update"], tokens, "tokens/s"),
        rate_row(f"{what}, mean of {cfg.random_archs} random", mean["update"], tokens, "tokens/s"),
        rate_row(f"square product, {name}", alone["square product"], whole.flops // 10**9, "GFLOP/s"),
        Row(f"{what}, largest, of the rate of the square product", shares[0], "%"),
    )
    target = Target(f"{what}, random, of the rate of the square product, %", shares[1], 40.0, at_most=False)
    note = (
        f"an update of WMT'14 is {cfg.batches} batches of {cfg.sentences} sentences of "
        f"{cfg.length}/{cfg.length} tokens, vocabulary {cfg.vocab_size}, and AdamW once; its FLOPs are those "
        f"of its matrix products, forward and backward; the square product is {cfg.square} wide"
    )
    return Utilisation(rows, target, note)


def update_flops(cfg: UpdateConfig, arch: Arch) -> int:
    """Return the operations of the matrix products of one update."""
    size = Lengths(cfg.sentences, cfg.length, cfg.length)
    products = training_products(arch, cfg.space, cfg.vocab_size, size)
    return 3 * cfg.batches * sum(product.flops for product in products)
