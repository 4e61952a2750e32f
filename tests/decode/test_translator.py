"""A model with its dictionaries: plain sentences in, plain sentences out."""

from pathlib import Path

import pytest
import torch

from hat.data.dataset import Dataset
from hat.data.toy import toy_pairs
from hat.decode.beam import BeamConfig, beam_search
from hat.decode.generate import generate
from hat.decode.score import parse_output
from hat.decode.translator import Model
from hat.errors import ArchError, DataError
from hat.model.inference import InferenceModel
from hat.model.layers import ModelConfig
from hat.model.transformer import SuperTransformer
from hat.space import DecoderSpace, EncoderSpace, SearchSpace

SPACE = SearchSpace(
    EncoderSpace(8, 8, 3, (8, 6), (8,), (3, 2), (2,)),
    DecoderSpace(8, 8, 2, (8, 5), (8,), (2, 1), (2,), (2, 1), (1, 2, 3)),
    8,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    sides = zip(*toy_pairs(1, 200), strict=True)
    return Dataset.from_text(*map(list, sides), pieces=150, folder=tmp_path_factory.mktemp("d") / "made")


@pytest.fixture(scope="module")
def model(data: Dataset) -> Model:
    cfg = ModelConfig(max_source_positions=60, max_target_positions=12)
    network = SuperTransformer(SPACE, data.vocab_sizes, cfg)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=noise))
    return Model(network, data.codec, data.digests)


def test_translations_in_order_equal_one_by_one(model: Model, data: Dataset) -> None:
    sentences = ["The cat sleeps.", "", "We wait until the very old man sells his big hat.", "  ", "Why?"]
    found = model.translate(sentences, beam=3, batch_size=2)
    assert found[1] == found[3] == "" and all(found[i] for i in (0, 2, 4))
    for sentence, translation in zip(sentences, found, strict=True):
        assert model.translate([sentence], beam=3) == [translation]
    assert model.translate([]) == []
    ids = torch.tensor(data.codec.encode(sentences[0]), dtype=torch.long)[None]
    ((best, *_),) = beam_search(InferenceModel(model.network), ids, BeamConfig(beam=3))
    assert found[0] == data.codec.decode(best.tokens)
    assert model.translate(sentences, config=BeamConfig(beam=3), max_tokens=40) == found


def test_extracting(model: Model) -> None:
    arch = SPACE.smallest()
    small = model.extract(arch)
    assert (small.arch, small.space, small.vocabs) == (arch, SPACE, model.vocabs)
    assert model.arch is None and small.digests == model.digests
    ids = torch.tensor(model.codec.encode("We wait."), dtype=torch.long)[None]
    ((best, *_),) = beam_search(InferenceModel(model.network, arch), ids, BeamConfig())
    assert small.translate(["We wait."]) == [model.codec.decode(best.tokens)]
    assert small.extract(arch) is small
    with pytest.raises(ArchError, match="holds one architecture"):
        small.extract(SPACE.largest())


def test_what_cannot_be_translated(model: Model) -> None:
    with pytest.raises(DataError, match="sentence 2 has .* tokens .* 60 are allowed"):
        model.translate(["a", "we " * 200])
    with pytest.raises(DataError, match="has no dictionaries"):
        Model(model.network).translate(["a"])
    with pytest.raises(TypeError, match="list of sentences"):
        model.translate("a")


def test_a_split_is_generated_in_the_order_of_the_corpus(model: Model, data: Dataset, tmp_path: Path) -> None:
    valid = data.split("valid")
    fixed = InferenceModel(model.network)
    done = generate(fixed, valid, BeamConfig(beam=2), batch_size=3, remove_bpe="sentencepiece", nbest=2)
    lines = done.text.split("\n")[:-1]
    assert [line[:2] for line in lines] == ["S-", "T-", "H-", "P-", "H-", "P-"] * len(valid)
    assert done.sentences == len(valid) == 10 and done.seconds > 0
    hypotheses, references = parse_output(lines, "x")
    assert references == valid.raw_target()
    sources = [line.split("\t")[1] for line in lines if line.startswith("S-")]
    assert hypotheses == model.translate(sources, beam=2)
