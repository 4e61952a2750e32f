"""Turn a checkpoint of the 2020 release into one of this system; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hat.cli.files import convert as main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
