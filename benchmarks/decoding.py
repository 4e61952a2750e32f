"""Beam search of one sentence and of a batch beside other engines and beside the bare matrix products."""

import operator
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

import hat
from benchmarks import timing
from benchmarks.data import LANGS, WMT14, MissingData, best_tokens, bleu_of, multi30k, random_batch
from benchmarks.floors import BareProducts, Lengths, decoding_products
from benchmarks.peers import CTranslate2, save_ctranslate2
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
    """Time the search of one sentence of 30 tokens.

    With 1 thread a model of 46 M parameters is timed as well, and the words in 8 bits are compared.
    """
    space, device = hat.SearchSpace.from_yaml(WMT14), options.torch_device
    cfg = DecodeConfig(space, threads, rounds=options.rounds or 5, seed=options.seed, device=device)
    if threads > 1 or not cfg.on_cpu:
        return time_search(cfg)
    rows, targets, notes = compare_int8(options)  # what does not fit shows before anything is timed
    pi = replace(cfg, label="Pi@4.0s: ", arch=PI_4S, vocab_size=32000, products=False)
    one, other = time_search(cfg), time_search(pi)
    return one._replace(
        rows=[*one.rows, *other.rows, *rows],
        targets=[*one.targets, *other.targets, *targets],
        notes=[*one.notes, *other.notes, *notes],
    )


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


def ctranslate2_cases(cfg: DecodeConfig, model: hat.SubTransformer, source: torch.Tensor) -> Cases:
    """Return the searches of CTranslate2; on CPUs a batch is also split over two replicas of one thread each.

    Raises ConfigError if CTranslate2 is missing, RuntimeError or ValueError on a GPU that it cannot use.
    """
    forms = {"CTranslate2 float32": ("float32", cfg.threads, 1)}
    if not cfg.on_cpu:
        fast = {"bf16": "bfloat16", "fp16": "float16"}[timing.formats(cfg.device)[0]]
        forms[f"CTranslate2 {fast}"] = (fast, cfg.threads, 1)
    elif cfg.sentences == 1:
        forms["CTranslate2 int8"] = ("int8_float32", cfg.threads, 1)
    elif cfg.threads > 1:
        forms["CTranslate2 float32, split"] = ("float32", 1, cfg.threads)
    cases: Cases = {}
    with tempfile.TemporaryDirectory() as folder:
        save_ctranslate2(model, Path(folder))
        for name, form in forms.items():
            peer = CTranslate2(Path(folder), *form, device=cfg.device.type)
            cases[name] = partial(peer.translate, source, cfg.target_len, cfg.beam)
            if not cfg.on_cpu:
                cases[name]()  # missing libraries of CUDA show with the first translation
    return cases


def onnxruntime_cases(cfg: DecodeConfig, model: hat.SubTransformer, source: torch.Tensor) -> Cases:
    """Return the searches of ONNX Runtime, one sentence at once on the CPU, none for others.

    Raises ConfigError if a package of the extra is missing.
    """
    if not cfg.on_cpu or cfg.sentences > 1:
        return {}
    forms: dict[str, Literal["fp32", "int8"]] = {"ONNX Runtime float32": "fp32", "ONNX Runtime int8": "int8"}
    engines = {
        name: hat.engine(hat.Model(model), "onnxruntime", form, cfg.threads) for name, form in forms.items()
    }
    return {name: partial(engine, source, cfg.beam_config) for name, engine in engines.items()}


def measure_decode(cfg: DecodeConfig) -> tuple[dict[str, Samples], tuple[str, ...]]:
    """Return the times of all cases that can run here, and notes on conditions and on what is missing."""
    model, source = random_model(cfg), random_source(cfg)
    cases = our_cases(cfg, model, source)
    notes = [
        f"{cfg.label}{cfg.sentences} sentences at once, beam {cfg.beam}, {cfg.source_len} source tokens, "
        f"exactly {cfg.target_len} decoder steps and output tokens, vocabulary {cfg.vocab_size}, the "
        "same random weights"
    ]
    if cfg.products:
        notes.append(
            "products are those of the encoder and of all steps, attention and output matrix included"
        )
    for name, peer_cases in (("CTranslate2", ctranslate2_cases), ("ONNX Runtime", onnxruntime_cases)):
        try:
            cases |= peer_cases(cfg, model, source)
        except (hat.ConfigError, RuntimeError, ValueError) as error:
            notes.append(f"the rows of {name} are missing: {str(error).splitlines()[0]}")
    settle_s = SETTLE_S if cfg.threads > 1 and cfg.on_cpu else 0.0
    sync = hat.sync_of(cfg.device)
    samples = timing.alternate(cases, cfg.rounds, calls=cfg.calls, settle_s=settle_s, sync=sync)
    return samples, tuple(notes)


def time_search(cfg: DecodeConfig) -> Figure:
    """Return the figure of one sentence, or of a batch, without the comparison of translations.

    Targets are set for one thread of a CPU, and for batches on a CPU; otherwise the ratios are rows.
    """
    machine, (fast, _) = timing.describe_machine(cfg.device), timing.formats(cfg.device)
    alone = cfg.sentences == 1
    samples, notes = measure_decode(cfg)
    over = {
        name: ratio(samples[name], samples[f"{name} products"]) for name in (fast, "fp32") if cfg.products
    }
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
        rows += [Row(one.text, one.value or 0.0, "times") for one in ratios]
        ratios = []
    rows = [row._replace(name=cfg.label + row.name) for row in rows]
    ratios = [target._replace(text=cfg.label + target.text) for target in ratios]
    return Figure("decode" if alone else "decode-batch", machine, rows, ratios, notes)


def compare_int8(
    options: timing.Options, beam: hat.BeamConfig | None = None
) -> tuple[list[Row], list[Target], list[str]]:
    """Return whether the engine for 8 bits translates the test set as float32 does: rows, targets, notes.

    If there is nothing to compare, the target has no value and a note says why. Raises CheckpointError if
    --quality-checkpoint is missing, damaged or was trained with other dictionaries.
    """
    rows, notes = list[Row](), list[str]()
    apart = None
    with tempfile.TemporaryDirectory() as folder:
        try:
            if options.quality_checkpoint is None:
                raise MissingData("give --quality-checkpoint, a Multi30k model")
            dataset = hat.Dataset.load(multi30k(options, Path(folder), "test"), *LANGS)
            model, data = hat.load(Path(options.quality_checkpoint), dataset), dataset.split("test")
            model = model.extract(model.arch or model.space.largest())
            try:
                engines = [hat.engine(model, None, precision, 1) for precision in ("fp32", "int8")]
            except hat.ConfigError as error:
                raise MissingData(str(error)) from error
            exact, int8 = (best_tokens(engine, data, beam or hat.BeamConfig()) for engine in engines)
            scores = [bleu_of(found, dataset, data) for found in (exact, int8)]
            apart = abs(scores[0] - scores[1])
            rows = [
                Row(f"test set, {name}", score, "BLEU")
                for name, score in zip(("fp32", "int8"), scores, strict=True)
            ]
            same = 100 * sum(map(operator.eq, exact, int8)) / len(exact)
            rows.append(Row("test sentences with the same tokens", same, "%"))
        except MissingData as error:
            notes.append(f"translations in 8 bits were not compared: {error}")
    return rows, [Target("difference of BLEU between int8 and fp32", apart, 0.5)], notes
