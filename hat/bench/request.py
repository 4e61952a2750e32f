"""What the user may choose about a benchmark."""

import os
from dataclasses import dataclass
from typing import Any, Literal

from hat.bench.device import device_named
from hat.errors import ConfigError

SMALL_PAIRS = 10_000  # of the small corpus of preprocess


@dataclass(frozen=True)
class BenchOptions:
    """Benchmark"""

    threads: tuple[int, ...] = ()
    """CPU threads, for preprocess worker processes; a figure is taken once for each number (default: 1 and 2
    for decode and preprocess, 1 for latency-row, 2 for the others)"""
    device: Literal["cpu", "cuda"] = "cpu"
    """where models, batches and operands lie; preprocess and startup are figures of the CPU"""
    rounds: int | None = None
    """rounds in which all cases of a figure are timed in turn (default: by figure)"""
    rows: int = 40
    """rows of latency-row"""
    row_task: Literal["multi30k", "wmt14"] = "multi30k"
    """space, vocabulary and length of latency-row"""
    pairs: int = 1_000_000
    """pairs of the large corpus of preprocess and startup"""
    data: str = "data/binary/multi30k_en_de"
    """binary data of Multi30k for search-step and the check of 8-bit weights; made from --text where it is
    missing"""
    quality_checkpoint: str | None = None
    """checkpoint of a model of --data, with which decode checks that 8-bit weights translate alike"""
    text: str = "../shared/data"
    """folder with raw text: multi30k/{train,val,test_2016_flickr}.{en,de} and tatoeba.en-de/train.{en,de}"""
    seed: int = 1
    """seed of weights, sentences and random architectures"""

    def __post_init__(self) -> None:
        device_named(self.device)
        most = 4 * (os.cpu_count() or 1)
        if any(not 1 <= threads <= most for threads in self.threads):
            raise ConfigError(
                f"--threads must lie between 1 and {most} on this machine, got {list(self.threads)}"
            )
        if self.rows < 1:
            raise ConfigError(f"--rows must be at least 1, got {self.rows}")
        if self.pairs < 2 * SMALL_PAIRS:
            raise ConfigError(
                f"--pairs must be at least {2 * SMALL_PAIRS}, twice the small corpus of preprocess, got "
                f"{self.pairs}"
            )
        if not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"--seed must lie between 0 and 2^63 - 1, got {self.seed}")
        if self.rounds is not None and self.rounds < 1:
            raise ConfigError(f"--rounds must be at least 1, got {self.rounds}")

    @classmethod
    def of_values(cls, values: dict[str, Any]) -> "BenchOptions":
        """Return the options from plain values; lists of JSON become tuples again."""
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
