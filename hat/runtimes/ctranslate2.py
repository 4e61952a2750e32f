"""A stand-alone SubTransformer as a CTranslate2 model: any widths, depths and heads per layer, span 1."""

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from hat.data.subwords import package
from hat.data.vocab import EOS, PAD, SPECIALS, Vocab
from hat.decode.beam import BeamConfig, Hypothesis
from hat.decode.translator import Model
from hat.errors import ConfigError
from hat.model.transformer import SubTransformer
from hat.runtimes import Precision
from hat.runtimes.engines import Mark, Runtime, codec_of, stand_alone
from hat.space import DIMS, Arch

TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8"}
_SPECIALS = ("<s>", "<blank>", "</s>", "<unk>")  # what CTranslate2 calls ids 0 to 3


class CTranslate2(Runtime):
    """CTranslate2 on the CPU; a search is timed as a whole."""

    precisions = ("fp32", "fp16", "bf16", "int8")
    needs = ("ctranslate2", "ctranslate2")

    def check(self, arch: Arch) -> None:
        if set(spans := arch.decoder.cross_span) != {1}:
            key = next(dim.choice_key for dim in DIMS if dim.attr == "cross_span")
            found = f"CTranslate2 attends to the last encoder layer only, this architecture has spans {spans}"
            raise ConfigError(f"{found}; search with `{key}: [-1]`, or take --runtime onnxruntime")

    def precision(self, asked: Precision, device: torch.device) -> Precision:
        found = super().precision(asked, device)
        allowed = package(*self.needs).get_supported_compute_types("cpu")
        if TYPES[found] not in allowed:
            known = ", ".join(name for name, kind in TYPES.items() if kind in allowed)
            raise ConfigError(f"CTranslate2 does not compute in {found} on this CPU; give one of {known}")
        return found

    def prepare(self, model: Model, precision: Precision, threads: int) -> "Engine":
        network, vocabs = stand_alone(model), codec_of(model).vocabs
        how = {"device": "cpu", "compute_type": TYPES[precision], "intra_threads": threads}
        with tempfile.TemporaryDirectory() as folder:
            export(network, Path(folder), vocabs, precision)
            return Engine(network, vocabs, package(*self.needs).Translator(folder, **how))


def export(model: SubTransformer, folder: Path, vocabs: tuple[Vocab, Vocab], precision: str = "fp32") -> None:
    """Write `model` as a CTranslate2 model into `folder`; the weights in memory stay as they are. Layers with
    fewer heads than others get heads of zeros: results stay the same. Raises ConfigError for an architecture
    that CTranslate2 has no form for, and if CTranslate2 is not installed.
    """
    CTranslate2().check(model.arch)
    specs = package(*CTranslate2.needs).specs
    cfg, enc, dec = model.cfg, model.arch.encoder, model.arch.decoder
    heads = max(enc.self_heads), max(*dec.self_heads, *dec.cross_heads)
    spec = specs.TransformerSpec(
        specs.TransformerEncoderSpec(enc.num_layers, heads[0], pre_norm=cfg.encoder_normalize_before),
        specs.TransformerDecoderSpec(dec.num_layers, heads[1], pre_norm=cfg.decoder_normalize_before),
    )
    spec.register_source_vocabulary(tokens_of(vocabs[0]))
    spec.register_target_vocabulary(tokens_of(vocabs[1]))
    spec.config.decoder_start_token, spec.config.add_source_eos = _SPECIALS[EOS], True
    for to, embed, sines, width, norm in (
        (spec.encoder, model.source_embed, model.source_positions, enc.embed_dim, model.encoder_norm),
        (spec.decoder, model.target_embed, model.target_positions, dec.embed_dim, model.decoder_norm),
    ):
        table = to.embeddings[0] if isinstance(to.embeddings, list) else to.embeddings
        table.weight = _array(embed.columns(width))
        to.position_encodings.encodings = _array(sines[PAD + 1 :, :width])
        to.scale_embeddings = math.sqrt(sines.size(1) if cfg.vocab_original_scaling else width)
        if hasattr(norm, "weight"):
            _norm(to.layer_norm, norm)
    spec.decoder.projection.weight = _array(model.output.columns(dec.embed_dim))
    for to, layer, own in zip(spec.encoder.layer, model.encoder_layers, enc.self_heads, strict=True):
        _layer(to, layer, own, heads[0])
    decoder = zip(spec.decoder.layer, model.decoder_layers, dec.self_heads, dec.cross_heads, strict=True)
    for to, layer, own, cross in decoder:
        _layer(to, layer, own, heads[1])
        linears = [(layer.cross_attn.q, 1), (layer.cross_attn.kv, 2)]
        _attention(to.attention, linears, layer.cross_attn.out, cross, heads[1])
        _norm(to.attention.layer_norm, layer.cross_norm)
    spec.validate()
    spec.optimize(quantization=None if precision == "fp32" else TYPES[precision])
    spec.save(str(folder))


def tokens_of(vocab: Vocab) -> list[str]:
    """Return CTranslate2's token of each id: the symbol, but for the four specials."""
    taken = {*_SPECIALS} - {*SPECIALS}
    symbols = [f"{symbol}\N{SYMBOL FOR NULL}" if symbol in taken else symbol for symbol in vocab]
    return [*_SPECIALS, *symbols[len(_SPECIALS) :]]


class Engine:
    """Translates ids by an exported model."""

    device = torch.device("cpu")

    def __init__(self, network: SubTransformer, vocabs: tuple[Vocab, Vocab], translator: Any) -> None:
        self.cfg, self._translator = network.cfg, translator
        self._source, target = tokens_of(vocabs[0]), tokens_of(vocabs[1])
        self._ids = {token: index for index, token in enumerate(target)}

    def timed(self, source_BS: Tensor, cfg: BeamConfig, mark: Mark) -> None:
        """Run one search; CTranslate2 does not count the step that forces the end."""
        self(source_BS, replace(cfg, max_len_b=cfg.max_len_b + 1, min_len=cfg.min_len + 1))

    def __call__(self, source_BS: Tensor, cfg: BeamConfig) -> list[list[Hypothesis]]:
        if cfg.unkpen or cfg.unnormalized:
            raise ConfigError("CTranslate2 knows neither --unkpen nor --unnormalized; use --runtime torch")
        rows = [[self._source[i] for i in row if i not in (PAD, EOS)] for row in source_BS.tolist()]
        how = {"beam_size": cfg.beam, "num_hypotheses": cfg.beam, "length_penalty": cfg.lenpen}
        how |= {"min_decoding_length": cfg.min_len, "return_scores": True}
        longest = int(cfg.max_len_a * source_BS.size(1) + cfg.max_len_b)
        found = self._translator.translate_batch(rows, max_decoding_length=longest, **how)
        both = (zip(each.hypotheses, each.scores, strict=True) for each in found)
        ids = self._ids.get
        return [[Hypothesis([*map(ids, words), EOS], score, []) for words, score in one] for one in both]


def _layer(to: Any, layer: Any, heads: int, most: int) -> None:
    _attention(to.self_attention, [(layer.self_attn.qkv, 3)], layer.self_attn.out, heads, most)
    _norm(to.self_attention.layer_norm, layer.self_norm)
    for one, linear in ((to.ffn.linear_0, layer.ffn.up), (to.ffn.linear_1, layer.ffn.down)):
        one.weight, one.bias = _array(linear.weight), _array(linear.bias)
    _norm(to.ffn.layer_norm, layer.ffn_norm)


def _attention(to: Any, linears: Sequence[tuple[Any, int]], out: Any, heads: int, most: int) -> None:
    # CTranslate2 would take the scale from the width of the layer, which need not be that of queries
    to.queries_scale = np.float32((out.weight.size(1) // heads) ** -0.5)
    for one, (linear, parts) in zip(to.linear, linears, strict=False):
        one.weight, one.bias = (_array(_filled(x, parts, heads, most)) for x in (linear.weight, linear.bias))
    to.linear[-1].weight = _array(_filled(out.weight.t(), 1, heads, most).t())
    to.linear[-1].bias = _array(out.bias)


def _filled(rows: Tensor, parts: int, heads: int, most: int) -> Tensor:
    # rows [parts * heads * d, ...] become [parts * most * d, ...], with zeros for further heads
    split = rows.unflatten(0, (parts, heads, -1))
    return pad(split, (0, 0) * (split.dim() - 2) + (0, most - heads)).flatten(0, 2)


def _norm(to: Any, norm: Any) -> None:
    to.gamma, to.beta = _array(norm.weight), _array(norm.bias)


def _array(weight: Tensor) -> Any:
    return weight.detach().float().contiguous().clone().numpy()  # CTranslate2 quantises in place
