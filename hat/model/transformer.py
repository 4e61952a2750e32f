"""The weight-sharing SuperTransformer and the stand-alone SubTransformer: one module, two sizes.

B batch, T target length, S source length, D width, V vocabulary.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hat.errors import ConfigError
from hat.model.elastic import EVAL, Dropout, ElasticEmbedding, ElasticLayerNorm
from hat.model.layers import (
    PAD,
    CrossAttention,
    DecoderLayer,
    EncoderLayer,
    FeedForward,
    ModelConfig,
    SelfAttention,
    causal_mask,
    padding_mask,
    positions,
    sinusoids,
)
from hat.space import Arch, SearchSpace


class EncoderOutput(NamedTuple):
    """What the decoder sees of a source: outputs of the last encoder layers, last first, and its pads."""

    outputs: tuple[Tensor, ...]  # each [B, S, D]
    padding: Tensor  # [B, S], true at pads

    def spanned(self, span: int) -> Tensor:
        """Return the outputs of the last `span` encoder layers side by side in time, [B, span * S, D]."""
        return self.outputs[0] if span == 1 else torch.cat(self.outputs[:span], dim=1)

    def mask(self, span: int) -> Tensor | None:
        """Return the additive mask over `spanned(span)`, or None without pads."""
        return padding_mask(self.padding.repeat(1, span), self.outputs[0].dtype)


class Transformer(nn.Module):
    """An encoder-decoder whose parameters have the sizes of `shape`; every call may use a smaller
    architecture.

    `space` gives the super widths, on which positions, dropout and (optionally) embedding scale depend.
    """

    def __init__(
        self,
        space: SearchSpace,
        shape: Arch,
        cfg: ModelConfig,
        source_vocab_size: int,
        target_vocab_size: int,
    ) -> None:
        super().__init__()
        enc, dec = shape.encoder, shape.decoder
        if cfg.share_all_embeddings:
            if source_vocab_size != target_vocab_size:
                raise ConfigError(
                    f"--share-all-embeddings needs a joint dictionary, got {source_vocab_size} source and "
                    f"{target_vocab_size} target entries; preprocess with --joined-dictionary"
                )
            if space.encoder.super_embed_dim != space.decoder.super_embed_dim:
                raise ConfigError(
                    f"--share-all-embeddings needs equal widths, got encoder-embed-dim "
                    f"{space.encoder.super_embed_dim} and decoder-embed-dim {space.decoder.super_embed_dim}"
                )
        self.space, self.cfg = space, cfg
        self.default_arch = shape
        shared_dim = max(enc.embed_dim, dec.embed_dim) if cfg.share_all_embeddings else enc.embed_dim
        self.source_embed = ElasticEmbedding(source_vocab_size, shared_dim)
        self.target_embed = (
            self.source_embed
            if cfg.share_all_embeddings
            else ElasticEmbedding(target_vocab_size, dec.embed_dim)
        )
        tied = cfg.share_all_embeddings or cfg.share_decoder_input_output_embed
        self.output = self.target_embed if tied else ElasticEmbedding(target_vocab_size, dec.embed_dim)
        self.encoder_layers = nn.ModuleList(
            EncoderLayer(cfg, space, shape, index) for index in range(enc.num_layers)
        )
        self.decoder_layers = nn.ModuleList(
            DecoderLayer(cfg, space, shape, index) for index in range(dec.num_layers)
        )
        if cfg.encoder_normalize_before:
            self.encoder_norm = ElasticLayerNorm(enc.embed_dim)
        if cfg.decoder_normalize_before:
            self.decoder_norm = ElasticLayerNorm(dec.embed_dim)
        self._make_positions()

    def _make_positions(self) -> None:
        for side, width, length in (
            ("source", self.space.encoder.super_embed_dim, self.cfg.max_source_positions),
            ("target", self.space.decoder.super_embed_dim, self.cfg.max_target_positions),
        ):
            table = sinusoids(length + PAD + 1, width).to(self.source_embed.weight)
            self.register_buffer(f"{side}_positions", table, persistent=False)

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Make tensors, named as in `named_parameters`, the weights of a model on the meta device."""
        for module_name, module in self.named_modules():
            for name in module._parameters:
                module._parameters[name] = nn.Parameter(weights[f"{module_name}.{name}"])
        self._make_positions()

    def encode(self, source_BS: Tensor, arch: Arch | None = None, drop: Dropout = EVAL) -> EncoderOutput:
        """Run the encoder on left-padded ids [B, S]; the outputs of the last three layers are returned."""
        enc = (arch or self.default_arch).encoder
        x = self._embed(self.source_embed, self.source_positions, source_BS, enc.embed_dim, drop)
        padding = source_BS.eq(PAD)
        mask = padding_mask(padding, x.dtype)
        outputs = []
        for index, layer in enumerate(self.encoder_layers[: enc.num_layers]):
            x = layer(x, enc, index, mask, drop)
            outputs.append(x)
        if self.cfg.encoder_normalize_before:
            outputs[-1] = self.encoder_norm(x)
        return EncoderOutput(tuple(outputs[:-4:-1]), padding)

    def decode(
        self, input_BT: Tensor, source: EncoderOutput, arch: Arch | None = None, drop: Dropout = EVAL
    ) -> Tensor:
        """Run the decoder on right-padded ids [B, T]; returns states [B, T, D] before the output matrix."""
        dec = (arch or self.default_arch).decoder
        x = self._embed(self.target_embed, self.target_positions, input_BT, dec.embed_dim, drop)
        causal = causal_mask(input_BT.size(1), x)
        sources = {span: (source.spanned(span), source.mask(span)) for span in set(dec.cross_span)}
        for index, layer in enumerate(self.decoder_layers[: dec.num_layers]):
            source_BSD, source_mask = sources[dec.cross_span[index]]
            x = layer(x, source_BSD, dec, index, causal, source_mask, drop)
        return self.decoder_norm(x) if self.cfg.decoder_normalize_before else x

    def logits(self, states: Tensor) -> Tensor:
        """Map decoder states [..., D] to scores over the target vocabulary [..., V]."""
        return F.linear(states, self.output.columns(states.size(-1)))

    def forward(
        self, source_BS: Tensor, input_BT: Tensor, arch: Arch | None = None, drop: Dropout = EVAL
    ) -> Tensor:
        """Return logits [B, T, V] under teacher forcing; `arch` defaults to the model's own size."""
        return self.logits(self.decode(input_BT, self.encode(source_BS, arch, drop), arch, drop))

    def _embed(self, table: ElasticEmbedding, sines: Tensor, ids: Tensor, dim: int, drop: Dropout) -> Tensor:
        super_dim = sines.size(1)
        scale = math.sqrt(super_dim if self.cfg.vocab_original_scaling else dim)
        x = table(ids, dim, PAD) * scale + sines[positions(ids), :dim]
        return drop(x, self.cfg.dropout * dim / super_dim)


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
        super().__init__(space, super_shape(space), cfg or ModelConfig(), *sizes)
        self.default_arch = space.largest()
        if not self.source_embed.weight.is_meta:
            self._init(generator or torch.Generator().manual_seed(1))

    @torch.no_grad()
    def _init(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, ElasticLayerNorm):
                module.init()
            elif isinstance(module, ElasticEmbedding):
                lookup = module in (self.source_embed, self.target_embed)
                module.init(generator, PAD if lookup else None)
            elif isinstance(module, SelfAttention | CrossAttention | FeedForward):
                module.init(generator)


class SubTransformer(Transformer):
    """One architecture in weights of exactly its size, uninitialised; `hat.model.extract` fills it."""

    def __init__(self, space: SearchSpace, arch: Arch, vocab_size: tuple[int, int], cfg: ModelConfig) -> None:
        super().__init__(space, arch, cfg, *vocab_size)
        self.arch = arch


def super_shape(space: SearchSpace) -> Arch:
    """Return the architecture whose sizes the super parameters have; its heads and spans are not used."""
    return space.build(lambda dim, allowed, layer: space.sizes.get(str(dim.limit), max(allowed)))
