"""Translate a split of a data set: batches sorted by length, results in the order of the corpus."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from hat.data.batching import plan_batches, usable
from hat.data.pairs import PairDataset, flat, pad
from hat.data.subwords import remove_subwords
from hat.decode.beam import BeamConfig, Hypothesis, beam_search
from hat.log import progress

SORTED = 8  # batches that are sorted by length at a time: how files and streams of text are translated alike


class Generated(NamedTuple):
    """The translation of a split in the release's format, see `output_lines`, and what it took."""

    text: str
    sentences: int
    tokens: int  # of the best hypotheses, EOS included
    seconds: float


def by_length(lengths: np.ndarray, batch_size: int, max_tokens: int | None = None) -> list[np.ndarray]:
    """Return batches of sentences of similar length, the longest first, so that time left is not too low.

    `lengths` are tokens with EOS; a batch has at most `batch_size` sentences and `max_tokens` with padding.
    """
    budget = max_tokens or int(lengths.max(initial=1)) * batch_size
    fixed = {"multiple": 1, "seed": 0, "epoch": 0, "shuffle": False}
    return plan_batches(lengths, lengths, max_tokens=budget, max_sentences=batch_size, **fixed)[::-1]


def searched(
    search: Callable[..., list[list[Hypothesis]]],
    device: torch.device,
    sources: Sequence[np.ndarray],
    cfg: BeamConfig,
    batch_size: int,
    max_tokens: int | None = None,
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """Yield the place of each source (ids with EOS) and what `search` finds for it, see `by_length`."""
    lengths = np.array([len(ids) for ids in sources], dtype=np.int64)
    for places in by_length(lengths, batch_size, max_tokens):
        source_BS = pad(flat([sources[place] for place in places]), left=True).to(device)
        yield from zip(places.tolist(), search(source_BS, cfg), strict=True)


def translate(
    model: Any, data: PairDataset, cfg: BeamConfig, *, batch_size: int
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """Yield the number of each sentence and its hypotheses, best first, by an InferenceModel or an engine.

    Of `SORTED` batches the long sentences come first. Raises DataError if a source is longer than the model's
    positions.
    """
    limit, lengths = model.cfg.max_source_positions, data.source_lengths
    usable(lengths, np.ones_like(lengths), limit, limit, drop_long=False)
    search = model if callable(model) else partial(beam_search, model)
    for start in range(0, len(data), step := SORTED * batch_size):
        sources = [data.source[n] for n in range(start, min(start + step, len(data)))]
        for place, hypotheses in searched(search, model.device, sources, cfg, batch_size):
            yield start + place, hypotheses


def generate(
    model: Any,
    data: PairDataset,
    cfg: BeamConfig,
    *,
    batch_size: int = 128,
    remove_bpe: str | None = None,
    nbest: int = 1,
    show_bar: bool = False,
) -> Generated:
    """Translate a whole split, at most `batch_size` sentences at once, by an InferenceModel or an engine.

    `remove_bpe` says how subwords are joined, see `remove_subwords`; `nbest` hypotheses of each sentence are
    written. Raises DataError if a source sentence is longer than the model's positions.
    """
    join, start, tokens = partial(remove_subwords, kind=remove_bpe), time.perf_counter(), 0
    results, found = [""] * len(data), translate(model, data, cfg, batch_size=batch_size)
    for index, hypotheses in progress(found, len(data), "translate", "sentences", quiet=not show_bar):
        lines = output_lines(data, index, hypotheses[:nbest], join)
        results[index] = "".join(f"{line}\n" for line in lines)
        tokens += len(hypotheses[0].tokens)
    text = "".join(results)
    return Generated(text, len(data), tokens, time.perf_counter() - start)


def output_lines(
    data: PairDataset, index: int, hypotheses: Sequence[Hypothesis], join: Callable[[str], str]
) -> Iterator[str]:
    """Yield the release's lines of a sentence: S source, T target, then H score and text, P token scores."""
    yield f"S-{index}\t{join(data.source_vocab.decode(data.source[index]))}"
    # `<<unk>>` in the reference can never match a hypothesis, which prints `<unk>`
    yield f"T-{index}\t{join(data.target_vocab.decode(data.target[index], unk='<<unk>>'))}"
    for hypothesis in hypotheses:
        text = join(data.target_vocab.decode(np.array(hypothesis.tokens)))
        yield f"H-{index}\t{hypothesis.score}\t{text}"
        yield f"P-{index}\t{' '.join(f'{score:.4f}' for score in hypothesis.token_scores)}"
