"""Text to ids to token-budget batches."""
