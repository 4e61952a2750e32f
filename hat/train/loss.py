"""Label-smoothed cross entropy through the output matrix, in chunks of rows, so that all logits never
exist at once.

R rows (target tokens), D width, V vocabulary.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

ROWS = 1024  # of one matrix product; fewer make the sum over the chunks' weight gradients dear
CACHED_BYTES = 1 << 20  # wide logits that go through the softmax at once on a CPU; they stay in its L2 cache
_LARGEST = 80.0  # a sum of exponentials below e^80 leaves float32 and bfloat16 room for products with it


class Judged(NamedTuple):
    """What became of a chunk of logits."""

    sums: Tensor  # [2], loss and negative log likelihood
    scale_R1: Tensor | None = None  # by which the gradient left in the logits is still to be multiplied


Judge = Callable[[Tensor, slice, bool], Judged]


class OutputMatrix:
    """An output matrix [V, D] as losses read it. Made once for all batches while the weights stay."""

    def __init__(self, output_VD: Tensor) -> None:
        fixed = output_VD.detach()
        # a product with a matrix that lies transposed is a third faster on a CPU
        self.transposed_DV = fixed.contiguous().t().contiguous() if _on_cpu(fixed) else fixed.t()
        self._fixed_VD = fixed

    @cached_property
    def mean_D(self) -> Tensor:
        """The mean row: its product with a state is the mean of the state's logits."""
        return self.transposed_DV.mean(1, dtype=wide_of(self._fixed_VD))

    @cached_property
    def _longest(self) -> float:
        return float(_norms(self._fixed_VD).max())

    def bounds(self, states_RD: Tensor) -> bool:
        """Return whether no logit of these states can be so large that its exponential needs care.

        By the inequality of Cauchy and Schwarz. Not asked on a GPU, which would have to be waited for.
        """
        vocab = len(self._fixed_VD)
        if not (_on_cpu(states_RD) and len(states_RD) and vocab) or states_RD.dtype == torch.float16:
            return False
        return float(_norms(states_RD).max()) * self._longest < _LARGEST - math.log(vocab)


def smoothed_loss(
    states_RD: Tensor, output_VD: Tensor, target_R: Tensor, eps: float, output: OutputMatrix | None = None
) -> tuple[Tensor, Tensor]:
    """Return the summed smoothed loss (differentiable) and the summed negative log likelihood, both
    float32 or wider.

    Rows must be real tokens; pads are removed by the caller. `eps` is the label smoothing, spread over all
    V entries. `output` is `OutputMatrix(output_VD)` where the caller has it.
    """
    output = output or OutputMatrix(output_VD)
    fixed_RD = states_RD.detach()
    bounded = output.bounds(fixed_RD)

    def judge(logits: Tensor, rows: slice, with_grad: bool) -> Judged:
        judged = _to_gradient(logits, target_R[rows], eps, wide_of(states_RD), with_grad, bounded)
        if not eps:
            return judged
        # every other word's share of the target: a mean over the vocabulary that needs no pass over it
        mean = (fixed_RD[rows].to(output.mean_D.dtype) @ output.mean_D).sum()
        sums = judged.sums - torch.stack([eps * mean, mean.new_zeros(())])
        return Judged(sums, judged.scale_R1)

    return chunked_loss(states_RD, output_VD, judge, output, uniform=eps)


def wide_of(states: Tensor) -> torch.dtype:
    """Return the type losses are computed in: float32, or wider where the states are."""
    return torch.float64 if states.dtype == torch.float64 else torch.float32


def chunked_loss(
    states_RD: Tensor,
    output_VD: Tensor,
    judge: Judge,
    output: OutputMatrix | None = None,
    uniform: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return a summed loss of all rows (differentiable) and the summed negative log likelihood.

    `judge(logits, rows, with_grad)` gives both sums of a chunk and, with `with_grad`, replaces its logits by
    the gradient of the loss, but for a scale of each row and for -`uniform` / V, which is added to each.
    """
    with_grad = torch.is_grad_enabled() and (states_RD.requires_grad or output_VD.requires_grad)
    return _ChunkedLoss.apply(
        states_RD, output_VD, judge, output or OutputMatrix(output_VD), uniform, with_grad
    )


class _ChunkedLoss(torch.autograd.Function):
    """Computes loss and gradient of each chunk together; backward only scales what forward kept."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        states_RD: Tensor,
        output_VD: Tensor,
        judge: Judge,
        output: OutputMatrix,
        uniform: float,
        with_grad: bool,
    ) -> tuple[Tensor, Tensor]:
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
            judged = judge(logits, rows, with_grad)
            sums += judged.sums
            if with_grad:
                back = torch.mm(logits, output_VD, out=grad_states[rows])
                if judged.scale_R1 is not None:
                    back.mul_(judged.scale_R1)
                    states = (states * judged.scale_R1).to(states.dtype)
                if uniform:
                    back.sub_(uniform * output.mean_D)
                grad_output += logits.t() @ states
        if with_grad:
            ctx.save_for_backward(grad_states, grad_output.to(output_VD.dtype))  # type: ignore[attr-defined]
        loss, nll = sums.unbind()
        ctx.mark_non_differentiable(nll)  # type: ignore[attr-defined]
        return loss, nll

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grads = ctx.saved_tensors  # type: ignore[attr-defined]
        if not (_on_cpu(grad) and float(grad) == 1):  # a loss by itself, without loss scaling
            grads = tuple(kept * grad.to(kept.dtype) for kept in grads)
        return *grads, *(None,) * 4


def _to_gradient(
    logits_RV: Tensor, target_R: Tensor, eps: float, wide: torch.dtype, with_grad: bool, bounded: bool
) -> Judged:
    """Judge these rows by the smoothed loss but for the share that is the same for all words.

    A few rows at a time make all their passes before the next ones, in one buffer. Where the logits are
    bounded there are few passes: nothing is subtracted before the exponential, and what it is divided by is
    left to the scale.
    """
    count, vocab = logits_RV.shape
    target_R1 = target_R[:, None]
    chosen_R1 = logits_RV.gather(1, target_R1).to(wide)
    total_R1, top_R1 = (logits_RV.new_zeros(count, 1, dtype=wide) for _ in range(2))
    size = max(1, CACHED_BYTES // (vocab * wide.itemsize)) if _on_cpu(logits_RV) else count
    buffer = logits_RV if logits_RV.dtype == wide else logits_RV.new_empty(size, vocab, dtype=wide)
    for start in range(0, count, size):
        rows = slice(start, start + size)
        logits, total = logits_RV[rows], total_R1[rows]
        values = logits if buffer is logits_RV else buffer[: len(logits)].copy_(logits)
        if not bounded:
            values.sub_(torch.amax(values, 1, keepdim=True, out=top_R1[rows]))
        torch.sum(values.exp_(), 1, keepdim=True, out=total)
        if with_grad:
            if not bounded:
                values.div_(total)
            whole = total if bounded else torch.ones_like(total)
            values.scatter_add_(1, target_R1[rows], whole * (eps - 1))
            if values is not logits:
                logits.copy_(values)
    log_total_R1 = total_R1.log() + top_R1
    nll = (log_total_R1 - chosen_R1).sum()
    sums = torch.stack([(1 - eps) * nll + eps * log_total_R1.sum(), nll])
    return Judged(sums, total_R1.reciprocal() if with_grad and bounded else None)


def _norms(x_ND: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x_ND, dim=1, dtype=wide_of(x_ND))


def _on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu"
