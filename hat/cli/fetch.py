"""The command `scripts/fetch.py`: download one file whole or not at all."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hat.cli.options import OutputOptions, command, parse
from hat.files.download import download


@dataclass(frozen=True)
class FetchOptions:
    """Download"""

    url: str
    """address, beginning with https:// or http://; share links of Dropbox and Google Drive serve too"""
    to: str
    """file to write; left alone when it is already there and intact"""
    tries: int = 5
    """attempts in a row that may bring nothing new, with longer and longer pauses"""
    timeout: float = 30.0
    """seconds without a byte after which an attempt fails"""
    sha256: str | None = None
    """SHA-256 that the file must have"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Download a file; return the exit status."""
    cfg, out = parse(
        argv,
        FetchOptions,
        OutputOptions,
        prog="fetch.py",
        description="Download one file, whole or not at all.",
    )
    found = download(
        cfg.url,
        Path(cfg.to),
        tries=cfg.tries,
        timeout=cfg.timeout,
        sha256=cfg.sha256,
        quiet=out.no_progress_bar,
    )
    there = "" if found.status == "downloaded" else " is already there"
    print(f"{cfg.to}{there}: {found.num_bytes} bytes")
    if out.json:
        print(
            json.dumps(
                {"path": cfg.to, "bytes": found.num_bytes, "sha256": found.sha256, "status": found.status}
            )
        )
    return 0
