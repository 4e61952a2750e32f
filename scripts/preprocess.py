"""Turn parallel text into dictionaries and binary data; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hat.cli.preprocess import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
