"""Beam search of one sentence and of a batch against CTranslate2 and against the bare matrix products."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from hat.bench.alternate import Samples, alternate, ratio
from hat.bench.device import CPU, device_named, formats
from hat.bench.figure import Figure, Row, Target, median_row, rate_row
from hat.bench.machine import describe_machine
from hat.bench.packed import INT8_KERNEL, PackedProducts, int8_products
from hat.bench.peers import PIP, Peer, PeerError, gpu_types, has_ctranslate2, save_ctranslate2, try_out
from hat.bench.products import BareProducts, Lengths, decoding_products
from hat.bench.quality import quality_check, with_quality
from hat.bench.request import BenchOptions
from hat.decode.beam import BeamConfig, beam_search
from hat.latency.measure import sync_of
from hat.model.cpu import DTYPES, Int8Matrix, can_int8
from hat.model.extract import extract
from hat.model.inference import InferenceModel
from hat.model.layers import EOS, ModelConfig
from hat.model.transformer import SubTransformer, SuperTransformer
from hat.space import Arch, DecoderArch, DecoderSpace, EncoderArch, EncoderSpace, SearchSpace

# HAT_wmt14ende_xeon@204.2ms with 8 heads and span 1 in every layer, which CTranslate2 can compute as well
XEON_204 = Arch(
    EncoderArch(512, (3072,) * 6, (8,) * 6), DecoderArch(512, (3072,) * 2, (8,) * 2, (8,) * 2, (1,) * 2)
)
SETTLE_S = 0.25  # threads of the peer's OpenMP runtime spin for 0.2 s


def space_around(arch: Arch, qkv_dim: int) -> SearchSpace:
    """Return the space that holds `arch` alone."""
    enc, dec = arch.encoder, arch.decoder
    return SearchSpace(
        EncoderSpace(
            enc.embed_dim,
            max(enc.ffn_dims),
            enc.num_layers,
            (enc.embed_dim,),
            tuple(sorted(set(enc.ffn_dims))),
            (enc.num_layers,),
            tuple(sorted(set(enc.self_heads))),
        ),
        DecoderSpace(
            dec.embed_dim,
            max(dec.ffn_dims),
            dec.num_layers,
            (dec.embed_dim,),
            tuple(sorted(set(dec.ffn_dims))),
            (dec.num_layers,),
            tuple(sorted(set(dec.self_heads))),
            tuple(sorted(set(dec.cross_heads))),
            tuple(sorted(set(dec.cross_span))),
        ),
        qkv_dim,
    )


@dataclass(frozen=True)
class DecodeConfig:
    """What is decoded; the defaults are those of the figure `decode`."""

    arch: Arch = XEON_204
    qkv_dim: int = 512
    vocab_size: int = 7960
    sentences: int = 1
    source_len: int = 30
    target_len: int = 30
    beam: int = 5
    threads: int = 1
    rounds: int = 9
    calls: int = 3
    seed: int = 1
    device: torch.device = CPU

    @property
    def on_cpu(self) -> bool:
        """Return whether the targets are meant for the device."""
        return self.device.type == "cpu"

    @property
    def lengths(self) -> Lengths:
        """Return the sizes the products depend on."""
        return Lengths(self.sentences, self.source_len, self.target_len, self.beam)

    @property
    def beam_config(self) -> BeamConfig:
        """Return a search whose translations have exactly `target_len` tokens, the last one EOS."""
        return BeamConfig(beam=self.beam, max_len_b=self.target_len - 1, min_len=self.target_len - 1)


def random_model(cfg: DecodeConfig) -> SubTransformer:
    """Return a float32 model with random weights, ready to translate."""
    noise = torch.Generator().manual_seed(cfg.seed)
    space = space_around(cfg.arch, cfg.qkv_dim)
    model_cfg = ModelConfig(share_all_embeddings=True)
    return extract(SuperTransformer(space, cfg.vocab_size, model_cfg, noise), cfg.arch).eval()


def random_source(cfg: DecodeConfig) -> torch.Tensor:
    """Return sources [B, S] of random words without padding, each ending with EOS."""
    noise = torch.Generator().manual_seed(cfg.seed)
    source = torch.randint(EOS + 2, cfg.vocab_size, (cfg.sentences, cfg.source_len), generator=noise)
    source[:, -1] = EOS
    return source


def with_dtype(model: SubTransformer, name: str, device: torch.device = CPU) -> SubTransformer:
    """Return a copy of `model` in another number format."""
    return extract(model, model.arch).to(device, DTYPES[name]).eval()


def our_cases(
    cfg: DecodeConfig, model: SubTransformer, source: torch.Tensor
) -> dict[str, Callable[[], object]]:
    """Return our searches and the products alone, in both number formats; on CPUs packed and int8 besides."""
    source = source.to(cfg.device)
    products = decoding_products(cfg.arch, model.space, cfg.vocab_size, cfg.lengths)
    cases: dict[str, Callable[[], object]] = {}
    for name in formats(cfg.device):
        ours = InferenceModel(with_dtype(model, name, cfg.device))
        cases[name] = lambda ours=ours: beam_search(ours, source, cfg.beam_config)
        cases[f"{name} products"] = BareProducts(products, DTYPES[name], device=cfg.device).forward
        if cfg.on_cpu:
            cases[f"{name} products, packed"] = PackedProducts(products, DTYPES[name]).forward
    if cfg.on_cpu and can_int8():
        small = InferenceModel(model, matrix=Int8Matrix)
        cases["int8"] = lambda: beam_search(small, source, cfg.beam_config)
        cases["int8 products, packed"] = int8_products(products).forward
    return cases


def peer_cases(cfg: DecodeConfig, source: torch.Tensor, folder: Path) -> dict[str, Callable[[], object]]:
    """Return the searches of CTranslate2; on CPUs a batch is also split over two replicas of one thread each.

    Raises PeerError on a GPU that CTranslate2 cannot compute on, which shows with its first translation.
    """
    cases: dict[str, Callable[[], object]] = {}

    def add(name: str, compute_type: str, threads: int, replicas: int = 1) -> None:
        peer = Peer(folder, compute_type, threads, replicas, device=cfg.device.type)
        cases[name] = lambda: peer.translate(source, cfg.target_len, cfg.beam)

    if not cfg.on_cpu:
        for label in gpu_types(formats(cfg.device)[0]):
            add(f"CTranslate2 {label}", label, cfg.threads)
            try_out(cases[f"CTranslate2 {label}"])
        return cases
    for label, compute_type in (("float32", "float32"), ("int8", "int8_float32")):
        add(f"CTranslate2 {label}", compute_type, cfg.threads)
        if cfg.sentences > 1 and cfg.threads > 1:
            add(f"CTranslate2 {label}, split", compute_type, 1, cfg.threads)
    return cases


def measure_decode(cfg: DecodeConfig) -> tuple[dict[str, Samples], tuple[str, ...]]:
    """Return the times of all cases that can run here, and notes on those that cannot."""
    model, source = random_model(cfg), random_source(cfg)
    cases = our_cases(cfg, model, source)
    notes: tuple[str, ...] = ()
    with tempfile.TemporaryDirectory() as folder:
        if has_ctranslate2():
            save_ctranslate2(model, Path(folder))
            try:
                cases |= peer_cases(cfg, source, Path(folder))
            except PeerError as error:
                notes = (f"the rows of CTranslate2 are missing: {error}",)
        else:
            notes = (f"CTranslate2 is not installed, so its rows are missing; {PIP}",)
        settle_s = SETTLE_S if cfg.threads > 1 and cfg.on_cpu else 0.0
        sync = sync_of(cfg.device)
        return alternate(cases, cfg.rounds, calls=cfg.calls, settle_s=settle_s, sync=sync), notes


def decode(threads: int, options: BenchOptions) -> Figure:
    """Time the search of one sentence of 30 tokens; with 1 thread also see what 8-bit weights translate."""
    device = device_named(options.device)
    cfg = DecodeConfig(
        threads=threads, rounds=options.rounds or DecodeConfig.rounds, seed=options.seed, device=device
    )
    if threads > 1 or not cfg.on_cpu:
        return time_sentence(cfg)
    with tempfile.TemporaryDirectory() as folder:
        check = quality_check(options, Path(folder))  # what does not fit shows before anything is timed
        return with_quality(time_sentence(cfg), check)


def decode_batch(threads: int, options: BenchOptions) -> Figure:
    """Time the search of 128 sentences of 17 tokens at once."""
    rounds = options.rounds or 5
    cfg = DecodeConfig(
        sentences=128,
        source_len=17,
        target_len=17,
        threads=threads,
        rounds=rounds,
        calls=1,
        seed=options.seed,
        device=device_named(options.device),
    )
    return time_batch(cfg)


def time_sentence(cfg: DecodeConfig) -> Figure:
    """Return the figure of one sentence."""
    machine = describe_machine(cfg.device)
    fast, _ = formats(cfg.device)
    samples, notes = measure_decode(cfg)
    rows = [median_row(name, one) for name, one in samples.items()]
    peer = samples.get("CTranslate2 float32")
    own = ratio(samples[fast], samples[f"{fast} products"])
    ratios = [(f"{fast} / its products", own, 1.35, True)]
    if peer is not None:
        ratios += [
            (f"CTranslate2 float32 / {fast}", ratio(peer, samples[fast]), 1.5, False),
            ("fp32 / CTranslate2 float32", ratio(samples["fp32"], peer), 1.25, True),
        ]
        if "int8" in samples:
            ratios.append(("CTranslate2 float32 / int8", ratio(peer, samples["int8"]), 2.5, False))
    if cfg.on_cpu:
        missing = "this build of PyTorch has no 8-bit kernels: no int8 rows"
        notes = (*notes, INT8_KERNEL if "int8" in samples else missing)
    rows.append(Row("fp32 / its products", ratio(samples["fp32"], samples["fp32 products"]), "times"))
    rows += [
        Row(
            f"{name} / its products, packed",
            ratio(samples[name], samples[f"{name} products, packed"]),
            "times",
        )
        for name in ("bf16", "fp32", "int8")
        if f"{name} products, packed" in samples
    ]
    targets: tuple[Target, ...] = ()
    if cfg.threads == 1 and cfg.on_cpu:
        targets = tuple(Target(*values) for values in ratios)
    else:  # no targets are set for more threads, nor for GPUs
        rows += [Row(text, value, "times") for text, value, _, _ in ratios]
    return Figure("decode", machine, tuple(rows), targets, (*notes, _conditions(cfg)))


def time_batch(cfg: DecodeConfig) -> Figure:
    """Return the figure of many sentences at once."""
    machine = describe_machine(cfg.device)
    fast, _ = formats(cfg.device)
    samples, notes = measure_decode(cfg)
    rows = [rate_row(name, one, cfg.sentences, "sentences/s") for name, one in samples.items()]
    rows.append(Row(f"{fast} / its products", ratio(samples[fast], samples[f"{fast} products"]), "times"))
    peers = [one for name, one in samples.items() if name.startswith("CTranslate2 float32")]
    targets: tuple[Target, ...] = ()
    if peers:
        fastest = min(peers, key=lambda one: one.median_ms)
        gain = ratio(fastest, samples[fast])
        text = f"{fast} / faster CTranslate2 float32, sentences/s"
        if cfg.on_cpu:
            targets = (Target(text, gain, 2.0, at_most=False),)
        else:
            rows.append(Row(text, gain, "times"))
    return Figure("decode-batch", machine, tuple(rows), targets, (*notes, _conditions(cfg)))


def _conditions(cfg: DecodeConfig) -> str:
    return (
        f"{cfg.sentences} sentences at once, beam {cfg.beam}, {cfg.source_len} source tokens, exactly "
        f"{cfg.target_len} decoder steps and output tokens on both sides, vocabulary {cfg.vocab_size}, the "
        "same random weights; products are those of the encoder and of every decoder step, attention and "
        "output matrix included"
    )
