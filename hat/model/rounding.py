"""Slices in 8 bits: floats, rounded as engines round them. B sentences, T tokens, D width."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hat.model.elastic import ElasticEmbedding, ElasticLinear
from hat.model.transformer import SubTransformer, Transformer, extract
from hat.space import SIDES, Arch


@dataclass(frozen=True)
class Rounding:
    """How an engine rounds: weights of linear maps by a step for each output, its largest value / 127."""

    symmetric: bool  # steps of inputs: largest absolute value / 127; else (highest - lowest or 0) / 255
    by_token: bool  # each token of a source has a step; else the tokens of a sentence share one
    tables: Literal["rows", "whole"]  # embeddings: a step for each row; one, positions too


ROUNDINGS = {  # by runtime
    "ctranslate2": Rounding(symmetric=True, by_token=True, tables="rows"),
    "onnxruntime": Rounding(symmetric=False, by_token=False, tables="whole"),
}


def rounded(model: Transformer, arch: Arch, how: Rounding) -> SubTransformer:
    """Return `arch` cut out of `model` with rounded weights; its linear maps round what they multiply: tokens
    of a target one by one, as they are decoded, and each source by itself, however they are batched.
    """
    sub, pads = extract(model, arch), list[Tensor | None]([None])  # of the source that is multiplied next

    def see_pads(layer: nn.Module, args: Any, side: str) -> None:
        """Remember, before a layer, which tokens have no part in the step of their sentence."""
        mask = args[3] if side == "encoder" else args[5][1]
        pads[0] = None if mask is None else mask[:, 0, 0, :, None] < 0

    def in_steps(x_BTD: Tensor, of_source: bool = False) -> Tensor:
        low, high = torch.aminmax(x_BTD, dim=-1, keepdim=True)
        if of_source and not how.by_token:
            if pads[0] is not None:
                low, high = (x.masked_fill(pads[0], 0) for x in (low, high))
            low, high = low.amin(1, keepdim=True), high.amax(1, keepdim=True)
        return _in_steps(x_BTD, low, high, how.symmetric)

    widths = (arch.encoder.embed_dim, *[arch.decoder.embed_dim] * 2)
    tables = sub.source_embed, sub.target_embed, sub.output
    sub.source_embed, sub.target_embed, sub.output = map(_own, tables, widths)
    for side, name in zip(SIDES, ("source", "target"), strict=True):
        for layer in getattr(sub, f"{side}_layers"):
            layer.register_forward_pre_hook(partial(see_pads, side=side))
            for path, linear in layer.named_modules():
                if isinstance(linear, ElasticLinear):
                    _round(linear.weight, by_row=True)
                    of_source = side == "encoder" or path.endswith(".kv")
                    linear.register_forward_pre_hook(
                        lambda linear, args, of=of_source: (in_steps(args[0], of), *args[1:])
                    )
        _round(getattr(sub, f"{name}_embed").weight, how.tables == "rows")
        if how.tables == "whole":
            _round(getattr(sub, f"{name}_positions"), by_row=False)
    _round(sub.output.weight, by_row=True)
    sub.decoder_norm.register_forward_hook(lambda module, args, states: in_steps(states))
    return sub


def _in_steps(x: Tensor, low: Tensor, high: Tensor, symmetric: bool) -> Tensor:
    """Return `x` rounded to the 255 or 256 numbers between `low` and `high`, one of which is 0."""
    low, high = low.float().clamp(max=0), high.float().clamp(min=0)
    step = torch.maximum(-low, high) / 127 if symmetric else (high - low) / 255
    step = step.clamp(min=torch.finfo(torch.float32).tiny)
    return (x / step).round_().mul_(step).to(x.dtype)


def _round(weight: Tensor, by_row: bool) -> None:
    low, high = torch.aminmax(weight, dim=1, keepdim=True) if by_row else torch.aminmax(weight)
    weight.data = _in_steps(weight.detach(), low.detach(), high.detach(), symmetric=by_row)


def _own(table: ElasticEmbedding, dim: int) -> ElasticEmbedding:
    """Return a copy of `dim` columns: what uses share is rounded in other ways for each."""
    weight = table.columns(dim).detach().clone()
    with torch.device("meta"):
        own = ElasticEmbedding(*weight.shape)
    own.weight = nn.Parameter(weight, requires_grad=False)
    return own
