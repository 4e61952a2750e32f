"""One optimiser step and one evaluation; the loop around them lives in hat/cli/train.py."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from hat.data.pairs import Batch
from hat.errors import ConfigError, TrainingError
from hat.model.config import PAD
from hat.model.dropout import EVAL, Dropout
from hat.model.precision import Amp
from hat.model.transformer import Transformer
from hat.rng import seed_for
from hat.space import Arch
from hat.train.distill import Teacher, distilled_loss
from hat.train.ema import MovingAverage
from hat.train.loss import OutputMatrix, smoothed_loss
from hat.train.master import MasterWeights
from hat.train.policy import Lesson
from hat.train.ranks import ALONE, Ranks
from hat.train.schedule import ScheduleConfig, learning_rate

_LEAST_SCALE = 1e-4  # a gradient that overflows under this loss scale is not a matter of the scale


@dataclass(frozen=True)
class OptimConfig:
    """Optimisation"""

    optimizer: str = "adam"
    """adam; as in the release its weight decay is decoupled, so it is AdamW"""
    adam_betas: tuple[float, float] = (0.9, 0.98)
    """decay rates of both moments"""
    adam_eps: float = 1e-8
    """added to the root of the second moment"""
    weight_decay: float = 0.0
    """decoupled weight decay"""
    clip_norm: float = 25.0
    """largest gradient norm; 0 does not clip"""
    label_smoothing: float = 0.1
    """share of the probability spread over the whole vocabulary"""
    update_freq: int = 1
    """batches whose gradients make one update"""
    sentence_avg: bool = False
    """divide gradients by sentences instead of target tokens"""
    max_update: int = 50000
    """updates after which training ends"""
    max_epoch: int | None = None
    """epochs after which training ends"""
    amp: Amp = "auto"
    """number format of the computation; auto takes what is fast on the device"""
    fp16: bool = False
    """half precision as in the release; on a CPU the same as --amp auto"""
    fp16_init_scale: float = 128.0
    """first loss scale with fp16"""
    ema_decay: float = 0.0
    """validate, save for searches and inherit a moving average of the weights with this decay, for example
    0.999; 0 takes the weights themselves"""

    def __post_init__(self) -> None:
        if self.optimizer not in ("adam", "adamw"):
            raise ConfigError(f"--optimizer allows adam and adamw, got {self.optimizer!r}")
        if not (all(0 <= beta < 1 for beta in self.adam_betas) and self.adam_eps > 0):
            raise ConfigError(
                f"--adam-betas must lie in [0, 1) and --adam-eps above 0, got {self.adam_betas}"
            )
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"--label-smoothing must be at least 0 and below 1, got {self.label_smoothing}")
        if self.update_freq < 1 or self.max_update < 1 or (self.max_epoch is not None and self.max_epoch < 1):
            raise ConfigError(
                f"--update-freq, --max-update and --max-epoch must be at least 1, got {self.update_freq}, "
                f"{self.max_update} and {self.max_epoch}"
            )
        if self.clip_norm < 0 or self.weight_decay < 0:
            raise ConfigError(
                f"--clip-norm and --weight-decay must not be negative, got {self.clip_norm} and "
                f"{self.weight_decay}"
            )
        if not (self.fp16_init_scale > 0 and math.isfinite(self.fp16_init_scale)):
            raise ConfigError(f"--fp16-init-scale must be above 0, got {self.fp16_init_scale}")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"--ema-decay must be at least 0 and below 1, got {self.ema_decay}")


class StepResult(NamedTuple):
    """One update; losses per target token, base 2, means over the architectures of the update.

    `loss` is what was minimised: where a teacher takes part, not the smoothed loss alone.
    """

    loss: float
    nll_loss: float
    num_tokens: int
    grad_norm: float
    lr: float


class EvalResult(NamedTuple):
    """One pass over validation batches; losses per target token, base 2."""

    loss: float
    nll_loss: float
    num_tokens: int


class Trainer:
    """Owns the model, the optimiser and the update count; everything else is an argument."""

    def __init__(
        self,
        model: Transformer,
        cfg: OptimConfig,
        schedule: ScheduleConfig,
        *,
        dtype: torch.dtype,
        device: torch.device,
        seed: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.cfg, self.schedule, self.device, self.seed = cfg, schedule, device, seed
        self.ranks = ranks
        self.model = model.to(device)
        ranks.copy_first_([weight.detach() for weight in model.parameters()])
        self.weights = MasterWeights(self.model, dtype)
        self.average = MovingAverage(self.model, cfg.ema_decay) if cfg.ema_decay else None
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=0.0,
            betas=cfg.adam_betas,
            eps=cfg.adam_eps,
            weight_decay=cfg.weight_decay,
            fused=True,
        )
        self.scaler = torch.amp.GradScaler(
            device.type, init_scale=cfg.fp16_init_scale, enabled=dtype == torch.float16
        )
        self.scaler.scale(torch.zeros((), device=device))  # makes the scale, also where no batch will
        self.num_updates = 0

    def lr(self) -> float:
        """Return the learning rate of the next update."""
        return learning_rate(self.schedule, self.num_updates, self.cfg.max_update)

    @property
    def shown(self) -> Transformer:
        """Return the model in float32 that is validated, saved for searches and inherited."""
        return self.model if self.average is None else self.average.model  # type: ignore[return-value]

    def train_step(self, batches: Sequence[Batch], lesson: Lesson | Arch) -> StepResult:
        """Make one update of an architecture, or those of a lesson, from the gradients of `batches`, those of
        all ranks together.

        `batches` are this rank's share, taken in turn with the others; it may be empty on some. Dropout masks
        depend on the seed, the update, the position among the batches of all ranks and the position in the
        lesson only. Gradient and losses are means over the lesson, so --clip-norm means the same for any
        policy. Raises TrainingError, on every rank alike, where the loss or the gradient is not finite,
        before any weight has changed.
        """
        lesson = Lesson((lesson,)) if isinstance(lesson, Arch) else lesson
        sums: list[torch.Tensor] = []
        tokens = sum(batch.num_tokens for batch in batches)
        sentences = sum(batch.source.size(0) for batch in batches)
        for position, batch in enumerate(batches):
            for loss, batch_nll in self._losses(batch, lesson, position * self.ranks.size + self.ranks.rank):
                self.scaler.scale(loss).backward()
                self.weights.collect()
                sums.append(torch.stack([loss.detach(), batch_nll]).double())
        smoothed, nll = torch.stack(sums).sum(0).tolist() if sums else (0.0, 0.0)  # a GPU is waited for once
        if self.ranks.size > 1:
            smoothed, nll, tokens, sentences = self._sum_gradients(smoothed, nll, tokens, sentences)
        if not math.isfinite(smoothed):
            self._refuse(f"the loss is {smoothed}")
        lr = self.lr()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.scaler.unscale_(self.optimizer)
        grads = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        shares = max(sentences if self.cfg.sentence_avg else tokens, 1) * len(lesson.archs)
        torch._foreach_mul_(grads, 1 / shares)
        norm = torch.nn.utils.get_total_norm(grads)
        grad_norm = norm.item()
        overflow = not math.isfinite(grad_norm)  # with loss scaling the step is left out, the scale halved
        if overflow and not (self.scaler.is_enabled() and self.scaler.get_scale() > _LEAST_SCALE):
            self._refuse(f"the gradient norm is {grad_norm}")
        if self.cfg.clip_norm and not overflow and grad_norm > self.cfg.clip_norm:
            torch._foreach_mul_(grads, self.cfg.clip_norm / grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.weights.refresh()
        self.num_updates += 1
        if self.average is not None:
            self.average.update(self.num_updates)
        bits = max(tokens, 1) * math.log(2) * len(lesson.archs)
        return StepResult(smoothed / bits, nll / bits, tokens, grad_norm, lr)

    def evaluate(self, batches: Iterable[Batch | None], arch: Arch) -> EvalResult:
        """Return the loss of `arch` over `batches` (this rank's slots) of all ranks, without dropout."""
        model = self.weights.compute if self.average is None else self.average.in_type(self.weights.dtype)
        smoothing = self.cfg.label_smoothing
        return evaluate(model, batches, arch, smoothing, self.device, self.ranks)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        """Return optimiser, loss scale and update count; the weights are saved by their names."""
        return {
            "num_updates": self.num_updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], *, optimizer: bool, schedule: bool) -> None:
        """Take up what `state_dict` returned; either part may be left at its start."""
        if optimizer:
            self.optimizer.load_state_dict(state["optimizer"])
            if state["scaler"]:  # empty after updates in another type than fp16
                self.scaler.load_state_dict(state["scaler"])
        if schedule:
            self.num_updates = state["num_updates"]

    def _losses(
        self, batch: Batch, lesson: Lesson, place: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield what each architecture learns by and its negative log likelihood, summed over the batch.

        The graph of one is done with before the next one's is made. `place` is that of the batch among those
        of all ranks.
        """
        teacher: Teacher | None = None
        eps = self.cfg.label_smoothing
        for number, arch in enumerate(lesson.archs):
            stream = (self.num_updates, place, number) if number else (self.num_updates, place)
            drop = Dropout(seed_for(self.seed, "dropout", *stream))
            if not lesson.distill:
                yield self._loss(batch, arch, drop)
                continue
            rows = target_rows(self.weights.compute, batch.to(self.device), arch, drop)
            if teacher is None:
                teacher = Teacher(rows.states_RD.detach(), rows.output_VD.detach())
                yield smoothed_loss(*rows, eps)
            else:
                yield distilled_loss(*rows, eps, teacher, lesson.distill)

    def _loss(self, batch: Batch, arch: Arch, drop: Dropout) -> tuple[torch.Tensor, torch.Tensor]:
        return batch_loss(self.weights.compute, batch.to(self.device), arch, self.cfg.label_smoothing, drop)

    def _sum_gradients(
        self, smoothed: float, nll: float, tokens: int, sentences: int
    ) -> tuple[float, float, int, int]:
        """Add up the gradients of all ranks, in float32, and return the sums of the arguments.

        A rank without a batch has no gradients; which weights have one anywhere travels with the sums.
        """
        weights = list(self.model.parameters())
        used = [float(weight.grad is not None) for weight in weights]
        head = torch.tensor([smoothed, nll, tokens, sentences, *used], dtype=torch.float64)
        smoothed, nll, tokens, sentences, *used = self.ranks.sum_(head).tolist()
        active = [weight for weight, count in zip(weights, used, strict=True) if count]
        grads = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in active]
        if math.isfinite(smoothed) and active:
            flat = self.ranks.sum_(torch.cat([grad.flatten() for grad in grads]))
            parts = flat.split([weight.numel() for weight in active])
            for weight, part in zip(active, parts, strict=True):
                weight.grad = part.view_as(weight)
        return smoothed, nll, int(tokens), int(sentences)

    def _refuse(self, what: str) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        raise TrainingError(
            f"{what} at update {self.num_updates + 1}; no weight was changed. Lower --lr, raise "
            "--warmup-updates, set --clip-norm 1 or use --amp fp32, and run again: it goes on from the "
            "last checkpoint"
        )


class TargetRows(NamedTuple):
    """What the loss of a batch is computed from; only real tokens, R of them."""

    states_RD: torch.Tensor
    output_VD: torch.Tensor
    target_R: torch.Tensor


def target_rows(model: Transformer, batch: Batch, arch: Arch, drop: Dropout = EVAL) -> TargetRows:
    """Return the decoder states of a batch without pads, the output matrix of their width, the targets."""
    states = model.decode(batch.decoder_input, model.encode(batch.source, arch, drop), arch, drop)
    real = batch.target.ne(PAD).flatten().nonzero().squeeze(1)
    states_RD = states.flatten(0, 1).index_select(0, real)
    target_R = batch.target.flatten().index_select(0, real)
    return TargetRows(states_RD, model.output.columns(states_RD.size(1)), target_R)


def batch_loss(
    model: Transformer,
    batch: Batch,
    arch: Arch,
    label_smoothing: float,
    drop: Dropout = EVAL,
    output: OutputMatrix | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the smoothed loss and the negative log likelihood of a batch, summed over its target tokens,
    in nats.

    `output` is the prepared output matrix of `arch` where several batches share it.
    """
    return smoothed_loss(*target_rows(model, batch, arch, drop), label_smoothing, output)


@torch.inference_mode()
def evaluate(
    model: Transformer,
    batches: Iterable[Batch | None],
    arch: Arch,
    label_smoothing: float,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> EvalResult:
    """Return the mean loss of `arch` over the `batches` of all ranks, each of which has equally many slots.

    The same number whatever the count of ranks: losses are added in the order of the batches.
    """
    rows = []
    output = OutputMatrix(model.output.columns(arch.decoder.embed_dim))
    for batch in batches:
        if batch is None:
            rows.append((0.0, 0.0, 0))
            continue
        loss, batch_nll = batch_loss(model, batch.to(device), arch, label_smoothing, output=output)
        rows.append((loss.item(), batch_nll.item(), batch.num_tokens))
    table_KNC = ranks.gather(torch.tensor(rows, dtype=torch.float64).view(-1, 3))
    smoothed = nll = 0.0
    tokens = 0
    for row_loss, row_nll, row_tokens in table_KNC.transpose(0, 1).flatten(0, 1).tolist():
        smoothed += row_loss
        nll += row_nll
        tokens += int(row_tokens)
    if not math.isfinite(smoothed):
        raise TrainingError(
            f"the validation loss is {smoothed}, the weights are broken; go back to an earlier checkpoint "
            "and lower --lr or set --clip-norm 1"
        )
    bits = max(tokens, 1) * math.log(2)
    return EvalResult(smoothed / bits, nll / bits, tokens)
