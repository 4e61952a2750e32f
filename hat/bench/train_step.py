"""One training step against its bare matrix products and against a straightforward float32 step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from hat.bench.alternate import Samples, alternate, mean_of, ratio
from hat.bench.corpus import random_batch
from hat.bench.device import CPU, device_named, formats
from hat.bench.figure import Figure, Row, Target, median_row, rate_row
from hat.bench.machine import describe_machine
from hat.bench.plain import PlainSuper, PlainTrainer
from hat.bench.products import BareProducts, Lengths, linear_only, training_products
from hat.bench.request import BenchOptions
from hat.bench.spaces import MULTI30K
from hat.bench.utilisation import UpdateConfig, time_updates
from hat.latency.measure import sync_of
from hat.model.cpu import DTYPES
from hat.model.layers import ModelConfig
from hat.model.transformer import SuperTransformer
from hat.space import Arch, SearchSpace, draw_arch
from hat.train.policy import ScheduleConfig
from hat.train.trainer import OptimConfig, Trainer

VOCAB = 7960


@dataclass(frozen=True)
class TrainStepConfig:
    """What is trained; the defaults are those of the figure."""

    space: SearchSpace = MULTI30K
    vocab_size: int = VOCAB
    sentences: int = 240
    length: int = 17
    random_archs: int = 16
    rounds: int = 7
    random_rounds: int = 3
    seed: int = 1
    device: torch.device = CPU

    @property
    def on_cpu(self) -> bool:
        """Return whether the targets are meant for the device."""
        return self.device.type == "cpu"

    def archs(self) -> list[Arch]:
        """Return the random SubTransformers, those of the first updates of a training run."""
        return [draw_arch(self.space, self.seed, update) for update in range(self.random_archs)]


class Steps:
    """Our step in both number formats and the plain one, each with weights and optimiser of its own."""

    def __init__(self, cfg: TrainStepConfig) -> None:
        self.cfg = cfg
        self.batch = random_batch(cfg.sentences, cfg.length, cfg.vocab_size, cfg.seed).to(cfg.device)
        self.size = Lengths(cfg.sentences, cfg.length, cfg.length)
        model_cfg = ModelConfig(dropout=0.1, share_all_embeddings=True)
        optim = OptimConfig(label_smoothing=0.1)
        schedule = ScheduleConfig(lr=1e-7)  # the weights stay as they are, so all rounds compute the same
        self.trainers = {}
        for name in formats(cfg.device):
            model = SuperTransformer(cfg.space, cfg.vocab_size, model_cfg)
            self.trainers[name] = Trainer(
                model, optim, schedule, dtype=DTYPES[name], device=cfg.device, seed=cfg.seed
            )
        self.plain = PlainTrainer(
            PlainSuper(self.trainers["fp32"].model).to(cfg.device), optim.label_smoothing
        )

    def cases(self, arch: Arch) -> dict[str, Callable[[], object]]:
        """Return what is timed for one architecture; the operands of the floors are made here."""
        products = training_products(arch, self.cfg.space, self.cfg.vocab_size, self.size)
        bare = partial(BareProducts, backward=True, device=self.cfg.device)
        cases: dict[str, Callable[[], object]] = {}
        for name, trainer in self.trainers.items():
            cases[name] = lambda trainer=trainer: trainer.train_step([self.batch], arch)
            cases[f"{name} products"] = bare(products, DTYPES[name]).step
            cases[f"{name} products without attention"] = bare(linear_only(products), DTYPES[name]).step
        cases["plain fp32"] = lambda: self.plain.train_step(self.batch, arch)
        return cases


def train_step(threads: int, options: BenchOptions) -> Figure:
    """Time the step of the largest SubTransformer and of random ones; torch has `threads` threads already.

    On a GPU also updates of the WMT'14 SuperTransformer, against the rate of its matrix products.
    """
    default = TrainStepConfig()
    device = device_named(options.device)
    figure = time_steps(
        TrainStepConfig(
            rounds=options.rounds or default.rounds,
            random_rounds=options.rounds or default.random_rounds,
            seed=options.seed,
            device=device,
        )
    )
    if device.type == "cpu":
        return figure
    rounds, random_rounds = UpdateConfig.rounds, UpdateConfig.random_rounds
    return with_updates(
        figure,
        UpdateConfig(
            rounds=options.rounds or rounds,
            random_rounds=options.rounds or random_rounds,
            seed=options.seed,
            device=device,
        ),
    )


def with_updates(figure: Figure, cfg: UpdateConfig) -> Figure:
    """Return `figure` with the updates of the WMT'14 SuperTransformer."""
    found = time_updates(cfg)
    return replace(
        figure,
        rows=(*figure.rows, *found.rows),
        targets=(*figure.targets, found.target),
        notes=(*figure.notes, found.note),
    )


def time_steps(cfg: TrainStepConfig) -> Figure:
    """Return the figure of `cfg`; its targets are those of a CPU, on a GPU they are rows like others."""
    machine = describe_machine(cfg.device)
    steps = Steps(cfg)
    sync = sync_of(cfg.device)
    largest = alternate(steps.cases(cfg.space.largest()), cfg.rounds, sync=sync)
    series = [alternate(steps.cases(arch), cfg.random_rounds, sync=sync) for arch in cfg.archs()]
    random = mean_of(series)
    names = formats(cfg.device)
    rows: list[Row] = []
    for which, samples in (("largest", largest), (f"mean of {cfg.random_archs} random", random)):
        rows += _rows(which, samples, steps.batch.num_tokens, names)
    targets = (
        Target(
            "largest, bf16 step / its bare matrix products",
            ratio(largest[names[0]], largest[f"{names[0]} products"]),
            1.9,
        ),
        Target(
            "random, plain fp32 step / our bf16 step",
            ratio(random["plain fp32"], random[names[0]]),
            3.0,
            at_most=False,
        ),
    )
    notes = (
        f"{cfg.sentences} sentences of {cfg.length}/{cfg.length} tokens, vocabulary {cfg.vocab_size}; tokens "
        "are target tokens; products are forward and both backward ones, output matrix included",
    )
    return Figure("train-step", machine, tuple(rows), targets if cfg.on_cpu else (), notes)


def _rows(which: str, samples: dict[str, Samples], tokens: int, names: Sequence[str]) -> Sequence[Row]:
    rows = [median_row(f"{which}: {name}", one) for name, one in samples.items()]
    for name in (*names, "plain fp32"):
        rows.append(rate_row(f"{which}: {name}", samples[name], tokens, "tokens/s"))
    for name in names:
        for floor in ("products", "products without attention"):
            over = ratio(samples[name], samples[f"{name} {floor}"])
            rows.append(Row(f"{which}: {name} / its {floor}", over, "times"))
        rows.append(
            Row(f"{which}: plain fp32 / {name}", ratio(samples["plain fp32"], samples[name]), "times")
        )
    return rows
