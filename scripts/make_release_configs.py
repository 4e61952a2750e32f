"""Write the architecture files of the released models from configs/released_models.csv; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hat.cli.make_release_configs import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
