"""Beam search of one sentence and of a batch against CTranslate2 and against the bare matrix products."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

import hat
from benchmarks import timing
from benchmarks.data import LANGS, WMT14, MissingData, multi30k
from benchmarks.floors import BareProducts, Lengths, decoding_products
from benchmarks.peers import PIP, CTranslate2, has_ctranslate2, save_ctranslate2
from benchmarks.process import say
from benchmarks.timing import DTYPES, Figure, Row, Samples, Target, ratio
from benchmarks.translation import best_tokens, bleu_of

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
    with tempfile.TemporaryDirectory() as folder:
        check = quality_check(options, Path(folder))  # what does not fit shows before anything is timed
        return with_quality(time_search(cfg), check)


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
    noise = torch.Generator().manual_seed(cfg.seed)
    source = torch.randint(hat.EOS + 2, cfg.vocab_size, (cfg.sentences, cfg.source_len), generator=noise)
    source[:, -1] = hat.EOS
    return source


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


class Check(NamedTuple):
    """A trained model and the test set of the dictionaries it was trained with."""

    network: hat.SubTransformer
    dataset: hat.Dataset


def quality_check(options: timing.Options, folder: Path) -> Check | str:
    """Return what is to be compared, or in words why nothing is; data may be made in `folder`.

    Raises CheckpointError if --quality-checkpoint is damaged or was trained with other dictionaries.
    """
    if not hat.can_int8():
        return "this build of PyTorch has no 8-bit kernels"
    if options.quality_checkpoint is None:
        return "give --quality-checkpoint, a Multi30k model"
    try:
        dataset = hat.Dataset.load(multi30k(options, folder, "test"), *LANGS)
    except MissingData as error:
        return str(error)
    path = Path(options.quality_checkpoint)
    source = hat.load_checkpoint(path, say)
    if source.vocab_digests not in (dataset.digests, ("", "")):
        raise hat.CheckpointError(
            f"{path} was trained with other dictionaries than those in {dataset.folder}; give --data of the "
            "task it was trained on"
        )
    return Check(source.sub(source.arch or source.space.largest()).eval(), dataset)


def with_quality(figure: Figure, check: Check | str) -> Figure:
    """Return `figure` with whether 8-bit weights translate the test set as float32 ones do.

    If the comparison fails, what was timed stays, and both targets have no value.
    """
    same = apart = None
    rows, notes, error = [*figure.rows], [*figure.notes], ""
    if isinstance(check, str):
        notes.append(f"translations with 8-bit weights were not compared: {check}")
    else:
        try:
            same, exact, int8 = compare_int8(check, hat.BeamConfig())
            apart = abs(exact - int8)
            rows += [Row("test set, fp32", exact, "BLEU"), Row("test set, int8", int8, "BLEU")]
        except (hat.HatError, OSError, RuntimeError) as failure:
            error = f"translations were not compared: {type(failure).__name__}: {failure}"
    targets = (
        *figure.targets,
        Target("test sentences with the same tokens, %", same, 95.0, at_most=False),
        Target("difference of BLEU between int8 and fp32", apart, 0.2),
    )
    return figure._replace(rows=rows, targets=targets, notes=notes, error=error)


def compare_int8(check: Check, beam: hat.BeamConfig) -> tuple[float, float, float]:
    """Return the percentage of test sentences with the same tokens in both, BLEU in float32 and in 8 bits."""
    data = check.dataset.split("test")
    exact = best_tokens(hat.InferenceModel(check.network), data, beam)
    int8 = best_tokens(hat.InferenceModel(check.network, matrix=hat.Int8Matrix), data, beam)
    same = sum(one == other for one, other in zip(exact, int8, strict=True))
    exact_bleu, int8_bleu = (bleu_of(found, check.dataset, data) for found in (exact, int8))
    return 100 * same / len(exact), exact_bleu, int8_bleu
