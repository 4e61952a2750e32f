"""Latency measured, tabulated and predicted."""
