"""Compare latency predictors on the same rows, and transfer between devices. See --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hat.cli.predictor_study import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
