"""Speed of each part beside its floor or its peer, taken in the same run. See --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hat.cli.benchmark import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
