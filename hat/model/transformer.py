"""Super- and SubTransformers: one module. B batch, T target, S source length, D width, V vocabulary."""

import math
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.errors import ConfigError
from hat.model.elastic import EVAL, Dropout, ElasticEmbedding, ElasticLayerNorm, ElasticLinear
from hat.model.layers import PAD, Layer, ModelConfig, causal_mask, padding_mask, positions, sinusoids
from hat.space import SIDES, Arch, SearchSpace


class EncoderOutput(NamedTuple):
    """What the decoder sees of a source: outputs of the last encoder layers, last first, and its pads."""

    outputs: tuple[Tensor, ...]  # each [B, S, D]
    padding: Tensor  # [B, S], true at pads

    def by_span(self, arch: Arch) -> dict[int, tuple[Tensor, Tensor | None]]:
        """Return for each span of `arch` the outputs of so many last encoder layers, and their additive mask.
        The outputs stand side by side in time, [B, span * S, D]; the mask is None without pads.
        """
        dtype, spans = self.outputs[0].dtype, set(arch.decoder.cross_span)
        masks = {span: padding_mask(self.padding.repeat(1, span), dtype) for span in spans}
        return {span: (torch.cat(self.outputs[:span], dim=1), masks[span]) for span in spans}


class Transformer(nn.Module):
    """An encoder-decoder whose parameters have the sizes of `shape`; a call may use a smaller architecture.
    `space` gives the super widths, on which positions, dropout and (optionally) embedding scale depend.
    """

    def __init__(
        self, space: SearchSpace, shape: Arch, cfg: ModelConfig, vocab_size: tuple[int, int]
    ) -> None:
        super().__init__()
        enc, dec, shared = shape.encoder, shape.decoder, cfg.share_all_embeddings
        source_size, target_size = vocab_size
        widths = [side.super_embed_dim for side in (space.encoder, space.decoder)]
        if shared and (source_size != target_size or widths[0] != widths[1]):
            needs = "a joint dictionary (preprocess with --joined-dictionary) and equal widths"
            got = f"got {source_size} and {target_size} entries, widths of {widths}"
            raise ConfigError(f"--share-all-embeddings needs {needs}, {got}")
        self.space, self.cfg, self.default_arch = space, cfg, shape
        table, norm = ElasticEmbedding, ElasticLayerNorm
        shared_dim = max(enc.embed_dim, dec.embed_dim) if shared else enc.embed_dim
        self.source_embed = table(source_size, shared_dim, PAD)
        self.target_embed = self.source_embed if shared else table(target_size, dec.embed_dim, PAD)
        tied = shared or cfg.share_decoder_input_output_embed
        self.output = self.target_embed if tied else table(target_size, dec.embed_dim)
        for side in SIDES:
            depth = getattr(shape, side).num_layers
            layers = nn.ModuleList(Layer(cfg, space, shape, side, index) for index in range(depth))
            self.add_module(f"{side}_layers", layers)
        self.encoder_norm = norm(enc.embed_dim) if cfg.encoder_normalize_before else nn.Identity()
        self.decoder_norm = norm(dec.embed_dim) if cfg.decoder_normalize_before else nn.Identity()
        self._make_positions()

    def _make_positions(self) -> None:
        for side, name in zip(SIDES, ("source", "target"), strict=True):
            length = getattr(self.cfg, f"max_{name}_positions") + PAD + 1
            table = sinusoids(length, getattr(self.space, side).super_embed_dim)
            self.register_buffer(f"{name}_positions", table.to(self.source_embed.weight), persistent=False)

    @property
    def vocab_sizes(self) -> tuple[int, int]:
        """Return the sizes of both dictionaries."""
        return self.source_embed.weight.size(0), self.target_embed.weight.size(0)

    def lengthen(self, source: int | None, target: int | None) -> None:
        """Make room for sentences of so many tokens, if it is more than before; positions have no weights."""
        wanted = {"max_source_positions": source or 0, "max_target_positions": target or 0}
        self.cfg = replace(self.cfg, **{name: max(n, getattr(self.cfg, name)) for name, n in wanted.items()})
        self._make_positions()

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Make tensors, named as in `named_parameters`, the weights of a model on the meta device."""
        for module_name, module in self.named_modules():
            for name in module._parameters:
                module._parameters[name] = nn.Parameter(weights[f"{module_name}.{name}"])
        self._make_positions()

    def encode(self, source_BS: Tensor, arch: Arch | None = None, drop: Dropout = EVAL) -> EncoderOutput:
        """Run the encoder on left-padded ids [B, S]; the outputs of the last three layers are returned."""
        enc = (arch or self.default_arch).encoder
        x = self._embed("encoder", source_BS, enc.embed_dim, drop)
        padding, outputs = source_BS.eq(PAD), list[Tensor]()
        mask = padding_mask(padding, x.dtype)
        for index, layer in enumerate(self.encoder_layers[: enc.num_layers]):
            x = layer(x, enc, index, mask, drop)
            outputs.append(x)
        outputs[-1] = self.encoder_norm(x)
        return EncoderOutput(tuple(outputs[:-4:-1]), padding)

    def decode(
        self, input_BT: Tensor, source: EncoderOutput, arch: Arch | None = None, drop: Dropout = EVAL
    ) -> Tensor:
        """Run the decoder on right-padded ids [B, T]; returns states [B, T, D] before the output matrix."""
        arch = arch or self.default_arch
        dec, sources = arch.decoder, source.by_span(arch)
        x = self._embed("decoder", input_BT, dec.embed_dim, drop)
        causal = causal_mask(input_BT.size(1), x)
        for index, layer in enumerate(self.decoder_layers[: dec.num_layers]):
            x = layer(x, dec, index, causal, drop, sources[dec.cross_span[index]])
        return self.decoder_norm(x)

    def logits(self, states: Tensor) -> Tensor:
        """Map decoder states [..., D] to scores over the target vocabulary [..., V]."""
        return F.linear(states, self.output.columns(states.size(-1)))

    def forward(
        self, source_BS: Tensor, input_BT: Tensor, arch: Arch | None = None, drop: Dropout = EVAL
    ) -> Tensor:
        """Return logits [B, T, V] under teacher forcing; `arch` defaults to the model's own size."""
        return self.logits(self.decode(input_BT, self.encode(source_BS, arch, drop), arch, drop))

    def scale(self, side: str, dim: int) -> float:
        """Return what embeddings of `dim` columns are multiplied with."""
        super_dim = getattr(self.space, side).super_embed_dim
        return math.sqrt(super_dim if self.cfg.vocab_original_scaling else dim)

    def _embed(self, side: str, ids: Tensor, dim: int, drop: Dropout) -> Tensor:
        name = "source" if side == "encoder" else "target"
        table, sines = getattr(self, f"{name}_embed"), getattr(self, f"{name}_positions")
        x = table(ids, dim) * self.scale(side, dim) + sines[positions(ids), :dim]
        return drop(x, self.cfg.dropout * dim / sines.size(1))


class SuperTransformer(Transformer):
    """All SubTransformers of a space in one set of weights, freshly initialised from `generator`."""

    def __init__(
        self,
        space: SearchSpace,
        vocab_size: int | tuple[int, int],
        cfg: ModelConfig | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        sizes = vocab_size if isinstance(vocab_size, tuple) else (vocab_size, vocab_size)
        # the architecture whose sizes the super parameters have; its heads and spans are not used
        shape = space.build(lambda dim, allowed, layer: space.sizes.get(str(dim.limit), max(allowed)))
        super().__init__(space, shape, cfg or ModelConfig(), sizes)
        self.default_arch = space.largest()
        if not self.source_embed.weight.is_meta:
            generator = generator or torch.Generator().manual_seed(1)
            for module in self.modules():
                if isinstance(module, ElasticLinear | ElasticEmbedding):
                    module.init(generator)


class SubTransformer(Transformer):
    """One architecture in weights of exactly its size, uninitialised; `extract` fills it."""

    def __init__(self, space: SearchSpace, arch: Arch, vocab_size: tuple[int, int], cfg: ModelConfig) -> None:
        super().__init__(space, arch, cfg, vocab_size)
        self.arch = arch


def extract(model: Transformer, arch: Arch) -> SubTransformer:
    """Return `arch` as a model of its size, a copy that computes the same; ArchError outside the space."""
    model.space.check(arch)
    with torch.device("meta"):
        sub = SubTransformer(model.space, arch, model.vocab_sizes, model.cfg)
    weights = dict(model.named_parameters())
    cut = {name: weights[name].detach()[tuple(map(slice, w.shape))] for name, w in sub.named_parameters()}
    sub.load_weights({name: w.clone(memory_format=torch.contiguous_format) for name, w in cut.items()})
    return sub


@torch.no_grad()
def implant(model: Transformer, sub: SubTransformer) -> None:
    """Give a SuperTransformer the weights of a trained SubTransformer of its space, in place; as that
    architecture it computes what `sub` does. Feed-forward units are sorted, the most important first, for
    narrower slices. Layers that `sub` lacks begin with zero blocks: pre-norm, they change nothing at first.
    """
    model.space.check(sub.arch)
    given = {name: weight.detach() for name, weight in sub.named_parameters()}
    for name in [name for name in given if name.endswith("ffn.up.weight")]:
        up, bias, down = (f"{name[:-9]}{end}" for end in ("up.weight", "up.bias", "down.weight"))
        order = (given[up].norm(dim=1) * given[down].norm(dim=0)).argsort(descending=True)
        given |= {up: given[up][order], bias: given[bias][order], down: given[down][:, order]}
    for name, weight in model.named_parameters():
        if name in given:
            weight[tuple(map(slice, given[name].shape))] = given[name]
        elif ".out." in name or ".down." in name:
            weight.zero_()
