"""Compare the ranking by slices of SuperTransformers with training from scratch. See --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hat.cli.rank_study import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
