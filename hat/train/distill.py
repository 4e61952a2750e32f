"""Cross entropy against the probabilities of a teacher, in chunks of rows as in hat/train/loss.py: the logits
of neither exist all at once.

R rows (target tokens), D width of the student, E width of the teacher, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hat.train.loss import CACHED_BYTES, Judged, chunked_loss, wide_of


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
    states_RE, output_VE = teacher.states_RE.detach(), teacher.output_VE.detach()
    wide = wide_of(states_RD)

    def judge(logits: Tensor, rows: slice, with_grad: bool) -> Judged:
        taught = states_RE[rows] @ output_VE.t()
        return Judged(_to_gradient(logits, taught, target_R[rows], eps, share, wide, with_grad))

    return chunked_loss(states_RD, output_VD, judge)


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
