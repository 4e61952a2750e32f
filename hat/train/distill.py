"""Cross entropy against the probabilities of a teacher, in chunks of rows as in hat/train/loss.py: the logits
of neither exist all at once.

R rows (target tokens), D width of the student, E width of the teacher, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from hat.train.loss import CACHED_BYTES, ROWS


class Teacher(NamedTuple):
    """What the teacher's logits are made of, without gradient."""

    states_RE: Tensor
    output_VE: Tensor


def distilled_loss(
    states_RD: Tensor, output_VD: Tensor, target_R: Tensor, eps: float, teacher: Teacher, share: float
) -> tuple[Tensor, Tensor]:
    """Return the summed loss (differentiable) and the summed negative log likelihood of the reference.

    The loss is `share` times the cross entropy against the teacher's probabilities, plus the rest times the
    label-smoothed cross entropy with `eps`. No gradient reaches the teacher. Float32 or wider.
    """
    with_grad = torch.is_grad_enabled() and (states_RD.requires_grad or output_VD.requires_grad)
    states_RE, output_VE = teacher.states_RE.detach(), teacher.output_VE.detach()
    return _DistilledLoss.apply(states_RD, output_VD, target_R, eps, states_RE, output_VE, share, with_grad)


class _DistilledLoss(torch.autograd.Function):
    """Computes loss and gradient of each chunk together; backward only scales what forward kept."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        states_RD: Tensor,
        output_VD: Tensor,
        target_R: Tensor,
        eps: float,
        states_RE: Tensor,
        output_VE: Tensor,
        share: float,
        with_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.float64 if states_RD.dtype == torch.float64 else torch.float32
        sums = torch.zeros(2, dtype=wide, device=states_RD.device)
        grad_states = torch.empty_like(states_RD) if with_grad else None
        grad_output = torch.zeros(output_VD.shape, dtype=wide, device=output_VD.device) if with_grad else None
        size = (min(ROWS, states_RD.size(0)), output_VD.size(0))
        buffer, teacher_buffer = states_RD.new_empty(size), states_RE.new_empty(size)
        for start in range(0, states_RD.size(0), ROWS):
            states = states_RD[start : start + ROWS]
            logits = torch.mm(states, output_VD.t(), out=buffer[: len(states)])
            taught = torch.mm(
                states_RE[start : start + ROWS], output_VE.t(), out=teacher_buffer[: len(states)]
            )
            target = target_R[start : start + ROWS]
            sums += _to_gradient(logits, taught, target, eps, share, wide, with_grad)
            if with_grad:
                torch.mm(logits, output_VD, out=grad_states[start : start + ROWS])  # type: ignore[index]
                grad_output += logits.t() @ states  # type: ignore[operator]
        if with_grad:
            ctx.save_for_backward(grad_states, grad_output.to(output_VD.dtype))  # type: ignore[attr-defined, union-attr]
        loss, nll = sums.unbind()
        ctx.mark_non_differentiable(nll)  # type: ignore[attr-defined]
        return loss, nll

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_states, grad_output = ctx.saved_tensors  # type: ignore[attr-defined]
        kept = (grad_states * grad.to(grad_states.dtype), grad_output * grad.to(grad_output.dtype))
        return (*kept, None, None, None, None, None, None)


def _to_gradient(
    logits_RV: Tensor,
    taught_RV: Tensor,
    target_R: Tensor,
    eps: float,
    share: float,
    wide: torch.dtype,
    with_grad: bool,
) -> Tensor:
    """Return the sums [2] of loss and negative log likelihood of these rows, in `wide`.

    With `with_grad` the logits are replaced by the gradient. A few rows at a time make all their passes
    before the next ones.
    """
    count, vocab = logits_RV.shape
    sums = torch.zeros(2, dtype=wide, device=logits_RV.device)
    rows = max(1, CACHED_BYTES // (vocab * wide.itemsize)) if logits_RV.device.type == "cpu" else count
    for start in range(0, count, max(rows, 1)):
        logits, target = logits_RV[start : start + rows], target_R[start : start + rows, None]
        values = logits.to(wide)
        wanted = taught_RV[start : start + rows].to(wide).softmax(1).mul_(share)
        rest = (1 - share) * (1 - eps)
        if share < 1:
            wanted.add_((1 - share) * eps / vocab)
            wanted.scatter_add_(1, target, torch.full_like(target, rest, dtype=wide))
        log_total = values.logsumexp(1, keepdim=True)
        nll = log_total - values.gather(1, target)
        sums += torch.stack([(log_total - (wanted * values).sum(1, keepdim=True)).sum(), nll.sum()])
        if with_grad:
            logits.copy_(values.sub(log_total).exp_().sub_(wanted))
    return sums
