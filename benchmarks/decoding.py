"""Beam search of one sentence and of a batch against CTranslate2 and against the bare matrix products."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

import hat
from benchmarks.data import LANGS, WMT14, MissingData, multi30k
from benchmarks.floors import BareProducts, Lengths, decoding_products
from benchmarks.peers import (
    PIP,
    CTranslate2,
    PeerError,
    gpu_types,
    has_ctranslate2,
    save_ctranslate2,
    try_out,
)
from benchmarks.process import say
from benchmarks.timing import (
    CPU,
    DTYPES,
    Figure,
    Options,
    Row,
    Samples,
    Target,
    alternate,
    describe_machine,
    formats,
    median_row,
    rate_row,
    ratio,
    sync_of,
)

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
    arch: hat.Arch = XEON_204
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
    def beam_config(self) -> hat.BeamConfig:
        """Return a search whose translations have exactly `target_len` tokens, the last one EOS."""
        return hat.BeamConfig(beam=self.beam, max_len_b=self.target_len - 1, min_len=self.target_len - 1)


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
    for name in formats(cfg.device):
        ours = hat.InferenceModel(hat.extract(model, cfg.arch).to(cfg.device, DTYPES[name]).eval())
        cases[name] = partial(hat.beam_search, ours, source, cfg.beam_config)
        cases[f"{name} products"] = BareProducts(products, DTYPES[name], device=cfg.device).forward
    if cfg.on_cpu and hat.can_int8():
        small = hat.InferenceModel(model, matrix=hat.Int8Matrix)
        cases["int8"] = partial(hat.beam_search, small, source, cfg.beam_config)
    return cases


def peer_cases(cfg: DecodeConfig, source: torch.Tensor, folder: Path) -> dict[str, Callable[[], object]]:
    """Return the searches of CTranslate2; on CPUs a batch is also split over two replicas of one thread each.

    Raises PeerError on a GPU that CTranslate2 cannot compute on, which shows with its first translation.
    """
    cases: dict[str, Callable[[], object]] = {}

    def add(name: str, compute_type: str, threads: int, replicas: int = 1) -> None:
        peer = CTranslate2(folder, compute_type, threads, replicas, device=cfg.device.type)
        cases[name] = partial(peer.translate, source, cfg.target_len, cfg.beam)

    if not cfg.on_cpu:
        for label in gpu_types(formats(cfg.device)[0]):
            add(f"CTranslate2 {label}", label, cfg.threads)
            try_out(cases[f"CTranslate2 {label}"])
        return cases
    add("CTranslate2 float32", "float32", cfg.threads)
    if cfg.sentences == 1:
        add("CTranslate2 int8", "int8_float32", cfg.threads)
    elif cfg.threads > 1:
        add("CTranslate2 float32, split", "float32", 1, cfg.threads)
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
        samples = alternate(cases, cfg.rounds, calls=cfg.calls, settle_s=settle_s, sync=sync_of(cfg.device))
    conditions = (
        f"{cfg.sentences} sentences at once, beam {cfg.beam}, {cfg.source_len} source tokens, exactly "
        f"{cfg.target_len} decoder steps and output tokens on both sides, vocabulary {cfg.vocab_size}, the "
        "same random weights; products are those of the encoder and of every decoder step, attention and "
        "output matrix included"
    )
    return samples, (*notes, conditions)


def decode(options: Options, threads: int) -> Figure:
    """Time the search of one sentence of 30 tokens; with 1 thread also see what 8-bit weights translate."""
    cfg = DecodeConfig(
        hat.SearchSpace.from_yaml(WMT14), threads=threads, seed=options.seed, device=options.torch_device
    )
    cfg = replace(cfg, rounds=options.rounds or cfg.rounds)
    if threads > 1 or not cfg.on_cpu:
        return time_sentence(cfg)
    with tempfile.TemporaryDirectory() as folder:
        check = quality_check(options, Path(folder))  # what does not fit shows before anything is timed
        return with_quality(time_sentence(cfg), check)


def decode_batch(options: Options, threads: int) -> Figure:
    """Time the search of 128 sentences of 17 tokens at once."""
    cfg = DecodeConfig(
        hat.SearchSpace.from_yaml(WMT14),
        sentences=128,
        source_len=17,
        target_len=17,
        threads=threads,
        rounds=options.rounds or 5,
        calls=1,
        seed=options.seed,
        device=options.torch_device,
    )
    return time_batch(cfg)


def time_sentence(cfg: DecodeConfig) -> Figure:
    """Return the figure of one sentence; targets are set for one thread of a CPU."""
    machine = describe_machine(cfg.device)
    fast, _ = formats(cfg.device)
    samples, notes = measure_decode(cfg)
    peer = samples.get("CTranslate2 float32")
    ratios = [Target(f"{fast} / its products", ratio(samples[fast], samples[f"{fast} products"]), 1.35)]
    if peer is not None:
        ratios += [
            Target(f"CTranslate2 float32 / {fast}", ratio(peer, samples[fast]), 1.5, at_most=False),
            Target("fp32 / CTranslate2 float32", ratio(samples["fp32"], peer), 1.25),
        ]
        if "int8" in samples:
            gain = ratio(peer, samples["int8"])
            ratios.append(Target("CTranslate2 float32 / int8", gain, 2.5, at_most=False))
    if cfg.on_cpu and "int8" not in samples:
        notes = (*notes, "this build of PyTorch has no 8-bit kernels: no int8 rows")
    rows = [median_row(name, one) for name, one in samples.items()]
    rows.append(Row("fp32 / its products", ratio(samples["fp32"], samples["fp32 products"]), "times"))
    if cfg.threads > 1 or not cfg.on_cpu:
        rows += [Row(one.text, one.value or 0.0, "times") for one in ratios]
        ratios = []
    return Figure("decode", machine, tuple(rows), tuple(ratios), notes)


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
        gain = ratio(min(peers, key=lambda one: one.median_ms), samples[fast])
        text = f"{fast} / faster CTranslate2 float32, sentences/s"
        if cfg.on_cpu:
            targets = (Target(text, gain, 2.0, at_most=False),)
        else:
            rows.append(Row(text, gain, "times"))
    return Figure("decode-batch", machine, tuple(rows), targets, notes)


class Check(NamedTuple):
    """A checkpoint and the test set of the dictionaries it was trained with."""

    source: hat.Checkpoint
    data: hat.PairDataset


class Agreement(NamedTuple):
    """How far the translations of one test set in float32 and in 8 bits agree."""

    sentences: int
    same_percent: float  # sentences whose best translations have the same tokens
    exact_bleu: float
    int8_bleu: float


def quality_check(options: Options, folder: Path) -> Check | str:
    """Return what is to be compared, or in words why nothing is; data may be made in `folder`.

    Raises CheckpointError if --quality-checkpoint is damaged or was trained with other dictionaries.
    """
    if not hat.can_int8():
        return "this build of PyTorch has no 8-bit kernels"
    if options.quality_checkpoint is None:
        return "give --quality-checkpoint, a Multi30k model"
    try:
        data = hat.PairDataset.load(multi30k(options, folder, "test"), "test", *LANGS)
    except MissingData as error:
        return str(error)
    path = Path(options.quality_checkpoint)
    source = hat.load_checkpoint(path, say)
    sizes = (len(data.source_vocab), len(data.target_vocab))
    if source.vocab_sizes != sizes:
        raise hat.CheckpointError(
            f"{path} has vocabularies of {source.vocab_sizes}, {data.folder} of {sizes}; give --data of the "
            "task it was trained on"
        )
    return Check(source, data)


def with_quality(figure: Figure, check: Check | str) -> Figure:
    """Return `figure` with the comparison of translations; if it fails, what was timed stays."""
    found, why, error = None, "", ""
    if isinstance(check, str):
        why = check
    else:
        try:
            found = compare_int8(*check, hat.BeamConfig())
        except (hat.HatError, OSError, RuntimeError) as failure:
            why = error = f"{type(failure).__name__}: {failure}"
    apart = None if found is None else abs(found.exact_bleu - found.int8_bleu)
    same = None if found is None else found.same_percent
    targets = (
        Target("test sentences with the same tokens, %", same, 95.0, at_most=False),
        Target("difference of BLEU between int8 and fp32", apart, 0.2),
    )
    figure = replace(figure, targets=(*figure.targets, *targets), error=error)
    if found is None:
        note = f"translations with 8-bit weights were not compared: {why}"
        return replace(figure, notes=(*figure.notes, note))
    rows = (
        Row(f"{found.sentences} test sentences, fp32", found.exact_bleu, "BLEU"),
        Row(f"{found.sentences} test sentences, int8", found.int8_bleu, "BLEU"),
    )
    return replace(figure, rows=(*figure.rows, *rows))


def compare_int8(source: hat.Checkpoint, data: hat.PairDataset, beam: hat.BeamConfig) -> Agreement:
    """Translate `data` with the float32 weights of a checkpoint and with 8-bit ones."""
    model = source.sub(source.arch or source.space.largest()).eval()
    exact = best_tokens(hat.InferenceModel(model), data, beam)
    return compare(exact, best_tokens(hat.InferenceModel(model, matrix=hat.Int8Matrix), data, beam), data)


def compare(exact: list[list[int]], int8: list[list[int]], data: hat.PairDataset) -> Agreement:
    """Return how far two lists of translations agree, scored against the text kept beside the data."""
    same = sum(one == other for one, other in zip(exact, int8, strict=True))
    raw = data.raw_target()
    vocab = data.target_vocab
    pieces = any("\u2581" in vocab.symbol(index) for index in range(4, len(vocab)))
    join = hat.joiner("sentencepiece" if pieces else "@@ ")
    references = raw or [join(vocab.decode(data.target[index])) for index in range(len(data))]
    mode, lang = ("sacre", data.target_lang) if raw else ("normal", "")
    scores = [
        hat.bleu([join(vocab.decode(tokens)) for tokens in found], references, mode, lang).bleu
        for found in (exact, int8)
    ]
    return Agreement(len(exact), 100 * same / len(exact), *scores)


def best_tokens(model: hat.InferenceModel, data: hat.PairDataset, beam: hat.BeamConfig) -> list[list[int]]:
    """Return the tokens of the best translation of every sentence, in the order of the data."""
    found: list[list[int]] = [[]] * len(data)
    for batch in hat.translate(model, data, beam, batch_size=128):
        for translation in batch:
            found[translation.index] = translation.hypotheses[0].tokens
    return found
