"""Speed beside floors and peers, and studies of ranking, predictor and front; python -m benchmarks --help."""
