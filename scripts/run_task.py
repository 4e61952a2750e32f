"""Run every stage of a task; scripts/run_task.sh is the short form. See --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hat.cli.run_task import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
