"""Beam search of one sentence and of a batch against CTranslate2 and against the bare matrix products."""

import operator
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

import hat
from benchmarks import timing
from benchmarks.data import LANGS, WMT14, MissingData, best_tokens, bleu_of, multi30k, random_batch
from benchmarks.floors import BareProducts, Lengths, decoding_products
from benchmarks.peers import PIP, CTranslate2, has_ctranslate2, save_ctranslate2
from benchmarks.process import info
from benchmarks.timing import DTYPES, Figure, Row, Samples, Target, ratio

# HAT_wmt14ende_xeon@204.2ms with 8 heads and span 1 in every layer, which CTranslate2 can compute as well
XEON_204 = hat.Arch(
    hat.EncoderArch(512, (3072,) * 6, (8,) * 6),
    hat.DecoderArch(512, (3072,) * 2, (8,) * 2, (8,) * 2, (1,) * 2),
)
SETTLE_S = 0.25  # threads of CTranslate2's OpenMP runtime spin for 0.2 s


@dataclass(frozen=True)
class DecodeConfig:
    """What is decoded; the defaults are those of the figure `decode`. `space` must hold `arch`."""

    space: hat.SearchSpace
    threads: int
    arch: hat.Arch = XEON_204
    vocab_size: int = 7960
    sentences: int = 1
    source_len: int = 30
    target_len: int = 30
    beam: int = 5
    rounds: int = 9
    calls: int = 3
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
    """Time the search of one sentence of 30 tokens; with 1 thread also see what 8-bit weights translate."""
    space, device = hat.SearchSpace.from_yaml(WMT14), options.torch_device
    cfg = DecodeConfig(space, threads, rounds=options.rounds or 9, seed=options.seed, device=device)
    if threads > 1 or not cfg.on_cpu:
        return time_search(cfg)
    rows, targets, notes = compare_int8(options)  # what does not fit shows before anything is timed
    figure = time_search(cfg)
    return figure._replace(
        rows=[*figure.rows, *rows], targets=[*figure.targets, *targets], notes=[*figure.notes, *notes]
    )


def decode_batch(options: timing.Options, threads: int) -> Figure:
    """Time the search of 128 sentences of 17 tokens at once."""
    space, device = hat.SearchSpace.from_yaml(WMT14), options.torch_device
    cfg = DecodeConfig(space, threads, rounds=options.rounds or 5, seed=options.seed, device=device)
    return time_search(replace(cfg, sentences=128, source_len=17, target_len=17, calls=1))


def random_model(cfg: DecodeConfig) -> hat.SubTransformer:
    """Return a float32 model with random weights, ready to translate."""
    noise = torch.Generator().manual_seed(cfg.seed)
    model_cfg = hat.ModelConfig(share_all_embeddings=True)
    return hat.extract(hat.SuperTransformer(cfg.space, cfg.vocab_size, model_cfg, noise), cfg.arch).eval()


def random_source(cfg: DecodeConfig) -> torch.Tensor:
    """Return sources [B, S] of random words without padding, each ending with EOS."""
    return random_batch(cfg.sentences, cfg.source_len, cfg.vocab_size, cfg.seed).source


def our_cases(
    cfg: DecodeConfig, model: hat.SubTransformer, source: torch.Tensor
) -> dict[str, Callable[[], object]]:
    """Return our searches and the products alone in both number formats; on CPUs int8 besides."""
    source = source.to(cfg.device)
    size = Lengths(cfg.sentences, cfg.source_len, cfg.target_len, cfg.beam)
    products = decoding_products(cfg.arch, model.space, cfg.vocab_size, size)
    cases: dict[str, Callable[[], object]] = {}
    for name in timing.formats(cfg.device):
        copy = hat.extract(model, cfg.arch).to(cfg.device, DTYPES[name]).eval()
        cases[name] = partial(hat.beam_search, hat.InferenceModel(copy), source, cfg.beam_config)
        cases[f"{name} products"] = BareProducts(products, DTYPES[name], device=cfg.device).run
    if cfg.on_cpu and hat.can_int8():
        small = hat.InferenceModel(model, matrix=hat.Int8Matrix)
        cases["int8"] = partial(hat.beam_search, small, source, cfg.beam_config)
    return cases


def peer_cases(cfg: DecodeConfig, source: torch.Tensor, folder: Path) -> dict[str, Callable[[], object]]:
    """Return the searches of CTranslate2; on CPUs a batch is also split over two replicas of one thread each.

    Raises RuntimeError or ValueError on a GPU that CTranslate2 cannot compute on.
    """
    forms = {"CTranslate2 float32": ("float32", cfg.threads, 1)}
    if not cfg.on_cpu:
        fast = {"bf16": "bfloat16", "fp16": "float16"}[timing.formats(cfg.device)[0]]
        forms[f"CTranslate2 {fast}"] = (fast, cfg.threads, 1)
    elif cfg.sentences == 1:
        forms["CTranslate2 int8"] = ("int8_float32", cfg.threads, 1)
    elif cfg.threads > 1:
        forms["CTranslate2 float32, split"] = ("float32", 1, cfg.threads)
    cases: dict[str, Callable[[], object]] = {}
    for name, form in forms.items():
        peer = CTranslate2(folder, *form, device=cfg.device.type)
        cases[name] = partial(peer.translate, source, cfg.target_len, cfg.beam)
        if not cfg.on_cpu:
            cases[name]()  # missing libraries of CUDA show with the first translation
    return cases


def measure_decode(cfg: DecodeConfig) -> tuple[dict[str, Samples], tuple[str, ...]]:
    """Return the times of all cases that can run here, and notes on conditions and on what is missing."""
    model, source = random_model(cfg), random_source(cfg)
    cases = our_cases(cfg, model, source)
    notes = [
        f"{cfg.sentences} sentences at once, beam {cfg.beam}, {cfg.source_len} source tokens, exactly "
        f"{cfg.target_len} decoder steps and output tokens on both sides, vocabulary {cfg.vocab_size}, the "
        "same random weights; products are those of the encoder and of every decoder step, attention and "
        "output matrix included"
    ]
    if cfg.on_cpu and "int8" not in cases:
        notes.append("this build of PyTorch has no 8-bit kernels: no int8 rows")
    with tempfile.TemporaryDirectory() as folder:
        if has_ctranslate2():
            save_ctranslate2(model, Path(folder))
            try:
                cases |= peer_cases(cfg, source, Path(folder))
            except (RuntimeError, ValueError) as error:
                why = str(error).splitlines()[0]
                notes.append(f"CTranslate2 does not compute on this device, so its rows are missing: {why}")
        else:
            notes.append(f"CTranslate2 is not installed, so its rows are missing; {PIP}")
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
    over = ratio(samples[fast], samples[f"{fast} products"])
    ratios = [Target(f"{fast} / its products", over, 1.35)] if alone else []
    peers = [one for name, one in samples.items() if name.startswith("CTranslate2 float32")]
    if peers:
        peer = min(peers, key=lambda one: one.median_ms)
        gain = ratio(peer, samples[fast])
        if alone:
            ratios.append(Target(f"CTranslate2 float32 / {fast}", gain, 1.5, at_most=False))
            ratios.append(Target("fp32 / CTranslate2 float32", ratio(samples["fp32"], peer), 1.25))
        else:
            ratios.append(Target(f"faster CTranslate2 float32 / {fast}", gain, 2.0, at_most=False))
        if alone and "int8" in samples:
            gain = ratio(peer, samples["int8"])
            ratios.append(Target("CTranslate2 float32 / int8", gain, 2.5, at_most=False))
    rows = [timing.median_row(name, one) for name, one in samples.items()]
    if not alone:
        rows = [timing.rate_row(name, one, cfg.sentences, "sentences/s") for name, one in samples.items()]
        rows.append(Row(f"{fast} / its products", over, "times"))
    rows.append(Row("fp32 / its products", ratio(samples["fp32"], samples["fp32 products"]), "times"))
    if not cfg.on_cpu or (alone and cfg.threads > 1):
        rows += [Row(one.text, one.value or 0.0, "times") for one in ratios]
        ratios = []
    return Figure("decode" if alone else "decode-batch", machine, rows, ratios, notes)


def compare_int8(
    options: timing.Options, beam: hat.BeamConfig | None = None
) -> tuple[list[Row], list[Target], list[str]]:
    """Return whether 8-bit weights translate the test set as float32 ones do: rows, targets, notes.

    If there is nothing to compare, the targets have no value and a note says why. Raises CheckpointError if
    --quality-checkpoint is missing, damaged or was trained with other dictionaries.
    """
    rows, notes = list[Row](), list[str]()
    same = apart = None
    with tempfile.TemporaryDirectory() as folder:
        try:
            if not hat.can_int8():
                raise MissingData("this build of PyTorch has no 8-bit kernels")
            if options.quality_checkpoint is None:
                raise MissingData("give --quality-checkpoint, a Multi30k model")
            dataset = hat.Dataset.load(multi30k(options, Path(folder), "test"), *LANGS)
            source, data = hat.load_checkpoint(Path(options.quality_checkpoint), info), dataset.split("test")
            if source.vocab_digests not in (dataset.digests, ("", "")):
                raise hat.CheckpointError(
                    f"{options.quality_checkpoint} was trained with other dictionaries than those in "
                    f"{dataset.folder}; give --data of the task it was trained on"
                )
            network = source.sub(source.arch or source.space.largest()).eval()
            models = hat.InferenceModel(network), hat.InferenceModel(network, matrix=hat.Int8Matrix)
            exact, int8 = (best_tokens(model, data, beam or hat.BeamConfig()) for model in models)
            scores = [bleu_of(found, dataset, data) for found in (exact, int8)]
            same = 100 * sum(map(operator.eq, exact, int8)) / len(exact)
            apart = abs(scores[0] - scores[1])
            rows = [
                Row(f"test set, {name}", score, "BLEU")
                for name, score in zip(("fp32", "int8"), scores, strict=True)
            ]
        except MissingData as error:
            notes.append(f"translations with 8-bit weights were not compared: {error}")
    targets = [
        Target("test sentences with the same tokens, %", same, 95.0, at_most=False),
        Target("difference of BLEU between int8 and fp32", apart, 0.2),
    ]
    return rows, targets, notes
