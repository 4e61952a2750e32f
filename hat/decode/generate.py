"""Translate a split of a data set: batches sorted by length, results in the order of the corpus."""

import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from hat.data.pairs import PairDataset, plan_batches, usable
from hat.data.subwords import remove_subwords
from hat.decode.beam import BeamConfig, Hypothesis, beam_search
from hat.log import progress

SORTED = 8  # batches that are sorted by length at a time: how files and streams of text are translated alike


class Translation(NamedTuple):
    """One sentence of the corpus with its hypotheses, best first."""

    index: int
    hypotheses: list[Hypothesis]


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


def translate(
    model: Any,
    data: PairDataset,
    cfg: BeamConfig,
    *,
    batch_size: int,
    max_tokens: int | None = None,
) -> Iterator[list[Translation]]:
    """Yield the translations of each batch by an InferenceModel or an engine; of `SORTED` batches the long
    sentences come first.

    Raises DataError if a source sentence is longer than the model's positions.
    """
    lengths = data.source_lengths
    limit = min(model.cfg.max_source_positions, max_tokens or model.cfg.max_source_positions)
    usable(lengths, np.ones_like(lengths), limit, limit, drop_long=False)
    search = model if callable(model) else partial(beam_search, model)
    for start in range(0, len(data), step := SORTED * batch_size):
        for indices in by_length(lengths[start : start + step], batch_size, max_tokens):
            indices = indices + start
            found = search(data.batch(indices).to(model.device).source, cfg)
            yield [Translation(int(index), each) for index, each in zip(indices, found, strict=True)]


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
    results: list[list[str]] = [[]] * len(data)
    found = itertools.chain.from_iterable(translate(model, data, cfg, batch_size=batch_size))
    for translation in progress(found, len(data), "translate", "sentences", quiet=not show_bar):
        results[translation.index] = list(output_lines(data, translation, join, nbest))
        tokens += len(translation.hypotheses[0].tokens)
    text = "".join(f"{line}\n" for line in itertools.chain.from_iterable(results))
    return Generated(text, len(data), tokens, time.perf_counter() - start)


def output_lines(
    data: PairDataset, translation: Translation, join: Callable[[str], str], nbest: int = 1
) -> Iterator[str]:
    """Yield the release's lines of a sentence: S source, T target, then H score and text, P token scores."""
    index = translation.index
    yield f"S-{index}\t{join(data.source_vocab.decode(data.source[index]))}"
    # `<<unk>>` in the reference can never match a hypothesis, which prints `<unk>`
    yield f"T-{index}\t{join(data.target_vocab.decode(data.target[index], unk='<<unk>>'))}"
    for hypothesis in translation.hypotheses[:nbest]:
        text = join(data.target_vocab.decode(np.array(hypothesis.tokens)))
        yield f"H-{index}\t{hypothesis.score}\t{text}"
        yield f"P-{index}\t{' '.join(f'{score:.4f}' for score in hypothesis.token_scores)}"
