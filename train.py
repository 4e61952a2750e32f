"""Train or profile a SuperTransformer, or one SubTransformer: python train.py --configs=configs/... --help"""

from hat.cli.train import main

if __name__ == "__main__":
    raise SystemExit(main())
