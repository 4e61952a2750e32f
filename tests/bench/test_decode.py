"""Both sides of the decoding figures compute the same model and exactly as many tokens."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from hat.bench import decode
from hat.bench.decode import (
    XEON_204,
    DecodeConfig,
    random_model,
    random_source,
    time_batch,
    time_sentence,
)
from hat.bench.peers import Peer, has_ctranslate2, save_ctranslate2
from hat.decode.beam import beam_search
from hat.errors import ConfigError
from hat.model.inference import InferenceModel
from hat.model.layers import EOS
from hat.space import Arch, DecoderArch, EncoderArch

TINY = Arch(EncoderArch(16, (24, 24), (2, 2)), DecoderArch(16, (24,), (2,), (2,), (1,)))
CFG = DecodeConfig(
    arch=TINY, qkv_dim=16, vocab_size=23, source_len=6, target_len=7, beam=3, rounds=2, calls=1
)
needs_peer = pytest.mark.skipif(not has_ctranslate2(), reason="ctranslate2 is not installed (extra bench)")


def test_default_is_the_model_of_the_release_with_equal_heads() -> None:
    cfg = DecodeConfig()
    path = Path(__file__).parents[2] / "configs/wmt14.en-de/subtransformer"
    released = yaml.safe_load((path / "HAT_wmt14ende_xeon@204.2ms_bleu@27.6.yml").read_text())
    ours = XEON_204.to_yaml()
    same = {key for key in released if "heads" not in key and "ende-attn" not in key}
    assert {key: ours[key] for key in same} == {key: released[key] for key in same}
    assert {*XEON_204.encoder.self_heads, *XEON_204.decoder.cross_heads} == {8}
    assert (cfg.vocab_size, cfg.beam, cfg.source_len, cfg.target_len) == (7960, 5, 30, 30)


def test_our_search_gives_exactly_the_tokens_asked_for() -> None:
    for sentences in (1, 4):
        cfg = replace(CFG, sentences=sentences)
        found = beam_search(InferenceModel(random_model(cfg)), random_source(cfg), cfg.beam_config)
        assert {len(one.tokens) for hypotheses in found for one in hypotheses} == {cfg.target_len}
        assert all(EOS not in hypotheses[0].tokens[:-1] for hypotheses in found)


@needs_peer
def test_peer_gives_exactly_the_tokens_asked_for(tmp_path: Path) -> None:
    cfg = replace(CFG, sentences=4)
    save_ctranslate2(random_model(cfg), tmp_path)
    for replicas in (1, 2):
        peer = Peer(tmp_path, "float32", 1, replicas)
        found = peer.translate(random_source(cfg), cfg.target_len, cfg.beam)
        assert [len(tokens) for tokens in found] == [cfg.target_len] * 4
        assert all("</s>" not in tokens for tokens in found)


@needs_peer
def test_peer_is_the_same_model(tmp_path: Path) -> None:
    model, source = random_model(CFG), random_source(CFG)
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():  # biases and norms that matter
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=noise)
    save_ctranslate2(model, tmp_path)
    target = [5, 9, 17, EOS]
    with torch.no_grad():
        logits = model(source, torch.tensor([[EOS, *target[:-1]]]))
    ours = logits.log_softmax(-1)[0].gather(1, torch.tensor(target)[:, None]).flatten()
    theirs = Peer(tmp_path, "float32", 1).log_probs(source[0].tolist(), target)
    torch.testing.assert_close(torch.tensor(theirs), ours, rtol=1e-4, atol=1e-4)


@needs_peer
def test_peer_refuses_what_it_cannot_compute(tmp_path: Path) -> None:
    mixed = Arch(EncoderArch(16, (24, 24), (2, 4)), TINY.decoder)
    with pytest.raises(ConfigError, match="one head count"):
        save_ctranslate2(random_model(replace(CFG, arch=mixed)), tmp_path)
    spanned = Arch(TINY.encoder, DecoderArch(16, (24,), (2,), (2,), (2,)))
    with pytest.raises(ConfigError, match="span 1"):
        save_ctranslate2(random_model(replace(CFG, arch=spanned)), tmp_path)


def test_without_the_peer_the_others_still_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "has_ctranslate2", lambda: False)
    figure = time_sentence(CFG)
    assert any("pip install" in note for note in figure.notes)
    assert [target.limit for target in figure.targets] == [1.35]
    assert {"bf16", "fp32", "bf16 products", "fp32 products"} <= {row.name for row in figure.rows}
    assert time_batch(replace(CFG, sentences=2)).targets == ()


@needs_peer
def test_figures_hold_every_target() -> None:
    assert {target.limit for target in time_sentence(CFG).targets} >= {1.35, 1.5, 1.25, 2.5}
    assert time_sentence(replace(CFG, threads=2)).targets == ()
    figure = time_batch(replace(CFG, sentences=4, threads=2))
    assert [target.limit for target in figure.targets] == [2.0]
    assert {"CTranslate2 float32", "CTranslate2 float32, split"} <= {row.name for row in figure.rows}
