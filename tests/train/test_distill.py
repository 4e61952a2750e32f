"""The chunked loss against a teacher equals plain autograd, value and gradient."""

import pytest
import torch
from test_loss import inputs, plain

import hat.train.loss
from hat.train.loss import Teacher, distilled_loss, smoothed_loss


def teacher_of(rows: int, vocab: int, dtype: torch.dtype = torch.float64) -> Teacher:
    states, output, _ = inputs(rows, 7, vocab, dtype, seed=9)
    return Teacher(states, output)


def by_hand(states, output, target, eps, teacher, share) -> torch.Tensor:  # noqa: ANN001
    wanted = (teacher.states_RE @ teacher.output_VE.t()).detach().softmax(-1)
    taught = -(wanted * (states @ output.t()).log_softmax(-1)).sum()
    return share * taught + (1 - share) * plain(states, output, target, eps)[0]


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("rows", [0, 1, 8, 29])
def test_value_and_gradient_in_float64(rows: int, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks of 8 rows and pieces of 3."""
    monkeypatch.setattr(hat.train.loss, "ROWS", 8)
    monkeypatch.setattr(hat.train.loss, "CACHED_BYTES", 3 * 11 * 8)
    states, output, target = inputs(rows, 5, 11, torch.float64)
    teacher = teacher_of(rows, 11)
    loss, nll = distilled_loss(states, output, target, 0.1, teacher, share)
    expected = by_hand(states, output, target, 0.1, teacher, share)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(nll, plain(states, output, target, 0.1)[1], rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad(3 * loss, (states, output))
    theirs = torch.autograd.grad(3 * expected, (states, output))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert teacher.states_RE.grad is None and not nll.requires_grad


def test_a_student_equal_to_its_teacher_has_nothing_to_learn() -> None:
    states, output, target = inputs(40, 5, 11, torch.float64)
    loss, _ = distilled_loss(states, output, target, 0.1, Teacher(states, output), 1.0)
    for grad in torch.autograd.grad(loss, (states, output)):
        assert grad.abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_stays_within_its_rounding(dtype: torch.dtype) -> None:
    states, output, target = inputs(300, 16, 50, dtype, seed=4)
    teacher = teacher_of(300, 50, dtype)
    loss, nll = distilled_loss(states, output, target, 0.1, teacher, 0.8)
    wide = [value.detach().double().requires_grad_() for value in (states, output)]
    expected = by_hand(*wide, target, 0.1, Teacher(*(value.double() for value in teacher)), 0.8)
    rounding = torch.finfo(dtype).eps
    assert loss.dtype == nll.dtype == torch.float32
    assert abs(loss.item() / expected.item() - 1) < 4 * rounding
    for ours, theirs in zip(
        torch.autograd.grad(loss, (states, output)), torch.autograd.grad(expected, wide), strict=True
    ):
        assert ours.dtype == dtype
        assert (ours.double() - theirs).norm() < 6 * rounding * theirs.norm()


def test_no_tensor_holds_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of rows x vocabulary is ever made, here 400 x 97 in chunks of 16."""
    monkeypatch.setattr(hat.train.loss, "ROWS", 16)
    states, output, target = inputs(400, 5, 97, torch.float32)
    teacher = teacher_of(400, 97, torch.float32)
    sizes: list[int] = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                sizes.append(result.numel())
            return result

    with Watch():
        distilled_loss(states, output, target, 0.1, teacher, 0.5)[0].backward()
    assert len(sizes) > 100 and max(sizes) <= 400 * 16
    with torch.no_grad():
        assert distilled_loss(states, output, target, 0.1, teacher, 0.5)[0].requires_grad is False
    assert smoothed_loss(states, output, target, 0.1)[0].isfinite()
