"""The command `scripts/preprocess.py`."""

import json
import time
from collections.abc import Sequence

from hat.cli.options import OutputOptions, command, parse
from hat.data.preprocess import PreprocessConfig, preprocess


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Turn parallel text into dictionaries and memory-mapped ids; return the exit status."""
    cfg, output = parse(
        argv,
        PreprocessConfig,
        OutputOptions,
        prog="preprocess.py",
        description="Turn parallel text, one sentence per line, into dictionaries and binary data.",
    )
    start = time.perf_counter()
    result = preprocess(cfg, say=lambda line: print(line, flush=True))
    seconds = time.perf_counter() - start
    sentences = sum(split["sentences"] for split in result["splits"].values())
    print(f"{sentences} pairs in {seconds:.1f} s, {sentences / seconds:,.0f} pairs/s")
    if output.json:
        print(json.dumps(result | {"seconds": round(seconds, 3)}))
    return 0
