"""What one update trains and at which learning rate, the update itself, and one evaluation."""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, NamedTuple, NoReturn, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from hat.config import Options, option
from hat.data.pairs import Batch
from hat.errors import ConfigError, TrainingError
from hat.model.cpu import Amp, choose_dtype, dtype_name
from hat.model.elastic import EVAL, Dropout
from hat.model.layers import PAD
from hat.model.transformer import Transformer
from hat.rng import seed_for
from hat.space import Arch, SearchSpace, draw_arch, draw_fair_arch
from hat.train.distributed import ALONE, ProcessGroup
from hat.train.loss import OutputMatrix, Teacher, distilled_loss, smoothed_loss


@dataclass(frozen=True)
class StepPlan:
    """What one update trains, all alike; `distill` above 0: the first teaches the others with this weight."""

    archs: tuple[Arch, ...]
    distill: float = 0.0


@dataclass(frozen=True)
class PolicyConfig(Options):
    """Policy of training a SuperTransformer"""

    policy: Literal["single", "sandwich", "sandwich-distill"] = "single"
    """what an update trains: single: one random SubTransformer, as in 2020; sandwich: the largest, the
    smallest and some random ones; sandwich-distill: the same, the largest teaching the others"""
    sandwich_random: int = option(1, "random SubTransformers beside the largest and the smallest", low=0)
    fair_sampling: bool = option(False, "draw each choice of each dimension equally often, in random order")
    distill_share: float = option(1.0, "weight of the teacher in the loss of the others", above=0.0, high=1.0)

    def used(self) -> dict[str, object]:
        """Return the options that this policy uses, by their names in YAML."""
        random = {} if self.policy == "single" else {"sandwich-random": self.sandwich_random}
        share = {"distill-share": self.distill_share} if self.policy == "sandwich-distill" else {}
        return {"policy": self.policy, "fair-sampling": self.fair_sampling, **random, **share}

    def plan(self, space: SearchSpace, seed: int, update: int) -> StepPlan:
        """Return what update number `update` trains, counted from 0; a pure function. single is HAT 2020,
        3.2; sandwich and its distillation are of Yu and Huang, "Universally Slimmable Networks" (2019).
        """
        draw = draw_fair_arch if self.fair_sampling else draw_arch
        if self.policy == "single":
            return StepPlan((draw(space, seed, update),))
        numbers = range(update * self.sandwich_random, (update + 1) * self.sandwich_random)
        archs = (space.largest(), space.smallest(), *(draw(space, seed, number) for number in numbers))
        return StepPlan(archs, self.distill_share if self.policy == "sandwich-distill" else 0.0)


@dataclass(frozen=True)
class ScheduleConfig(Options):
    """Learning rate"""

    lr_scheduler: Literal["inverse_sqrt", "cosine", "fixed"] = "inverse_sqrt"
    """schedule; cosine falls from --max-lr to --lr over --max-update, inverse_sqrt peaks at --lr"""
    lr: float = option(5e-4, "peak for inverse_sqrt and fixed, *minimum* for cosine", low=0.0)
    max_lr: float | None = option(None, "peak of the cosine schedule")
    warmup_updates: int = option(0, "updates of linear warm-up", low=0)
    warmup_init_lr: float = option(1e-7, "learning rate the warm-up starts from", low=0.0)
    min_lr: float = option(-1.0, "stop training once the learning rate falls to this value", role="lengthens")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr_scheduler == "cosine" and (self.max_lr is None or self.max_lr <= self.lr):
            got = f"got max-lr {self.max_lr} and lr {self.lr}"
            raise ConfigError(f"the cosine schedule needs --max-lr above --lr (its minimum), {got}")


def learning_rate(cfg: ScheduleConfig, update: int, max_update: int) -> float:
    """Return the rate of an update, counted from 0: linear in the warm-up, then by the schedule."""
    peak = cfg.lr if cfg.max_lr is None or cfg.lr_scheduler != "cosine" else cfg.max_lr
    if update < cfg.warmup_updates:
        return cfg.warmup_init_lr + (peak - cfg.warmup_init_lr) * update / cfg.warmup_updates
    if cfg.lr_scheduler == "inverse_sqrt":
        return peak * math.sqrt(max(cfg.warmup_updates, 1) / max(update, 1))
    if cfg.lr_scheduler == "cosine":
        period = max(max_update - cfg.warmup_updates, 1)
        progress = min((update - cfg.warmup_updates) / period, 1.0)
        return cfg.lr + 0.5 * (peak - cfg.lr) * (1 + math.cos(math.pi * progress))
    return peak


@dataclass(frozen=True)
class OptimConfig(Options):
    """Optimisation"""

    optimizer: Literal["adam", "adamw"] = option("adam", "both are AdamW: weight decay is decoupled")
    adam_betas: tuple[float, float] = option((0.9, 0.98), "decay rates of both moments", low=0.0, below=1.0)
    adam_eps: float = option(1e-8, "added to the root of the second moment", above=0.0)
    weight_decay: float = option(0.0, "decoupled weight decay", low=0.0)
    clip_norm: float = option(25.0, "largest gradient norm; 0 does not clip", low=0.0)
    label_smoothing: float = option(0.1, "share of the probability spread over all entries", low=0, below=1)
    update_freq: int = option(1, "batches whose gradients make one update", low=1)
    sentence_avg: bool = option(False, "divide gradients by sentences instead of target tokens")
    max_update: int = option(50000, "updates after which training ends", low=1, role="lengthens")
    max_epoch: int | None = option(None, "epochs after which training ends", low=1, role="lengthens")
    amp: Amp = option("auto", "number format to compute in; auto: what the device is fast with", role="free")
    ema_decay: float = option(0.0, low=0.0, below=1.0)
    """validate, save and inherit a moving average of the weights with this decay, such as 0.999; 0: none"""


def amp_dtype(amp: Amp, device: torch.device, group: ProcessGroup = ALONE) -> torch.dtype:
    """Return the compute type of `--amp`; raises ConfigError if the devices of the group have several."""
    dtype = choose_dtype(amp, device)
    names = ", ".join(dict.fromkeys(group.gather_objects(dtype_name(dtype))))
    if names != dtype_name(dtype):
        raise ConfigError(f"the processes would compute in different types ({names}); choose one with --amp")
    return dtype


class Losses(NamedTuple):
    """Means per target token, in base 2, over architectures; `loss` is what was minimised."""

    loss: float
    nll_loss: float
    num_tokens: int
    grad_norm: float = 0.0  # of an update
    lr: float = 0.0


class Trainer:
    """Owns model, optimiser and update count; everything else is an argument. `model` has float32 weights and
    adds up gradients; `compute` is its copy in the compute type, cast once for each update (autocast would
    cast every slice at every use), or the same model if that is float32.
    """

    def __init__(
        self,
        model: Transformer,
        cfg: OptimConfig,
        schedule: ScheduleConfig,
        *,
        dtype: torch.dtype,
        device: torch.device,
        seed: int,
        group: ProcessGroup = ALONE,
    ) -> None:
        self.cfg, self.schedule, self.device, self.seed, self.group = cfg, schedule, device, seed, group
        self.model, self.dtype, self.num_updates = model.to(device), dtype, 0
        group.broadcast_tensors_([weight.detach() for weight in model.parameters()])
        self.compute = self._in_compute_type(self.model)
        copied = () if self.compute is self.model else self.compute.parameters()
        self._pairs = list(zip(self.model.parameters(), copied, strict=False))
        self.average: AveragedModel | None = None
        if cfg.ema_decay:
            self.average = AveragedModel(self.model, multi_avg_fn=self._move_average).requires_grad_(False)
            self.average.n_averaged.fill_(1)  # at 0 it would replace the first weights instead of averaging
        how: dict[str, Any] = {"betas": cfg.adam_betas, "eps": cfg.adam_eps, "weight_decay": cfg.weight_decay}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0, fused=True, **how)

    def lr(self) -> float:
        """Return the learning rate of the next update."""
        return learning_rate(self.schedule, self.num_updates, self.cfg.max_update)

    @property
    def eval_model(self) -> Transformer:
        """The float32 model that is validated, searched and inherited: the moving average, if any."""
        return self.model if self.average is None else cast(Transformer, self.average.module)

    def train_step(self, batches: Sequence[Batch], plan: StepPlan | Arch) -> Losses:
        """Make one update from the gradients of `batches` of all processes (this one has every k-th of k
        processes, or none), for all architectures of `plan`, over which gradient and losses are means.
        Dropout masks depend only on the seed, the update, and the positions of batch and architecture. Raises
        TrainingError, in all processes, if loss or gradient are not finite, before any weight has changed.
        """
        plan, parts = StepPlan((plan,)) if isinstance(plan, Arch) else plan, list[Tensor]()
        tokens = sum(batch.num_tokens for batch in batches)
        sentences = sum(batch.source.size(0) for batch in batches)
        for position, batch in enumerate(batches):
            for loss, batch_nll in self._losses(batch, plan, position * self.group.size + self.group.rank):
                torch.autograd.backward(loss)
                self._collect_gradients()
                parts.append(torch.stack([loss.detach(), batch_nll]).double())
        smoothed, nll = torch.stack(parts).sum(0).tolist() if parts else (0.0, 0.0)  # waits for a GPU once
        if self.group.size > 1:
            smoothed, nll, tokens, sentences = self._sum_gradients(smoothed, nll, tokens, sentences)
        if not math.isfinite(smoothed):
            self._refuse(f"the loss is {smoothed}")
        lr = self.lr()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        grads = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        shares = max(sentences if self.cfg.sentence_avg else tokens, 1) * len(plan.archs)
        torch._foreach_mul_(grads, 1 / shares)
        grad_norm = torch.nn.utils.get_total_norm(grads).item()
        if not math.isfinite(grad_norm):
            self._refuse(f"the gradient norm is {grad_norm}")
        if self.cfg.clip_norm and grad_norm > self.cfg.clip_norm:
            torch._foreach_mul_(grads, self.cfg.clip_norm / grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.refresh()
        self.num_updates += 1
        if self.average is not None:
            self.average.update_parameters(self.model)
        bits = max(tokens, 1) * math.log(2) * len(plan.archs)
        return Losses(smoothed / bits, nll / bits, tokens, grad_norm, lr)

    def evaluate(self, batches: Iterable[Batch | None], arch: Arch) -> Losses:
        """Return the loss of `arch` over `batches` (the slots of this process) of all processes."""
        model = self.compute if self.average is None else self._in_compute_type(self.eval_model)
        return evaluate(model, batches, arch, self.cfg.label_smoothing, self.group)

    @torch.no_grad()
    def refresh(self) -> None:
        """Cast the float32 weights into the copy, after each change of them."""
        if self._pairs:
            copies: list[Tensor] = [copied for _, copied in self._pairs]
            torch._foreach_copy_(copies, [master for master, _ in self._pairs])

    def state_dict(self) -> dict[str, Any]:
        """Return optimiser and update count; the weights are saved by their names."""
        return {"num_updates": self.num_updates, "optimizer": self.optimizer.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any], averages: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned, and from a moving average of weights, if there is one."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.num_updates = state["num_updates"]
        for name, average in self.average.module.named_parameters() if self.average else ():
            average.copy_(averages[name])

    def _in_compute_type(self, model: Transformer) -> Transformer:
        return model if self.dtype == torch.float32 else copy.deepcopy(model).to(self.dtype)

    def _move_average(self, averages: Any, weights: Any, _: object) -> None:
        # the first weights are forgotten quickly: the decay of update n is (1 + n) / (10 + n) while smaller
        decay = min(self.cfg.ema_decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def _losses(self, batch: Batch, plan: StepPlan, position: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield loss and negative log likelihood of each architecture; go backward before the next."""
        batch, eps, teacher = batch.to(self.device), self.cfg.label_smoothing, None
        for number, arch in enumerate(plan.archs):
            stream = (self.num_updates, position, number) if number else (self.num_updates, position)
            drop = Dropout(seed_for(self.seed, "dropout", *stream))
            states_RD, output_VD, target_R = target_rows(self.compute, batch, arch, drop)
            if teacher:
                yield distilled_loss(states_RD, output_VD, target_R, eps, teacher, plan.distill)
            else:
                teacher = Teacher(states_RD.detach(), output_VD.detach()) if plan.distill else None
                yield smoothed_loss(states_RD, output_VD, target_R, eps)

    def _collect_gradients(self) -> None:
        for master, copied in self._pairs:
            if copied.grad is not None:
                if master.grad is None:
                    master.grad = copied.grad.float()
                else:
                    master.grad.add_(copied.grad)
                copied.grad = None

    def _sum_gradients(self, *sums: float) -> tuple[float, float, int, int]:
        """Sum gradients and `sums` of all processes; the first reduction tells which weights have any."""
        weights = list(self.model.parameters())
        used = [float(weight.grad is not None) for weight in weights]
        head = torch.tensor([*sums, *used], dtype=torch.float64)
        smoothed, nll, tokens, sentences, *used = self.group.sum_(head).tolist()
        active = [weight for weight, count in zip(weights, used, strict=True) if count]
        grads = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in active]
        if math.isfinite(smoothed) and active:
            flat = self.group.sum_(torch.cat([grad.flatten() for grad in grads]))
            parts = torch.split(flat, [weight.numel() for weight in active])
            for weight, part in zip(active, parts, strict=True):
                weight.grad = part.view_as(weight)
        return smoothed, nll, int(tokens), int(sentences)

    def _refuse(self, what: str) -> NoReturn:
        self.optimizer.zero_grad(set_to_none=True)
        advice = "Lower --lr, raise --warmup-updates, set --clip-norm 1 or use --amp fp32, and run again"
        where = f"{what} at update {self.num_updates + 1}; no weight was changed"
        raise TrainingError(f"{where}. {advice}: it goes on from the last checkpoint")


def target_rows(
    model: Transformer, batch: Batch, arch: Arch, drop: Dropout = EVAL
) -> tuple[Tensor, Tensor, Tensor]:
    """Return decoder states [R, D] of the R target tokens, output matrix [V, D], and these tokens [R]."""
    states = model.decode(batch.decoder_input, model.encode(batch.source, arch, drop), arch, drop)
    real = batch.target.ne(PAD).flatten().nonzero().squeeze(1)
    states_RD = states.flatten(0, 1).index_select(0, real)
    return states_RD, model.output.columns(states_RD.size(1)), batch.target.flatten().index_select(0, real)


@torch.inference_mode()
def evaluate(
    model: Transformer, batches: Iterable[Batch | None], arch: Arch, eps: float, group: ProcessGroup = ALONE
) -> Losses:
    """Return the mean loss of `arch` over the batches of all processes, which have as many slots each."""
    output, rows = OutputMatrix(model.output.columns(arch.decoder.embed_dim)), []
    for batch in batches:
        rows.append((0.0, 0.0, 0))
        if batch is not None:
            batch = batch.to(model.source_embed.weight.device)
            losses = smoothed_loss(*target_rows(model, batch, arch), eps, output)
            rows[-1] = losses[0].item(), losses[1].item(), batch.num_tokens
    smoothed, nll, tokens = 0.0, 0.0, 0
    for row in chain.from_iterable(zip(*group.gather_objects(rows), strict=True)):
        smoothed, nll, tokens = smoothed + row[0], nll + row[1], tokens + row[2]
    if not math.isfinite(smoothed):
        advice = "go back to an earlier checkpoint and lower --lr or set --clip-norm 1"
        raise TrainingError(f"the validation loss is {smoothed}, the weights are broken; {advice}")
    bits = max(tokens, 1) * math.log(2)
    return Losses(smoothed / bits, nll / bits, tokens)
