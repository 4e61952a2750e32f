"""Translate a split of a data set and score it."""

from collections.abc import Sequence

import hat


def best_tokens(
    model: hat.InferenceModel, data: hat.PairDataset, beam: hat.BeamConfig, batch_size: int = 128
) -> list[list[int]]:
    """Return the ids of the best translation of every sentence, in the order of the data."""
    found: list[list[int]] = [[]] * len(data)
    for batch in hat.translate(model, data, beam, batch_size=batch_size):
        for translation in batch:
            found[translation.index] = translation.hypotheses[0].tokens
    return found


def bleu_of(found: Sequence[Sequence[int]], dataset: hat.Dataset, data: hat.PairDataset) -> float:
    """Return BLEU, 0 to 100, of translations of `data` against its plain text, or against its ids as text."""
    decode = dataset.codec.decode
    references = data.raw_target() or [decode(data.target[index]) for index in range(len(data))]
    return float(hat.bleu(list(map(decode, found)), references, "sacre", data.target_lang).bleu)
