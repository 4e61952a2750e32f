"""Other engines translate as ours does, token for token, by SubTransformers of 2020 and of the toy task."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import hat
from hat.data.pairs import flat, pad
from hat.decode.beam import BeamConfig, Hypothesis
from hat.runtimes.engines import engine
from hat.space import DIMS, Arch, DecoderSpace, EncoderSpace, SearchSpace, sample

ROOT = Path(__file__).resolve().parents[3] / "shared"
COMPAT, SENTENCES, TIE = ROOT / "compat", 60, 1e-4
DATA = {"A": "m30k_en_de", "B": "m30k_de_en"}
TOY = SearchSpace(
    EncoderSpace(64, 128, 3, (64, 48), (128, 64), (3, 2), (4, 2)),
    DecoderSpace(64, 128, 3, (64, 48), (128, 64), (3, 2, 1), (4, 2), (4, 2), (1, 2, 3)),
    64,
)
ENGINES = pytest.mark.parametrize("runtime", ["ctranslate2", "onnxruntime"])


def reference(which: str) -> tuple[hat.Model, hat.Dataset]:
    """Return a provided SuperTransformer and its data."""
    if not COMPAT.exists():
        pytest.skip(f"{COMPAT} is not on this machine")
    data = hat.Dataset.load(COMPAT / "data" / DATA[which])
    codec = replace(data.codec, model=(COMPAT / "data/bpe8k/code").read_bytes())
    return hat.Model(hat.load(COMPAT / which / "checkpoint.pt").network.float(), codec), data


@pytest.fixture(scope="module")
def toy() -> tuple[hat.Model, hat.Dataset]:
    """Return a SuperTransformer that has learnt some of the toy task, and its data."""
    data = hat.Dataset.from_text(*map(list, zip(*hat.toy_pairs(1, 3000), strict=True)), pieces=200, test=100)
    cfg = hat.TrainConfig(
        hat.ModelConfig(share_all_embeddings=True),
        hat.OptimConfig(max_update=300, amp="fp32", clip_norm=1.0),
        hat.ScheduleConfig(
            lr_scheduler="cosine", lr=1e-7, max_lr=3e-3, warmup_init_lr=1e-7, warmup_updates=30
        ),
        batches=hat.BatchConfig(max_tokens=1024),
        loop=hat.LoopConfig(validate_interval=100, save_interval=100, no_tensorboard=True),
    )
    return hat.fit(TOY, data, cfg, device="cpu").model, data


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


def archs_of(space: SearchSpace, runtime: str, count: int) -> list[Arch]:
    """Return random architectures, with spans of 1 for CTranslate2."""
    span = next(dim for dim in DIMS if dim.attr == "cross_span")
    archs = [sample(space, random.Random(number)) for number in range(count)]
    if runtime != "ctranslate2":
        return archs
    return [Arch.of({dim: a[dim] for dim in DIMS} | {span: (1,) * a.decoder.num_layers}) for a in archs]


def assert_engines_agree(full: hat.Model, data: hat.Dataset, runtime: str, count: int) -> None:
    split, cfg = data.split("test"), BeamConfig(beam=4, max_len_b=60)
    ids = [torch.as_tensor(split.source[i]).numpy() for i in range(SENTENCES)]
    sources = [pad(flat(ids[at : at + 20]), left=True) for at in range(0, SENTENCES, 20)]
    for arch in archs_of(full.space, runtime, count):
        model = full.extract(arch)
        engines = (engine(model, name, "fp32", threads=1) for name in ("torch", runtime))  # type: ignore[arg-type]
        found = [[each for batch in sources for each in search(batch, cfg)] for search in engines]
        assert agreeing(*found, cfg) >= 0.995, arch


@pytest.fixture
def installed(runtime: str) -> str:
    pytest.importorskip(runtime, reason=f"the extra for {runtime} is not installed")
    return runtime


@pytest.mark.slow
@pytest.mark.parametrize("which", ["A", "B"])
@ENGINES
def test_engines_agree(which: str, installed: str) -> None:
    assert_engines_agree(*reference(which), installed, 3)


@pytest.mark.slow
@ENGINES
def test_engines_agree_on_what_was_trained(toy: tuple[hat.Model, hat.Dataset], installed: str) -> None:
    assert_engines_agree(*toy, installed, 4)


@pytest.mark.slow
@ENGINES
def test_int8_keeps_bleu(installed: str) -> None:
    full, _ = reference("A")
    model = full.extract(archs_of(full.space, "ctranslate2", 1)[0])
    texts = (ROOT / f"data/multi30k/test_2016_flickr.{lang}" for lang in ("en", "de"))
    english, german = (path.read_text("utf-8").splitlines() for path in texts)

    def bleu(precision: str) -> float:
        search = engine(model, installed, precision)  # type: ignore[arg-type]
        return hat.bleu(model.translate(english, beam=4, engine=search), german, "sacre", "de").bleu

    assert (exact := bleu("fp32")) > 15 and abs(bleu("int8") - exact) < 0.5
