"""The mean of the weights of a run's last checkpoints. See --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hat.cli.average_checkpoints import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
