"""One architecture laid out for translating: packed matrices, caches, no autograd. B sentences, K hypotheses,
N = B * K rows, S source, T target length, t steps so far, H heads, d head width, D width, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.model.cpu import CHUNK, Matrix, fixed_matrix
from hat.model.elastic import EVAL, Dropout, ElasticLayerNorm, ElasticLinear
from hat.model.layers import PAD, Layer, Mask
from hat.model.transformer import EncoderOutput, Transformer, extract
from hat.space import SIDES, Arch, EncoderArch

MakeMatrix = Callable[[Tensor, Tensor | None], Matrix]  # of a weight and a bias


class InferenceModel:
    """What `model` computes with `arch`, up to rounding, in own weights; `matrix` lays out linear maps."""

    def __init__(
        self, model: Transformer, arch: Arch | None = None, matrix: MakeMatrix = fixed_matrix
    ) -> None:
        self.cfg, self.arch = model.cfg, arch or model.default_arch
        self._network = network = extract(model, self.arch)
        dim = self.arch.decoder.embed_dim
        tables = network.target_embed, network.output
        self._embed, output_VD = (table.columns(dim).detach().contiguous() for table in tables)
        self._sines, self._scale = network.target_positions[:, :dim], network.scale("decoder", dim)
        self.device, self.dtype = self._embed.device, self._embed.dtype
        self.vocab_size = len(output_VD)
        missing = -len(output_VD) % CHUNK if len(output_VD) >= 4096 else 0  # to whole chunks
        bias = F.pad(output_VD.new_zeros(len(output_VD)), (0, missing), value=-math.inf) if missing else None
        self._output = matrix(F.pad(output_VD, (0, 0, 0, missing)), bias)
        for side in SIDES:
            for name in (f"{side}_layers", f"{side}_norm"):
                fixed = _fixed(getattr(network, name), matrix)
                delattr(network, name)  # a module cannot be replaced by what is none
                setattr(network, name, fixed)

    @torch.inference_mode()
    def encode(self, source_BS: Tensor) -> EncoderOutput:
        """Run the encoder on left-padded ids [B, S]; the outputs of the last three layers are returned."""
        return self._network.encode(source_BS)

    @torch.inference_mode()
    def start(self, source: EncoderOutput, beam: int, capacity: int = 32) -> "DecoderState":
        """Return the state of decoding before the first token, with room for `capacity` of them; it grows."""
        spans, dec, layers = source.by_span(self.arch), self.arch.decoder, []
        for index, layer in enumerate(self._network.decoder_layers):
            source_BSD, mask = spans[dec.cross_span[index]]
            kv = layer.cross_attn.kv(source_BSD).unflatten(-1, (2, dec.cross_heads[index], -1))
            k, v = kv.permute(2, 0, 3, 1, 4).contiguous()
            heads = dec.self_heads[index]
            own = k.new_empty(2, len(k), heads, capacity, beam, layer.qkv_dim // heads)
            layers.append(LayerState(own, k, v, mask))
        return DecoderState(layers, k.new_empty(len(k), 1, beam, capacity, beam))

    @torch.inference_mode()
    def step(self, tokens_N: Tensor, state: "DecoderState") -> Tensor:
        """Feed one token of each hypothesis, or at first one of each sentence, and return logits [N, V'];
        `state` goes one step further. V' >= V: what a large vocabulary is padded with is -inf.
        """
        state.begin()
        x = F.embedding(tokens_N, self._embed)
        x = torch.add(self._sines[PAD + state.length], x, alpha=self._scale)
        mask = state.mask(tokens_N.size(0) // state.lineage.size(0))
        for index, (layer, kept) in enumerate(zip(self._network.decoder_layers, state.layers, strict=True)):
            x = layer.step(x, self.arch.decoder, index, kept, state.length, mask)
        return self._output(self._network.decoder_norm(x))


@dataclass
class LayerState:
    """Keys and values of one decoder layer: its own tokens [2, B, H, T, K, d] and the source [B, H, S, d]."""

    own: Tensor
    cross_k: Tensor
    cross_v: Tensor
    cross_mask: Tensor | None


@dataclass
class DecoderState:
    """What decoding step by step remembers. Keys and values stay where they were written; `lineage` [B, 1, K,
    T, K], added to attention scores, is 0 for what a hypothesis descends from, -inf for the rest. So all
    hypotheses of a sentence are queries of one attention, and reordering it is all a beam does.
    """

    layers: list[LayerState]
    lineage: Tensor
    length: int = 0  # tokens fed so far

    def begin(self) -> None:
        """Make room for one more token, of which every hypothesis is its own ancestor."""
        if self.length == self.lineage.size(3):
            for layer in self.layers:
                layer.own = _longer(layer.own)
            self.lineage = _longer(self.lineage)
        self.lineage[:, 0, :, self.length].fill_(-math.inf).diagonal(dim1=1, dim2=2).zero_()
        self.length += 1

    def mask(self, first: int) -> Tensor | None:
        """Return what hides the others from the `first` hypotheses of each sentence [B, 1, first, t * K]."""
        return None if self.lineage.size(2) == 1 else self.lineage[:, :, :first, : self.length].flatten(3)

    def reorder(self, origin_BK: Tensor) -> None:
        """Let hypothesis k of sentence b continue what hypothesis `origin[b, k]` was."""
        seen = self.lineage[:, 0, :, : self.length]
        if seen.size(0) == 1:
            seen.copy_(seen.index_select(1, origin_BK[0]))
        else:
            seen.copy_(seen.gather(1, origin_BK[:, :, None, None].expand_as(seen)))

    def keep(self, sentences: Tensor) -> None:
        """Drop all sentences but these."""
        self.lineage = self.lineage[sentences]
        for layer in self.layers:
            layer.own = layer.own[:, sentences]
            layer.cross_k, layer.cross_v = layer.cross_k[sentences], layer.cross_v[sentences]
            if layer.cross_mask is not None:
                layer.cross_mask = layer.cross_mask[sentences]


class _FixedLayer:
    """A layer that is cut to size. Its attributes are plain: looking up those of modules takes time."""

    blocks, residual = Layer.blocks, Layer.residual

    def __init__(self, layer: Layer, matrix: MakeMatrix) -> None:
        vars(self).update(vars(layer))
        for name, child in layer.named_children():
            setattr(self, name, _fixed(child, matrix))

    def __call__(self, x_BSD: Tensor, stack: EncoderArch, index: int, mask: Mask, drop: Dropout) -> Tensor:
        """Return [B, S, D] of a layer of the encoder."""

        def to_itself(h_BSD: Tensor) -> Tensor:
            qkv = self.self_attn.qkv(h_BSD).unflatten(-1, (3, stack.self_heads[index], -1))
            return _attend(*qkv.permute(2, 0, 3, 1, 4), mask)

        return self.blocks(x_BSD, stack, index, to_itself, None, drop)

    def step(
        self, x_ND: Tensor, stack: EncoderArch, index: int, state: LayerState, length: int, mask: Mask
    ) -> Tensor:
        """Return [N, D] of a decoder layer for the newest tokens; their keys and values go into `state`."""
        batch, rows = state.cross_k.size(0), x_ND.size(0) // state.cross_k.size(0)

        def to_itself(h_ND: Tensor) -> Tensor:
            qkv = self.self_attn.qkv(h_ND).view(batch, rows, 3, state.own.size(2), -1).permute(2, 0, 3, 1, 4)
            state.own[:, :, :, length - 1].copy_(qkv[1:])  # of a single first one, for all
            k, v = state.own[:, :, :, :length].flatten(3, 4)
            return _attend(qkv[0], k, v, mask).flatten(0, 1)

        def to_source(h_ND: Tensor) -> Tensor:
            q = self.cross_attn.q(h_ND).view(batch, rows, state.cross_k.size(1), -1).transpose(1, 2)
            return _attend(q, state.cross_k, state.cross_v, state.cross_mask).flatten(0, 1)

        return self.blocks(x_ND, stack, index, to_itself, to_source, EVAL)


def _fixed(module: nn.Module, matrix: MakeMatrix) -> Any:
    """Return what computes the same as `module`, whose sizes are those of its weights."""
    if isinstance(module, ElasticLinear):
        return matrix(module.weight, module.bias)
    if isinstance(module, ElasticLayerNorm):
        weight, bias, eps = module.weight.detach(), module.bias.detach(), module.eps
        return lambda x, sizes=[*weight.shape]: torch.layer_norm(x, sizes, weight, bias, eps)
    if isinstance(module, nn.ModuleList):
        return [_FixedLayer(layer, matrix) for layer in module]
    if isinstance(module, nn.ModuleDict):
        return SimpleNamespace(**{name: _fixed(each, matrix) for name, each in module.items()})
    return module


def _attend(q_BHTd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, mask: Tensor | None) -> Tensor:
    out_BHTd = F.scaled_dot_product_attention(q_BHTd, k_BHSd, v_BHSd, attn_mask=mask)
    return out_BHTd.transpose(1, 2).flatten(2)


def _longer(cache: Tensor) -> Tensor:
    """Return `cache` [_, _, _, T, ...] with room for 2 * T steps; what it holds stays."""
    longer = cache.new_empty(*cache.shape[:3], 2 * cache.size(3), *cache.shape[4:])
    longer[:, :, :, : cache.size(3)] = cache
    return longer
