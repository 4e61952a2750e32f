"""Whether 8-bit weights translate as the exact ones do."""

from dataclasses import dataclass
from pathlib import Path

from hat.data.pairs import PairDataset
from hat.data.text import SPACE_MARK
from hat.decode.beam import BeamConfig
from hat.decode.generate import joiner, translate
from hat.decode.score import bleu
from hat.errors import CheckpointError
from hat.model.inference import InferenceModel
from hat.model.matrix import Int8Matrix
from hat.train.checkpoint import load


@dataclass(frozen=True)
class Agreement:
    """Two translations of one test set."""

    same_percent: float  # sentences whose best translations have the same tokens
    exact_bleu: float
    int8_bleu: float

    @property
    def bleu_apart(self) -> float:
        """Return the difference of the scores."""
        return abs(self.exact_bleu - self.int8_bleu)


def compare_int8(checkpoint: Path, data: PairDataset, beam: BeamConfig) -> Agreement:
    """Translate `data` with the float32 weights of `checkpoint` and with 8-bit ones.

    Raises CheckpointError where the checkpoint is of other dictionaries.
    """
    source = load(checkpoint)
    sizes = (len(data.source_vocab), len(data.target_vocab))
    if source.vocab_sizes != sizes:
        raise CheckpointError(
            f"{checkpoint} has vocabularies of {source.vocab_sizes}, {data.folder} of {sizes}; give "
            "--data of the task it was trained on"
        )
    model = source.sub(source.arch or source.space.largest()).eval()
    exact = best_tokens(InferenceModel(model), data, beam)
    int8 = best_tokens(InferenceModel(model, matrix=Int8Matrix), data, beam)
    return compare(exact, int8, data)


def compare(exact: list[list[int]], int8: list[list[int]], data: PairDataset) -> Agreement:
    """Return how far two lists of translations agree, scored against the text kept beside the data."""
    same = sum(one == other for one, other in zip(exact, int8, strict=True))
    raw = data.raw_target()
    pieces = any(SPACE_MARK in data.target_vocab.symbol(index) for index in range(4, len(data.target_vocab)))
    join = joiner("sentencepiece" if pieces else "@@ ")
    decode = data.target_vocab.decode
    references = raw or [join(decode(data.target[index])) for index in range(len(data))]
    mode, lang = ("sacre", data.target_lang) if raw else ("normal", "")
    scores = [
        bleu([join(decode(tokens)) for tokens in found], references, mode, lang).bleu  # type: ignore[arg-type]
        for found in (exact, int8)
    ]
    return Agreement(100 * same / len(exact), *scores)


def best_tokens(model: InferenceModel, data: PairDataset, beam: BeamConfig) -> list[list[int]]:
    """Return the tokens of the best translation of every sentence, in the order of the data."""
    found: list[list[int]] = [[]] * len(data)
    for batch in translate(model, data, beam, batch_size=128):
        for translation in batch:
            found[translation.index] = translation.hypotheses[0].tokens
    return found
