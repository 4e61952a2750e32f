"""Take the sentences out of a published corpus, normalise and tokenise them; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hat.cli.prepare_text import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
