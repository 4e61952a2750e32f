"""Scoring SubTransformers on a validation set against the forward passes alone."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from hat.bench.alternate import alternate, ratio
from hat.bench.corpus import first_pairs, multi30k
from hat.bench.device import CPU, device_named
from hat.bench.figure import Figure, Row, Target, median_row
from hat.bench.machine import describe_machine
from hat.bench.request import BenchOptions
from hat.bench.spaces import MULTI30K
from hat.data.batching import EpochBatches
from hat.data.pairs import Batch, PairDataset
from hat.latency.measure import sync_of
from hat.model.cpu import dtype_name, fast_dtype
from hat.model.layers import PAD, ModelConfig
from hat.model.transformer import SuperTransformer, Transformer
from hat.rng import rng_for
from hat.search.run import ValidationFitness
from hat.space import Arch, sample


@dataclass(frozen=True)
class SearchStepConfig:
    """How many SubTransformers are scored; the defaults are those of the figure."""

    pairs: int = 1000
    archs: int = 8
    rounds: int = 5
    max_tokens: int = 4096
    seed: int = 1
    device: torch.device = CPU


def search_step(threads: int, options: BenchOptions) -> Figure:
    """Score on 1,000 Multi30k pairs; torch has `threads` threads already."""
    cfg = SearchStepConfig(
        rounds=options.rounds or SearchStepConfig.rounds,
        seed=options.seed,
        device=device_named(options.device),
    )
    with tempfile.TemporaryDirectory() as folder:
        data = PairDataset.load(multi30k(options, Path(folder)), "valid", "en", "de")
        return time_scoring(cfg, data)


def time_scoring(cfg: SearchStepConfig, data: PairDataset) -> Figure:
    """Return the figure on the pairs of `data`, with random weights: time does not depend on their values."""
    machine = describe_machine(cfg.device)
    dtype = fast_dtype(cfg.device)
    noise = torch.Generator().manual_seed(cfg.seed)
    joint = data.source_vocab == data.target_vocab  # as in the task; other data may have two dictionaries
    model_cfg = ModelConfig(share_all_embeddings=joint, share_decoder_input_output_embed=not joint)
    sizes = len(data.source_vocab), len(data.target_vocab)
    model = SuperTransformer(MULTI30K, sizes, model_cfg, noise).to(cfg.device, dtype).eval()
    plan = EpochBatches(
        data, max_tokens=cfg.max_tokens, seed=0, epoch=0, shuffle=False, drop_long=False
    )  # as evo_search.py does
    slots = [indices for indices in plan.slots if indices is not None]
    batches = [data.batch(indices).to(cfg.device) for indices in first_pairs(slots, cfg.pairs)]
    draw = rng_for(cfg.seed, "search-step")
    archs = [sample(MULTI30K, draw) for _ in range(cfg.archs)]
    fitness = ValidationFitness(model, batches, 0.1, cfg.device)
    samples = alternate(
        {
            "scoring": lambda: fitness(archs),
            "forward passes": lambda: forward_passes(model, batches, archs),
        },
        cfg.rounds,
        sync=sync_of(cfg.device),
    )
    rate = 1e3 * cfg.archs / samples["scoring"].median_ms
    bare = 1e3 * cfg.archs / samples["forward passes"].median_ms
    rows = (
        *(median_row(f"{cfg.archs} architectures, {name}", one) for name, one in samples.items()),
        Row("scored", rate, "architectures/s"),
        Row("forward passes", bare, "architectures/s"),
    )
    target = Target("scoring / its forward passes", ratio(samples["scoring"], samples["forward passes"]), 1.3)
    note = (
        f"{sum(map(len, batches))} pairs in {len(batches)} batches of at most {cfg.max_tokens} tokens, "
        f"{dtype_name(dtype)}; a forward pass is encoder, decoder and output matrix over real tokens"
    )
    return Figure("search-step", machine, rows, (target,), (note,))


@torch.inference_mode()
def forward_passes(model: Transformer, batches: Sequence[Batch], archs: Sequence[Arch]) -> None:
    """Compute the logits of every real target token, and nothing of them."""
    for arch in archs:
        for batch in batches:
            states = model.decode(batch.decoder_input, model.encode(batch.source, arch), arch)
            real = batch.target.ne(PAD).flatten().nonzero().squeeze(1)
            F.linear(states.flatten(0, 1)[real], model.output.columns(states.size(-1)))
