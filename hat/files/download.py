"""Download a file whole or not at all, and look at what came before it gets its name.

Bytes go to `<name>.part`; the same command goes on behind them after a cut or a kill. The SHA-256 is kept in
`<name>.sha256` as `hat.files.atomic` does it, and compared by the next run.
"""

import html
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

import requests
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

import hat
from hat.errors import ConfigError, DataError, HatError, brief
from hat.files import atomic
from hat.files.archive import ZIP_MAGIC, check_archive
from hat.files.lock import Lock
from hat.log import progress, say

MAX_PAUSE_S = 30.0
_BLOCK = 1 << 16
_MIB = 1 << 20
_AGAIN = (408, 425, 429, 500, 502, 503, 504, 509)  # answers that may be others a moment later
_FINAL = (ValueError, requests.exceptions.SSLError, requests.TooManyRedirects)  # ValueError: a wrong address
# What PyTorch wrote before 1.6 begins with a pickle of its number and one of its protocol.
_SEQUENCE_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
_PAGE = rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body|script)\b"
_GOOGLE = r"(docs\.google|drive\.google|drive\.usercontent\.google|[\w-]+\.googleusercontent)\.com"

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

    def __init__(self, reason: str, *, again: bool = False) -> None:
        super().__init__(reason)
        self.again = again


def check_file(path: Path) -> None:
    """Raise ValueError for a web page, and for what is not whole as its suffix says; nothing is unpickled."""
    with open(path, "rb") as file:
        head = file.read(_BLOCK)
    suffix = Path(path.name.removesuffix(".part")).suffix.lower()
    if suffix not in (".html", ".htm") and (page := web_page(head)):
        raise ValueError(f"it is {page}")
    old = head.startswith(_SEQUENCE_MAGIC)
    if suffix == ".pt" and not old and (not head.startswith(ZIP_MAGIC) or b"/data.pkl" not in head):
        raise ValueError("it is a file of another kind, not a checkpoint of torch.save")
    if suffix in (".gz", ".tgz", ".tar", ".zip") or (suffix == ".pt" and not old):
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
    if not url.startswith(("https://", "http://")):
        raise ConfigError(f"cannot download {url!a}: an address with http:// or https:// is allowed")
    sha256 = sha256 and sha256.lower()
    atomic.refuse_folder(path)
    with atomic.disk_errors(path):
        found = _existing(path, check, sha256)
        if isinstance(found, Downloaded):
            return found
        with atomic.new_folders(path.parent), _Part(path, url) as part:
            if found:
                say(f"{path} is damaged ({found}); downloading it again")
            digest = _fetch(part, check, sha256, tries, timeout, pause, quiet)
            with atomic.recording(path, digest):
                part.place()
            return Downloaded(path, path.stat().st_size, digest, "downloaded")


def _existing(path: Path, check: Check, expected: str | None) -> Downloaded | str:
    """Return the file at `path` if it is intact, else what is wrong with it: nothing if there is none."""
    if not path.exists():
        return ""
    digest, size, recorded = atomic.file_digest(path), path.stat().st_size, atomic.recorded_digests(path)
    if (expected and digest != expected) or (recorded and digest not in recorded):
        return "its SHA-256 is another one than recorded"
    if not recorded:
        try:
            check(path)
            with atomic.recording(path, digest):
                return Downloaded(path, size, digest, "recorded")
        except ValueError as error:
            return str(error)
        except HatError as error:  # a folder to be read only serves as well
            say(f"{path} is intact, but its SHA-256 is not recorded: {error}")
    return Downloaded(path, size, digest, "intact")


class _Part:
    """`<name>.part`: what was received so far. `<name>.part.json` tells of which version of which address."""

    def __init__(self, target: Path, url: str) -> None:
        self.target, self.url = target, url
        self.path, self._note = (target.with_name(target.name + end) for end in (".part", ".part.json"))
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        self._lock = Lock(os.open(self.path, flags, 0o666), target, "wait for it or stop it")
        if not self.path.exists() or not os.path.samestat(os.stat(self.path), os.fstat(self._lock.fd)):
            self._lock.close()
            raise HatError(f"{target} was just written by another process; run the same command again")
        self.resumed = False  # whether bytes of two answers are joined
        try:
            note = json.loads(self._note.read_text("utf-8"))
            self.version = note["version"] if note["url"] == url else ""
        except (OSError, ValueError, KeyError, TypeError):
            self.version = ""
        if not self.version:
            self.restart("")

    @property
    def size(self) -> int:
        """Return how many bytes were received."""
        return os.fstat(self._lock.fd).st_size

    def restart(self, version: str) -> None:
        """Forget what was received; the next bytes are the first of `version`."""
        self.version, self.resumed = version, False
        os.ftruncate(self._lock.fd, 0)
        if version:
            atomic.write_text_atomic(self._note, json.dumps({"url": self.url, "version": version}) + "\n")

    def write(self, block: bytes) -> None:
        """Add bytes at the end."""
        while block:
            block = block[os.write(self._lock.fd, block) :]

    def place(self) -> None:
        """Give the received file its final name."""
        os.fsync(self._lock.fd)
        os.replace(self.path, self.target)
        self._note.unlink(missing_ok=True)
        atomic.sync_directory(self.target.parent)

    def __enter__(self) -> "_Part":
        return self

    def __exit__(self, kind: type | None, value: object, trace: object) -> None:
        # What cannot be gone on with is removed, and all on a full disk, which harms everything that runs.
        if value is not None and (isinstance(value, OSError) or not (self.version and self.size)):
            self.path.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)
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
        while True:
            try:
                _receive(session, part, timeout, quiet)
                return _proven(part, check, sha256)
            except (requests.RequestException, HTTPError, _Failed) as error:
                last = error
            failures = 0 if part.size >= most + _MIB else failures + 1
            most = max(most, part.size)
            again = last.again if isinstance(last, _Failed) else not isinstance(last, _FINAL)
            absent = any(isinstance(e, NewConnectionError | ConnectTimeoutError) for e in _causes(last))
            if not again or failures >= (min(tries, 2) if absent else tries):
                break
            if not absent:
                say(f"{name}: {_why(last)}; trying again")
            time.sleep(min(MAX_PAUSE_S, pause * 2 ** max(0, failures - 1)))
    kept = f"; {part.size} bytes are kept and the same command goes on there" if part.size else ""
    raise (Unreachable if absent else DataError)(
        f"cannot download {part.url}: {_why(last)}{kept}; check the network and the address, or fetch the "
        f"file elsewhere and put it at {part.target}"
    )


def _receive(session: requests.Session, part: _Part, timeout: float, quiet: bool) -> None:
    """Ask once for what is missing and write it down."""
    name, start, url = (
        part.target.name,
        part.size if part.version else 0,
        _file_url(session, part.url, timeout),
    )
    headers = {"Range": f"bytes={start}-"} if start else {}
    with session.get(url, headers=headers, stream=True, timeout=timeout) as answer:
        if url.startswith("https:") and not answer.url.startswith("https:"):
            raise _Failed(f"it is redirected to {brief(answer.url)}, which is not https")
        total = _promised(answer, start, part)
        blocks = iter(lambda: answer.raw.read1(_BLOCK, decode_content=False), b"")
        if start and answer.status_code == 206:
            part.resumed = True
        else:  # a server that cannot resume, or the first bytes: all of it comes
            first = next(blocks, b"")
            if (page := web_page(first)) and part.target.suffix not in (".html", ".htm"):
                kind = "a checkpoint of torch.save" if part.target.suffix == ".pt" else f"the file {name}"
                raise _Failed(f"it is {page}, not {kind}")
            part.restart(_version(answer, total))
            blocks = chain([first], blocks)

        def mebibytes() -> Iterator[None]:
            done = part.size // _MIB
            for block in blocks:
                part.write(block)
                if part.size // _MIB > done:
                    done += 1
                    yield

        in_mib = -(-(total or 0) // _MIB)
        for _ in progress(mebibytes(), in_mib, name, "MiB", quiet=quiet, done=part.size // _MIB):
            pass
    if total is not None and part.size != total:
        raise _Failed(f"it ended after {part.size} of {total} bytes", again=True)


def _promised(answer: requests.Response, start: int, part: _Part) -> int | None:
    """Return the size of the whole file, None if it comes in chunks; raises _Failed for what is no answer."""
    status, headers = answer.status_code, answer.headers
    if status == 200:
        length = headers.get("Content-Length", "")
        if not length.isdigit() and headers.get("Transfer-Encoding", "").lower() != "chunked":
            raise _Failed("the server does not say how long the file is, so a cut would go unseen")
        return int(length) if length.isdigit() else None
    found = re.fullmatch(rf"bytes {start}-\d+/(\d{{1,18}})", headers.get("Content-Range", ""))
    if status == 206 and start and found and _version(answer, int(found[1])) == part.version:
        return int(found[1])
    if status in (206, 416):
        part.restart("")
        raise _Failed("the file changed meanwhile, or other bytes came than those asked for", again=True)
    raise _Failed(f"the server answered {status} {brief(answer.reason)}".rstrip(), again=status in _AGAIN)


def _version(answer: requests.Response, total: int | None) -> str:
    """Return what identifies this version of the file: an ETag or date with its size, or nothing."""
    etag = answer.headers.get("ETag", "")  # a weak one, W/"...", may stand for other bytes
    name = etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified")
    return f"{name} {total}" if name else ""


def _proven(part: _Part, check: Check, sha256: str | None) -> str:
    """Return the SHA-256 of the whole file; raises DataError if it is another file than asked for."""
    digest = atomic.file_digest(part.path)
    try:
        check(part.path)
        if sha256 and digest != sha256:
            raise ValueError(f"its SHA-256 is {digest}, not {sha256}")
    except ValueError as error:
        resumed = part.resumed
        part.restart("")
        if resumed:
            raise _Failed(f"the parts do not fit ({error})", again=True) from error
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
    if not re.fullmatch(_GOOGLE, urlsplit(url).hostname or "", re.I):
        return url
    with session.get(url, stream=True, timeout=timeout) as answer:
        if "text/html" not in answer.headers.get("Content-Type", ""):
            return url
        head = answer.raw.read(_MIB, decode_content=True)
    text = head.decode("utf-8", "replace")
    form = re.search(r'<form[^>]*id="download-?[fF]orm"[^>]*action="([^"]*)"(.*?)</form>', text, re.S)
    if not form:
        raise _Failed(f"it is {web_page(head)}, not the file")
    parts = urlsplit(urljoin(answer.url, html.unescape(form[1])))
    fields = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', form[2])
    query = dict(parse_qsl(parts.query)) | {name: html.unescape(value) for name, value in fields}
    if not re.fullmatch(_GOOGLE, parts.hostname or "", re.I) or parts.scheme != urlsplit(answer.url).scheme:
        raise _Failed("Google Drive's confirmation page leads to another site")
    return urlunsplit(parts._replace(query=urlencode(query)))


def web_page(head: bytes) -> str | None:
    """Return what to call the web page that begins with `head`, or None if it is none."""
    if not re.match(_PAGE, head, re.I | re.S):
        return None
    title = re.search(r"<title[^>]*>(.*?)</title>", head.decode("utf-8", "replace"), re.I | re.S)
    name = brief(" ".join(html.unescape(title[1]).split())) if title else ""
    return f"a web page titled '{name}'" if name else "a web page"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and then what caused it and that."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _why(error: BaseException) -> str:
    """Return the reason of a failure in a few words: those of the system if it has some."""
    for cause in _causes(error):
        if isinstance(cause, TimeoutError):
            return "no answer in time"
        if isinstance(cause, OSError) and cause.strerror:
            return brief(cause.strerror)
    return "the connection was cut" if isinstance(error, HTTPError) else brief(error)
