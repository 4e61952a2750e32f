"""The command `scripts/fetch.py`: download one file whole or not at all."""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hat.cli.options import command, parse
from hat.errors import ConfigError, DataError
from hat.files.atomic import write_atomic


@dataclass(frozen=True)
class FetchOptions:
    """Download"""

    url: str
    """address, beginning with https:// or http://"""
    to: str
    """file to write; left alone when it is already there"""
    tries: int = 3
    """attempts before giving up, 2 seconds apart"""
    timeout: float = 30.0
    """seconds without an answer after which an attempt fails"""


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Download a file; return the exit status."""
    (cfg,) = parse(argv, FetchOptions, prog="fetch.py", description="Download one file, whole or not at all.")
    if Path(cfg.to).exists():
        print(f"{cfg.to} is already there")
        return 0
    fetch(cfg.url, Path(cfg.to), cfg.tries, cfg.timeout)
    print(f"{cfg.to}: {Path(cfg.to).stat().st_size} bytes")
    return 0


def fetch(url: str, path: Path, tries: int = 3, timeout: float = 30.0, pause: float = 2.0) -> None:
    """Download `url` to `path`; `timeout` and the `pause` between attempts are in seconds.

    Raises ConfigError for an address that is not http(s), DataError when every attempt fails.
    """
    if not url.startswith(("https://", "http://")) or tries < 1 or timeout <= 0:
        raise ConfigError(
            f"cannot download {url!r} in {tries} tries of {timeout} s: an http(s) address, 1 or more tries "
            "and a positive timeout are allowed; see fetch.py --help"
        )

    reason = ""
    for attempt in range(tries):
        if attempt:
            time.sleep(pause)
        try:
            write_atomic(path, lambda file: _download(url, file, timeout))
            return
        except _Failed as error:
            reason = str(error)
    raise DataError(
        f"cannot download {url}: {reason} ({tries} tries); check the network and the address, or fetch the "
        f"file elsewhere and put it at {path}"
    )


class _Failed(Exception):
    """A failed download, told apart from a failed write."""


def _download(url: str, file: BinaryIO, timeout: float) -> None:
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            expected = answer.headers.get("Content-Length")
            while block := answer.read(1 << 20):
                file.write(block)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _Failed(str(getattr(error, "reason", None) or error)) from error
    if expected is not None and file.tell() != int(expected):
        raise _Failed(f"it ended after {file.tell()} of {expected} bytes")
