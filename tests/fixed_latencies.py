"""Latencies that follow from the architecture, for tests of which measuring is not the subject."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest

from hat.latency import measure
from hat.latency.measure import MeasureConfig, Timing, Work, conditions_of
from hat.space import Arch


def timing_of(arch: Arch, conditions: dict[str, str]) -> Timing:
    encoder = 1.0 + sum(arch.encoder.ffn_dims) / 1000
    decoder = sum(4.0 + ffn / 1000 for ffn in arch.decoder.ffn_dims)
    known = conditions | {"iterations": "21"}
    return Timing(encoder, decoder, 0.01, 0.1, 0.05, known, anchor_ms=40.0, anchor_percent=0.5)


def fix_latencies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be measured, and no process be started for it."""

    def in_turn(models: Iterable[Any], cfg: MeasureConfig, anchor: Sequence[Work] = ()) -> list[Timing]:
        models = list(models)
        device, vocab_size = models[0].source_embed.weight.device, models[0].vocab_sizes[1]
        known = conditions_of(device, vocab_size, models[0].space.qkv_dim, cfg)
        return [timing_of(model.arch, known) for model in models]

    def fresh(archs: Sequence[Arch], space: Any, conditions: Any, **how: Any) -> Iterator[Timing]:
        return iter([timing_of(arch, dict(conditions)) for arch in archs])

    monkeypatch.setattr(measure, "measure_in_turn", in_turn)
    for place in ("hat.latency.measure", "hat.cli.run"):
        monkeypatch.setattr(f"{place}.measure_fresh", fresh)
