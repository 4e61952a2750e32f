"""Loss, schedules, trainer and checkpoints."""
