"""A linear map in bfloat16 on a CPU takes a fused kernel; it equals the plain one, value and gradient."""

import pytest
import torch
import torch.nn.functional as F

import hat.model.cpu
from hat.model.cpu import SHORT, can_pack, merge_heads, split_heads
from hat.model.elastic import EVAL, Dropout, ElasticLinear
from hat.model.layers import attend


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("in_dim", "out_dim"), [(24, 40), (24, 17), (9, 40), (1, 1)])
def test_the_fused_linear_map_equals_the_plain_one(
    in_dim: int, out_dim: int, relu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_pack(torch.bfloat16):
        pytest.skip("this build of PyTorch has no fused kernel for bfloat16")
    noise = torch.Generator().manual_seed(1)
    layer = ElasticLinear(24, 40).bfloat16()
    layer.init(noise)
    torch.nn.init.normal_(layer.bias, generator=noise)
    x = torch.randn(3, 5, in_dim, generator=noise).bfloat16().requires_grad_()
    weight = torch.randn(3, 5, out_dim, generator=noise).bfloat16()
    found = []
    for fused in (True, False):
        monkeypatch.setattr(hat.model.cpu, "can_pack", lambda dtype, fused=fused: fused)
        y = layer(x, out_dim, relu=relu)
        found.append((y, *torch.autograd.grad((y * weight).sum(), (x, layer.weight, layer.bias))))
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=2**-6)
    wide = F.linear(x.double(), layer.weight[:out_dim, :in_dim].double(), layer.bias[:out_dim].double())
    torch.testing.assert_close(found[0][0].double(), wide.relu() if relu else wide, rtol=2**-7, atol=2**-6)


def test_float32_is_not_rounded() -> None:
    layer, x = ElasticLinear(8, 8), torch.randn(2, 8)
    layer.init(torch.Generator().manual_seed(1))
    assert torch.equal(layer(x, 6), F.linear(x, layer.weight[:6], layer.bias[:6]))


@pytest.mark.parametrize("length", [7, SHORT + 1])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_scaled_alike_while_training_and_not(length: int, masked: bool) -> None:
    noise = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 3, length, 5, generator=noise, dtype=torch.float64) for _ in range(3))
    mask = torch.full((length, length), -torch.inf, dtype=q.dtype).triu_(1) if masked else None
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    for drop, rate in ((EVAL, 0.5), (Dropout(2), 0.0), (Dropout(2), 1e-9)):
        torch.testing.assert_close(attend(q, k, v, mask, drop, rate), expected)


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_heads_are_split_and_merged_as_by_views(parts: int, heads: int) -> None:
    """Values and gradients, also where one part is not used; the gradient of a view has other strides."""
    noise = torch.Generator().manual_seed(1)
    x = torch.randn(3, 5, parts * 8, generator=noise, dtype=torch.float64, requires_grad=True)
    found = split_heads(x, heads, parts)
    views = [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in x.split(8, -1)]
    for ours, view in zip(found, views, strict=True):
        assert ours.is_contiguous() and torch.equal(ours, view)
    weight = torch.randn(3, heads, 8 // heads, 5, generator=noise, dtype=torch.float64)
    used = slice(0, max(1, parts - 1))
    grads = [
        torch.autograd.grad(sum((part * weight.mT * n).sum() for n, part in enumerate(each, 1)), x)[0]  # type: ignore[union-attr]
        for each in (found[used], views[used])
    ]
    assert torch.equal(*grads)
    assert torch.equal(merge_heads(found[0]), x[..., :8])
    assert torch.autograd.gradcheck(merge_heads, found[0].detach().requires_grad_())
