"""Measure the finalists of a search in a fresh process, from the settings of the command line."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hat.cli.profile import condition_flags as condition_flags
from hat.cli.settings import Settings
from hat.cli.task import space_and_arch, vocabulary
from hat.latency.collect import measure_fresh
from hat.space import Arch


def remeasure(
    archs: Sequence[Arch], settings: Settings, conditions: Mapping[str, str], *, gpu: bool
) -> Iterator[dict[str, Any]]:
    """Yield {total, encoder, decoder, conditions} of each architecture, in ms, see `measure_fresh`."""
    space, _ = space_and_arch(settings.space, settings.arch)
    for timing in measure_fresh(
        archs,
        space,
        conditions,
        vocab_sizes=vocabulary(settings.task, profiling=True).sizes,
        config=settings.profile.measure_config(settings.task.sentence_length()),
        model_config=settings.model,
        device="cuda" if gpu else "cpu",
        seed=settings.device.seed,
    ):
        parts = {"encoder": timing.encoder.median_ms, "decoder": timing.decoder.median_ms}
        yield {"total": timing.total_ms, **parts, "conditions": timing.conditions}
