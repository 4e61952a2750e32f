"""Slices scored in 8 bits have the losses that the engines have."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_predictor import save_predictor

from hat.data.dataset import Dataset
from hat.data.pairs import Batch
from hat.data.toy import toy_pairs
from hat.decode.translator import Model
from hat.errors import ConfigError, HatError
from hat.latency.predictor import LatencyPredictor, kendall_tau
from hat.model.layers import ModelConfig
from hat.model.rounding import ROUNDINGS, rounded
from hat.model.transformer import SuperTransformer, Transformer
from hat.runtimes.ctranslate2 import tokens_of
from hat.runtimes.engines import engine, export
from hat.search.record import SearchResult
from hat.search.run import ValidationFitness, search
from hat.search.strategies import SearchConfig
from hat.space import DecoderSpace, EncoderSpace, SearchSpace, sample
from hat.train.loop import BatchConfig, TrainConfig, fit
from hat.train.trainer import OptimConfig, ScheduleConfig

NEEDS = {"ctranslate2": "ctranslate2", "onnxruntime": "onnx"}
SPACE = SearchSpace(
    EncoderSpace(64, 96, 2, (64, 48), (96, 64, 32), (2, 1), (4, 2)),
    DecoderSpace(64, 96, 3, (64, 48), (96, 64, 32), (3, 2, 1), (4, 2), (4, 2), (1,)),
    64,
)
CPU = torch.device("cpu")
CONFIG = ModelConfig(share_all_embeddings=True, max_source_positions=64, max_target_positions=64)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    sides = zip(*toy_pairs(1, 1000), strict=True)
    return Dataset.from_text(*map(list, sides), pieces=300, folder=tmp_path_factory.mktemp("d") / "made")


@pytest.fixture(scope="module")
def trained(data: Dataset) -> Model:
    optim = OptimConfig(max_update=400, clip_norm=1.0, amp="fp32")
    schedule = ScheduleConfig("fixed", lr=2e-3, warmup_updates=20)
    config = TrainConfig(CONFIG, optim, schedule, batches=BatchConfig(max_tokens=1024))
    return fit(SPACE, data, config, device="cpu").model


def logs_of_engine(model: Model, runtime: str, pairs: list[Batch], folder: Path) -> np.ndarray:
    """Return the log probability of each token of the references by an engine in 8 bits, pair by pair."""
    if runtime == "ctranslate2":
        export(model, folder, "ctranslate2", "int8")
        program = pytest.importorskip("ctranslate2").Translator(str(folder), compute_type="int8")
        texts = zip(*((batch.source[0][:-1], batch.target[0][:-1]) for batch in pairs), strict=True)
        words = [tokens_of(vocab) for vocab in model.codec.vocabs]
        sides = [[[of[i] for i in ids] for ids in side] for of, side in zip(words, texts, strict=True)]
        return np.concatenate([each.log_probs for each in program.score_batch(*sides)])
    program = engine(model, runtime, "int8", threads=1)  # type: ignore[arg-type]
    network, found = program._network, list[float]()  # type: ignore[attr-defined]
    for batch in pairs:
        state = network.start(network.encode(batch.source), 1)
        steps = torch.stack([network.step(token[None], state)[0] for token in batch.decoder_input[0]])
        found += steps.log_softmax(-1).gather(1, batch.target.t())[:, 0].tolist()
    return np.array(found)


@torch.inference_mode()
def logs_of(model: Transformer, batch: Batch) -> np.ndarray:
    logs = model(batch.source, batch.decoder_input).log_softmax(-1)
    return logs.gather(2, batch.target[:, :, None])[:, :, 0].numpy()


@pytest.mark.parametrize("runtime", NEEDS)
def test_rounding_is_that_of_the_engine(runtime: str, data: Dataset, tmp_path: Path) -> None:
    pytest.importorskip(NEEDS[runtime], reason=f"the extra for {runtime} is not installed")
    split, arch = data.split("train"), SPACE.smallest()  # with few layers an ulp has little effect
    network = SuperTransformer(SPACE, data.vocab_sizes, CONFIG, torch.Generator().manual_seed(1))
    model, own = Model(network, data.codec), rounded(network, arch, ROUNDINGS[runtime])
    pairs = [split.batch(np.array([i])) for i in range(12)]
    ours = [logs_of(own, pair)[0] for pair in pairs]
    for pair, row in zip(ours, logs_of(own, split.batch(np.arange(12))), strict=True):  # beside pads
        assert np.abs(row[: len(pair)] - pair).mean() < 2e-3
    theirs = logs_of_engine(model.extract(arch), runtime, pairs, tmp_path)
    floats = np.concatenate([logs_of(model.extract(arch).network, pair)[0] for pair in pairs])
    assert np.abs(np.concatenate(ours) - theirs).mean() < np.abs(floats - theirs).mean() / 5


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ROUNDINGS)
def test_losses_rank_as_of_the_engine(runtime: str, trained: Model, data: Dataset, tmp_path: Path) -> None:
    pytest.importorskip(NEEDS.get(runtime, "torch"), reason=f"the extra for {runtime} is not installed")
    split, rng = data.split("valid"), random.Random(1)
    archs = list(dict.fromkeys(sample(SPACE, rng) for _ in range(200)))[:30]
    pairs, batch = [split.batch(np.array([i])) for i in range(20)], split.batch(np.arange(20))
    parts = [(trained.extract(arch), tmp_path / str(n)) for n, arch in enumerate(archs)]
    logs = [logs_of_engine(model, runtime, pairs, folder).mean() for model, folder in parts]
    theirs = -np.array(logs) / math.log(2)
    ours, floats = (
        np.array(ValidationFitness(trained.network, [batch], 0.0, CPU, int8_of=which)(archs))
        for which in (runtime, None)
    )
    assert len(archs) == 30 and kendall_tau(ours, theirs) >= 0.98
    assert np.abs(ours - theirs).mean() < np.abs(floats - theirs).mean()


def test_a_search_in_8_bits_is_another_search(data: Dataset, tmp_path: Path) -> None:
    network = SuperTransformer(SPACE, data.vocab_sizes, CONFIG, torch.Generator().manual_seed(1))
    save_predictor(tmp_path / "predictor.pt")
    predictor = LatencyPredictor.load(str(tmp_path / "predictor.pt"))
    config = SearchConfig(pareto=True, pareto_evaluations=3, pareto_population=3, valid_cnt_max=10)

    def run(name: str, precision: str, runtime: str = "ctranslate2", **more: Any) -> SearchResult:
        predictor.conditions = {"runtime": runtime, "dtype": precision}  # what it is of
        return search(network, data, predictor, out=tmp_path / name, config=config, **more)

    found = run("int8", "int8")
    batch = data.split("valid").batch(np.arange(10))
    fitness = ValidationFitness(network, [batch], config.label_smoothing, CPU, int8_of="ctranslate2")
    archs = [each.arch for each in found.scored]
    assert fitness(archs) == pytest.approx([each.loss for each in found.scored], abs=2e-3)
    assert run("int8", "int8", seed=1).scored == found.scored
    for precision, runtime in (("fp32", "ctranslate2"), ("int8", "onnxruntime")):
        with pytest.raises(HatError, match="dtype '?int8 as ctranslate2 rounds"):
            run("int8", precision, runtime)
    with pytest.raises(ConfigError, match="must be one of auto, fp32, fp16, bf16, int8, got 'int4'"):
        search(network, data, predictor, config=config, precision="int4")
