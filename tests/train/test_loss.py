"""The chunked losses, smoothed and against a teacher, equal plain autograd, value and gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hat.train.loss
from hat.train.loss import Teacher, distilled_loss, smoothed_loss


def plain(
    states: torch.Tensor, output: torch.Tensor, target: torch.Tensor, eps: float
) -> tuple[torch.Tensor, ...]:
    """REFERENCE section 3: (1 - eps) * nll + eps / V * sum(-log p), summed over rows."""
    logp = (states @ output.t()).log_softmax(-1)
    nll = -logp.gather(1, target[:, None]).sum()
    return (1 - eps) * nll + eps / output.size(0) * -logp.sum(), nll


def inputs(rows: int, dim: int, vocab: int, dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, ...]:
    noise = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, dim, generator=noise, dtype=torch.float64)
    output = torch.randn(vocab, dim, generator=noise, dtype=torch.float64)
    target = torch.randint(0, vocab, (rows,), generator=noise)
    return states.to(dtype).requires_grad_(), output.to(dtype).requires_grad_(), target


@settings(max_examples=60)
@given(
    st.integers(0, 20),
    st.integers(1, 6),
    st.integers(1, 12),
    st.sampled_from((0.0, 0.1, 0.9)),
    st.integers(1, 7),
    st.floats(-3, 3),
)
def test_value_and_gradient_in_float64(
    rows: int, dim: int, vocab: int, eps: float, chunk: int, scale: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hat.train.loss, "ROWS", chunk)
        states, output, target = inputs(rows, dim, vocab, torch.float64)
        loss, nll = smoothed_loss(states, output, target, eps)
        (loss * scale).backward()
        twins = [value.detach().clone().requires_grad_() for value in (states, output)]
        expected, expected_nll = plain(*twins, target, eps)
        (expected * scale).backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(nll, expected_nll, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip((states, output), twins, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-10)


def teacher_of(rows: int, vocab: int, dtype: torch.dtype = torch.float64) -> Teacher:
    states, output, _ = inputs(rows, 7, vocab, dtype, seed=9)
    return Teacher(states, output)


def by_hand(states, output, target, eps, teacher, share) -> torch.Tensor:  # noqa: ANN001
    wanted = (teacher.states_RE @ teacher.output_VE.t()).detach().softmax(-1)
    taught = -(wanted * (states @ output.t()).log_softmax(-1)).sum()
    return share * taught + (1 - share) * plain(states, output, target, eps)[0]


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("rows", [0, 1, 8, 29])
def test_distilled_value_and_gradient(rows: int, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("share", [0.0, 0.8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_low_precision_stays_within_its_rounding(dtype: torch.dtype, share: float) -> None:
    states, output, target = inputs(300, 16, 50, dtype, seed=4)
    wide = [value.detach().double().requires_grad_() for value in (states, output)]
    expected, rounding = plain(*wide, target, 0.1)[0], torch.finfo(dtype).eps
    loss, nll = smoothed_loss(states, output, target, 0.1)
    if share:
        teacher = teacher_of(300, 50, dtype)
        loss, nll = distilled_loss(states, output, target, 0.1, teacher, share)
        expected = by_hand(*wide, target, 0.1, Teacher(*(value.double() for value in teacher)), share)
    assert loss.dtype == nll.dtype == torch.float32
    assert abs(loss.item() / expected.item() - 1) < 4 * rounding
    ours, theirs = torch.autograd.grad(loss, (states, output)), torch.autograd.grad(expected, wide)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == dtype and (one.double() - other).norm() < 6 * rounding * other.norm()


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
        smoothed_loss(states, output, target, 0.1)[0].backward()
    assert len(sizes) > 100 and max(sizes) <= 400 * 16


@given(st.floats(0.1, 30), st.integers(2, 40), st.integers(0, 9))
def test_exponentials_of_bounded_logits_stay_finite(scale: float, vocab: int, seed: int) -> None:
    """Up to where other logits begin to be subtracted, gradients are those of float64."""
    states, output, target = inputs(5, 3, vocab, torch.float32, seed)
    states = (states.detach() * scale).requires_grad_()
    loss, _ = smoothed_loss(states, output, target, 0.1)
    twins = [value.detach().double().requires_grad_() for value in (states, output)]
    expected, _ = plain(*twins, target, 0.1)
    ours, theirs = torch.autograd.grad(loss, (states, output)), torch.autograd.grad(expected, twins)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-4, atol=1e-5 * float(other.abs().max() + 1))
