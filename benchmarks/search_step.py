"""Scoring SubTransformers on a validation set against the forward passes alone."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

import hat
from benchmarks.data import LANGS, MULTI30K, first_pairs, multi30k
from benchmarks.timing import (
    CPU,
    Figure,
    Options,
    Row,
    Target,
    alternate,
    describe_machine,
    median_row,
    ratio,
    sync_of,
)


@dataclass(frozen=True)
class ScoringConfig:
    """How many SubTransformers are scored; the defaults are those of the figure."""

    space: hat.SearchSpace
    pairs: int = 1000
    archs: int = 8
    rounds: int = 5
    max_tokens: int = 4096
    seed: int = 1
    device: torch.device = CPU


def search_step(options: Options, threads: int) -> Figure:
    """Score on 1,000 Multi30k pairs; torch has `threads` threads already."""
    space = hat.SearchSpace.from_yaml(MULTI30K)
    cfg = ScoringConfig(space, rounds=options.rounds or 5, seed=options.seed, device=options.torch_device)
    with tempfile.TemporaryDirectory() as folder:
        return time_scoring(cfg, hat.PairDataset.load(multi30k(options, Path(folder)), "valid", *LANGS))


def time_scoring(cfg: ScoringConfig, data: hat.PairDataset) -> Figure:
    """Return the figure on the pairs of `data`, with random weights: time does not depend on their values."""
    machine = describe_machine(cfg.device)
    dtype = hat.fast_dtype(cfg.device)
    noise = torch.Generator().manual_seed(cfg.seed)
    joint = data.source_vocab == data.target_vocab  # as in the task; other data may have two dictionaries
    model_cfg = hat.ModelConfig(share_all_embeddings=joint, share_decoder_input_output_embed=not joint)
    sizes = len(data.source_vocab), len(data.target_vocab)
    model = hat.SuperTransformer(cfg.space, sizes, model_cfg, noise).to(cfg.device, dtype).eval()
    plan = hat.EpochBatches(
        data, max_tokens=cfg.max_tokens, seed=0, epoch=0, shuffle=False, drop_long=False
    )  # as evo_search.py does
    slots = [indices for indices in plan.slots if indices is not None]
    batches = [data.batch(indices).to(cfg.device) for indices in first_pairs(slots, cfg.pairs)]
    draw = hat.rng_for(cfg.seed, "search-step")
    archs = [hat.sample(cfg.space, draw) for _ in range(cfg.archs)]
    fitness = hat.ValidationFitness(model, batches, 0.1, cfg.device)
    cases = {
        "scoring": lambda: fitness(archs),
        "forward passes": lambda: forward_passes(model, batches, archs),
    }
    samples = alternate(cases, cfg.rounds, sync=sync_of(cfg.device))
    rows = [median_row(f"{cfg.archs} architectures, {name}", one) for name, one in samples.items()]
    rows += [Row(name, 1e3 * cfg.archs / samples[name].median_ms, "architectures/s") for name in samples]
    target = Target("scoring / its forward passes", ratio(samples["scoring"], samples["forward passes"]), 1.3)
    note = (
        f"{sum(map(len, batches))} pairs in {len(batches)} batches of at most {cfg.max_tokens} tokens, "
        f"{hat.dtype_name(dtype)}; a forward pass is encoder, decoder and output matrix over real tokens"
    )
    return Figure("search-step", machine, tuple(rows), (target,), (note,))


@torch.inference_mode()
def forward_passes(
    model: hat.SuperTransformer, batches: Sequence[hat.Batch], archs: Sequence[hat.Arch]
) -> None:
    """Compute the logits of every real target token, and do nothing with them."""
    for arch in archs:
        for batch in batches:
            states = model.decode(batch.decoder_input, model.encode(batch.source, arch), arch)
            real = batch.target.ne(hat.PAD).flatten().nonzero().squeeze(1)
            F.linear(states.flatten(0, 1)[real], model.output.columns(states.size(-1)))
