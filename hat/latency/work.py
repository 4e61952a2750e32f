"""What is timed of a model, and how long: its encoder, and real beam search of a fixed length."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from hat.decode.beam import BeamConfig, search_from
from hat.errors import ConfigError
from hat.model.inference import InferenceModel
from hat.model.layers import EOS
from hat.model.transformer import Transformer


@dataclass(frozen=True)
class MeasureConfig:
    """How one architecture is timed: batch 1, `target_len` decoder steps with the end forced at the last."""

    source_len: int
    target_len: int
    beam: int = 5
    max_iterations: int = 300
    min_iterations: int = 7
    interval_percent: float = 1.2  # wanted half-width of the interval of the median
    budget_s: float = 60.0  # of the model's own time

    def __post_init__(self) -> None:
        if self.max_iterations < 2:
            raise ConfigError(f"--latiter must be at least 2, got {self.max_iterations}")
        if not 0 <= self.interval_percent <= 100:
            raise ConfigError(f"--lat-interval must lie between 0 and 100, got {self.interval_percent}")


class Work(NamedTuple):
    """What is timed of a model."""

    encode: Callable[[], object]
    decode: Callable[[], object]


@torch.inference_mode()
def work_of(model: Transformer, cfg: MeasureConfig) -> Work:
    """Return encoder and beam search of a stand-alone model in evaluation mode on one sentence.

    The decoder's part is a whole beam search (HAT 2020 timed bare decoder layers): output matrix, top-k and
    the bookkeeping of hypotheses included.
    """
    device = model.source_embed.weight.device
    limit = min(model.cfg.max_source_positions, model.cfg.max_target_positions)
    if max(cfg.source_len, cfg.target_len) > limit:
        raise ConfigError(
            f"--profile-length {cfg.source_len} exceeds the {limit} positions of the model; lower it"
        )
    source = torch.randint(EOS + 1, model.source_embed.weight.size(0), (1, cfg.source_len), device=device)
    source[:, -1] = EOS
    beam = BeamConfig(beam=cfg.beam, max_len_b=cfg.target_len - 1, min_len=cfg.target_len - 1)
    fixed = InferenceModel(model)
    memory = fixed.encode(source)
    return Work(lambda: fixed.encode(source), lambda: search_from(fixed, memory, beam))


def sync_of(device: torch.device) -> Callable[[], None]:
    """Return what waits until a device has done all its work."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else nothing


def nothing() -> None:
    """Wait for a CPU, which has always finished."""
