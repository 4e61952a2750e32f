"""Scoring SubTransformers on a validation set against the forward passes alone."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

import hat
from benchmarks import timing
from benchmarks.data import LANGS, MULTI30K, multi30k, scoring_batches
from benchmarks.timing import Row

PAIRS, ARCHS = 1000, 8


def search_step(options: timing.Options, threads: int) -> timing.Figure:
    """Score on 1,000 Multi30k pairs; torch has `threads` threads already."""
    with tempfile.TemporaryDirectory() as folder:
        data = hat.PairDataset.load(multi30k(options, Path(folder)), "valid", *LANGS)
        return time_scoring(data, options)


def time_scoring(data: hat.PairDataset, options: timing.Options) -> timing.Figure:
    """Return the figure on the pairs of `data`, with random weights: time does not depend on their values."""
    device = options.torch_device
    machine, dtype = timing.describe_machine(device), hat.fast_dtype(device)
    noise = torch.Generator().manual_seed(options.seed)
    joint = data.source_vocab == data.target_vocab  # as in the task; other data may have two dictionaries
    model_cfg = hat.ModelConfig(share_all_embeddings=joint, share_decoder_input_output_embed=not joint)
    space = hat.SearchSpace.from_yaml(MULTI30K)
    sizes = len(data.source_vocab), len(data.target_vocab)
    model = hat.SuperTransformer(space, sizes, model_cfg, noise).to(device, dtype).eval()
    batches = [batch.to(device) for batch in scoring_batches(data, PAIRS)]
    draw = hat.rng_for(options.seed, "search-step")
    archs = [hat.sample(space, draw) for _ in range(ARCHS)]
    fitness = hat.ValidationFitness(model, batches, 0.1, device)
    cases = {
        "scoring": lambda: fitness(archs),
        "forward passes": lambda: forward_passes(model, batches, archs),
    }
    samples = timing.alternate(cases, options.rounds or 5, sync=hat.sync_of(device))
    rows = [timing.median_row(f"{ARCHS} architectures, {name}", one) for name, one in samples.items()]
    rows += [Row(name, 1e3 * ARCHS / samples[name].median_ms, "architectures/s") for name in samples]
    over = timing.ratio(samples["scoring"], samples["forward passes"])
    target = timing.Target("scoring / its forward passes", over, 1.3)
    note = (
        f"{sum(map(len, batches))} pairs in {len(batches)} batches of at most 4096 tokens, "
        f"{hat.dtype_name(dtype)}; a forward pass is encoder, decoder and output matrix over real tokens"
    )
    return timing.Figure("search-step", machine, rows, [target], [note])


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
