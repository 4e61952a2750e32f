"""Compare a search for the front with random search, from their journals. See --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hat.cli.front_check import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
