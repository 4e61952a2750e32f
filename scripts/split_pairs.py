"""Join parallel texts and put every n-th pair aside; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hat.cli.split_pairs import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
