"""Measure random SubTransformers on this device: python latency_dataset.py --configs=configs/... --help"""

from hat.cli.latency_dataset import main

if __name__ == "__main__":
    raise SystemExit(main())
