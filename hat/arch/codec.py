"""Conversions of an architecture: release YAML keys, genes, and plain values for files."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from hat.arch.config import Arch, DecoderArch, EncoderArch
from hat.arch.space import DecoderSpace, EncoderSpace, SearchSpace
from hat.errors import ArchError

SPAN_OF_CODE = {-1: 1, 1: 2, 2: 3}  # the release counts the *extra* encoder layers, with -1 for none
CODE_OF_SPAN = {span: code for code, span in SPAN_OF_CODE.items()}

Gene = tuple[int, ...]


@dataclass(frozen=True)
class SpaceOptions:
    """Search space. A choice left out holds the super size alone, or where an architecture is given what it
    uses."""

    encoder_embed_dim: int = 512
    """width of the SuperTransformer's encoder"""
    encoder_ffn_embed_dim: int = 2048
    """FFN width of the SuperTransformer's encoder"""
    encoder_layers: int = 6
    """encoder layers of the SuperTransformer"""
    encoder_attention_heads: int = 8
    """encoder heads where encoder-self-attention-heads-choice is not given"""
    decoder_embed_dim: int = 512
    """width of the SuperTransformer's decoder"""
    decoder_ffn_embed_dim: int = 2048
    """FFN width of the SuperTransformer's decoder"""
    decoder_layers: int = 6
    """decoder layers of the SuperTransformer"""
    decoder_attention_heads: int = 8
    """decoder heads where the two decoder head choices are not given"""
    qkv_dim: int | None = None
    """total width of all heads of one attention (default: encoder-embed-dim, in the decoder
    decoder-embed-dim)"""
    encoder_embed_choice: tuple[int, ...] = ()
    """encoder widths to choose from"""
    encoder_ffn_embed_dim_choice: tuple[int, ...] = ()
    """encoder FFN widths to choose from, layer by layer"""
    encoder_layer_num_choice: tuple[int, ...] = ()
    """encoder depths to choose from"""
    encoder_self_attention_heads_choice: tuple[int, ...] = ()
    """encoder head counts to choose from, layer by layer"""
    decoder_embed_choice: tuple[int, ...] = ()
    """decoder widths to choose from"""
    decoder_ffn_embed_dim_choice: tuple[int, ...] = ()
    """decoder FFN widths to choose from, layer by layer"""
    decoder_layer_num_choice: tuple[int, ...] = ()
    """decoder depths to choose from"""
    decoder_self_attention_heads_choice: tuple[int, ...] = ()
    """decoder self-attention head counts to choose from, layer by layer"""
    decoder_ende_attention_heads_choice: tuple[int, ...] = ()
    """encoder-decoder attention head counts to choose from, layer by layer"""
    decoder_arbitrary_ende_attn_choice: tuple[int, ...] = ()
    """encoder layers a decoder layer attends to: -1 the last, 1 the last two, 2 the last three"""


@dataclass(frozen=True)
class ArchOptions:
    """One SubTransformer; lists have one entry per layer used."""

    encoder_embed_dim_subtransformer: int | None = None
    """encoder width"""
    encoder_ffn_embed_dim_all_subtransformer: tuple[int, ...] = ()
    """encoder FFN widths"""
    encoder_layer_num_subtransformer: int | None = None
    """encoder depth"""
    encoder_self_attention_heads_all_subtransformer: tuple[int, ...] = ()
    """encoder head counts"""
    decoder_embed_dim_subtransformer: int | None = None
    """decoder width"""
    decoder_ffn_embed_dim_all_subtransformer: tuple[int, ...] = ()
    """decoder FFN widths"""
    decoder_layer_num_subtransformer: int | None = None
    """decoder depth"""
    decoder_self_attention_heads_all_subtransformer: tuple[int, ...] = ()
    """decoder self-attention head counts"""
    decoder_ende_attention_heads_all_subtransformer: tuple[int, ...] = ()
    """encoder-decoder attention head counts"""
    decoder_arbitrary_ende_attn_all_subtransformer: tuple[int, ...] = ()
    """encoder layers attended to: -1 the last, 1 the last two, 2 the last three"""


def space_of(options: SpaceOptions) -> SearchSpace:
    """Return the search space the options describe; raises ArchError where they contradict each other."""
    o = options
    codes = o.decoder_arbitrary_ende_attn_choice or (-1,)
    return SearchSpace(
        encoder=EncoderSpace(
            super_embed_dim=o.encoder_embed_dim,
            super_ffn_dim=o.encoder_ffn_embed_dim,
            super_layers=o.encoder_layers,
            embed_choice=o.encoder_embed_choice or (o.encoder_embed_dim,),
            ffn_choice=o.encoder_ffn_embed_dim_choice or (o.encoder_ffn_embed_dim,),
            layers_choice=o.encoder_layer_num_choice or (o.encoder_layers,),
            self_heads_choice=o.encoder_self_attention_heads_choice or (o.encoder_attention_heads,),
        ),
        decoder=DecoderSpace(
            super_embed_dim=o.decoder_embed_dim,
            super_ffn_dim=o.decoder_ffn_embed_dim,
            super_layers=o.decoder_layers,
            embed_choice=o.decoder_embed_choice or (o.decoder_embed_dim,),
            ffn_choice=o.decoder_ffn_embed_dim_choice or (o.decoder_ffn_embed_dim,),
            layers_choice=o.decoder_layer_num_choice or (o.decoder_layers,),
            self_heads_choice=o.decoder_self_attention_heads_choice or (o.decoder_attention_heads,),
            cross_heads_choice=o.decoder_ende_attention_heads_choice or (o.decoder_attention_heads,),
            cross_span_choice=tuple(_span(code, "decoder-arbitrary-ende-attn-choice") for code in codes),
        ),
        qkv_dim=o.encoder_embed_dim if o.qkv_dim is None else o.qkv_dim,
        decoder_qkv=o.decoder_embed_dim if o.qkv_dim is None else o.qkv_dim,
    )


def space_around(options: SpaceOptions, arch: Arch) -> SearchSpace:
    """Return the search space the options describe, in which a choice left out holds what `arch` uses.

    As YAML files of the 2020 release mean it: those of an architecture say no choices.
    """
    left_out: dict[str, Any] = {
        name: used for name, used in choices_of(arch).items() if not getattr(options, name)
    }
    return space_of(replace(options, **left_out))


def choices_of(arch: Arch) -> dict[str, tuple[int, ...]]:
    """Return what `arch` uses of each choice, by the names of `SpaceOptions`, largest first."""
    used = {}
    for key, value in arch_to_yaml(arch).items():
        name = key.removesuffix("-subtransformer").removesuffix("-all")
        name = {"encoder-embed-dim": "encoder-embed", "decoder-embed-dim": "decoder-embed"}.get(name, name)
        values = sorted(set(value), reverse=True) if isinstance(value, list) else [value]
        used[f"{name}-choice".replace("-", "_")] = tuple(values)
    return used


def arch_of(options: ArchOptions) -> Arch | None:
    """Return the architecture of the options, or None where none of them is given.

    Raises ArchError where the length of a list is not its depth or a key is missing.
    """
    values = asdict(options)
    missing = [name for name, value in values.items() if value in (None, ())]
    if len(missing) == len(values):
        return None
    if missing:
        keys = ", ".join(name.replace("_", "-") for name in missing)
        raise ArchError(f"the architecture lacks {keys}; give all ten *-subtransformer keys or none")
    layers = {side: values[f"{side}_layer_num_subtransformer"] for side in ("encoder", "decoder")}

    def per_layer(name: str) -> tuple[int, ...]:
        depth = layers[name.split("_")[0]]
        listed: tuple[int, ...] = values[name]
        if len(listed) != depth:
            key = name.replace("_", "-")
            raise ArchError(
                f"{key} lists {len(listed)} layers, but the depth is {depth}; give one entry per layer"
            )
        return listed

    span_key = "decoder_arbitrary_ende_attn_all_subtransformer"
    return Arch(
        EncoderArch(
            values["encoder_embed_dim_subtransformer"],
            per_layer("encoder_ffn_embed_dim_all_subtransformer"),
            per_layer("encoder_self_attention_heads_all_subtransformer"),
        ),
        DecoderArch(
            values["decoder_embed_dim_subtransformer"],
            per_layer("decoder_ffn_embed_dim_all_subtransformer"),
            per_layer("decoder_self_attention_heads_all_subtransformer"),
            per_layer("decoder_ende_attention_heads_all_subtransformer"),
            tuple(_span(code, span_key.replace("_", "-")) for code in per_layer(span_key)),
        ),
    )


def arch_to_yaml(arch: Arch) -> dict[str, int | list[int]]:
    """Return the release's ten *-subtransformer keys of an architecture, in the release's order."""
    enc, dec = arch.encoder, arch.decoder
    return {
        "encoder-embed-dim-subtransformer": enc.embed_dim,
        "decoder-embed-dim-subtransformer": dec.embed_dim,
        "encoder-ffn-embed-dim-all-subtransformer": list(enc.ffn_dims),
        "decoder-ffn-embed-dim-all-subtransformer": list(dec.ffn_dims),
        "encoder-layer-num-subtransformer": enc.num_layers,
        "decoder-layer-num-subtransformer": dec.num_layers,
        "encoder-self-attention-heads-all-subtransformer": list(enc.self_heads),
        "decoder-self-attention-heads-all-subtransformer": list(dec.self_heads),
        "decoder-ende-attention-heads-all-subtransformer": list(dec.cross_heads),
        "decoder-arbitrary-ende-attn-all-subtransformer": [CODE_OF_SPAN[span] for span in dec.cross_span],
    }


def arch_from_yaml(values: dict[str, Any]) -> Arch:
    """Return the architecture of a mapping with the release's ten keys; other keys are ignored."""
    known = {f: values.get(f.replace("_", "-")) for f in ArchOptions.__dataclass_fields__}
    given: dict[str, Any] = {
        f: tuple(v) if isinstance(v, list) else v for f, v in known.items() if v is not None
    }
    arch = arch_of(ArchOptions(**given))
    if arch is None:
        raise ArchError("no *-subtransformer key found; the file describes no architecture")
    return arch


def space_to_plain(space: SearchSpace) -> dict[str, Any]:
    """Return the space as nested plain values for a checkpoint file."""
    return asdict(space)


def space_from_plain(values: dict[str, Any]) -> SearchSpace:
    """Return the space written by `space_to_plain`."""

    def choices(side: str) -> dict[str, Any]:
        return {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in values[side].items()}

    return SearchSpace(
        encoder=EncoderSpace(**choices("encoder")),
        decoder=DecoderSpace(**choices("decoder")),
        qkv_dim=values["qkv_dim"],
        decoder_qkv=values.get("decoder_qkv"),  # older files have one width for both
    )


def gene_choices(space: SearchSpace) -> list[tuple[int, ...]]:
    """Return what each gene position may hold, in the release's order.

    Per-layer genes cover all super layers.
    """
    enc, dec = space.encoder, space.decoder
    per_decoder_layer = (dec.ffn_choice, dec.self_heads_choice, dec.cross_heads_choice, dec.cross_span_choice)
    return [
        enc.embed_choice,
        enc.layers_choice,
        *[enc.ffn_choice] * enc.super_layers,
        *[enc.self_heads_choice] * enc.super_layers,
        dec.embed_choice,
        dec.layers_choice,
        *(choice for choice in per_decoder_layer for _ in range(dec.super_layers)),
    ]


def gene_of(arch: Arch, space: SearchSpace) -> Gene:
    """Return a gene of `arch`; positions of layers it does not have hold the first choice."""
    enc, dec = arch.encoder, arch.decoder

    def padded(used: tuple[int, ...], length: int, filler: int) -> tuple[int, ...]:
        return used + (filler,) * (length - len(used))

    e, d = space.encoder, space.decoder
    return (
        enc.embed_dim,
        enc.num_layers,
        *padded(enc.ffn_dims, e.super_layers, e.ffn_choice[0]),
        *padded(enc.self_heads, e.super_layers, e.self_heads_choice[0]),
        dec.embed_dim,
        dec.num_layers,
        *padded(dec.ffn_dims, d.super_layers, d.ffn_choice[0]),
        *padded(dec.self_heads, d.super_layers, d.self_heads_choice[0]),
        *padded(dec.cross_heads, d.super_layers, d.cross_heads_choice[0]),
        *padded(dec.cross_span, d.super_layers, d.cross_span_choice[0]),
    )


def arch_of_gene(gene: Gene, space: SearchSpace) -> Arch:
    """Return the architecture of a gene; a span deeper than the encoder becomes the deepest one that fits."""
    rest = iter(gene)

    def take(count: int) -> tuple[int, ...]:
        return tuple(next(rest) for _ in range(count))

    e, d = space.encoder, space.decoder
    (enc_dim, num_enc), enc_ffn, enc_heads = take(2), take(e.super_layers), take(e.super_layers)
    (dec_dim, num_dec), dec_ffn = take(2), take(d.super_layers)
    self_heads, cross_heads, spans = take(d.super_layers), take(d.super_layers), take(d.super_layers)
    deepest = max(space.spans_for(num_enc))
    return Arch(
        EncoderArch(enc_dim, enc_ffn[:num_enc], enc_heads[:num_enc]),
        DecoderArch(
            dec_dim,
            dec_ffn[:num_dec],
            self_heads[:num_dec],
            cross_heads[:num_dec],
            tuple(min(span, deepest) for span in spans[:num_dec]),
        ),
    )


def _span(code: int, key: str) -> int:
    if code not in SPAN_OF_CODE:
        raise ArchError(f"{key} allows -1, 1 and 2 (the last one, two or three encoder layers), got {code}")
    return SPAN_OF_CODE[code]
