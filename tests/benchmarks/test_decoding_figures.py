"""Both sides of the decoding figures compute the same model and exactly as many tokens."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import decoding, peers
from benchmarks.data import random_pairs
from benchmarks.decoding import DecodeConfig, random_model, random_source, time_search
from benchmarks.timing import Options
from hat import EOS, BeamConfig, CheckpointError, Dataset, InferenceModel, Model, beam_search
from hat.space import Arch, DecoderArch, EncoderArch, SearchSpace
from hat.train import checkpoint

TINY = Arch(EncoderArch(16, (24, 24), (2, 2)), DecoderArch(16, (24,), (2,), (2,), (1,)))
needs_peer = pytest.mark.skipif(
    importlib.util.find_spec("ctranslate2") is None, reason="ctranslate2 is not installed (extra bench)"
)


@pytest.fixture
def cfg(tiny_space: SearchSpace) -> DecodeConfig:
    """Return a tiny search whose queries are half as wide as its layers."""
    return DecodeConfig(
        tiny_space, 1, TINY, vocab_size=23, source_len=6, target_len=7, beam=3, rounds=1, calls=1
    )


@pytest.mark.parametrize("sentences", [1, 4])
def test_our_search_gives_exactly_the_tokens_asked_for(cfg: DecodeConfig, sentences: int) -> None:
    cfg = replace(cfg, sentences=sentences)
    found = beam_search(InferenceModel(random_model(cfg)), random_source(cfg), cfg.beam_config)
    assert {len(one.tokens) for hypotheses in found for one in hypotheses} == {cfg.target_len}
    assert all(EOS not in hypotheses[0].tokens[:-1] for hypotheses in found)


@needs_peer
def test_peer_is_the_same_model_and_leaves_ours_alone(cfg: DecodeConfig, tmp_path: Path) -> None:
    cfg = replace(cfg, sentences=4)
    model, source = random_model(cfg), random_source(cfg)
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():  # biases and norms that matter
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=noise)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    peers.save_ctranslate2(model, tmp_path)
    target = [5, 9, 17, EOS]
    with torch.no_grad():
        logits = model(source[:1], torch.tensor([[EOS, *target[:-1]]]))
    ours = logits.log_softmax(-1)[0].gather(1, torch.tensor(target)[:, None]).flatten()
    for kind, replicas, apart in (("float32", 1, 1e-4), ("int8_float32", 2, 0.3)):
        peer = peers.CTranslate2(tmp_path, kind, 1, replicas)
        words = [[[peers.token(index) for index in ids]] for ids in (source[0, :-1].tolist(), target[:-1])]
        (result,) = peer.translator.score_batch(*words)
        torch.testing.assert_close(torch.tensor(result.log_probs), ours, rtol=apart, atol=apart)
        found = peer.translate(source, cfg.target_len, cfg.beam)
        assert [len(tokens) for tokens in found] == [cfg.target_len] * 4
        assert all("</s>" not in tokens for tokens in found)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]), name


def test_without_the_engines_the_others_still_run(cfg: DecodeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ctranslate2", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    figure = time_search(cfg)
    for name, extra in (("CTranslate2", "ctranslate2"), ("ONNX Runtime", "onnx")):
        assert any(name in note and f"[{extra}]" in note for note in figure.notes), figure.notes
    assert [target.limit for target in figure.targets] == [1.35]
    assert {"bf16", "fp32", "bf16 products", "fp32 products"} <= {row.name for row in figure.rows}
    assert time_search(replace(cfg, sentences=2)).targets == []


@needs_peer
def test_figures_hold_every_target(cfg: DecodeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "SETTLE_S", 0.0)
    engine = dict.fromkeys(
        ("ONNX Runtime float32", "ONNX Runtime int8"), lambda: None
    )  # to export takes long
    monkeypatch.setattr(decoding, "onnxruntime_cases", lambda *_: engine)
    small = replace(cfg, label="small: ")
    assert [(target.text, target.limit) for target in time_search(small).targets] == [
        ("small: bf16 / its products", 1.35),
        ("small: CTranslate2 float32 / bf16", 1.5),
        ("small: faster engine in float32 / fp32", 1.0),
    ]
    assert time_search(replace(cfg, threads=2)).targets == []
    figure = time_search(replace(cfg, sentences=4, threads=2))
    assert (figure.name, [target.limit for target in figure.targets]) == ("decode-batch", [2.0])
    assert {"CTranslate2 float32", "CTranslate2 float32, split"} <= {row.name for row in figure.rows}


@pytest.fixture
def trained(tmp_path: Path, cfg: DecodeConfig) -> Options:
    """Return options that name a tiny model and a test set of its vocabulary."""
    random_pairs(tmp_path, 6, 50, split="test")
    dataset = Dataset.load(tmp_path, "en", "de")
    packed = checkpoint.pack(random_model(replace(cfg, vocab_size=50)), dataset.digests)
    checkpoint.save(packed, tmp_path / "model.pt")
    return Options(data=str(tmp_path), quality_checkpoint=str(tmp_path / "model.pt"))


def test_translations_in_8_bits_are_compared(
    trained: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exact(model: Model, _: None, precision: str, threads: int) -> InferenceModel:
        return InferenceModel(model.network)

    with monkeypatch.context() as patch:
        patch.setattr(decoding.hat, "engine", exact, raising=False)
        rows, targets, notes = decoding.compare_int8(trained, BeamConfig(beam=2, max_len_b=6))
    assert [row.name for row in rows] == [
        *("test set, fp32", "test set, int8", "test sentences with the same tokens"),
    ]
    assert not notes and (rows[2].value, targets[0].value) == (100, 0)
    nowhere = replace(trained, data=str(tmp_path / "a"), text=str(tmp_path / "b"))
    for name in ("ctranslate2", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    for options in (nowhere, replace(nowhere, quality_checkpoint=None), trained):
        rows, targets, notes = decoding.compare_int8(options)
        assert not rows and [target.met for target in targets] == [None]
        assert notes[0].startswith("translations in 8 bits were not compared: ")
    assert "int8 needs another engine than PyTorch" in notes[0]
    random_pairs(tmp_path, 6, 60, split="test")
    with pytest.raises(CheckpointError, match="use the data it was trained with"):
        decoding.compare_int8(trained)
