"""CTranslate2 and ONNX Runtime find what our beam search finds; a bundle is complete wherever it is."""

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from hat.data.dataset import Dataset
from hat.data.vocab import EOS
from hat.decode.beam import BeamConfig
from hat.decode.translator import Model
from hat.errors import CheckpointError, ConfigError, DataError
from hat.model.layers import ModelConfig
from hat.model.transformer import SuperTransformer
from hat.runtimes.bundle import save_bundle
from hat.runtimes.engines import engine, export, fastest
from hat.space import DecoderSpace, EncoderSpace, SearchSpace, sample
from hat.train.checkpoint import load_model

SENTENCES = ["The cat sleeps.", "", "We wait until the very old man sells his big hat.", "Why?"]
FLAT, LONGER = BeamConfig(beam=4, max_len_b=25), BeamConfig(beam=4, max_len_b=28)


def space(spans: tuple[int, ...] = (1,)) -> SearchSpace:
    return SearchSpace(
        EncoderSpace(16, 24, 3, (16, 12), (24, 12), (3, 2, 1), (4, 2, 1)),
        DecoderSpace(16, 24, 3, (16, 8), (24, 16), (3, 2, 1), (4, 2, 1), (4, 2), spans),
        16,
    )


def made(data: Dataset, seed: int, spans: tuple[int, ...] = (1,), pre_norm: bool = False) -> Model:
    """Return a random SubTransformer whose translations are no short loops."""
    cfg = ModelConfig(
        max_source_positions=40,
        max_target_positions=30,
        encoder_normalize_before=pre_norm,
        decoder_normalize_before=pre_norm,
        share_all_embeddings=True,
    )
    noise = torch.Generator().manual_seed(seed)
    network = SuperTransformer(space(spans), data.vocab_sizes, cfg, noise)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=noise))
        network.source_embed.weight[EOS] *= 3  # so that translations end
    super_model = Model(network, data.codec, data.digests)
    return super_model.extract(sample(network.space, random.Random(seed)))


def texts(model: Model, search: object = None, cfg: BeamConfig = FLAT) -> list[list[str]]:
    found = model.hypotheses(SENTENCES, cfg, engine=search)  # type: ignore[arg-type]
    return [[text for text, _ in each] for each in found]


def best(found: Sequence[Sequence[str]]) -> list[str]:
    return [each[0] if each else "" for each in found]


@pytest.mark.parametrize("pre_norm", [False, True])
def test_ctranslate2_finds_the_same(data: Dataset, pre_norm: bool) -> None:
    pytest.importorskip("ctranslate2", reason="the extra ctranslate2 is not installed")
    compared = 0
    for seed in range(6):
        model = made(data, seed, pre_norm=pre_norm)
        before = {name: weight.clone() for name, weight in model.network.named_parameters()}
        found, ours, longer = (
            best(texts(model, search, cfg))
            for search, cfg in ((engine(model, "ctranslate2", threads=1), FLAT), (None, FLAT), (None, LONGER))
        )
        for theirs, one, other in zip(found, ours, longer, strict=True):
            compared += one == other  # a translation that the longest length cuts is scored in other ways
            assert theirs == one or one != other, seed
        assert len(texts(model, engine(model, "ctranslate2", "int8", threads=1))) == len(SENTENCES)
        for name, weight in model.network.named_parameters():
            assert torch.equal(weight, before[name]), f"exporting changed {name}"
    assert compared >= 12


@pytest.mark.parametrize(("seed", "pre_norm"), [(1, False), (2, True), (3, False)])
def test_onnxruntime_finds_the_same(data: Dataset, seed: int, pre_norm: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    model = made(data, seed, (1, 2, 3), pre_norm)
    assert texts(model, engine(model, "onnxruntime", threads=1)) == texts(model)
    export(model, tmp_path / "int8", "onnx", "int8")
    export(model, tmp_path / "fp32", "onnx")
    sizes = [(tmp_path / name / "step.onnx").stat().st_size for name in ("int8", "fp32")]
    assert sizes[0] < sizes[1]
    nodes = pytest.importorskip("onnx").load(tmp_path / "int8" / "step.onnx").graph.node
    rounded = sum(node.op_type == "MatMulInteger" for node in nodes)
    assert rounded == 6 * model.network.arch.decoder.num_layers + 1, "a matrix stayed in floats"
    for name in ("encoder.onnx", "step.onnx"):  # plain onnxruntime opens them
        runtime.InferenceSession(tmp_path / "int8" / name, providers=["CPUExecutionProvider"])


def wide_model(data: Dataset) -> Model:
    """Return a model that CTranslate2 has no form for."""
    return next(m for s in range(9) if max((m := made(data, s, (1, 2))).network.arch.decoder.cross_span) > 1)


def test_what_an_engine_cannot_do_is_said(data: Dataset) -> None:
    pytest.importorskip("ctranslate2", reason="the extra ctranslate2 is not installed")
    wide = wide_model(data)
    with pytest.raises(ConfigError, match=r"last encoder layer only.*arbitrary-ende-attn-choice: \[-1\]"):
        engine(wide, "ctranslate2")
    with pytest.raises(ConfigError, match="onnxruntime cannot compute in bf16; give one of fp32, int8"):
        engine(wide, "onnxruntime", "bf16")
    model = made(data, 1)
    with pytest.raises(ConfigError, match="neither --unkpen"):
        texts(model, engine(model, "ctranslate2"), BeamConfig(unkpen=1.0))
    with pytest.raises(DataError, match="dictionaries of this model are not known"):
        engine(Model(model.network), "ctranslate2")


def test_precisions_of_torch(data: Dataset) -> None:
    model = made(data, 1)
    want = texts(model)
    assert texts(model, engine(model, "torch", "fp32")) == want
    assert [bool(each) for each in texts(model, engine(model, "torch", "bf16"))] == [1, 0, 1, 1]
    with pytest.raises(ConfigError, match="torch cannot compute in int8.*--runtime ctranslate2, onnx"):
        engine(model, "torch", "int8")
    assert texts(model) == want, "an engine changed the model"


def test_8_bits_take_the_fastest_engine_that_can(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    class Installed:
        __version__ = "1"

        @staticmethod
        def get_supported_compute_types(device: str) -> set[str]:
            return {"int8"}

    model = made(data, 1)
    for name in ("onnx", "onnxruntime", "ctranslate2"):
        monkeypatch.setitem(sys.modules, name, Installed)
    assert fastest(model, "auto") == fastest(model, "bf16") == "torch"
    assert fastest(model, "int8", FLAT) == "ctranslate2"
    assert fastest(wide_model(data), "int8") == "onnxruntime"
    assert fastest(model, "int8", BeamConfig(unkpen=1.0)) == "onnxruntime", "CTranslate2 knows no --unkpen"
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    assert fastest(model, "int8") == "onnxruntime"
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"(?s)int8 needs another.*\[ctranslate2\].*\[onnx\]"):
        engine(model, precision="int8")


def test_a_bundle_is_complete_wherever_it_is(data: Dataset, tmp_path: Path) -> None:
    model = made(data, 4, (1, 2, 3))
    folder = save_bundle(model, tmp_path / "a b\N{LATIN SMALL LETTER U WITH DIAERESIS}", {"task": "toy"})
    moved = folder.rename(tmp_path / "moved")
    again = load_model(moved)
    assert texts(again) == texts(model) and (again.arch, again.space) == (model.arch, model.space)
    assert {p.name for p in moved.iterdir()} == {
        *("config.json", "model.safetensors", "README.md", "sentencepiece.model"),
        *(f"dict.{language}.txt" for language in data.languages),
    }
    assert "| task | toy |" in (moved / "README.md").read_text()
    save_bundle(model, moved)  # one that is there is replaced
    (moved / "sentencepiece.model").write_bytes(b"other")
    with pytest.raises(CheckpointError, match="no whole bundle .*sentencepiece.model has another content"):
        load_model(moved)
    save_bundle(model, moved)
    (moved / "config.json").write_text(json.dumps({"hat_bundle": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        load_model(moved)


def test_what_is_no_bundle(data: Dataset, tmp_path: Path) -> None:
    model = made(data, 1)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files than a bundle"):
        save_bundle(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    network = SuperTransformer(space(), data.vocab_sizes, ModelConfig(share_all_embeddings=True))
    big = Model(network, data.codec)
    with pytest.raises(CheckpointError, match="is a SuperTransformer"):
        save_bundle(big, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(CheckpointError, match="cannot read checkpoint"):
        load_model(tmp_path)


def test_safetensors(data: Dataset, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    model = made(data, 1)
    export(model, tmp_path / "half", "safetensors", "fp16")
    held = safetensors.load_file(tmp_path / "half" / "model.safetensors")
    assert {weight.dtype for weight in held.values()} == {torch.float16}
    with torch.no_grad():
        model.network.source_embed.weight[0, 0] = 1e6
    with pytest.raises(CheckpointError, match="numbers that fp16 cannot hold; export as fp32"):
        export(model, tmp_path / "half", "safetensors", "fp16")
