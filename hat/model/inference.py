"""One architecture laid out for translating: packed matrices, caches of keys and values, no autograd.

B sentences, K hypotheses of each, N = B * K rows, S source length, T target length, t steps so far, H heads,
d head width, D width, V vocabulary.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.model.cpu import CHUNK, Int8Matrix, Matrix, fixed_matrix, largest
from hat.model.elastic import ElasticLayerNorm, ElasticLinear
from hat.model.layers import PAD, Layer, padding_mask, positions
from hat.model.transformer import EncoderOutput, Transformer
from hat.space import Arch, EncoderArch

PADDED_FROM = 4096
RESCORED = 16  # words whose logits are computed again in full precision where weights have 8 bits

MakeMatrix = Callable[[Tensor, Tensor | None], Matrix]
Norm = Callable[[Tensor], Tensor]


class InferenceModel:
    """What `model` computes with `arch`, in weights of its own: it neither trains nor follows later changes.

    `matrix` lays out the linear maps. With the default the results differ from those of `model` by the
    rounding of its number type only; `Int8Matrix` rounds weights and inputs to 8 bits, but for the keys and
    values of the source.
    """

    def __init__(
        self, model: Transformer, arch: Arch | None = None, matrix: MakeMatrix = fixed_matrix
    ) -> None:
        self.cfg, self.arch = model.cfg, arch or model.default_arch
        enc, dec = self.arch.encoder, self.arch.decoder
        self.vocab_size = model.output.weight.size(0)
        with torch.no_grad():
            self._source = _Embedding(model, "source", enc.embed_dim)
            self._target = _Embedding(model, "target", dec.embed_dim)
            self._encoder = _layers(model.encoder_layers, self.arch, "encoder", matrix)
            self._decoder = _layers(model.decoder_layers, self.arch, "decoder", matrix)
            self._encoder_norm = _norm(model.encoder_norm, enc.embed_dim)
            self._decoder_norm = _norm(model.decoder_norm, dec.embed_dim)
            table_VD = model.output.columns(dec.embed_dim)
            self._output = _output_matrix(table_VD, matrix)
            self._exact_output = table_VD.clone() if matrix is Int8Matrix else None
        self.device, self.dtype = self._target.table.device, self._target.table.dtype

    @torch.inference_mode()
    def encode(self, source_BS: Tensor) -> EncoderOutput:
        """Run the encoder on left-padded ids [B, S]; the outputs of the last three layers are returned."""
        batch, length = source_BS.shape
        padding = source_BS.eq(PAD)
        mask = padding_mask(padding, self.dtype)
        x = self._source(source_BS.flatten(), positions(source_BS).flatten())
        outputs = []
        for layer in self._encoder:
            x = layer.encode(x, batch, mask)
            outputs.append(x)
        outputs[-1] = self._encoder_norm(x)
        return EncoderOutput(tuple(o.view(batch, length, -1) for o in outputs[:-4:-1]), padding)

    @torch.inference_mode()
    def start(self, source: EncoderOutput, beam: int, capacity: int = 32) -> "DecoderState":
        """Return the state of decoding before the first token, with room for `capacity` of them; it grows."""
        spans = source.by_span(self.arch)
        layers = [layer.start(*spans[layer.span], beam, capacity) for layer in self._decoder]
        batch = source.padding.size(0)
        return DecoderState(layers, layers[0].own.new_empty(batch, 1, beam, capacity, beam))

    @torch.inference_mode()
    def step(self, tokens_N: Tensor, state: "DecoderState") -> Tensor:
        """Feed one token of each hypothesis and return logits [N, V'].

        V' >= V: what a large vocabulary is padded with is -inf. `state` is one step further afterwards. The
        first step may be given a single token of each sentence, where its hypotheses start alike.
        """
        state.begin()
        x = self._target(tokens_N, PAD + state.length)
        mask = state.mask(tokens_N.size(0) // state.lineage.size(0))
        for layer, layer_state in zip(self._decoder, state.layers, strict=True):
            x = layer.step(x, layer_state, state.length, mask)
        x = self._decoder_norm(x)
        logits = self._output(x)
        if self._exact_output is not None:  # of all rounding, that of the best words' logits changes most
            words = largest(logits, min(RESCORED, self.vocab_size))[1]
            logits.scatter_(1, words, torch.bmm(self._exact_output[words], x[:, :, None])[:, :, 0])
        return logits


@dataclass
class LayerState:
    """Keys and values of one decoder layer: its own tokens [2, B, H, T, K, d] and the source [B, H, S, d]."""

    own: Tensor
    cross_k: Tensor
    cross_v: Tensor
    cross_mask: Tensor | None


@dataclass
class DecoderState:
    """What decoding step by step remembers.

    Cached keys and values stay where they were written. `lineage` [B, 1, K, T, K] says which of them each
    hypothesis descends from: 0 for its own ancestors, -inf for others; added to attention scores it makes all
    hypotheses of a sentence the query positions of one attention. When the beam reorders, only it changes.
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
        """Return what to add to attention scores [B, 1, first, t * K] of the `first` hypotheses of each
        sentence; None if nothing is to hide.
        """
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


class _Embedding:
    """Looks tokens up and adds their positions."""

    def __init__(self, model: Transformer, side: str, dim: int) -> None:
        sines: Tensor = getattr(model, f"{side}_positions")
        table: Tensor = getattr(model, f"{side}_embed").columns(dim)
        self.table = table.clone(memory_format=torch.contiguous_format)
        self.sines = sines[:, :dim].contiguous()
        self.scale = math.sqrt(sines.size(1) if model.cfg.vocab_original_scaling else dim)

    def __call__(self, ids_N: Tensor, places: Tensor | int) -> Tensor:
        return torch.add(self.sines[places], F.embedding(ids_N, self.table), alpha=self.scale)


class _Layer:
    """One layer, cut to size; each block is given its input and what is added to its output."""

    def __init__(self, layer: Layer, arch: Arch, side: str, index: int, matrix: MakeMatrix) -> None:
        stack: EncoderArch = getattr(arch, side)
        dim, ffn_dim, qkv_dim = stack.embed_dim, stack.ffn_dims[index], layer.self_attn.qkv_dim
        self.pre_norm, self.heads, self.qkv_dim = layer.pre_norm, stack.self_heads[index], qkv_dim
        self.qkv = _cut(layer.self_attn.qkv, 3 * qkv_dim, dim, matrix)
        self.out = _cut(layer.self_attn.out, dim, qkv_dim, matrix)
        self.up = _cut(layer.ffn.up, ffn_dim, dim, matrix)
        self.down = _cut(layer.ffn.down, dim, ffn_dim, matrix)
        self.self_norm, self.ffn_norm = _norm(layer.self_norm, dim), _norm(layer.ffn_norm, dim)
        if side == "decoder":
            dec, cross = arch.decoder, layer.cross_attn
            self.cross_heads, self.span = dec.cross_heads[index], dec.cross_span[index]
            self.cross_q = _cut(cross.q, qkv_dim, dim, matrix)
            once = (
                fixed_matrix if matrix is Int8Matrix else matrix
            )  # once a sentence, and all steps read them
            self.cross_kv = _cut(cross.kv, 2 * qkv_dim, arch.encoder.embed_dim, once)
            self.cross_out = _cut(cross.out, dim, qkv_dim, matrix)
            self.cross_norm = _norm(layer.cross_norm, dim)

    def _residual(self, norm: Norm, x_ND: Tensor, block: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return block(norm(x_ND), x_ND) if self.pre_norm else norm(block(x_ND, x_ND))

    def _feed_forward(self, x_ND: Tensor) -> Tensor:
        return self._residual(self.ffn_norm, x_ND, lambda h, x: self.down.plus(self.up.relu(h), x))

    def _queries_keys_values(self, h_ND: Tensor, batch: int) -> Tensor:
        """Return [3, B, H, n, d] of the n positions of each sentence."""
        return self.qkv(h_ND).view(batch, h_ND.size(0) // batch, 3, self.heads, -1).permute(2, 0, 3, 1, 4)

    def encode(self, x_ND: Tensor, batch: int, mask: Tensor | None) -> Tensor:
        """Return [B * S, D]."""

        def attention(h: Tensor, x: Tensor) -> Tensor:
            return self.out.plus(_attend(*self._queries_keys_values(h, batch), mask), x)

        return self._feed_forward(self._residual(self.self_norm, x_ND, attention))

    def start(self, source_BSD: Tensor, mask: Tensor | None, beam: int, capacity: int) -> LayerState:
        """Return what the layer remembers before the first token."""
        batch, length, _ = source_BSD.shape
        kv = self.cross_kv(source_BSD.flatten(0, 1)).view(batch, length, 2, self.cross_heads, -1)
        k, v = kv.permute(2, 0, 3, 1, 4).contiguous()
        own = k.new_empty(2, batch, self.heads, capacity, beam, self.qkv_dim // self.heads)
        return LayerState(own, k, v, mask)

    def step(self, x_ND: Tensor, state: LayerState, length: int, lineage: Tensor | None) -> Tensor:
        """Return [N, D] for the newest token of each hypothesis; its keys and values go into `state`."""
        batch = state.cross_k.size(0)

        def attend_own(h: Tensor, x: Tensor) -> Tensor:
            qkv = self._queries_keys_values(h, batch)
            state.own[:, :, :, length - 1].copy_(qkv[1:])  # of a single first one, for all
            k, v = state.own[:, :, :, :length].flatten(3, 4)
            return self.out.plus(_attend(qkv[0], k, v, lineage), x)

        def attend_source(h: Tensor, x: Tensor) -> Tensor:
            q = self.cross_q(h).view(batch, h.size(0) // batch, self.cross_heads, -1).transpose(1, 2)
            return self.cross_out.plus(_attend(q, state.cross_k, state.cross_v, state.cross_mask), x)

        x_ND = self._residual(self.self_norm, x_ND, attend_own)
        x_ND = self._residual(self.cross_norm, x_ND, attend_source)
        return self._feed_forward(x_ND)


def _attend(q_BHTd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, mask: Tensor | None) -> Tensor:
    """Return attention output [B * T, H * d]."""
    out_BHTd = F.scaled_dot_product_attention(q_BHTd, k_BHSd, v_BHSd, attn_mask=mask)
    return out_BHTd.transpose(1, 2).flatten(2).flatten(0, 1)


def _layers(layers: Iterable[Layer], arch: Arch, side: str, matrix: MakeMatrix) -> list[_Layer]:
    used = islice(layers, getattr(arch, side).num_layers)
    return [_Layer(layer, arch, side, index, matrix) for index, layer in enumerate(used)]


def _cut(linear: ElasticLinear, out_dim: int, in_dim: int, matrix: MakeMatrix) -> Matrix:
    return matrix(linear.weight[:out_dim, :in_dim], linear.bias[:out_dim])


def _norm(norm: nn.Module, dim: int) -> Norm:
    if not isinstance(norm, ElasticLayerNorm):
        return norm
    weight, bias, eps = norm.weight[:dim].clone(), norm.bias[:dim].clone(), norm.eps
    return lambda x: F.layer_norm(x, (dim,), weight, bias, eps)


def _output_matrix(table_VD: Tensor, matrix: MakeMatrix) -> Matrix:
    """Return the map from decoder states to logits, padded to whole chunks where the vocabulary is large."""
    missing = -len(table_VD) % CHUNK if len(table_VD) >= PADDED_FROM else 0
    bias = F.pad(table_VD.new_zeros(len(table_VD)), (0, missing), value=-math.inf) if missing else None
    return matrix(F.pad(table_VD, (0, 0, 0, missing)), bias)


def _longer(cache: Tensor) -> Tensor:
    """Return `cache` [_, _, _, T, ...] with room for 2 * T steps; what it holds stays."""
    longer = cache.new_empty(*cache.shape[:3], 2 * cache.size(3), *cache.shape[4:])
    longer[:, :, :, : cache.size(3)] = cache
    return longer
