"""Label-smoothed cross entropy through the output matrix, in chunks of rows, so that all logits never
exist at once.

R rows (target tokens), D width, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

ROWS = 1024  # of one matrix product; fewer make the sum over the chunks' weight gradients dear
CACHED_BYTES = 1 << 20  # wide logits that go through the softmax at once on a CPU; they stay in its L2 cache


Judge = Callable[[Tensor, slice, bool], Tensor]


def smoothed_loss(
    states_RD: Tensor, output_VD: Tensor, target_R: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the summed smoothed loss (differentiable) and the summed negative log likelihood, both
    float32 or wider.

    Rows must be real tokens; pads are removed by the caller. `eps` is the label smoothing, spread over all
    V entries.
    """
    wide = wide_of(states_RD)
    return chunked_loss(
        states_RD,
        output_VD,
        lambda logits, rows, with_grad: _to_gradient(logits, target_R[rows], eps, wide, with_grad),
    )


def wide_of(states: Tensor) -> torch.dtype:
    """Return the type losses are computed in: float32, or wider where the states are."""
    return torch.float64 if states.dtype == torch.float64 else torch.float32


def chunked_loss(states_RD: Tensor, output_VD: Tensor, judge: Judge) -> tuple[Tensor, Tensor]:
    """Return a summed loss of all rows (differentiable) and the summed negative log likelihood.

    `judge(logits, rows, with_grad)` gives both sums [2] of a chunk and, with `with_grad`, replaces its logits
    by the gradient of the loss.
    """
    with_grad = torch.is_grad_enabled() and (states_RD.requires_grad or output_VD.requires_grad)
    return _ChunkedLoss.apply(states_RD, output_VD, judge, with_grad)


class _ChunkedLoss(torch.autograd.Function):
    """Computes loss and gradient of each chunk together; backward only scales what forward kept."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, states_RD: Tensor, output_VD: Tensor, judge: Judge, with_grad: bool
    ) -> tuple[Tensor, Tensor]:
        wide = wide_of(states_RD)
        sums = torch.zeros(2, dtype=wide, device=states_RD.device)
        grad_states = torch.empty_like(states_RD) if with_grad else None
        grad_output = torch.zeros(output_VD.shape, dtype=wide, device=output_VD.device) if with_grad else None
        buffer = states_RD.new_empty(min(ROWS, states_RD.size(0)), output_VD.size(0))
        for start in range(0, states_RD.size(0), ROWS):
            rows = slice(start, start + ROWS)
            states = states_RD[rows]
            logits = torch.mm(states, output_VD.t(), out=buffer[: len(states)])
            sums += judge(logits, rows, with_grad)
            if with_grad:
                torch.mm(logits, output_VD, out=grad_states[rows])  # type: ignore[index]
                grad_output += logits.t() @ states  # type: ignore[operator]
        if with_grad:
            ctx.save_for_backward(grad_states, grad_output.to(output_VD.dtype))  # type: ignore[attr-defined, union-attr]
        loss, nll = sums.unbind()
        ctx.mark_non_differentiable(nll)  # type: ignore[attr-defined]
        return loss, nll

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        grad_states, grad_output = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad_states * grad.to(grad_states.dtype), grad_output * grad.to(grad_output.dtype), None, None


def _to_gradient(
    logits_RV: Tensor, target_R: Tensor, eps: float, wide: torch.dtype, with_grad: bool
) -> Tensor:
    """Return the sums [2] of smoothed loss and negative log likelihood of these rows, in `wide`.

    With `with_grad` the logits are replaced by the gradient of the smoothed loss, else they are undefined
    afterwards. A few rows at a time make all their passes before the next ones, in one buffer.
    """
    count, vocab = logits_RV.shape
    sums = torch.zeros(2, dtype=wide, device=logits_RV.device)
    rows = max(1, CACHED_BYTES // (vocab * wide.itemsize)) if logits_RV.device.type == "cpu" else count
    buffer = logits_RV if logits_RV.dtype == wide else logits_RV.new_empty(rows, vocab, dtype=wide)
    for start in range(0, count, rows):
        logits, target = logits_RV[start : start + rows], target_R[start : start + rows, None]
        values = logits if buffer is logits_RV else buffer[: len(logits)].copy_(logits)
        chosen = values.gather(1, target)
        mean = values.mean(1, keepdim=True)
        top = values.amax(1, keepdim=True)
        values.sub_(top).exp_()
        total = values.sum(1, keepdim=True)
        log_total = total.log() + top
        nll = log_total - chosen
        sums += torch.stack([((1 - eps) * nll + eps * (log_total - mean)).sum(), nll.sum()])
        if with_grad:
            values.mul_(total.reciprocal_()).sub_(eps / vocab)
            values.scatter_add_(1, target, torch.full_like(chosen, eps - 1))
            if values is not logits:
                logits.copy_(values)
    return sums
