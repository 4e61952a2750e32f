"""The decoding figures: exactly as many tokens as asked for, every row and target."""

import importlib.util
import sys
from dataclasses import replace

import pytest

from benchmarks import decoding
from benchmarks.decoding import DecodeConfig, random_model, random_source, time_search
from hat import EOS, InferenceModel, beam_search
from hat.space import Arch, DecoderArch, EncoderArch, SearchSpace

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
    real = decoding.engine_cases
    fakes = dict.fromkeys(("ONNX Runtime float32", "ONNX Runtime int8"), lambda: None)  # to export takes long
    monkeypatch.setattr(
        decoding, "engine_cases", lambda *given: fakes if given[3] == "onnxruntime" else real(*given)
    )
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
