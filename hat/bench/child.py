"""The process one figure is taken in: a request on standard input, the figure as one line of JSON.

Where it fails, that line holds the error instead, for whoever started the process to record.
"""

import json
import sys
import traceback

import torch

from hat.bench.request import BenchOptions
from hat.bench.suite import take
from hat.errors import HatError
from hat.model.cpu import keep_pages


def main() -> int:
    """Take the figure; return the exit status."""
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    keep_pages()  # as all commands do
    try:
        figure = take(request["name"], request["threads"], BenchOptions.of_values(request["options"]))
    except HatError as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        return 2
    except Exception as error:  # a fault of the project or of the machine: no reason to lose other figures
        traceback.print_exc()
        reason = (str(error).splitlines() or [""])[0]
        print(json.dumps({"error": f"{type(error).__name__}: {reason}; all of it stands on standard error"}))
        return 1
    print(json.dumps(figure.values()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
