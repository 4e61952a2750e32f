"""Make a task folder for another language pair, from two text files. See --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hat.cli.new_task import main  # noqa: E402

if __name__ == "__main__":
    raise SystemExit(main())
