"""A page and pictures of what a run found, and what it cost. See --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hat.cli.report import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
