"""Where a training run stands, and the sums of its current log interval."""

from dataclasses import dataclass

from hat.train.trainer import StepResult


@dataclass
class Progress:
    """Where a run stands: everything a resumed run needs besides weights and optimiser."""

    epoch: int = 1
    offset: int = 0  # batches of this epoch already trained on
    best_loss: float | None = None
    stale: int = 0  # validations since the best one
    train_s: float = 0.0
    started_from: str = ""


@dataclass
class Interval:
    """Sums since the last log line; seconds are those of the updates alone."""

    updates: int = 0
    tokens: int = 0
    loss: float = 0.0
    seconds: float = 0.0

    def add(self, step: StepResult, seconds: float) -> None:
        """Count one update."""
        self.updates += 1
        self.tokens += step.num_tokens
        self.loss += step.loss * step.num_tokens
        self.seconds += seconds

    def reset(self) -> None:
        """Start the next interval."""
        self.updates, self.tokens, self.loss, self.seconds = 0, 0, 0.0, 0.0
