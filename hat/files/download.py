"""Download a file whole or not at all, and prove it before it gets its name.

Bytes go to `<name>.part`; a cut, a stall or a kill costs at most the last seconds of them. The SHA-256 is
kept in `<name>.sha256` as `hat.files.atomic` does it, and checked by the next run.
"""

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Literal

from hat.errors import ConfigError, DataError, HatError
from hat.files.atomic import digest_path, write_text_atomic
from hat.files.partial import Partial
from hat.files.proof import Check, check_for
from hat.files.web import Web, WebError, offer, plain, read_some, web_page
from hat.log import progress, say

MAX_ATTEMPTS = 200  # also those after which something more had come
MAX_PAUSE_S = 30.0
OVERLAP = 1 << 14  # bytes asked for a second time on resuming, to see that it is the same file
_BLOCK = 1 << 16
_MIB = 1 << 20


class Unreachable(DataError):
    """The server cannot be reached at all, so asking it for other files is in vain too."""


@dataclass(frozen=True)
class Downloaded:
    """A file that is there and proven. `status`: what this run did for it."""

    path: Path
    num_bytes: int
    sha256: str
    status: Literal["downloaded", "intact", "recorded"]  # recorded: it was there, its digest was not


def download(
    url: str,
    path: Path,
    *,
    check: Check | None = None,
    tries: int = 5,
    timeout: float = 30.0,
    pause: float = 1.0,
    sha256: str | None = None,
    quiet: bool = True,
) -> Downloaded:
    """Make `path` the file at `url`, unless it is there and intact.

    `timeout` is in seconds without a byte; `tries` attempts in a row may bring nothing new, with a pause that
    doubles from `pause` seconds in between. `check` proves the structure (default: by the suffix of `path`).
    Raises ConfigError for an address that is not http(s), Unreachable and DataError where the network or
    the content fails, HatError where the disk refuses; `path` is then as it was before.
    """
    if not url.startswith(("https://", "http://")) or tries < 1 or not 0 < timeout < math.inf:
        raise ConfigError(
            f"cannot download {url!a} in {tries} tries of {timeout} s: an http(s) address, 1 or more tries "
            "and a positive timeout are allowed; see --help"
        )
    check, sha256 = check or check_for(path), sha256 and sha256.lower()
    found, _ = _existing(path, check, sha256)
    if found:
        return found
    with Partial(path, url) as partial:
        found, damage = _existing(path, check, sha256)  # another process may have finished meanwhile
        if found:
            partial.discard()
            return found
        if damage:
            say(f"{path} is damaged ({damage}); downloading it again")
        _receive(partial, check, sha256, tries, timeout, pause, quiet)
        recorded = recorded_digests(path)
        if recorded and partial.sha256 not in recorded:
            say(f"{path} is another version than the one recorded in {digest_path(path)}; recording it")
        _record(path, partial.sha256, *recorded)  # the old one holds until the file is replaced
        partial.finish()
        _record(path, partial.sha256)
        return Downloaded(path, partial.have, partial.sha256, "downloaded")


def recorded_digests(path: Path) -> list[str]:
    """Return the SHA-256 values that the file beside `path` lists, the newest first."""
    try:
        lines = digest_path(path).read_text("ascii").split("\n")
    except (OSError, UnicodeDecodeError):
        return []
    return [line.split()[0] for line in lines if line.strip()]


def _record(path: Path, *digests: str) -> None:
    lines = "".join(f"{digest}  {path.name}\n" for digest in dict.fromkeys(digests))
    write_text_atomic(digest_path(path), lines)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, reading it in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_MIB):
            digest.update(block)
    return digest.hexdigest()


def _existing(path: Path, check: Check, expected: str | None) -> tuple[Downloaded | None, str]:
    """Return the file at `path` if it is there and intact, else None and what is wrong with it."""
    try:
        if path.is_dir():
            raise HatError(f"cannot write {path}: it is a folder; move it away or choose another folder")
        if not path.exists():
            return None, ""
        digest, size = digest_of(path), path.stat().st_size
        recorded = recorded_digests(path)
        if (expected and digest != expected) or (recorded and digest not in recorded):
            return None, "its SHA-256 is another one than recorded"
        if recorded:
            return Downloaded(path, size, digest, "intact"), ""
        check(path)
    except ValueError as error:
        return None, str(error)
    except OSError as error:
        raise HatError(f"cannot read {path}: {error.strerror}; make it readable or move it away") from error
    try:
        _record(path, digest)
    except HatError as error:  # a folder to be read only serves as well
        say(f"{path} is intact, but its SHA-256 is not recorded: {error}")
        return Downloaded(path, size, digest, "intact"), ""
    return Downloaded(path, size, digest, "recorded"), ""


def _receive(
    partial: Partial, check: Check, sha256: str | None, tries: int, timeout: float, pause: float, quiet: bool
) -> None:
    """Receive and prove the whole file into `partial`."""
    web, failures, begun, name = Web(timeout), 0, partial.have, partial.target.name
    most = begun
    if begun:
        say(f"{name}: going on behind the {begun} bytes of an earlier run")
    for _ in range(MAX_ATTEMPTS):
        try:
            try:
                _attempt(web, partial, quiet)
            finally:
                partial.save()
            _prove(partial, check, sha256)
            return
        except WebError as error:
            last = error
        failures = 0 if partial.have >= most + _MIB else failures + 1
        most = max(most, partial.have)
        if last.stale:
            partial.restart()
        enough = min(tries, 2) if last.unreachable and most == begun else tries
        if not last.again or failures >= enough:
            break
        if last.stale and failures == 1:
            continue  # the server answers, so the whole file can be asked for at once
        wait = max(min(pause * 2 ** max(failures - 1, 0), MAX_PAUSE_S), last.wait_s)
        if not last.unreachable:
            say(f"{name}: {last}; trying again in {wait:.0f} s")
        time.sleep(wait)
    tried = f" ({failures} tries)" if last.again else ""
    kept = f"; {partial.have} bytes are kept and the same command goes on there" if partial.is_kept else ""
    raise (Unreachable if last.unreachable else DataError)(
        f"cannot download {partial.url}: {last}{tried}{kept}; check the network and the address, or fetch "
        f"the file elsewhere and put it at {partial.target}"
    )


def _attempt(web: Web, partial: Partial, quiet: bool) -> None:
    """Ask once for what is missing and write it down. Raises WebError."""
    start = max(partial.have - OVERLAP, (partial.have + 1) // 2) if partial.is_kept else 0
    with web.get(partial.url, start, partial.validator) as answer:
        promise = offer(answer, start)
        encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding != "identity" and partial.target.suffix not in (".gz", ".tgz"):
            raise WebError(f"it comes encoded as {plain(encoding)}, which was not asked for", again=False)
        head = read_some(answer, _BLOCK)
        page = web_page(head) if promise.start == 0 else None
        if page and partial.target.suffix not in (".html", ".htm"):
            raise WebError(f"it is {page}, not {_kind(partial.target)}", again=False)
        if promise.start == 0:  # a new version, or a server that cannot resume: all of it comes
            partial.restart(promise.validator, promise.total)
        elif promise.total != (partial.total or promise.total) or (
            promise.validator[:1] == partial.validator[:1] and promise.validator != partial.validator
        ):
            raise WebError("the file changed meanwhile", stale=True)
        else:
            partial.total, partial.resumed = promise.total, True
        partial.need_room()
        mib = -(-(promise.total or 0) // _MIB)
        ticks = _ticks(answer, partial, promise.start, head)
        if promise.total is None and quiet:
            mib, ticks = 0, iter(list(ticks))
        for _ in progress(ticks, mib, partial.target.name, "MiB", quiet=quiet, done=partial.have // _MIB):
            pass
    if partial.total is not None and partial.have != partial.total:
        raise WebError(
            f"it ended after {partial.have} of {partial.total} bytes", stale=partial.have > partial.total
        )


def _ticks(answer: HTTPResponse, partial: Partial, at: int, block: bytes) -> Iterator[None]:
    """Write what comes from byte `at` on, and yield at each full MiB of the file and at its end."""
    shown = partial.have // _MIB
    while block:
        if not partial.put(at, block):
            raise WebError("the file changed meanwhile", stale=True)
        at += len(block)
        while partial.have // _MIB > shown:
            shown += 1
            yield
        block = read_some(answer, _BLOCK)
    if partial.have % _MIB:
        yield


def _prove(partial: Partial, check: Check, sha256: str | None) -> None:
    """Raise DataError for a whole file that is another than asked for, WebError where parts were joined."""
    try:
        check(partial.path)
        recorded = recorded_digests(partial.target)
        if sha256 and partial.sha256 != sha256:
            raise ValueError(f"its SHA-256 is {partial.sha256}, not {sha256}")
        if partial.resumed and recorded and partial.sha256 not in recorded:
            raise ValueError("its SHA-256 is another one than recorded")
    except ValueError as error:
        if partial.resumed:
            raise WebError(f"the parts do not fit ({error})", stale=True) from error
        partial.discard()
        raise DataError(
            f"refused {partial.target.name} from {partial.url}: {error}; open the address in a browser to "
            f"see what it is, or fetch the file elsewhere and put it at {partial.target}"
        ) from error
    except OSError as error:
        raise HatError(f"cannot read {partial.path}: {error.strerror}; choose another folder") from error


def _kind(path: Path) -> str:
    return "a checkpoint of torch.save" if path.suffix == ".pt" else f"the file {path.name}"
