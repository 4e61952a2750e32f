"""One training step against its bare matrix products and a plain PyTorch step; on a GPU a whole update."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

import hat
from benchmarks import timing
from benchmarks.data import MULTI30K, WMT14, random_batch
from benchmarks.floors import BareProducts, Lengths, Product, training_products
from benchmarks.peers import PlainTrainer
from benchmarks.timing import DTYPES, Row, Target, ratio


@dataclass(frozen=True)
class StepConfig:
    """What is trained; the defaults are those of the figure on a CPU."""

    space: hat.SearchSpace
    vocab_size: int = 7960
    sentences: int = 240
    length: int = 17
    batches: int = 1
    model: hat.ModelConfig = hat.ModelConfig(dropout=0.1, share_all_embeddings=True)
    random_archs: int = 16
    rounds: int = 5
    random_rounds: int = 1
    square: int = 8192  # rows, inner width and columns of the product that gives the rate of a GPU
    seed: int = 1
    device: torch.device = timing.CPU

    def products(self, arch: hat.Arch) -> list[Product]:
        """Return the products of the forward pass of one batch."""
        size = Lengths(self.sentences, self.length, self.length)
        return training_products(arch, self.space, self.vocab_size, size)

    def flops(self, arch: hat.Arch) -> int:
        """Return the operations of the matrix products of one update, forward and backward."""
        return 3 * self.batches * sum(product.flops for product in self.products(arch))


def train_step(options: timing.Options, threads: int) -> timing.Figure:
    """Time the step of the largest SubTransformer and of random ones; torch has `threads` threads already. On
    a GPU that is an update of configs/wmt14.en-de/supertransformer/space0.yml: 16 batches of 4,096 tokens.
    """
    device = options.torch_device
    if device.type == "cpu":
        cfg = StepConfig(hat.SearchSpace.from_yaml(MULTI30K))
    else:
        model = hat.ModelConfig(0.3, 0.1, share_all_embeddings=True)
        cfg = StepConfig(hat.SearchSpace.from_yaml(WMT14), 32768, 136, 30, 16, model, 8, 7, 3)
    rounds = (options.rounds or cfg.rounds, options.rounds or cfg.random_rounds)
    return time_steps(
        replace(cfg, rounds=rounds[0], random_rounds=rounds[1], seed=options.seed, device=device)
    )


class Steps:
    """Our step in both number formats and the plain one, each with weights and optimiser of its own."""

    def __init__(self, cfg: StepConfig) -> None:
        self.cfg, self.fast = cfg, timing.formats(cfg.device)[0]
        self.batches = [
            random_batch(cfg.sentences, cfg.length, cfg.vocab_size, cfg.seed + n).to(cfg.device)
            for n in range(cfg.batches)
        ]
        optim = hat.OptimConfig(label_smoothing=0.1, clip_norm=0.0)
        still = hat.ScheduleConfig(lr=1e-7)  # the weights stay as they are, so all rounds compute the same
        self.trainers = {
            name: hat.Trainer(
                hat.SuperTransformer(cfg.space, cfg.vocab_size, cfg.model),
                optim,
                still,
                dtype=DTYPES[name],
                device=cfg.device,
                seed=cfg.seed,
            )
            for name in timing.formats(cfg.device)
        }
        whole = Product("square", cfg.square, cfg.square, cfg.square)
        self.square, self.square_flops = None, whole.flops
        if cfg.device.type == "cpu":
            self.plain = PlainTrainer(self.trainers["fp32"].model, optim.label_smoothing)
        else:
            self.square = BareProducts([whole], DTYPES[self.fast], device=cfg.device)

    def cases(self, arch: hat.Arch, names: Sequence[str]) -> dict[str, Callable[[], object]]:
        """Return what is timed for one architecture in the number formats `names`, beside floor and peer."""
        cases: dict[str, Callable[[], object]] = {}
        for name in names:
            cases[name] = partial(self.trainers[name].train_step, self.batches, arch)
            floor = BareProducts(self.cfg.products(arch), DTYPES[name], backward=True, device=self.cfg.device)
            cases[f"{name} products"] = partial(floor.run, self.cfg.batches)
        if self.square is None:
            cases["plain fp32"] = partial(self.plain.train_step, self.batches[0], arch)
        else:
            cases["square product"] = self.square.run
        return cases


def time_steps(cfg: StepConfig) -> timing.Figure:
    """Return the figure of `cfg`; on a GPU its target is a share of the rate of one large product."""
    machine = timing.describe_machine(cfg.device)
    steps = Steps(cfg)
    fast, sync = steps.fast, hat.sync_of(cfg.device)
    # those of the first updates of a training run
    archs = [hat.sample(cfg.space, hat.rng_for(cfg.seed, "arch", n)) for n in range(cfg.random_archs)]
    largest = timing.alternate(
        steps.cases(cfg.space.largest(), timing.formats(cfg.device)), cfg.rounds, sync=sync
    )
    random = timing.mean_of(
        [timing.alternate(steps.cases(arch, [fast]), cfg.random_rounds, sync=sync) for arch in archs]
    )
    tokens = cfg.sentences * cfg.length * cfg.batches
    rows: list[Row] = []
    for which, samples in (("largest", largest), (f"mean of {cfg.random_archs} random", random)):
        rows += [timing.median_row(f"{which}: {name}", one) for name, one in samples.items()]
        for name in (name for name in samples if "product" not in name):
            rows.append(timing.rate_row(f"{which}: {name}", samples[name], tokens, "tokens/s"))
            for other in (f"{name} products", "plain fp32"):
                if other in samples and other != name:
                    over = ratio(samples[name], samples[other])
                    rows.append(Row(f"{which}: {name} / {other}", over, "times"))
    if steps.square is None:
        over = ratio(largest[fast], largest[f"{fast} products"])
        gain = ratio(random["plain fp32"], random[fast])
        targets = [
            Target("largest, bf16 step / its bare matrix products", over, 1.9),
            Target("random, plain fp32 step / our bf16 step", gain, 3.0, at_most=False),
        ]
    else:
        flops = statistics.fmean(cfg.flops(arch) for arch in archs)
        share = 100 * ratio(random["square product"], random[fast]) * flops / steps.square_flops
        text = f"random, {fast} update, of the rate of a square product of {cfg.square}, %"
        targets = [Target(text, share, 40.0, at_most=False)]
    note = (
        f"{cfg.batches} batches of {cfg.sentences} sentences of {cfg.length}/{cfg.length} tokens, vocabulary "
        f"{cfg.vocab_size}; tokens are target tokens; products are forward and both backward ones"
    )
    return timing.Figure("train-step", machine, rows, targets, [note])
