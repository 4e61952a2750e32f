"""Whether 8-bit weights translate as the exact ones do."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from hat.bench.corpus import LANGS, MissingData, multi30k
from hat.bench.figure import Figure, Row, Target
from hat.bench.request import BenchOptions
from hat.data.folder import file_digest
from hat.data.pairs import PairDataset
from hat.data.subwords import SPACE_MARK
from hat.decode.beam import BeamConfig
from hat.decode.generate import joiner, translate
from hat.decode.score import bleu
from hat.errors import CheckpointError, HatError
from hat.log import say
from hat.model.cpu import Int8Matrix, can_int8
from hat.model.inference import InferenceModel
from hat.train.checkpoint import Checkpoint, load


@dataclass(frozen=True)
class Agreement:
    """Two translations of one test set."""

    sentences: int
    same_percent: float  # sentences whose best translations have the same tokens
    exact_bleu: float
    int8_bleu: float

    @property
    def bleu_apart(self) -> float:
        """Return the difference of the scores."""
        return abs(self.exact_bleu - self.int8_bleu)


class Check(NamedTuple):
    """A checkpoint and the test set of the dictionaries it was trained with."""

    source: Checkpoint
    data: PairDataset


def quality_check(options: BenchOptions, folder: Path) -> Check | str:
    """Return what is to be compared, or in words why nothing is; data may be made in `folder`.

    Raises CheckpointError where --quality-checkpoint is damaged or of other dictionaries.
    """
    if not can_int8():
        return "this build of PyTorch has no 8-bit kernels"
    if options.quality_checkpoint is None:
        return "give --quality-checkpoint, a Multi30k model"
    try:
        data = PairDataset.load(multi30k(options, folder, "test"), "test", *LANGS)
    except MissingData as error:
        return str(error)
    return Check(fitting(Path(options.quality_checkpoint), data), data)


def fitting(checkpoint: Path, data: PairDataset) -> Checkpoint:
    """Return what the file holds; raises CheckpointError where it was trained with other dictionaries.

    Of those of the 2020 release only the sizes are known.
    """
    source = load(checkpoint, say)
    sizes = (len(data.source_vocab), len(data.target_vocab))
    if source.vocab_sizes != sizes:
        raise CheckpointError(
            f"{checkpoint} has vocabularies of {source.vocab_sizes}, {data.folder} of {sizes}; give "
            "--data of the task it was trained on"
        )
    digests = tuple(
        file_digest(data.folder / f"dict.{lang}.txt") for lang in (data.source_lang, data.target_lang)
    )
    if all(source.vocab_digests) and source.vocab_digests != digests:
        raise CheckpointError(
            f"{checkpoint} was trained with other dictionaries of the same size than those in {data.folder}; "
            "give --data of the task it was trained on"
        )
    return source


def with_quality(figure: Figure, check: Check | str) -> Figure:
    """Return `figure` with the comparison on the Multi30k test set.

    Where it cannot be made, what was timed stays; both targets then have no value.
    """
    found: Agreement | None = None
    why, error = (check, "") if isinstance(check, str) else ("", "")
    if not isinstance(check, str):
        try:
            found = compare_int8(check.source, check.data, BeamConfig())
        except (HatError, OSError, RuntimeError) as failure:
            why = error = f"{type(failure).__name__}: {failure}"
    targets = (
        Target(
            "test sentences with the same tokens, %",
            None if found is None else found.same_percent,
            95.0,
            at_most=False,
        ),
        Target("difference of BLEU between int8 and fp32", None if found is None else found.bleu_apart, 0.2),
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


def compare_int8(source: Checkpoint, data: PairDataset, beam: BeamConfig) -> Agreement:
    """Translate `data` with the float32 weights of a checkpoint and with 8-bit ones."""
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
    return Agreement(len(exact), 100 * same / len(exact), *scores)


def best_tokens(model: InferenceModel, data: PairDataset, beam: BeamConfig) -> list[list[int]]:
    """Return the tokens of the best translation of every sentence, in the order of the data."""
    found: list[list[int]] = [[]] * len(data)
    for batch in translate(model, data, beam, batch_size=128):
        for translation in batch:
            found[translation.index] = translation.hypotheses[0].tokens
    return found
