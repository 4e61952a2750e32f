"""Translate a whole split: batches sorted by length, results in the order of the corpus."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from hat.data.batching import check_usable, plan_batches
from hat.data.pairs import PairDataset
from hat.data.text import remove_subwords
from hat.decode.beam import BeamConfig, Hypothesis, beam_search
from hat.model.inference import InferenceModel


class Translation(NamedTuple):
    """One sentence of the corpus with its hypotheses, best first."""

    index: int
    hypotheses: list[Hypothesis]


def translate(
    model: InferenceModel,
    data: PairDataset,
    cfg: BeamConfig,
    *,
    batch_size: int,
    max_tokens: int | None = None,
) -> Iterator[list[Translation]]:
    """Yield the translations of each batch, from long sentences to short, so that time left is not
    underestimated.

    Raises DataError where a source sentence is longer than the model's positions.
    """
    lengths = data.source_lengths
    limit = min(model.cfg.max_source_positions, max_tokens or model.cfg.max_source_positions)
    check_usable(lengths, np.ones_like(lengths), limit, limit)
    budget = max_tokens or int(lengths.max(initial=1)) * batch_size
    plan = plan_batches(
        lengths,
        lengths,
        max_tokens=budget,
        max_sentences=batch_size,
        multiple=1,
        seed=0,
        epoch=0,
        shuffle=False,
    )
    for indices in reversed(plan):
        batch = data.batch(indices).to(model.device)
        found = beam_search(model, batch.source, cfg)
        yield [Translation(int(index), hypotheses) for index, hypotheses in zip(indices, found, strict=True)]


def output_lines(
    data: PairDataset, translation: Translation, join: Callable[[str], str], nbest: int = 1
) -> Iterator[str]:
    """Yield the release's lines of one sentence.

    S source, T target, then H score and text, P token scores.
    """
    index = translation.index
    yield f"S-{index}\t{join(data.source_vocab.decode(data.source[index]))}"
    # `<<unk>>` in the reference can never match a hypothesis, which prints `<unk>`
    yield f"T-{index}\t{join(data.target_vocab.decode(data.target[index], unk='<<unk>>'))}"
    for hypothesis in translation.hypotheses[:nbest]:
        text = join(data.target_vocab.decode(np.array(hypothesis.tokens)))
        yield f"H-{index}\t{hypothesis.score}\t{text}"
        yield f"P-{index}\t{' '.join(f'{score:.4f}' for score in hypothesis.token_scores)}"


def joiner(kind: str | None) -> Callable[[str], str]:
    """Return what turns subwords into words.

    `@@ `, `subword_nmt`, `sentencepiece`, or None for as they are.
    """
    return lambda line: remove_subwords(line, kind)
