"""Losses computed through the output matrix in chunks of rows, so that the logits of all rows never exist at
once: label-smoothed cross entropy, and cross entropy against the probabilities of a teacher. R rows (target
tokens), D width of the model, E width of the teacher, V vocabulary.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

ROWS = 1024  # rows of one matrix product; fewer rows spend too long adding up weight gradients
CACHED_BYTES = 1 << 20  # of logits that a CPU sends through the softmax at once: they stay in its L2 cache
_MAX_LOG_SUM = 80.0  # a sum of exponentials below e^80 leaves float32 and bfloat16 room for products with it

# Logits of some rows, these rows, whether a gradient is needed -> [2] loss and negative log likelihood, both
# summed, and a factor [R, 1] that the gradient still lacks. The gradient, if needed, replaces the logits. It
# leaves out the term -`uniform` / V that all V entries have in common.
ChunkLoss = Callable[[Tensor, slice, bool], tuple[Tensor, Tensor | None]]


class Teacher(NamedTuple):
    """What the logits of a teacher are computed from, without gradient."""

    states_RE: Tensor
    output_VE: Tensor


class OutputMatrix:
    """An output matrix [V, D] prepared for the losses; batches may share it until the weights change."""

    def __init__(self, output_VD: Tensor) -> None:
        self._fixed_VD = fixed = output_VD.detach()
        # a CPU multiplies with a matrix stored transposed a third faster
        self.transposed_DV = fixed.contiguous().t().contiguous() if _on_cpu(fixed) else fixed.t()

    @cached_property
    def mean_D(self) -> Tensor:
        """The mean row: its product with a state is the mean of the state's logits."""
        return self.transposed_DV.mean(1, dtype=wide_of(self._fixed_VD))

    def bounds(self, states_RD: Tensor) -> bool:
        """Return whether exp() of every logit of these states is safe without subtracting the maximum first.
        |logit| <= |state| * |row|. Always False on a GPU, where reading the answer would wait for it.
        """
        vocab = len(self._fixed_VD)
        if not (_on_cpu(states_RD) and len(states_RD) and vocab):
            return False
        return _longest_row(states_RD) * _longest_row(self._fixed_VD) < _MAX_LOG_SUM - math.log(vocab)


def smoothed_loss(
    states_RD: Tensor, output_VD: Tensor, target_R: Tensor, eps: float, output: OutputMatrix | None = None
) -> tuple[Tensor, Tensor]:
    """Return the summed smoothed loss (differentiable) and the summed negative log likelihood, in float32 or
    wider, of `states_RD`, `output_VD` and `target_R` without pads. `eps`, the label smoothing, is spread over
    all V entries. Pass `output`, an `OutputMatrix(output_VD)`, if several calls share it.
    """
    matrix, fixed_RD, wide = output or OutputMatrix(output_VD), states_RD.detach(), wide_of(states_RD)
    bounded = matrix.bounds(fixed_RD)  # then no maximum is subtracted, and the factor divides by the sum

    def loss_of(logits_RV: Tensor, rows: slice, with_grad: bool) -> tuple[Tensor, Tensor | None]:
        count, vocab = logits_RV.shape
        target_R1 = target_R[rows, None]
        chosen_R1 = logits_RV.gather(1, target_R1).to(wide)
        total_R1, top_R1 = (logits_RV.new_zeros(count, 1, dtype=wide) for _ in range(2))
        size = max(1, CACHED_BYTES // (vocab * wide.itemsize)) if _on_cpu(logits_RV) else count
        buffer = logits_RV if logits_RV.dtype == wide else logits_RV.new_empty(size, vocab, dtype=wide)
        for start in range(0, count, size):
            part = slice(start, start + size)
            logits, total = logits_RV[part], total_R1[part]
            values = logits if buffer is logits_RV else buffer[: len(logits)].copy_(logits)
            if not bounded:
                values.sub_(torch.amax(values, 1, keepdim=True, out=top_R1[part]))
            torch.sum(values.exp_(), 1, keepdim=True, out=total)
            if with_grad:
                if not bounded:
                    values.div_(total)
                whole = total if bounded else torch.ones_like(total)
                values.scatter_add_(1, target_R1[part], whole * (eps - 1))
                if values is not logits:
                    logits.copy_(values)
        log_total_R1 = total_R1.log() + top_R1
        nll = (log_total_R1 - chosen_R1).sum()
        sums = torch.stack([(1 - eps) * nll + eps * log_total_R1.sum(), nll])
        if eps:  # the mean logit over the vocabulary, without another pass over the vocabulary
            mean = (fixed_RD[rows].to(matrix.mean_D.dtype) @ matrix.mean_D).sum()
            sums = sums - torch.stack([eps * mean, mean.new_zeros(())])
        return sums, total_R1.reciprocal() if with_grad and bounded else None

    return _in_chunks(states_RD, output_VD, loss_of, matrix, eps)


def distilled_loss(
    states_RD: Tensor, output_VD: Tensor, target_R: Tensor, eps: float, teacher: Teacher, share: float
) -> tuple[Tensor, Tensor]:
    """Return the summed loss (differentiable) and the summed negative log likelihood of the reference, in
    float32 or wider. loss = share * (cross entropy against the teacher's probabilities, which get no
    gradient) + (1 - share) * (label-smoothed cross entropy with `eps`).
    """
    wide, vocab = wide_of(states_RD), len(output_VD)
    states_RE, output_VE = teacher.states_RE.detach(), teacher.output_VE.detach()
    at_once = max(1, CACHED_BYTES // (vocab * wide.itemsize)) if _on_cpu(states_RD) else ROWS

    def loss_of(logits_RV: Tensor, rows: slice, with_grad: bool) -> tuple[Tensor, None]:
        taught_RV = states_RE[rows] @ output_VE.t()
        sums = torch.zeros(2, dtype=wide, device=logits_RV.device)
        parts = (torch.split(part, at_once) for part in (logits_RV, taught_RV, target_R[rows, None]))
        for logits, taught, target in zip(*parts, strict=True):
            values = logits.to(wide)
            wanted = taught.to(wide).softmax(1).mul_(share)
            if share < 1:
                wanted.add_((1 - share) * eps / vocab)
                rest = torch.full_like(target, (1 - share) * (1 - eps), dtype=wide)
                wanted.scatter_add_(1, target, rest)
            log_total = values.logsumexp(1, keepdim=True)
            nll = log_total - values.gather(1, target)
            sums += torch.stack([(log_total - (wanted * values).sum(1, keepdim=True)).sum(), nll.sum()])
            if with_grad:
                logits.copy_(values.sub(log_total).exp_().sub_(wanted))
        return sums, None

    return _in_chunks(states_RD, output_VD, loss_of, OutputMatrix(output_VD), 0.0)


def wide_of(states: Tensor) -> torch.dtype:
    """Return the type that losses are computed in: float64 if the states are float64, else float32."""
    return torch.float64 if states.dtype == torch.float64 else torch.float32


def _in_chunks(
    states_RD: Tensor, output_VD: Tensor, loss_of: ChunkLoss, output: OutputMatrix, uniform: float
) -> tuple[Tensor, Tensor]:
    with_grad = torch.is_grad_enabled() and (states_RD.requires_grad or output_VD.requires_grad)
    loss, nll = _ChunkedLoss.apply(states_RD, output_VD, loss_of, (output, uniform, with_grad))  # type: ignore[no-untyped-call]
    return loss, nll


class _ChunkedLoss(torch.autograd.Function):
    """Computes loss and gradient of each chunk in the forward pass; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, states_RD: Tensor, output_VD: Tensor, loss_of: ChunkLoss, how: tuple[Any, ...]
    ) -> tuple[Tensor, Tensor]:
        output, uniform, with_grad = how
        wide = wide_of(states_RD)
        sums = torch.zeros(2, dtype=wide, device=states_RD.device)
        if with_grad:
            grad_states = torch.empty_like(states_RD)
            share_D = states_RD.sum(0, dtype=wide) * (-uniform / max(1, len(output_VD)))
            grad_output = share_D.expand(output_VD.shape).contiguous()
        buffer = states_RD.new_empty(min(ROWS, states_RD.size(0)), output_VD.size(0))
        for start in range(0, states_RD.size(0), ROWS):
            rows = slice(start, start + ROWS)
            states = states_RD[rows]
            logits = torch.mm(states, output.transposed_DV, out=buffer[: len(states)])
            chunk_sums, scale_R1 = loss_of(logits, rows, with_grad)
            sums += chunk_sums
            if with_grad:
                back = torch.mm(logits, output_VD, out=grad_states[rows])
                if scale_R1 is not None:
                    back.mul_(scale_R1)
                    states = (states * scale_R1).to(states.dtype)
                if uniform:
                    back.sub_(uniform * output.mean_D)
                grad_output += logits.t() @ states
        if with_grad:
            ctx.save_for_backward(grad_states, grad_output.to(output_VD.dtype))
        loss, nll = sums.unbind()
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grads = ctx.saved_tensors  # type: ignore[attr-defined]
        if not (_on_cpu(grad) and float(grad) == 1):
            grads = tuple(kept * grad.to(kept.dtype) for kept in grads)
        return *grads, None, None


def _longest_row(x_ND: Tensor) -> float:
    return float(torch.linalg.vector_norm(x_ND, dim=1, dtype=wide_of(x_ND)).max())


def _on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu"
