"""Take named files out of an archive; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hat.cli.files import unpack_files as main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
