"""The process one figure is taken in: a request on standard input, the figure as one line of JSON."""

import json
import sys

import torch

from hat.bench.request import BenchOptions
from hat.bench.suite import take
from hat.errors import HatError
from hat.train.memory import keep_pages


def main() -> int:
    """Take the figure; return the exit status."""
    request = json.load(sys.stdin)
    torch.set_num_threads(request["threads"])
    keep_pages()  # as all commands do
    try:
        figure = take(request["name"], request["threads"], BenchOptions.of_values(request["options"]))
    except HatError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(json.dumps(figure.values()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
