"""What the user may choose about a benchmark."""

import os
from dataclasses import dataclass
from typing import Any

from hat.errors import ConfigError


@dataclass(frozen=True)
class BenchOptions:
    """Benchmark"""

    threads: tuple[int, ...] = ()
    """CPU threads; a figure is taken once for each number (default: 1 and 2 for decode, 2 for train-step and
    decode-batch, 1 for the others)"""
    rounds: int | None = None
    """rounds in which all cases of a figure are timed in turn (default: by figure)"""
    seed: int = 1
    """seed of weights, sentences and random architectures"""

    def __post_init__(self) -> None:
        most = 4 * (os.cpu_count() or 1)
        if any(not 1 <= threads <= most for threads in self.threads):
            raise ConfigError(
                f"--threads must lie between 1 and {most} on this machine, got {list(self.threads)}"
            )
        if self.rounds is not None and self.rounds < 1:
            raise ConfigError(f"--rounds must be at least 1, got {self.rounds}")

    @classmethod
    def of_values(cls, values: dict[str, Any]) -> "BenchOptions":
        """Return the options from plain values; lists of JSON become tuples again."""
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
