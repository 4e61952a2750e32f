"""Agreement of two translations, and the whole check on a tiny model."""

from pathlib import Path

import pytest
import torch

from hat.bench import decode, quality
from hat.bench.corpus import random_pairs
from hat.bench.figure import Figure, Row
from hat.bench.machine import describe_machine
from hat.bench.quality import Check, compare, compare_int8, fitting, quality_check, with_quality
from hat.bench.request import BenchOptions
from hat.data.folder import file_digest
from hat.data.pairs import PairDataset
from hat.decode.beam import BeamConfig
from hat.errors import CheckpointError
from hat.model.cpu import can_int8
from hat.model.extract import extract
from hat.model.layers import EOS, ModelConfig
from hat.model.transformer import SuperTransformer
from hat.train import checkpoint

needs_int8 = pytest.mark.skipif(not can_int8(), reason="this torch has no 8-bit kernels")


def test_agreement_counts_sentences_and_scores_both(tmp_path: Path) -> None:
    random_pairs(tmp_path, 10, 50)
    data = PairDataset.load(tmp_path, "train")
    exact = [data.target[index].tolist() for index in range(10)]
    other = [[4, 5, EOS], *exact[1:]]
    found = compare(exact, other, data)
    assert found.same_percent == 90.0
    assert found.exact_bleu == pytest.approx(100.0)
    assert found.bleu_apart == pytest.approx(100.0 - found.int8_bleu) and found.int8_bleu < 99.0


def trained(folder: Path, space, digests: tuple[str, str] = ("", "")) -> Path:
    """Return the checkpoint of a tiny model with a vocabulary of 50."""
    noise = torch.Generator().manual_seed(1)
    model = SuperTransformer(space, 50, ModelConfig(share_all_embeddings=True), noise)
    path = folder / "model.pt"
    checkpoint.save(checkpoint.pack(extract(model, space.largest()), digests), path)
    return path


@needs_int8
def test_checkpoint_is_translated_with_both(tmp_path: Path, tiny_space) -> None:
    random_pairs(tmp_path, 6, 50)
    data = PairDataset.load(tmp_path, "train")
    found = compare_int8(fitting(trained(tmp_path, tiny_space), data), data, BeamConfig(beam=2, max_len_b=6))
    assert 0 <= found.same_percent <= 100 and found.exact_bleu >= 0 and found.sentences == 6


def test_checkpoint_must_be_of_the_dictionaries(tmp_path: Path, tiny_space) -> None:
    random_pairs(tmp_path, 6, 50)
    data = PairDataset.load(tmp_path, "train")
    digest = file_digest(tmp_path / "dict.en.txt")
    assert fitting(trained(tmp_path, tiny_space, (digest, digest)), data).vocab_sizes == (50, 50)
    with pytest.raises(CheckpointError, match="other dictionaries of the same size.*--data"):
        fitting(trained(tmp_path, tiny_space, (digest, "0" * 64)), data)
    random_pairs(tmp_path / "other", 6, 60)
    with pytest.raises(CheckpointError, match="--data"):
        fitting(tmp_path / "model.pt", PairDataset.load(tmp_path / "other", "train"))


@pytest.fixture
def figure() -> Figure:
    """Return a figure that took long."""
    return Figure("decode", describe_machine(), (Row("bf16", 90.0, "ms"),))


@needs_int8
def test_without_checkpoint_or_data_the_targets_are_not_taken(tmp_path: Path, figure: Figure) -> None:
    nowhere = {"data": str(tmp_path / "a"), "text": str(tmp_path / "b")}
    given = BenchOptions(**nowhere, quality_checkpoint="x.pt")
    for options, why in ((BenchOptions(**nowhere), "--quality-checkpoint"), (given, str(tmp_path))):
        found = with_quality(figure, quality_check(options, tmp_path))
        assert found.rows == figure.rows and found.error == ""
        plain = found.values()["targets"]
        assert [(one["value"], one["met"]) for one in plain] == [(None, None)] * 2
        assert why in found.notes[-1] and found.text().count("not taken:") == 2
        assert Figure.of_values(found.values()) == found


@needs_int8
def test_broken_checkpoint_is_refused_before_timing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random_pairs(tmp_path, 6, 50)
    for path in tmp_path.glob("train.*"):
        path.rename(tmp_path / path.name.replace("train", "test"))
    (tmp_path / "bad.pt").write_bytes(b"no model")
    monkeypatch.setattr(decode, "time_sentence", lambda cfg: pytest.fail("timed before the check"))
    options = BenchOptions(data=str(tmp_path), quality_checkpoint=str(tmp_path / "bad.pt"))
    with pytest.raises(CheckpointError, match="bad.pt"):
        decode.decode(1, options)


def test_what_was_timed_stays_where_the_comparison_fails(
    tmp_path: Path, tiny_space, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_pairs(tmp_path, 6, 50)
    data = PairDataset.load(tmp_path, "train")
    check = Check(fitting(trained(tmp_path, tiny_space), data), data)

    def fail(*what: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(quality, "compare_int8", fail)
    found = with_quality(figure, check)
    assert found.rows == figure.rows and found.error == "RuntimeError: no memory"
    assert [target.value for target in found.targets] == [None, None] and "FAILED" in found.text()
