"""Agreement of two translations, and the whole check on a tiny model."""

from pathlib import Path

import pytest
import torch

from hat.bench.corpus import random_pairs
from hat.bench.quality import compare, compare_int8
from hat.data.pairs import PairDataset
from hat.decode.beam import BeamConfig
from hat.errors import CheckpointError
from hat.model.config import EOS, ModelConfig
from hat.model.extract import extract
from hat.model.matrix import can_int8
from hat.model.transformer import SuperTransformer
from hat.train import checkpoint


def test_agreement_counts_sentences_and_scores_both(tmp_path: Path) -> None:
    random_pairs(tmp_path, 10, 50)
    data = PairDataset.load(tmp_path, "train")
    exact = [data.target[index].tolist() for index in range(10)]
    other = [[4, 5, EOS], *exact[1:]]
    found = compare(exact, other, data)
    assert found.same_percent == 90.0
    assert found.exact_bleu == pytest.approx(100.0)
    assert found.bleu_apart == pytest.approx(100.0 - found.int8_bleu) and found.int8_bleu < 99.0


@pytest.mark.skipif(not can_int8(), reason="this torch has no 8-bit kernels")
def test_checkpoint_is_translated_with_both(tmp_path: Path, tiny_space) -> None:
    random_pairs(tmp_path, 6, 50)
    data = PairDataset.load(tmp_path, "train")
    noise = torch.Generator().manual_seed(1)
    model = SuperTransformer(tiny_space, 50, ModelConfig(share_all_embeddings=True), noise)
    path = tmp_path / "model.pt"
    checkpoint.save(checkpoint.pack(extract(model, tiny_space.largest())), path)
    found = compare_int8(path, data, BeamConfig(beam=2, max_len_b=6))
    assert 0 <= found.same_percent <= 100 and found.exact_bleu >= 0
    random_pairs(tmp_path / "other", 6, 60)
    with pytest.raises(CheckpointError, match="--data"):
        compare_int8(path, PairDataset.load(tmp_path / "other", "train"), BeamConfig())
