"""Train a latency predictor: latency_predictor.py --configs=configs/<task>/latency_predictor/<hw>.yml"""

from hat.cli.latency_predictor import main

if __name__ == "__main__":
    raise SystemExit(main())
