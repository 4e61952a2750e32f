"""Parity with the reference on its own checkpoints: sizes, losses, log-probabilities and translations."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hat.data.pairs import EpochBatches, PairDataset
from hat.decode.beam import BeamConfig, Hypothesis, beam_search
from hat.model.inference import InferenceModel
from hat.model.layers import count_params
from hat.space import Arch, features
from hat.train.checkpoint import Checkpoint, load
from hat.train.trainer import evaluate

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
COMPAT = SHARED / "compat"
pytestmark = pytest.mark.skipif(
    not COMPAT.is_dir(), reason=f"no {COMPAT}: the reference's checkpoints and answers are kept there"
)
DATA = {"A": "m30k_en_de", "B": "m30k_de_en"}  # A: zip, shared embeddings; B: pre-1.6 pickle, separate ones
BATCH = 20  # sentences searched at a time
FIRST = [("A", 1), ("B", 3)]
SUBS = [(name, n) for name in DATA for n in range(4)]
everywhere = pytest.mark.parametrize(
    ("name", "n"), [pytest.param(*sub, marks=[] if sub in FIRST else [pytest.mark.slow]) for sub in SUBS]
)


@functools.cache
def checkpoint(name: str) -> Checkpoint:
    return load(COMPAT / name / "checkpoint.pt")


@functools.cache
def answers(name: str) -> list[dict[str, Any]]:
    return json.loads((COMPAT / name / "expected.json").read_text())["subtransformers"]


@functools.cache
def split(name: str, what: str) -> PairDataset:
    return PairDataset.load(COMPAT / "data" / DATA[name], what)


@functools.cache
def sub(name: str, n: int) -> torch.nn.Module:
    return checkpoint(name).sub(Arch.from_yaml(answers(name)[n]["subtransformer"])).eval()


@pytest.mark.parametrize(("name", "n"), SUBS)
def test_parameters_and_features(name: str, n: int) -> None:
    expected = answers(name)[n]
    arch = Arch.from_yaml(expected["subtransformer"])
    assert count_params(arch, checkpoint(name).space) == expected["params"]
    assert list(features(arch)) == expected["features"]


@pytest.mark.parametrize(("name", "n"), SUBS)
def test_target_log_probabilities(name: str, n: int) -> None:
    """Each of 40 sentences alone, natural logarithm summed over the target with its end."""
    data, model, expected = split(name, "valid"), sub(name, n), answers(name)[n]["valid_target_logprob"]
    assert len(expected) == 40
    with torch.inference_mode():
        for line, logprob in expected.items():
            batch = data.batch([int(line)])
            scores = model(batch.source, batch.decoder_input).log_softmax(-1)
            found = scores.gather(2, batch.target[:, :, None]).sum().item()
            assert abs(found - logprob) < 1e-3, line


@everywhere
def test_validation_loss(name: str, n: int) -> None:
    expected = answers(name)[n]
    batches = EpochBatches(split(name, "valid"), max_tokens=3000, seed=0, epoch=0, shuffle=False)
    found = evaluate(sub(name, n), batches, sub(name, n).arch, 0.1)
    assert found.num_tokens == expected["valid_tokens"]
    assert abs(found.loss - expected["valid_loss_base2"]) < 1e-4
    assert abs(found.nll_loss - expected["valid_nll_base2"]) < 1e-4


def check_translations(name: str, n: int, num: int) -> None:
    """Compare the best of five hypotheses of `num` sentences; another one of equal score is a tie."""
    expected, data = answers(name)[n]["beam5_lenpen1"], split(name, "test")
    assert len(expected) == 200
    lines = list(expected)[:num]
    ties = 0
    for start in range(0, num, BATCH):
        chunk = lines[start : start + BATCH]
        found: list[list[Hypothesis]] = beam_search(
            InferenceModel(sub(name, n)), data.batch([int(line) for line in chunk]).source, BeamConfig(beam=5)
        )
        for line, hypotheses in zip(chunk, found, strict=True):
            best, wanted = hypotheses[0], expected[line]
            assert abs(best.score - wanted["score"]) < 1e-4, line
            assert sum(best.token_scores) / len(best.tokens) == pytest.approx(best.score, abs=1e-5)
            if best.tokens != wanted["tokens"]:
                same = [h for h in hypotheses if h.tokens == wanted["tokens"]]
                assert same and abs(same[0].score - best.score) < 1e-4, line
                ties += 1
    assert ties <= num // 20


@everywhere
def test_all_translations(name: str, n: int) -> None:
    check_translations(name, n, 200)


@pytest.mark.parametrize(("name", "n"), [pair for pair in SUBS if pair not in FIRST])
def test_some_translations(name: str, n: int) -> None:
    check_translations(name, n, BATCH)
