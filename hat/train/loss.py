"""Label-smoothed cross entropy through the output matrix, in chunks of rows, so that all logits never
exist at once.

R rows (target tokens), D width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

CHUNK_BYTES = 16 << 20  # float32 logits of one chunk; larger ones fall out of the caches


def smoothed_loss(
    states_RD: Tensor, output_VD: Tensor, target_R: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the summed smoothed loss (differentiable) and the summed negative log likelihood, both
    float32 or wider.

    Rows must be real tokens; pads are removed by the caller. `eps` is the label smoothing, spread over all
    V entries.
    """
    with_grad = torch.is_grad_enabled() and (states_RD.requires_grad or output_VD.requires_grad)
    return _ChunkedLoss.apply(states_RD, output_VD, target_R, eps, with_grad)


class _ChunkedLoss(torch.autograd.Function):
    """Computes loss and gradient of each chunk together; backward only scales what forward kept."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, states_RD: Tensor, output_VD: Tensor, target_R: Tensor, eps: float, with_grad: bool
    ) -> tuple[Tensor, Tensor]:
        vocab = output_VD.size(0)
        wide = torch.float64 if states_RD.dtype == torch.float64 else torch.float32
        smoothed = torch.zeros((), dtype=wide, device=states_RD.device)
        nll = torch.zeros((), dtype=wide, device=states_RD.device)
        grad_states = torch.empty_like(states_RD) if with_grad else None
        grad_output = torch.zeros(output_VD.shape, dtype=wide, device=output_VD.device) if with_grad else None
        rows = max(1, CHUNK_BYTES // (4 * vocab))
        for start in range(0, states_RD.size(0), rows):
            states, target = states_RD[start : start + rows], target_R[start : start + rows, None]
            logits = F.linear(states, output_VD)
            chosen = logits.gather(1, target).to(wide)
            mean = logits.sum(1, keepdim=True, dtype=wide) / vocab
            probs = logits.to(wide)
            top = probs.amax(1, keepdim=True)
            probs = probs.sub_(top).exp_() if probs is not logits else (probs - top).exp()
            total = probs.sum(1, keepdim=True)
            log_total = total.log() + top
            nll += (log_total - chosen).sum()
            smoothed += ((log_total - chosen) * (1 - eps) + eps * (log_total - mean)).sum()
            if with_grad:
                grad = probs.div_(total).sub_(eps / vocab)
                grad.scatter_add_(1, target, torch.full_like(chosen, eps - 1))
                grad = grad.to(states.dtype)
                torch.mm(grad, output_VD, out=grad_states[start : start + rows])  # type: ignore[index]
                grad_output += grad.t() @ states  # type: ignore[operator]
        if with_grad:
            ctx.save_for_backward(grad_states, grad_output.to(output_VD.dtype))  # type: ignore[attr-defined, union-attr]
        ctx.mark_non_differentiable(nll)  # type: ignore[attr-defined]
        return smoothed, nll

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:  # type: ignore[override]
        grad_states, grad_output = ctx.saved_tensors  # type: ignore[attr-defined]
        return (
            grad_states * grad.to(grad_states.dtype),
            grad_output * grad.to(grad_output.dtype),
            None,
            None,
            None,
        )
