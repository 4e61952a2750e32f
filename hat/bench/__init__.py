"""Benchmarks: each figure is taken together with its floor or its peer, in turn, in one process."""
