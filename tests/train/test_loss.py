"""The chunked loss equals plain label-smoothed cross entropy, value and gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hat.train.loss
from hat.train.loss import OutputMatrix, smoothed_loss


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_stays_within_its_rounding(dtype: torch.dtype) -> None:
    states, output, target = inputs(300, 16, 50, dtype, seed=4)
    loss, nll = smoothed_loss(states, output, target, 0.1)
    loss.backward()
    assert loss.dtype == nll.dtype == torch.float32
    wide = [value.detach().double().requires_grad_() for value in (states, output)]
    expected, expected_nll = plain(*wide, target, 0.1)
    expected.backward()
    rounding = torch.finfo(dtype).eps
    assert abs(loss.item() / expected.item() - 1) < 2 * rounding
    assert abs(nll.item() / expected_nll.item() - 1) < 2 * rounding
    for ours, theirs in zip((states, output), wide, strict=True):
        assert ours.grad.dtype == dtype
        error = (ours.grad.double() - theirs.grad).norm() / theirs.grad.norm()
        assert error < 4 * rounding


def test_large_logits_stay_finite() -> None:
    states, output, target = inputs(5, 3, 4, torch.float32)
    loss, _ = smoothed_loss(states * 1e4, output, target, 0.1)
    loss.backward()
    assert bool(loss.isfinite()) and bool(states.grad.isfinite().all())


@pytest.mark.parametrize("needs", [(True, False), (False, True), (False, False)])
def test_partial_gradients(needs: tuple[bool, bool]) -> None:
    states, output, target = inputs(5, 3, 4, torch.float64)
    states.requires_grad_(needs[0])
    output.requires_grad_(needs[1])
    loss, nll = smoothed_loss(states, output, target, 0.1)
    assert not nll.requires_grad and loss.requires_grad is any(needs)
    if any(needs):
        loss.backward()
    assert (states.grad is not None, output.grad is not None) == needs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_pieces_of_a_chunk_change_nothing(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    states, output, target = inputs(41, 8, 30, dtype)
    results = []
    for cached in (1 << 20, 30 * 4 * 7):  # one piece, and pieces of seven rows
        monkeypatch.setattr(hat.train.loss, "CACHED_BYTES", cached)
        loss, nll = smoothed_loss(states, output, target, 0.1)
        results.append((loss, nll, *torch.autograd.grad(loss, (states, output))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_large_and_small_logits_are_judged_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded logits make fewer passes; both ways agree, and no logit of bounded ones exceeds the bound."""
    states, output, target = inputs(41, 8, 30, torch.float32)
    prepared, fixed = OutputMatrix(output), states.detach()
    assert prepared.bounds(fixed) and not prepared.bounds(fixed * 100)
    assert not OutputMatrix(output * torch.nan).bounds(fixed) and not prepared.bounds(fixed[:0])
    found = []
    for largest in (80.0, 0.0):
        monkeypatch.setattr(hat.train.loss, "_MAX_LOG_SUM", largest)
        loss, nll = smoothed_loss(states, output, target, 0.1, prepared)
        found.append((loss, nll, *torch.autograd.grad(loss, (states, output))))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@given(st.floats(0.1, 30), st.integers(2, 40), st.integers(0, 9))
def test_exponentials_of_bounded_logits_stay_finite(scale: float, vocab: int, seed: int) -> None:
    """Up to where other logits begin to be subtracted, gradients are those of float64."""
    states, output, target = inputs(5, 3, vocab, torch.float32, seed)
    states = (states.detach() * scale).requires_grad_()
    loss, _ = smoothed_loss(states, output, target, 0.1)
    twins = [value.detach().double().requires_grad_() for value in (states, output)]
    expected, _ = plain(*twins, target, 0.1)
    for one, other in zip(
        torch.autograd.grad(loss, (states, output)), torch.autograd.grad(expected, twins), strict=True
    ):
        torch.testing.assert_close(one.double(), other, rtol=2e-4, atol=1e-5 * float(other.abs().max() + 1))
