"""Beam search against a plain search of one sentence, without cache, batch or tensors of state."""

import functools

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from hat.decode.beam import UNK, BeamConfig, Hypothesis, beam_search
from hat.errors import ConfigError
from hat.model.inference import InferenceModel
from hat.model.layers import EOS, PAD, ModelConfig
from hat.model.transformer import SuperTransformer, Transformer
from hat.space import Arch, DecoderSpace, EncoderSpace, SearchSpace, draw_arch

SPACE = SearchSpace(
    EncoderSpace(8, 8, 3, (8, 6), (8,), (3, 2), (2,)),
    DecoderSpace(8, 8, 2, (8, 5), (8,), (2, 1), (2,), (2, 1), (1, 2, 3)),
    8,
)
MAX_POSITIONS = 12
TIE = 1e-4  # sums of a few float32 log-probabilities


@functools.cache
def model_of(vocab: int, seed: int, dtype: torch.dtype = torch.float64) -> SuperTransformer:
    """Return a random model whose next-token distributions depend on the sentence."""
    cfg = ModelConfig(max_source_positions=MAX_POSITIONS, max_target_positions=MAX_POSITIONS)
    model = SuperTransformer(SPACE, vocab, cfg).to(dtype)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            size = 0.2 if name.endswith("bias") else 3.0 if "cross_attn.out" in name else 0.8
            weight.copy_(torch.randn(weight.shape, generator=noise) * size)
    return model


def source_of(vocab: int, seed: int, lengths: list[int]) -> torch.Tensor:
    noise = torch.Generator().manual_seed(seed)
    source = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in enumerate(lengths):
        source[row, max(lengths) - length : -1] = torch.randint(3, vocab, (length - 1,), generator=noise)
    source[:, -1] = EOS
    return source


def search(
    model: Transformer, source_BS: torch.Tensor, cfg: BeamConfig, arch: Arch | None = None
) -> list[list[Hypothesis]]:
    return beam_search(InferenceModel(model, arch), source_BS, cfg)


@torch.inference_mode()
def plain_search(
    model: Transformer,
    source_1S: torch.Tensor,
    cfg: BeamConfig,
    arch: Arch | None = None,
    gaps: list[float] | None = None,
) -> list[Hypothesis]:
    """REFERENCE section 6 for one sentence; `gaps` receives the differences between candidates."""
    longest = min(int(cfg.max_len_a * source_1S.size(1) + cfg.max_len_b), MAX_POSITIONS - 1)
    live: list[tuple[float, list[int], list[float]]] = [(0.0, [], [])]
    done: list[Hypothesis] = []
    for step in range(longest + 1):
        candidates = []
        for total, tokens, parts in live:
            logits = model(source_1S, torch.tensor([[EOS, *tokens]]), arch)[0, -1]
            for token, value in enumerate(logits.double().log_softmax(0).tolist()):
                ends = token == EOS
                if token == PAD or (ends and step < cfg.min_len) or (not ends and step == longest):
                    continue
                value -= cfg.unkpen * (token == UNK)
                candidates.append((total + value, [*tokens, token], [*parts, value]))
        candidates.sort(key=lambda candidate: -candidate[0])
        if gaps is not None:
            totals = [candidate[0] for candidate in candidates[: 2 * cfg.beam + 1]]
            gaps += [above - below for above, below in zip(totals, totals[1:], strict=False)]
        best = candidates[: 2 * cfg.beam]
        for total, tokens, parts in best[: cfg.beam]:
            if tokens[-1] == EOS and len(done) < cfg.beam:
                score = total if cfg.unnormalized else total / len(tokens) ** cfg.lenpen
                done.append(Hypothesis(tokens, score, parts))
        if len(done) == cfg.beam:
            break
        live = [candidate for candidate in best if candidate[1][-1] != EOS][: cfg.beam]
    return sorted(done, key=lambda hypothesis: -hypothesis.score)


def assert_same(found: list[Hypothesis], expected: list[Hypothesis], error: float = 2e-5) -> None:
    assert [h.tokens for h in found] == [h.tokens for h in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.score == pytest.approx(theirs.score, abs=error)
        assert ours.token_scores == pytest.approx(theirs.token_scores, abs=error)


def rows(source: torch.Tensor) -> list[torch.Tensor]:
    return list(source.split(1))


configs = st.builds(
    BeamConfig,
    beam=st.integers(1, 5),
    lenpen=st.sampled_from((0.0, 0.6, 1.0, 1.7)),
    unkpen=st.sampled_from((0.0, 0.0, 1.5, -0.5)),
    max_len_a=st.sampled_from((0.0, 0.0, 0.5, 1.2)),
    max_len_b=st.integers(1, 5),
    min_len=st.integers(0, 1),
    unnormalized=st.booleans(),
)


@settings(max_examples=30)
@given(
    configs,
    st.integers(4, 9),
    st.integers(0, 8),
    st.integers(0, 30),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
@example(BeamConfig(beam=5, max_len_b=4, min_len=0), 4, 1, 0, [2])  # fewer words than candidates
@example(BeamConfig(beam=1, max_len_b=5), 9, 0, 1, [4, 1, 2])
def test_equals_plain_search(cfg: BeamConfig, vocab: int, seed: int, update: int, lengths: list[int]) -> None:
    model, arch = model_of(vocab, seed), draw_arch(SPACE, 1, update)
    source = source_of(vocab, seed, lengths)
    for found, row in zip(search(model, source, cfg, arch), rows(source), strict=True):
        gaps: list[float] = []
        expected = plain_search(model, row, cfg, arch, gaps)
        assume(min(gaps, default=1.0) > TIE)  # the order of equals is free, and they lead to other equals
        assert_same(found, expected)


@pytest.mark.parametrize("min_len", [0, 1, 2, 4])
@pytest.mark.parametrize("max_len", [0, 1, 2, 4])
@pytest.mark.parametrize("vocab", [4, 7])
def test_length_limits(vocab: int, max_len: int, min_len: int) -> None:
    model, source = model_of(vocab, 2), source_of(vocab, 5, [3, 2])
    cfg = BeamConfig(beam=3, min_len=min_len, max_len_b=max_len)
    if min_len > max_len:
        with pytest.raises(ConfigError, match=f"--min-len {min_len} exceeds the longest output of {max_len}"):
            search(model, source, cfg)
        return
    for found, row in zip(search(model, source, cfg), rows(source), strict=True):
        assert_same(found, plain_search(model, row, cfg))
        assert found and all(min_len <= len(h.tokens) - 1 <= max_len for h in found)
        if min_len == max_len:  # the forced length used for timing
            assert {len(h.tokens) for h in found} == {max_len + 1}


def test_longer_than_the_first_capacity_of_the_cache() -> None:
    cfg = ModelConfig(max_source_positions=64, max_target_positions=64)
    model = SuperTransformer(SPACE, 9, cfg).double()
    (found,) = search(model, source_of(9, 1, [3]), BeamConfig(beam=2, max_len_b=50, min_len=50))
    tokens = torch.tensor([[EOS, *found[0].tokens[:-1]]])
    logp = model(source_of(9, 1, [3]), tokens)[0].log_softmax(-1)
    expected = logp.gather(1, torch.tensor(found[0].tokens)[:, None])[:, 0]
    assert found[0].token_scores == pytest.approx(expected.tolist(), abs=2e-5)
