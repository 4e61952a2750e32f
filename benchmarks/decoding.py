"""Beam search of one sentence and of a batch beside other engines and beside the bare matrix products."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import torch

import hat
from benchmarks import timing
from benchmarks.data import WMT14, random_batch
from benchmarks.floors import BareProducts, Lengths, decoding_products
from benchmarks.timing import DTYPES, Figure, Row, Samples, Target, ratio

# HAT_wmt14ende_xeon@204.2ms with 8 heads and span 1 in every layer, which CTranslate2 can compute as well
XEON_204 = hat.Arch(
    hat.EncoderArch(512, (3072,) * 6, (8,) * 6),
    hat.DecoderArch(512, (3072,) * 2, (8,) * 2, (8,) * 2, (1,) * 2),
)
# HAT_wmt14ende_raspberrypi@4.0s, 46 M parameters with a vocabulary of 32,000; all of its spans are 1
PI_4S = hat.Arch(
    hat.EncoderArch(512, (3072, 2048) * 3, (8, 8, 8, 4, 8, 8)),
    hat.DecoderArch(512, (1024, 2048), (4, 4), (8, 8), (1, 1)),
)
Cases = dict[str, Callable[[], object]]
ENGINES = {"ctranslate2": "CTranslate2", "onnxruntime": "ONNX Runtime"}
SETTLE_S = 0.25  # threads of CTranslate2's OpenMP runtime spin for 0.2 s


@dataclass(frozen=True)
class DecodeConfig:
    """What is decoded; the defaults are those of the figure `decode`. `space` must hold `arch`."""

    space: hat.SearchSpace
    threads: int
    arch: hat.Arch = XEON_204
    vocab_size: int = 7960
    label: str = ""
    """what the rows of this model begin with"""
    products: bool = True
    """time the bare matrix products as well"""
    sentences: int = 1
    source_len: int = 30
    target_len: int = 30
    beam: int = 5
    rounds: int = 5
    calls: int = 2
    seed: int = 1
    device: torch.device = timing.CPU

    @property
    def on_cpu(self) -> bool:
        """Return whether the targets are meant for the device."""
        return self.device.type == "cpu"

    @property
    def beam_config(self) -> hat.BeamConfig:
        """Return a search whose translations have exactly `target_len` tokens, the last one EOS."""
        return hat.BeamConfig(beam=self.beam, max_len_b=self.target_len - 1, min_len=self.target_len - 1)


def decode(options: timing.Options, threads: int) -> Figure:
    """Time the search of one sentence of 30 tokens; with 1 thread, by a model of 46 M parameters as well."""
    space, device = hat.SearchSpace.from_yaml(WMT14), options.torch_device
    cfg = DecodeConfig(space, threads, rounds=options.rounds or 5, seed=options.seed, device=device)
    if threads > 1 or not cfg.on_cpu:
        return time_search(cfg)
    pi = replace(cfg, label="Pi@4.0s: ", arch=PI_4S, vocab_size=32000, products=False)
    one, other = time_search(cfg), time_search(pi)
    both = {name: [*getattr(one, name), *getattr(other, name)] for name in ("rows", "targets", "notes")}
    return one._replace(**both)


def decode_batch(options: timing.Options, threads: int) -> Figure:
    """Time the search of 128 sentences of 17 tokens at once."""
    space, device = hat.SearchSpace.from_yaml(WMT14), options.torch_device
    cfg = DecodeConfig(space, threads, rounds=options.rounds or 4, seed=options.seed, device=device)
    return time_search(
        replace(cfg, sentences=128, source_len=17, target_len=17, calls=1, products=not cfg.on_cpu)
    )


def random_model(cfg: DecodeConfig) -> hat.SubTransformer:
    """Return a float32 model with random weights, ready to translate."""
    noise = torch.Generator().manual_seed(cfg.seed)
    model_cfg = hat.ModelConfig(share_all_embeddings=True)
    return hat.extract(hat.SuperTransformer(cfg.space, cfg.vocab_size, model_cfg, noise), cfg.arch).eval()


def random_source(cfg: DecodeConfig) -> torch.Tensor:
    """Return sources [B, S] of random words without padding, each ending with EOS."""
    return random_batch(cfg.sentences, cfg.source_len, cfg.vocab_size, cfg.seed).source


def our_cases(cfg: DecodeConfig, model: hat.SubTransformer, source: torch.Tensor) -> Cases:
    """Return our searches, and the products alone, in both number formats."""
    source = source.to(cfg.device)
    size = Lengths(cfg.sentences, cfg.source_len, cfg.target_len, cfg.beam)
    products = decoding_products(cfg.arch, model.space, cfg.vocab_size, size)
    cases: Cases = {}
    for name in timing.formats(cfg.device):
        ours = hat.extract(model, cfg.arch).to(cfg.device, DTYPES[name]).eval()
        cases[name] = partial(hat.beam_search, hat.InferenceModel(ours), source, cfg.beam_config)
        if cfg.products:
            cases[f"{name} products"] = BareProducts(products, DTYPES[name], device=cfg.device).run
    return cases


def engine_cases(cfg: DecodeConfig, model: hat.SubTransformer, source: torch.Tensor, runtime: str) -> Cases:
    """Return the searches of another engine, on CPUs alone; ONNX Runtime takes one sentence at once.
    CTranslate2 also gets a batch in parts, one for each thread. Raises ConfigError if a package is missing.
    """
    name, alone = ENGINES[runtime], cfg.sentences == 1
    known = hat.Model(model, hat.stand_in(model.vocab_sizes))
    if not cfg.on_cpu or not (alone or runtime == "ctranslate2"):
        return {}
    cases: Cases = {}
    for form, precision in (("float32", "fp32"), ("int8", "int8"))[: 2 if alone else 1]:
        engine = hat.engine(known, runtime, precision, cfg.threads)
        cases[f"{name} {form}"] = partial(engine.timed, source, cfg.beam_config, lambda: None)
    if not alone and cfg.threads > 1:
        parts = [(hat.engine(known, runtime, "fp32", 1), rows) for rows in source.chunk(cfg.threads)]
        workers = ThreadPoolExecutor(cfg.threads)

        cases[f"{name} float32, split"] = lambda: list(
            workers.map(lambda part: part[0].timed(part[1], cfg.beam_config, lambda: None), parts)
        )
    return cases


def measure_decode(cfg: DecodeConfig) -> tuple[dict[str, Samples], tuple[str, ...]]:
    """Return the times of all cases that can run here, and notes on conditions and on what is missing."""
    model, source = random_model(cfg), random_source(cfg)
    cases = our_cases(cfg, model, source)
    notes = [
        f"{cfg.label}{cfg.sentences} sentences at once, beam {cfg.beam}, {cfg.source_len} source and exactly "
        f"{cfg.target_len} output tokens, vocabulary {cfg.vocab_size}, the same random weights"
    ]
    if cfg.products:
        notes.append("products: encoder and all steps, attention and output matrix included")
    for runtime, name in ENGINES.items():
        try:
            cases |= engine_cases(cfg, model, source, runtime)
        except hat.ConfigError as error:
            notes.append(f"the rows of {name} are missing: {error}")
    settle_s = SETTLE_S if cfg.threads > 1 and cfg.on_cpu else 0.0
    sync = hat.sync_of(cfg.device)
    samples = timing.alternate(cases, cfg.rounds, calls=cfg.calls, settle_s=settle_s, sync=sync)
    return samples, tuple(notes)


def time_search(cfg: DecodeConfig) -> Figure:
    """Return the figure of one sentence, or of a batch. Targets are set for one thread of a CPU, and for
    batches on a CPU; otherwise the ratios are rows.
    """
    machine, (fast, _) = timing.describe_machine(cfg.device), timing.formats(cfg.device)
    alone = cfg.sentences == 1
    samples, notes = measure_decode(cfg)
    both = (fast, "fp32") if cfg.products else ()
    over = {name: ratio(samples[name], samples[f"{name} products"]) for name in both}
    ratios = [Target(f"{fast} / its products", over.pop(fast), 1.35)] if alone and cfg.products else []
    plain, onnx, split = "CTranslate2 float32", "ONNX Runtime float32", "CTranslate2 float32, split"
    wanted = [(f"faster CTranslate2 float32 / {fast}", (plain, split), fast, 2.0)]
    if alone:
        wanted = [
            (f"CTranslate2 float32 / {fast}", (plain,), fast, 1.5),
            ("faster engine in float32 / fp32", (plain, onnx), "fp32", 1.0),
        ]
    for text, names, ours, limit in wanted:
        peers = [samples[name] for name in names if name in samples]
        if peers and ours in samples:
            best = min(peers, key=lambda one: one.median_ms)
            ratios.append(Target(text, ratio(best, samples[ours]), limit, at_most=False))
    rows = [timing.median_row(name, one) for name, one in samples.items()]
    if not alone:
        rows = [timing.rate_row(name, one, cfg.sentences, "sentences/s") for name, one in samples.items()]
    rows += [Row(f"{name} / its products", value, "times") for name, value in over.items()]
    if not cfg.on_cpu or (alone and cfg.threads > 1):
        rows += [Row(one.text, one.value, "times") for one in ratios]
        ratios = []
    rows = [row._replace(name=cfg.label + row.name) for row in rows]
    ratios = [target._replace(text=cfg.label + target.text) for target in ratios]
    return Figure("decode" if alone else "decode-batch", machine, rows, ratios, notes)
