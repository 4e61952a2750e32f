"""Evolutionary search under a latency constraint."""
