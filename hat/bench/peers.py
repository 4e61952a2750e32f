"""CTranslate2 with the weights of one of our models, built through its public specification classes."""

import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hat.errors import ConfigError, HatError
from hat.model.layers import EOS, PAD, DecoderLayer, EncoderLayer
from hat.model.transformer import SubTransformer

PIP = "pip install -c constraints.txt -e '.[bench]'"


class PeerError(HatError):
    """The peer is installed, but cannot compute here."""


def has_ctranslate2() -> bool:
    """Return whether the peer is installed."""
    return importlib.util.find_spec("ctranslate2") is not None


def gpu_types(fast: str) -> tuple[str, str]:
    """Return float32 and the peer's name of our fast number format.

    Raises PeerError where this build of CTranslate2 sees no GPU or has not both.
    """
    import ctranslate2

    wanted = ("float32", {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[fast])
    if not ctranslate2.get_cuda_device_count():
        raise PeerError("this build of CTranslate2 sees no GPU; install one with CUDA")
    if missing := set(wanted) - set(ctranslate2.get_supported_compute_types("cuda")):
        raise PeerError(f"CTranslate2 does not compute in {', '.join(sorted(missing))} on this GPU")
    return wanted


def try_out(translate: Callable[[], object]) -> None:
    """Translate once; raises PeerError where libraries of CUDA are missing, which nothing shows before."""
    try:
        translate()
    except (RuntimeError, ValueError) as error:
        raise PeerError(f"CTranslate2 does not run on this GPU ({str(error).splitlines()[0]})") from error


def token(index: int) -> str:
    """Return the name that stands for an id of ours in the peer's vocabulary."""
    return {0: "<s>", PAD: "<blank>", EOS: "</s>", 3: "<unk>"}.get(index, f"w{index}")


def save_ctranslate2(model: SubTransformer, folder: Path) -> None:
    """Write `model` (float32, post-norm, uniform heads, span 1 in every layer) as a CTranslate2 model.

    Raises ConfigError for an architecture the peer has no form for.
    """
    from ctranslate2.specs import TransformerSpec

    arch = model.arch
    heads = {*arch.encoder.self_heads, *arch.decoder.self_heads, *arch.decoder.cross_heads}
    if len(heads) != 1 or set(arch.decoder.cross_span) != {1}:
        raise ConfigError(
            f"CTranslate2 has one head count and attends to the last encoder layer; got heads "
            f"{sorted(heads)} and spans {arch.decoder.cross_span}; give an architecture with one head count "
            "and span 1"
        )
    if model.cfg.encoder_normalize_before or model.cfg.decoder_normalize_before:
        raise ConfigError("the CTranslate2 peer is written for post-norm models; leave pre-norm out")
    layers = (arch.encoder.num_layers, arch.decoder.num_layers)
    spec = TransformerSpec.from_config(layers, heads.pop(), pre_norm=False)
    vocabularies = (model.source_embed.weight.size(0), model.target_embed.weight.size(0))
    spec.register_source_vocabulary([token(index) for index in range(vocabularies[0])])
    spec.register_target_vocabulary([token(index) for index in range(vocabularies[1])])
    spec.config.decoder_start_token = token(EOS)
    for side, table, sines, width in (
        (spec.encoder, model.source_embed, model.source_positions, arch.encoder.embed_dim),
        (spec.decoder, model.target_embed, model.target_positions, arch.decoder.embed_dim),
    ):
        embeddings = side.embeddings[0] if isinstance(side.embeddings, list) else side.embeddings
        embeddings.weight = _array(table.weight)
        side.position_encodings.encodings = _array(sines[PAD + 1 :, :width])
        side.scale_embeddings = math.sqrt(width)
    spec.decoder.projection.weight = _array(model.output.weight)
    for layer_spec, layer in zip(spec.encoder.layer, model.encoder_layers, strict=True):
        _fill_layer(layer_spec, layer)
    for layer_spec, layer in zip(spec.decoder.layer, model.decoder_layers, strict=True):
        _fill_layer(layer_spec, layer)
        cross = layer.cross_attn
        _fill(layer_spec.attention.linear, (cross.q, cross.kv, cross.out))
        _fill_norm(layer_spec.attention.layer_norm, layer.cross_norm)
    spec.validate()
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))


def _fill_layer(spec: Any, layer: EncoderLayer | DecoderLayer) -> None:
    _fill(spec.self_attention.linear, (layer.self_attn.qkv, layer.self_attn.out))
    _fill_norm(spec.self_attention.layer_norm, layer.self_norm)
    _fill((spec.ffn.linear_0, spec.ffn.linear_1), (layer.ffn.up, layer.ffn.down))
    _fill_norm(spec.ffn.layer_norm, layer.ffn_norm)


def _fill(specs: Sequence[Any], linears: Sequence[nn.Module]) -> None:
    for spec, linear in zip(specs, linears, strict=True):
        spec.weight, spec.bias = _array(linear.weight), _array(linear.bias)


def _fill_norm(spec: Any, norm: nn.Module) -> None:
    spec.gamma, spec.beta = _array(norm.weight), _array(norm.bias)


def _array(weight: Tensor) -> Any:
    return weight.detach().to(torch.float32).contiguous().numpy()


class Peer:
    """A loaded CTranslate2 model that translates batches of ids as ours does.

    `threads` are shared by the products of one batch; with `replicas`, that many parts of a batch are
    translated at once, each with `threads` of its own.
    """

    def __init__(
        self, folder: Path, compute_type: str, threads: int, replicas: int = 1, device: str = "cpu"
    ) -> None:
        from ctranslate2 import Translator

        self.replicas = replicas
        self.translator = Translator(
            str(folder),
            device=device,
            compute_type=compute_type,
            inter_threads=replicas,
            intra_threads=threads,
        )

    def translate(self, source_BS: Tensor, length: int, beam: int) -> list[list[str]]:
        """Return the best translation of each unpadded source, exactly `length` tokens each."""
        sources = [[token(index) for index in row] for row in source_BS.tolist()]
        results = self.translator.translate_batch(
            sources,
            beam_size=beam,
            max_decoding_length=length,
            min_decoding_length=length,
            max_batch_size=-(-len(sources) // self.replicas),
        )
        return [result.hypotheses[0] for result in results]

    def log_probs(self, source: list[int], target: list[int]) -> list[float]:
        """Return the log-probability of each token of a target that ends with EOS."""
        (result,) = self.translator.score_batch(
            [[token(index) for index in source]], [[token(index) for index in target[:-1]]]
        )
        return list(result.log_probs)
