"""One training step against its bare matrix products and against a straightforward float32 step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from hat.arch.config import Arch
from hat.arch.sampler import draw_arch
from hat.arch.space import DecoderSpace, EncoderSpace, SearchSpace
from hat.bench.alternate import Samples, alternate, mean_of, ratio
from hat.bench.figure import Figure, Row, Target, median_row, rate_row
from hat.bench.machine import describe_machine
from hat.bench.plain import PlainSuper, PlainTrainer
from hat.bench.products import BareProducts, Lengths, linear_only, training_products
from hat.bench.request import BenchOptions
from hat.data.pairs import Batch
from hat.model.config import EOS, ModelConfig
from hat.model.precision import DTYPES
from hat.model.transformer import SuperTransformer
from hat.train.schedule import ScheduleConfig
from hat.train.trainer import OptimConfig, Trainer

# The space of configs/multi30k.en-de, written out so that the figure does not move with that file.
SPACE = SearchSpace(
    EncoderSpace(256, 1024, 3, (256, 192), (1024, 512, 256), (3, 2), (4, 2)),
    DecoderSpace(256, 1024, 3, (256, 192), (1024, 512, 256), (3, 2, 1), (4, 2), (4, 2), (1, 2, 3)),
    qkv_dim=256,
)
VOCAB = 7960


@dataclass(frozen=True)
class TrainStepConfig:
    """What is trained; the defaults are those of the figure."""

    space: SearchSpace = SPACE
    vocab_size: int = VOCAB
    sentences: int = 240
    length: int = 17
    random_archs: int = 16
    rounds: int = 7
    random_rounds: int = 3
    seed: int = 1

    def archs(self) -> list[Arch]:
        """Return the random SubTransformers, those of the first updates of a training run."""
        return [draw_arch(self.space, self.seed, update) for update in range(self.random_archs)]


def random_batch(sentences: int, length: int, vocab_size: int, seed: int) -> Batch:
    """Return sentences of random words, all of one length, without padding."""
    noise = torch.Generator().manual_seed(seed)
    source, target = (
        torch.randint(EOS + 2, vocab_size, (sentences, length), generator=noise) for _ in range(2)
    )
    source[:, -1] = target[:, -1] = EOS
    shifted = torch.cat([target[:, -1:], target[:, :-1]], dim=1)
    return Batch(torch.arange(sentences), source, shifted, target, sentences * length)


class Steps:
    """Our step in both number formats and the plain one, each with weights and optimiser of its own."""

    def __init__(self, cfg: TrainStepConfig) -> None:
        self.cfg = cfg
        self.batch = random_batch(cfg.sentences, cfg.length, cfg.vocab_size, cfg.seed)
        self.size = Lengths(cfg.sentences, cfg.length, cfg.length)
        model_cfg = ModelConfig(dropout=0.1, share_all_embeddings=True)
        optim = OptimConfig(label_smoothing=0.1)
        schedule = ScheduleConfig(lr=1e-7)  # the weights stay as they are, so all rounds compute the same
        self.trainers = {}
        for name in ("bf16", "fp32"):
            model = SuperTransformer(cfg.space, cfg.vocab_size, model_cfg)
            self.trainers[name] = Trainer(
                model, optim, schedule, dtype=DTYPES[name], device=torch.device("cpu"), seed=cfg.seed
            )
        self.plain = PlainTrainer(PlainSuper(self.trainers["fp32"].model), optim.label_smoothing)

    def cases(self, arch: Arch) -> dict[str, Callable[[], object]]:
        """Return what is timed for one architecture; the operands of the floors are made here."""
        products = training_products(arch, self.cfg.space, self.cfg.vocab_size, self.size)
        cases: dict[str, Callable[[], object]] = {}
        for name, trainer in self.trainers.items():
            cases[name] = lambda trainer=trainer: trainer.train_step([self.batch], arch)
            cases[f"{name} products"] = BareProducts(products, DTYPES[name], backward=True).step
            bare = BareProducts(linear_only(products), DTYPES[name], backward=True)
            cases[f"{name} products without attention"] = bare.step
        cases["plain fp32"] = lambda: self.plain.train_step(self.batch, arch)
        return cases


def train_step(threads: int, options: BenchOptions) -> Figure:
    """Time the step of the largest SubTransformer and of random ones; torch has `threads` threads already."""
    default = TrainStepConfig()
    return time_steps(
        TrainStepConfig(
            rounds=options.rounds or default.rounds,
            random_rounds=options.rounds or default.random_rounds,
            seed=options.seed,
        )
    )


def time_steps(cfg: TrainStepConfig) -> Figure:
    """Return the figure of `cfg`."""
    machine = describe_machine()
    steps = Steps(cfg)
    largest = alternate(steps.cases(cfg.space.largest()), cfg.rounds)
    series = [alternate(steps.cases(arch), cfg.random_rounds) for arch in cfg.archs()]
    random = mean_of(series)
    rows: list[Row] = []
    for which, samples in (("largest", largest), (f"mean of {cfg.random_archs} random", random)):
        rows += _rows(which, samples, steps.batch.num_tokens)
    targets = (
        Target(
            "largest, bf16 step / its bare matrix products",
            ratio(largest["bf16"], largest["bf16 products"]),
            1.9,
        ),
        Target(
            "random, plain fp32 step / our bf16 step",
            ratio(random["plain fp32"], random["bf16"]),
            3.0,
            at_most=False,
        ),
    )
    notes = (
        f"{cfg.sentences} sentences of {cfg.length}/{cfg.length} tokens, vocabulary {cfg.vocab_size}; tokens "
        "are target tokens; products are forward and both backward ones, output matrix included",
    )
    return Figure("train-step", machine, tuple(rows), targets, notes)


def _rows(which: str, samples: dict[str, Samples], tokens: int) -> Sequence[Row]:
    rows = [median_row(f"{which}: {name}", one) for name, one in samples.items()]
    for name in ("bf16", "fp32", "plain fp32"):
        rows.append(rate_row(f"{which}: {name}", samples[name], tokens, "tokens/s"))
    for name in ("bf16", "fp32"):
        for floor in ("products", "products without attention"):
            over = ratio(samples[name], samples[f"{name} {floor}"])
            rows.append(Row(f"{which}: {name} / its {floor}", over, "times"))
        rows.append(
            Row(f"{which}: plain fp32 / {name}", ratio(samples["plain fp32"], samples[name]), "times")
        )
    return rows
