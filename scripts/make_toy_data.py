"""Write generated English-German sentence pairs for trying things out; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hat.cli.make_toy_data import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
