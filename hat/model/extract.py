"""Cut a stand-alone SubTransformer out of a SuperTransformer."""

import torch

from hat.model.transformer import SubTransformer, Transformer
from hat.space import Arch


def extract(model: Transformer, arch: Arch) -> SubTransformer:
    """Return `arch` as a model of its own size, with copies of the slices it uses.

    Every slice is a front block, so the shape of the small tensor says which part of the large one it is. The
    output equals that of `model` called with `arch`. Raises ArchError where `arch` is outside the space.
    """
    model.space.check(arch)
    vocab_size = (model.source_embed.weight.size(0), model.target_embed.weight.size(0))
    with torch.device("meta"):
        sub = SubTransformer(model.space, arch, vocab_size, model.cfg)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    slices = {
        name: weights[name][tuple(slice(n) for n in parameter.shape)].clone(
            memory_format=torch.contiguous_format
        )
        for name, parameter in sub.named_parameters()
    }
    sub.load_weights(slices)
    return sub
