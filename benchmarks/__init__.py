"""Speed beside floors and peers, and the studies of ranking, predictor and front: python -m benchmarks --help."""
