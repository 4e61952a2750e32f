"""SubTransformers of the provided 2020 models: other engines translate as ours does, token for token."""

import random
from pathlib import Path

import pytest
import torch

from hat.data.dataset import Dataset
from hat.data.pairs import flat, pad
from hat.data.vocab import EOS
from hat.decode.beam import BeamConfig, Hypothesis
from hat.decode.translator import Model
from hat.runtimes.engines import engine
from hat.space import DIMS, Arch, sample
from hat.train.checkpoint import load

COMPAT = Path(__file__).resolve().parents[3] / "shared" / "compat"
SENTENCES, TIE = 60, 1e-4
DATA = {"A": "m30k_en_de", "B": "m30k_de_en"}


def agreeing(ours: list[list[Hypothesis]], theirs: list[list[Hypothesis]], cfg: BeamConfig) -> float:
    """Return the share of sentences with equal tokens; ties of our two best, and cut ones, do not count."""
    same = total = 0
    for mine, other in zip(ours, theirs, strict=True):
        tie = len(mine) > 1 and mine[0].score - mine[1].score < TIE
        if tie or max(len(each.tokens) for each in mine) > cfg.max_len_b:
            continue
        total, same = total + 1, same + (mine[0].tokens == other[0].tokens)
    assert total > SENTENCES / 2
    return same / total


@pytest.mark.slow
@pytest.mark.parametrize("which", ["A", "B"])
@pytest.mark.parametrize(
    ("runtime", "package"), [("ctranslate2", "ctranslate2"), ("onnxruntime", "onnxruntime")]
)
def test_engines_agree(which: str, runtime: str, package: str) -> None:
    pytest.importorskip(package, reason=f"the extra for {runtime} is not installed")
    if not COMPAT.exists():
        pytest.skip(f"{COMPAT} is not on this machine")
    source, data = load(COMPAT / which / "checkpoint.pt"), Dataset.load(COMPAT / "data" / DATA[which])
    full = Model(source.model().float(), data.codec)
    split, cfg = data.split("test"), BeamConfig(beam=4, max_len_b=60)
    ids = [torch.as_tensor(split.source[i]).numpy() for i in range(SENTENCES)]
    assert all(each[-1] == EOS for each in ids)
    sources = [pad(flat(ids[at : at + 20]), left=True) for at in range(0, SENTENCES, 20)]
    span = next(dim for dim in DIMS if dim.attr == "cross_span")
    for number in range(3):
        arch = sample(full.space, random.Random(number))
        if runtime == "ctranslate2":
            values = {dim: arch[dim] for dim in DIMS} | {span: (1,) * arch.decoder.num_layers}
            arch = Arch.of(values)
        model = Model(full.network, full.codec).extract(arch)
        engines = engine(model, "torch", "fp32"), engine(model, runtime, "fp32", threads=1)  # type: ignore[arg-type]
        found = [[each for batch in sources for each in search(batch, cfg)] for search in engines]
        assert agreeing(*found, cfg) >= 0.995, (which, number)
