"""Beam search: B sentences still searched, K beam, C = 2 * K candidates, V vocabulary, N = B * K rows."""

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hat.config import Options, option
from hat.errors import CheckpointError, ConfigError
from hat.model.cpu import largest
from hat.model.inference import DecoderState, InferenceModel
from hat.model.layers import EOS, PAD
from hat.model.transformer import EncoderOutput

UNK = 3
Candidates = tuple[Tensor, Tensor, Tensor]  # [B, C] best first: summed log-probability, origin, token


@dataclass(frozen=True)
class BeamConfig(Options):
    """Beam search"""

    beam: int = option(5, "hypotheses kept for each sentence", low=1)
    lenpen: float = option(1.0, "score = log-probability / length^lenpen; above 1: longer", low=-10, high=10)
    unkpen: float = option(0.0, "subtracted from the log-probability of <unk>")
    max_len_a: float = option(0.0, "longest output = max-len-a * source length + max-len-b tokens", low=0)
    max_len_b: int = option(200, "see --max-len-a", low=0)
    min_len: int = option(1, "fewest tokens before the end", low=0)
    unnormalized: bool = option(False, "compare summed log-probabilities, not divided by length")


class Hypothesis(NamedTuple):
    """One translation; `tokens` end with EOS, `token_scores` are their log-probabilities (natural)."""

    tokens: list[int]
    score: float
    token_scores: list[float]


@dataclass
class _State:
    sentences: list[int]  # [B] which sentence of the batch each row of live hypotheses is
    tokens: Tensor  # [B, K, step + 1] starting with EOS
    cumulative: Tensor  # [B, K, step] summed log-probabilities after each token
    scores: Tensor  # [B, K]


@torch.inference_mode()
def beam_search(model: InferenceModel, source_BS: Tensor, cfg: BeamConfig) -> list[list[Hypothesis]]:
    """Return up to `beam` hypotheses for each left-padded source, best score first."""
    return search_from(model, model.encode(source_BS), cfg)


@torch.inference_mode()
def search_from(model: InferenceModel, memory: EncoderOutput, cfg: BeamConfig) -> list[list[Hypothesis]]:
    """Return up to `beam` hypotheses for each encoded source, best score first. As in the reference, of the 2
    * beam best continuations those that end *and* rank within the first `beam` are finished; the first `beam`
    others go on; a sentence is done with `beam` hypotheses or at the longest length, where the end is forced.
    """
    batch, width = memory.padding.shape
    beam, device = cfg.beam, memory.padding.device
    longest = min(int(cfg.max_len_a * width + cfg.max_len_b), model.cfg.max_target_positions - 1)
    if longest < cfg.min_len:
        raise ConfigError(f"--min-len {cfg.min_len} exceeds the longest output of {longest} tokens")
    cache = model.start(memory, beam, capacity=min(longest + 1, 32))
    state = _State(  # all hypotheses start alike, so the first step has one
        list(range(batch)),
        torch.full((batch, 1, 1), EOS, dtype=torch.long, device=device),
        torch.empty(batch, 1, 0, device=device),
        torch.zeros(batch, 1, device=device),
    )
    finished: list[list[Hypothesis]] = [[] for _ in range(batch)]
    for step in range(longest + 1):
        logits = model.step(state.tokens[:, :, -1].flatten(), cache)
        found = _candidates(logits, state.scores, cfg, step >= cfg.min_len, step == longest)
        _advance(state, found, cache, finished, cfg)
        if not state.sentences:
            break
    if not all(finished):
        raise CheckpointError("the weights give no translation a finite score; use another checkpoint")
    return [sorted(hypotheses, key=lambda h: -h.score) for hypotheses in finished]


def _candidates(logits: Tensor, scores: Tensor, cfg: BeamConfig, may_end: bool, must_end: bool) -> Candidates:
    totals = logits.log_softmax(1, dtype=torch.float32).view(*scores.shape, -1).add_(scores[:, :, None])
    hypotheses, words = totals.shape[1:]
    count = 2 * cfg.beam
    if must_end:
        best, origin = totals[:, :, EOS].topk(min(count, hypotheses), dim=1)
        return best, origin, torch.full_like(origin, EOS)
    totals[:, :, PAD : PAD + 1 if may_end else EOS + 1] = -math.inf  # PAD and EOS are neighbours
    if cfg.unkpen:
        totals[:, :, UNK] -= cfg.unkpen
    best, places = largest(totals.flatten(1), min(count, hypotheses * (words - 1)))
    return best, places // words, places % words


def _advance(
    state: _State, found: Candidates, cache: DecoderState, finished: list[list[Hypothesis]], cfg: BeamConfig
) -> None:
    beam, (scores, origin, tokens) = cfg.beam, found
    ends = tokens.eq(EOS) & scores.gt(-math.inf)
    for row, rank in ends[:, :beam].nonzero().tolist() if bool(ends[:, :beam].any()) else ():
        kept, of, total = finished[state.sentences[row]], int(origin[row, rank]), float(scores[row, rank])
        if len(kept) < beam:
            words = [*state.tokens[row, of, 1:].tolist(), EOS]
            sums = [0.0, *state.cumulative[row, of].tolist(), total]
            score = total if cfg.unnormalized else total / len(words) ** cfg.lenpen
            kept.append(Hypothesis(words, score, [b - a for a, b in itertools.pairwise(sums)]))
    missing = 2 * beam - scores.size(1)
    if missing > 0:  # the end was forced, or the vocabulary is tiny
        if bool(ends.all()):
            state.sentences = []
            return
        ends, origin = F.pad(ends, (0, missing)), F.pad(origin, (0, missing))
        scores = F.pad(scores, (0, missing), value=-math.inf)
        tokens = F.pad(tokens, (0, missing), value=EOS)
    if bool(ends.any()):  # the first `beam` candidates that do not end, in their order
        order = torch.arange(2 * beam, device=ends.device)
        active = (ends * 2 * beam + order).topk(beam, dim=1, largest=False).indices
        scores, origin, tokens = (values.gather(1, active) for values in (scores, origin, tokens))
    scores, origin, tokens = (values[:, :beam] for values in (scores, origin, tokens))
    live = [row for row, sentence in enumerate(state.sentences) if len(finished[sentence]) < beam]
    if len(live) < len(state.sentences):
        index = torch.tensor(live, device=ends.device, dtype=torch.long)
        state.sentences = [state.sentences[row] for row in live]
        state.tokens, state.cumulative = state.tokens[index], state.cumulative[index]
        origin, tokens, scores = origin[index], tokens[index], scores[index]
        cache.keep(index)
    cache.reorder(origin)
    past = origin[:, :, None].expand(-1, -1, state.tokens.size(2))
    sums = state.cumulative.gather(1, past[:, :, 1:])
    state.cumulative = torch.cat([sums, scores[:, :, None]], dim=2)
    state.tokens = torch.cat([state.tokens.gather(1, past), tokens[:, :, None]], dim=2)
    state.scores = scores
