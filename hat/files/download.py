"""Download a file whole or not at all, and look at what came before it gets its name.

Bytes go to `<name>.part`; the same command goes on behind them after a cut or a kill. The SHA-256 is kept in
`<name>.sha256` as `hat.files.atomic` does it, and compared by the next run.
"""

import html
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import parse_qs, parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError
from urllib3.response import BaseHTTPResponse

import hat
from hat.errors import ConfigError, DataError, HatError, brief
from hat.files.archive import ZIP_MAGIC, check_archive
from hat.files.atomic import (
    file_digest,
    new_folders,
    recorded_digests,
    recording,
    sync_directory,
    write_text_atomic,
)
from hat.files.lock import Lock
from hat.log import progress, say

MAX_PAUSE_S = 30.0
OVERLAP = 1 << 14  # bytes asked for a second time when going on, to see that it is the same file
_BLOCK = 1 << 16
_MIB = 1 << 20
_AGAIN = (408, 425, 429, 500, 502, 503, 504, 509)  # answers that may be others a moment later
_FINAL = (  # errors that another try does not change, or that `_Retry` has tried again already
    ValueError,  # the address is wrong
    requests.exceptions.SSLError,
    requests.TooManyRedirects,
    requests.ConnectTimeout,
)
# What PyTorch wrote before 1.6 begins with a pickle of its number and one of its protocol.
_SEQUENCE_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
_PAGE = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body|script)\b", re.I | re.S
)

Check = Callable[[Path], None]  # raises ValueError that says what is wrong


class Unreachable(DataError):
    """The server cannot be reached at all, so asking it for other files is in vain too."""


@dataclass(frozen=True)
class Downloaded:
    """A file that is there and proven. `status`: what this run did for it."""

    path: Path
    num_bytes: int
    sha256: str
    status: Literal["downloaded", "intact", "recorded"]  # recorded: it was there, its digest was not


class _Failed(Exception):
    """A try that failed; `again`: one more may help."""

    def __init__(self, reason: str, *, again: bool = True) -> None:
        super().__init__(reason)
        self.again = again


def check_file(path: Path) -> None:
    """Raise ValueError for a web page, and for what is not whole as its suffix says; nothing is unpickled."""
    with open(path, "rb") as file:
        head = file.read(_BLOCK)
    suffix = Path(path.name.removesuffix(".part")).suffix.lower()
    if suffix not in (".html", ".htm") and (page := web_page(head)):
        raise ValueError(f"it is {page}")
    if suffix in (".gz", ".tgz", ".tar", ".zip"):
        check_archive(path)
    elif suffix == ".pt" and not head.startswith(_SEQUENCE_MAGIC):
        if not head.startswith(ZIP_MAGIC) or b"/data.pkl" not in head:
            raise ValueError("it is a file of another kind, not a checkpoint of torch.save")
        check_archive(path)


def download(
    url: str,
    path: Path,
    *,
    check: Check = check_file,
    tries: int = 5,
    timeout: float = 30.0,
    pause: float = 1.0,
    sha256: str | None = None,
    quiet: bool = True,
) -> Downloaded:
    """Make `path` the file at `url`, unless it is there and intact.

    `timeout` is in seconds without a byte; `tries` attempts in a row may bring nothing new, with longer and
    longer pauses, from `pause` seconds on. `check` looks at the structure. Proxies and certificates are those
    of the environment, as `requests` takes them.
    Raises ConfigError for an address that is not http(s), Unreachable and DataError if the network or the
    content fails, HatError if the disk refuses; `path` is then as it was before.
    """
    if not url.startswith(("https://", "http://")) or tries < 1 or not 0 < timeout < math.inf:
        raise ConfigError(
            f"cannot download {url!a} in {tries} tries of {timeout} s: an http(s) address, 1 or more tries "
            "and a positive timeout are allowed; see --help"
        )
    sha256 = sha256 and sha256.lower()
    try:
        found = _existing(path, check, sha256)
        if isinstance(found, Downloaded):
            return found
        with new_folders(path.parent), _Part(path, url) as part:
            if found:
                say(f"{path} is damaged ({found}); downloading it again")
            digest = _fetch(part, check, sha256, tries, timeout, pause, quiet)
            with recording(path, digest):
                part.place()
            return Downloaded(path, part.size, digest, "downloaded")
    except OSError as error:
        raise HatError(
            f"cannot write {path}: {error.strerror or error}; the previous file, if any, is intact; "
            "free disk space or choose another folder"
        ) from error


def _existing(path: Path, check: Check, expected: str | None) -> Downloaded | str:
    """Return the file at `path` if it is intact, else what is wrong with it: nothing if there is none."""
    if path.is_dir():
        raise HatError(f"cannot write {path}: it is a folder; move it away or choose another folder")
    if not path.exists():
        return ""
    digest, size, recorded = file_digest(path), path.stat().st_size, recorded_digests(path)
    if (expected and digest != expected) or (recorded and digest not in recorded):
        return "its SHA-256 is another one than recorded"
    if recorded:
        return Downloaded(path, size, digest, "intact")
    try:
        check(path)
        with recording(path, digest):
            return Downloaded(path, size, digest, "recorded")
    except ValueError as error:
        return str(error)
    except HatError as error:  # a folder to be read only serves as well
        say(f"{path} is intact, but its SHA-256 is not recorded: {error}")
        return Downloaded(path, size, digest, "intact")


class _Part:
    """`<name>.part`: what was received so far. `<name>.part.json` names the version of the file it is of."""

    def __init__(self, target: Path, url: str) -> None:
        self.target, self.url = target, url
        self.path = target.with_name(target.name + ".part")
        self._note = target.with_name(target.name + ".part.json")
        self._lock = Lock(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), target, "wait for it or stop it")
        if not self.path.exists() or not os.path.samestat(os.stat(self.path), os.fstat(self._lock.fd)):
            self._lock.close()
            raise HatError(f"{target} was just written by another process; run the same command again")
        self._file = os.fdopen(self._lock.fd, "r+b", buffering=0, closefd=False)
        self.resumed = False  # whether bytes of two answers are joined
        self.size = os.fstat(self._lock.fd).st_size
        try:
            note = json.loads(self._note.read_text("utf-8"))
            self.validator, self.total = str(note["validator"]), note["total"]
            if note["url"] != url or not isinstance(self.total, int | None):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError):
            self.restart()

    @property
    def is_kept(self) -> bool:
        """Return whether the next try, or the next run, can go on behind what was received.

        If the server names no version, its size and the bytes that are asked for twice must agree.
        """
        return self.size > OVERLAP and (bool(self.validator) or self.total is not None)

    def restart(self, validator: str = "", total: int | None = None) -> None:
        """Forget what was received; the next bytes are the first of the version `validator` names."""
        self.validator, self.total, self.resumed, self.size = validator, total, False, 0
        self._file.truncate(0)
        if validator or total is not None:
            note = {"url": self.url, "validator": validator, "total": total}
            write_text_atomic(self._note, json.dumps(note) + "\n")

    def tail(self) -> bytes:
        """Return the last `OVERLAP` bytes received."""
        self._file.seek(self.size - OVERLAP)
        return self._file.read(OVERLAP)

    def write(self, block: bytes) -> None:
        """Add bytes at the end."""
        self._file.seek(self.size)
        view = memoryview(block)
        while view:
            written = self._file.write(view)
            self.size += written
            view = view[written:]

    def place(self) -> None:
        """Give the received file its final name."""
        os.fsync(self._lock.fd)
        os.replace(self.path, self.target)
        self._note.unlink(missing_ok=True)
        sync_directory(self.target.parent)

    def discard(self) -> None:
        """Remove what was received."""
        self.size = 0
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def __enter__(self) -> "_Part":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        # A full disk harms everything that runs, so the part is given up then.
        if value is not None and (not self.is_kept or isinstance(value, OSError)):
            self.discard()
        self._lock.close()


def _fetch(
    part: _Part, check: Check, sha256: str | None, tries: int, timeout: float, pause: float, quiet: bool
) -> str:
    """Receive the whole file into `part` and prove it; return its SHA-256."""
    name, most, failures = part.target.name, part.size, 0
    if most:
        say(f"{name}: going on behind the {most} bytes of an earlier run")
    with requests.Session() as session:
        session.headers.update({"User-Agent": f"hat/{hat.__version__}", "Accept-Encoding": "identity"})
        retry = _Retry(
            tries - 1,
            connect=min(1, tries - 1),
            other=min(1, tries - 1),
            status_forcelist=_AGAIN,
            backoff_factor=pause / 2,
            backoff_max=MAX_PAUSE_S,
            raise_on_status=False,
        )
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        while True:
            try:
                _receive(session, part, timeout, quiet)
                return _proven(part, check, sha256)
            except (requests.RequestException, HTTPError, _Failed) as error:
                last = error
            failures = 0 if part.size >= most + _MIB else failures + 1
            most = max(most, part.size)
            again = last.again if isinstance(last, _Failed) else not isinstance(last, _FINAL)
            if not again or failures >= tries or _is_unreachable(last):
                break
            say(f"{name}: {_why(last)}; trying again")
            time.sleep(min(MAX_PAUSE_S, pause * failures))
    kept = f"; {part.size} bytes are kept and the same command goes on there" if part.is_kept else ""
    raise (Unreachable if _is_unreachable(last) else DataError)(
        f"cannot download {part.url}: {_why(last)}{kept}; check the network and the address, or fetch the "
        f"file elsewhere and put it at {part.target}"
    )


class _Retry(Retry):
    """Asks again if no answer came, or one that may be another a moment later, and says so."""

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        last = self.history[-1]
        if last.error is None:
            say(f"the server answered {last.status}; trying again")
        elif not _is_unreachable(last.error):
            say(f"{_why(last.error)}; trying again")
        super().sleep(response)


def _receive(session: requests.Session, part: _Part, timeout: float, quiet: bool) -> None:
    """Ask once for what is missing and write it down."""
    name, start = part.target.name, part.size - OVERLAP if part.is_kept else 0
    headers = {"Range": f"bytes={start}-"} if start else {}
    if start and part.validator:
        headers["If-Range"] = part.validator
    url = _file_url(session, part.url, timeout)
    with session.get(url, headers=headers, stream=True, timeout=timeout) as answer:
        if url.startswith("https:") and not answer.url.startswith("https:"):
            raise _Failed(f"it is redirected to {brief(answer.url)}, which is not https", again=False)
        total = _promised(answer, start, part)
        known = part.tail() if answer.status_code == 206 else b""
        blocks = _blocks(answer)
        block = next(blocks, b"")
        if known:
            part.resumed = True
            if block[: len(known)] != known[: len(block)]:
                part.restart()
                raise _Failed("the file changed meanwhile")
        else:  # a new version, or a server that cannot resume: all of it comes
            if (page := web_page(block)) and part.target.suffix not in (".html", ".htm"):
                kind = "a checkpoint of torch.save" if part.target.suffix == ".pt" else f"the file {name}"
                raise _Failed(f"it is {page}, not {kind}", again=False)
            part.restart(_validator(answer), total)
        mib, done = -(-(total or 0) // _MIB), part.size // _MIB
        part.write(block[len(known) :])
        for block in progress(blocks, mib, name, "MiB", quiet=quiet, done=done):
            part.write(block)
    if total is not None and part.size != total:
        raise _Failed(f"it ended after {part.size} of {total} bytes")


def _blocks(answer: requests.Response) -> Iterator[bytes]:
    """Yield the body of an answer by the MiB; before an error, what had come until then."""
    block = bytearray()
    try:
        while more := answer.raw.read1(_BLOCK, decode_content=False):
            block += more
            if len(block) >= _MIB:
                yield bytes(block[:_MIB])
                del block[:_MIB]
    except HTTPError:
        if block:
            yield bytes(block)
        raise
    if block:
        yield bytes(block)


def _promised(answer: requests.Response, start: int, part: _Part) -> int | None:
    """Return the size of the whole file, None if it comes in chunks; raises _Failed for what is no answer."""
    status, headers = answer.status_code, answer.headers
    if status == 200:
        length = headers.get("Content-Length", "")
        if not length.isdigit() and headers.get("Transfer-Encoding", "").lower() != "chunked":
            raise _Failed(
                "the server does not say how long the file is, so a cut would go unseen", again=False
            )
        return int(length) if length.isdigit() else None
    found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", headers.get("Content-Range", ""))
    if status == 206 and found and start:
        first, last, total = map(int, found.groups())
        version = _validator(answer)
        if first == start and last + 1 == total == (part.total or total) and version in ("", part.validator):
            return total
    if status in (206, 416):
        part.restart()
        raise _Failed(f"it sent something else than the bytes from {start} on")
    raise _Failed(f"the server answered {status} {brief(answer.reason)}".rstrip(), again=False)


def _proven(part: _Part, check: Check, sha256: str | None) -> str:
    """Return the SHA-256 of the whole file; raises DataError if it is another file than asked for."""
    digest = file_digest(part.path)
    try:
        check(part.path)
        if sha256 and digest != sha256:
            raise ValueError(f"its SHA-256 is {digest}, not {sha256}")
    except ValueError as error:
        if part.resumed:
            part.restart()
            raise _Failed(f"the parts do not fit ({error})") from error
        part.discard()
        raise DataError(
            f"refused {part.target.name} from {part.url}: {error}; open the address in a browser to see what "
            f"it is, or fetch the file elsewhere and put it at {part.target}"
        ) from error
    return digest


def direct_url(url: str) -> str:
    """Return the address of the file itself for a share link of Dropbox or Google Drive, else `url`.

    A mirror of such links is known by its `dl=0`.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    if host == "dropbox.com" or host.endswith(".dropbox.com") or parts.query == "dl=0":
        query = [(name, value) for name, value in parse_qsl(parts.query) if name != "dl"]
        return urlunsplit(parts._replace(query=urlencode([*query, ("dl", "1")])))
    if host in ("drive.google.com", "docs.google.com"):
        found = re.search(r"/d/([\w-]+)", parts.path, re.ASCII)
        ids = [found[1]] if found else parse_qs(parts.query).get("id", [])
        if ids:
            query = [("export", "download"), ("id", ids[0])]
            return urlunsplit(parts._replace(path="/uc", query=urlencode(query)))
    return url


def _file_url(session: requests.Session, url: str, timeout: float) -> str:
    """Return the address of the file, behind the page on which Google Drive asks before a large one."""
    url = direct_url(url)
    if not _is_google(url):
        return url
    with session.get(url, stream=True, timeout=timeout) as answer:
        if "text/html" not in answer.headers.get("Content-Type", ""):
            return url
        head = answer.raw.read(_MIB, decode_content=True)
    text = head.decode("utf-8", "replace")
    form = re.search(r'<form[^>]*id="download-?[fF]orm"[^>]*action="([^"]*)"(.*?)</form>', text, re.S)
    link = re.search(r'<a id="uc-download-link"[^>]*href="([^"]*)"', text)
    if form:
        fields = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', form[2])
        parts = urlsplit(urljoin(answer.url, html.unescape(form[1])))
        query = dict(parse_qsl(parts.query)) | {name: html.unescape(value) for name, value in fields}
        target = urlunsplit(parts._replace(query=urlencode(query)))
    elif link:
        target = urljoin(answer.url, html.unescape(link[1]))
    else:
        raise _Failed(f"it is {web_page(head)}, not the file", again=False)
    if not _is_google(target) or urlsplit(target).scheme != urlsplit(answer.url).scheme:
        raise _Failed("Google Drive's confirmation page leads to another site", again=False)
    return target


def _is_google(url: str) -> bool:
    hosts = r"(docs\.google|drive\.google|drive\.usercontent\.google|[\w-]+\.googleusercontent)\.com"
    return bool(re.fullmatch(hosts, urlsplit(url).hostname or "", re.I))


def web_page(head: bytes) -> str | None:
    """Return what to call the web page that begins with `head`, or None if it is none."""
    if not _PAGE.match(head):
        return None
    title = re.search(r"<title[^>]*>(.*?)</title>", head.decode("utf-8", "replace"), re.I | re.S)
    name = brief(" ".join(html.unescape(title[1]).split())) if title else ""
    return f"a web page titled '{name}'" if name else "a web page"


def _validator(answer: requests.Response) -> str:
    """Return what identifies this version of the file: a strong ETag, a date, or nothing."""
    etag = answer.headers.get("ETag", "")
    if re.fullmatch(r'"[\x21\x23-\x7e]{1,200}"', etag):  # a weak one, W/"...", may stand for other bytes
        return etag
    date = answer.headers.get("Last-Modified", "")
    return date if re.fullmatch(r"[A-Za-z0-9:, +-]{10,60}", date) else ""


def _cause(error: BaseException) -> BaseException:
    """Return what urllib3 met, out of what `requests` makes of it."""
    if isinstance(error, requests.RequestException) and error.args and isinstance(error.args[0], HTTPError):
        error = error.args[0]
    return error.reason or error if isinstance(error, MaxRetryError) else error


def _is_unreachable(error: BaseException) -> bool:
    return isinstance(error, requests.ConnectTimeout) or isinstance(_cause(error), NewConnectionError)


def _why(error: BaseException) -> str:
    """Return the reason of a failure in a few words: those of the system if it has some."""
    cause: BaseException | None = _cause(error)
    text = str(cause)
    while cause is not None:
        if isinstance(cause, TimeoutError):
            return "no answer in time"
        if isinstance(cause, OSError) and cause.strerror:
            return brief(cause.strerror)
        cause = cause.__cause__ or cause.__context__
    return "the connection was cut" if "Incomplete" in text or "onnection" in text else brief(text)
