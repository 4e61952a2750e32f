"""One training step against its bare matrix products and a plain PyTorch step; on GPUs also whole updates."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

import hat
from benchmarks.data import MULTI30K, WMT14, random_batch
from benchmarks.floors import BareProducts, Lengths, Product, training_products
from benchmarks.peers import PlainSuper, PlainTrainer
from benchmarks.timing import (
    CPU,
    DTYPES,
    Figure,
    Options,
    Row,
    Samples,
    Target,
    alternate,
    describe_machine,
    formats,
    mean_of,
    median_row,
    rate_row,
    ratio,
    sync_of,
)

STILL = hat.ScheduleConfig(lr=1e-7)  # the weights stay as they are, so all rounds compute the same


@dataclass(frozen=True)
class StepConfig:
    """What is trained; the defaults are those of the figure."""

    space: hat.SearchSpace
    vocab_size: int = 7960
    sentences: int = 240
    length: int = 17
    random_archs: int = 16
    rounds: int = 5
    random_rounds: int = 2
    seed: int = 1
    device: torch.device = CPU


def train_step(options: Options, threads: int) -> Figure:
    """Time the step of the largest SubTransformer and of random ones; torch has `threads` threads already.

    On a GPU also updates of the WMT'14 SuperTransformer, against the rate of its matrix products.
    """
    device = options.torch_device
    cfg = StepConfig(hat.SearchSpace.from_yaml(MULTI30K), seed=options.seed, device=device)
    if options.rounds:
        cfg = replace(cfg, rounds=options.rounds, random_rounds=options.rounds)
    figure = time_steps(cfg)
    if device.type == "cpu":
        return figure
    update = UpdateConfig(hat.SearchSpace.from_yaml(WMT14), seed=options.seed, device=device)
    if options.rounds:
        update = replace(update, rounds=options.rounds, random_rounds=options.rounds)
    return with_updates(figure, update)


def random_archs(space: hat.SearchSpace, count: int, seed: int) -> list[hat.Arch]:
    """Return the SubTransformers of the first updates of a training run."""
    return [hat.sample(space, hat.rng_for(seed, "arch", update)) for update in range(count)]


class Steps:
    """Our step in both number formats and the plain one, each with weights and optimiser of its own."""

    def __init__(self, cfg: StepConfig) -> None:
        self.cfg = cfg
        self.batch = random_batch(cfg.sentences, cfg.length, cfg.vocab_size, cfg.seed).to(cfg.device)
        self.fast, _ = formats(cfg.device)
        optim = hat.OptimConfig(label_smoothing=0.1)
        self.trainers = {}
        for name in formats(cfg.device):
            model = hat.SuperTransformer(
                cfg.space, cfg.vocab_size, hat.ModelConfig(dropout=0.1, share_all_embeddings=True)
            )
            self.trainers[name] = hat.Trainer(
                model, optim, STILL, dtype=DTYPES[name], device=cfg.device, seed=cfg.seed
            )
        plain = PlainSuper(self.trainers["fp32"].model).to(cfg.device)
        self.plain = PlainTrainer(plain, optim.label_smoothing)

    def cases(self, arch: hat.Arch, names: Sequence[str]) -> dict[str, Callable[[], object]]:
        """Return what is timed for one architecture in the number formats `names`, and the plain step."""
        size = Lengths(self.cfg.sentences, self.cfg.length, self.cfg.length)
        products = training_products(arch, self.cfg.space, self.cfg.vocab_size, size)
        cases: dict[str, Callable[[], object]] = {}
        for name in names:
            cases[name] = partial(self.trainers[name].train_step, [self.batch], arch)
            bare = BareProducts(products, DTYPES[name], backward=True, device=self.cfg.device)
            cases[f"{name} products"] = bare.step
        cases["plain fp32"] = lambda: self.plain.train_step(self.batch, arch)
        return cases


def time_steps(cfg: StepConfig) -> Figure:
    """Return the figure of `cfg`; its targets are those of a CPU, so a GPU has none."""
    machine = describe_machine(cfg.device)
    steps = Steps(cfg)
    sync, fast = sync_of(cfg.device), steps.fast
    largest = alternate(steps.cases(cfg.space.largest(), formats(cfg.device)), cfg.rounds, sync=sync)
    series = [
        alternate(steps.cases(arch, [fast]), cfg.random_rounds, sync=sync)
        for arch in random_archs(cfg.space, cfg.random_archs, cfg.seed)
    ]
    random = mean_of(series)
    rows = [
        *_rows("largest", largest, steps.batch.num_tokens),
        *_rows(f"mean of {cfg.random_archs} random", random, steps.batch.num_tokens),
    ]
    over = ratio(largest[fast], largest[f"{fast} products"])
    gain = ratio(random["plain fp32"], random[fast])
    targets = (
        Target("largest, bf16 step / its bare matrix products", over, 1.9),
        Target("random, plain fp32 step / our bf16 step", gain, 3.0, at_most=False),
    )
    note = (
        f"{cfg.sentences} sentences of {cfg.length}/{cfg.length} tokens, vocabulary {cfg.vocab_size}; tokens "
        "are target tokens; products are forward and both backward ones, attention and output matrix included"
    )
    return Figure("train-step", machine, tuple(rows), targets if cfg.device.type == "cpu" else (), (note,))


def _rows(which: str, samples: Mapping[str, Samples], tokens: int) -> list[Row]:
    rows = [median_row(f"{which}: {name}", one) for name, one in samples.items()]
    steps = [name for name in samples if not name.endswith("products")]
    rows += [rate_row(f"{which}: {name}", samples[name], tokens, "tokens/s") for name in steps]
    for name in steps[:-1]:  # the last one is the plain step
        over = ratio(samples[name], samples[f"{name} products"])
        gain = ratio(samples["plain fp32"], samples[name])
        rows.append(Row(f"{which}: {name} / its products", over, "times"))
        rows.append(Row(f"{which}: plain fp32 / {name}", gain, "times"))
    return rows


@dataclass(frozen=True)
class UpdateConfig:
    """An update as configs/wmt14.en-de/supertransformer/space0.yml makes it: 16 batches of 4,096 tokens."""

    space: hat.SearchSpace
    vocab_size: int = 32768
    sentences: int = 136
    length: int = 30
    batches: int = 16
    square: int = 8192  # rows, inner width and columns of the product that gives the rate
    random_archs: int = 8
    rounds: int = 7
    random_rounds: int = 3
    calls: int = 3
    seed: int = 1
    device: torch.device = CPU


def with_updates(figure: Figure, cfg: UpdateConfig) -> Figure:
    """Return `figure` with the share that updates reach of the rate of one large square product.

    Of an update only its matrix products are counted, forward and backward. Updates are made in the fast
    number format; both are timed in turn.
    """
    name = formats(cfg.device)[0]
    batches = [
        random_batch(cfg.sentences, cfg.length, cfg.vocab_size, cfg.seed + place).to(cfg.device)
        for place in range(cfg.batches)
    ]
    trainer = hat.Trainer(
        hat.SuperTransformer(cfg.space, cfg.vocab_size, hat.ModelConfig(0.3, 0.1, share_all_embeddings=True)),
        hat.OptimConfig(label_smoothing=0.1, clip_norm=0.0),
        STILL,
        dtype=DTYPES[name],
        device=cfg.device,
        seed=cfg.seed,
    )
    whole = Product("square", cfg.square, cfg.square, cfg.square)
    square = BareProducts([whole], DTYPES[name], device=cfg.device)

    def take(arch: hat.Arch, rounds: int) -> dict[str, Samples]:
        cases = {"update": partial(trainer.train_step, batches, arch), "square": square.forward}
        return alternate(cases, rounds, calls=cfg.calls, sync=sync_of(cfg.device))

    archs = random_archs(cfg.space, cfg.random_archs, cfg.seed)
    largest = take(cfg.space.largest(), cfg.rounds)
    random = mean_of([take(arch, cfg.random_rounds) for arch in archs])
    flops = statistics.fmean(update_flops(cfg, arch) for arch in archs)
    shares = [
        100 * ratio(samples["square"], samples["update"]) * done / whole.flops
        for samples, done in ((largest, update_flops(cfg, cfg.space.largest())), (random, flops))
    ]
    tokens = cfg.sentences * cfg.length * cfg.batches
    what = f"WMT'14 update, {name}"
    rows = [
        median_row(f"{what}, largest", largest["update"]),
        median_row(f"{what}, mean of {cfg.random_archs} random", random["update"]),
        rate_row(f"{what}, largest", largest["update"], tokens, "tokens/s"),
        rate_row(f"{what}, mean of {cfg.random_archs} random", random["update"], tokens, "tokens/s"),
        rate_row(f"square product, {name}", largest["square"], whole.flops // 10**9, "GFLOP/s"),
        Row(f"{what}, largest, of the rate of the square product", shares[0], "%"),
    ]
    target = Target(f"{what}, random, of the rate of the square product, %", shares[1], 40.0, at_most=False)
    note = (
        f"an update of WMT'14 is {cfg.batches} batches of {cfg.sentences} sentences of "
        f"{cfg.length}/{cfg.length} tokens, vocabulary {cfg.vocab_size}, and AdamW once; its FLOPs are those "
        f"of its matrix products, forward and backward; the square product is {cfg.square} wide"
    )
    return replace(
        figure,
        rows=(*figure.rows, *rows),
        targets=(*figure.targets, target),
        notes=(*figure.notes, note),
    )


def update_flops(cfg: UpdateConfig, arch: hat.Arch) -> int:
    """Return the operations of the matrix products of one update."""
    size = Lengths(cfg.sentences, cfg.length, cfg.length)
    products = training_products(arch, cfg.space, cfg.vocab_size, size)
    return 3 * cfg.batches * sum(product.flops for product in products)
