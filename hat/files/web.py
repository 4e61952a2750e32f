"""One request for a file on the web: share links made direct, redirects and confirmation pages followed.

Nothing a server sends is used as a file name. The environment's proxy settings apply.
"""

import errno
import http.client
import re
import socket
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message
from html.parser import HTMLParser
from typing import IO
from urllib.parse import parse_qs, parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

import hat

MAX_PAGE_BYTES = 1 << 20
MAX_WAIT_S = 60.0
_AGAIN = frozenset((408, 425, 429, 500, 502, 503, 504, 509))  # answers that may be others a moment later
_HTML = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body|script)\b", re.I | re.S
)


class WebError(Exception):
    """A request that failed. `again`: one more try may help; `stale`: what was kept so far is of no use."""

    def __init__(
        self,
        reason: str,
        *,
        again: bool = True,
        stale: bool = False,
        unreachable: bool = False,
        wait_s: float = 0.0,
    ) -> None:
        super().__init__(reason)
        self.again, self.stale, self.unreachable, self.wait_s = again, stale, unreachable, wait_s


@dataclass(frozen=True)
class Offer:
    """What an answer promises: where it begins, the size of the whole file, what identifies this version."""

    start: int
    total: int | None  # None: the server sends chunks and says the end when it comes
    validator: str  # strong ETag or date; empty where the server names none


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


class Web:
    """Asks for files; cookies live as long as the object, as Google Drive's question needs them."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout  # seconds without a byte after which a request fails
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.UnknownHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPCookieProcessor(),
            _Redirects(),
        ):
            self._opener.add_handler(handler)

    def get(self, url: str, start: int = 0, validator: str = "") -> http.client.HTTPResponse:
        """Return the answer for `url` from byte `start` on, if it still is the version `validator` names.

        Without a validator the caller must see from the bytes themselves that it is.
        Raises WebError. The caller closes the answer and looks with `offer` at what it is.
        """
        url = direct_url(url)
        if _is_google(urlsplit(url).hostname):
            url = self._confirmed(url)
        headers = {"Range": f"bytes={start}-"} if start else {}
        return self._open(url, headers | ({"If-Range": validator} if start and validator else {}))

    def _confirmed(self, url: str) -> str:
        """Return the address behind the page on which Google Drive asks whether a large file is wanted."""
        with self._open(url, {}) as answer:
            if answer.headers.get_content_type() != "text/html":
                return url
            base = answer.geturl()
            try:
                text = answer.read(MAX_PAGE_BYTES).decode("utf-8", "replace")
            except (OSError, http.client.HTTPException) as error:
                raise WebError(_reason(error)) from error
        page = _Page()
        page.feed(text)
        if page.action is not None:
            parts = urlsplit(urljoin(base, page.action))
            query = dict(parse_qsl(parts.query)) | page.fields
            target = urlunsplit(parts._replace(query=urlencode(query)))
        elif page.link is not None:
            target = urljoin(base, page.link)
        else:
            raise WebError(f"it is {_page_name(page)}, not the file", again=False)
        parts = urlsplit(target)
        if not _is_google(parts.hostname) or parts.scheme != urlsplit(base).scheme:
            raise WebError("Google Drive's confirmation page leads to another site", again=False)
        return target

    def _open(self, url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        headers = {"User-Agent": f"hat/{hat.__version__}", "Accept-Encoding": "identity", **headers}
        try:
            request = urllib.request.Request(url, headers=headers)
            answer: http.client.HTTPResponse = self._opener.open(request, timeout=self.timeout)
            return answer
        except urllib.error.HTTPError as error:
            with error:
                wait = _count(error.headers.get("Retry-After")) or 0
                raise WebError(
                    f"the server answered {error.code} {plain(error.reason)}".rstrip(),
                    again=error.code in _AGAIN or error.code == 416,
                    stale=error.code == 416,
                    wait_s=min(float(wait), MAX_WAIT_S),
                ) from error
        except ValueError as error:  # an address that urllib cannot take apart, perhaps after a redirect
            raise WebError(f"wrong address: {plain(error)}", again=False) from error
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            raise WebError(
                _reason(cause),
                again=not isinstance(cause, ssl.SSLCertVerificationError),
                unreachable=isinstance(error, urllib.error.URLError) and _is_unreachable(cause),
            ) from error


def offer(answer: http.client.HTTPResponse, start: int) -> Offer:
    """Return what an answer to a request from byte `start` on promises.

    Raises WebError where it is no file, is another part than asked for, or does not say where it ends.
    """
    if answer.status == 206:
        text = answer.headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", text)
        if not found or not start or int(found[1]) != start or int(found[2]) + 1 != int(found[3]):
            raise WebError(
                f"it sent bytes {plain(text) or '?'} where those from {start} on were asked", stale=True
            )
        return Offer(start, int(found[3]), _validator(answer.headers))
    if answer.status != 200:
        raise WebError(f"the server answered {answer.status}", again=False)
    total = _count(answer.headers.get("Content-Length"))
    if total is None and not answer.chunked:
        raise WebError("the server does not say how long the file is, so a cut would go unseen", again=False)
    return Offer(0, total, _validator(answer.headers))


def web_page(head: bytes) -> str | None:
    """Return what to call the web page that begins with `head`, or None where it is none."""
    if not _HTML.match(head):
        return None
    page = _Page()
    page.feed(head.decode("utf-8", "replace"))
    return _page_name(page)


def read_some(answer: http.client.HTTPResponse, size: int) -> bytes:
    """Return up to `size` bytes as they come, none at the end. Raises WebError."""
    try:
        return answer.read1(size)
    except (OSError, http.client.HTTPException) as error:
        raise WebError(_reason(error)) from error


def plain(text: object) -> str:
    """Return what a server said, short and without control characters."""
    return ascii(str(text))[1:-1][:100]


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the web only, and never from https to http."""

    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        allowed = ("https",) if req.type == "https" else ("https", "http")
        if urlsplit(newurl).scheme not in allowed:
            raise WebError(f"it is redirected to {plain(newurl)}, which is not https", again=False)
        return super().redirect_request(req, fp, 307 if code == 308 else code, msg, headers, newurl)


class _Page(HTMLParser):
    """The title of a web page and the two shapes of Google Drive's question: a form, formerly a link."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.action: str | None = None
        self.link: str | None = None
        self.fields: dict[str, str] = {}
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "title":
            self._inside = tag
        elif tag == "form" and values.get("id") in ("download-form", "downloadForm"):
            self._inside, self.action = tag, values.get("action") or ""
        elif tag == "input" and self._inside == "form" and values.get("type") == "hidden":
            self.fields[values.get("name") or ""] = values.get("value") or ""
        elif tag == "a" and values.get("id") == "uc-download-link":
            self.link = values.get("href")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "title":
            self.title += data


def _page_name(page: _Page) -> str:
    title = plain(" ".join(page.title.split()))
    return f"a web page titled '{title}'" if title else "a web page"


def _is_google(host: str | None) -> bool:
    return (host or "").lower() == "docs.google.com" or bool(
        re.fullmatch(
            r"(drive\.google|drive\.usercontent\.google|[\w-]+\.googleusercontent)\.com", host or "", re.I
        )
    )


def _is_unreachable(error: object) -> bool:
    """Return whether no connection came about, which other files at the same place will not change."""
    return isinstance(error, socket.gaierror | ConnectionRefusedError | TimeoutError) or getattr(
        error, "errno", None
    ) in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)


def _reason(error: object) -> str:
    if isinstance(error, socket.gaierror):
        return "the name of the server cannot be resolved (no network?)"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {plain(error.verify_message)}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.IncompleteRead):
        return "the connection was cut"
    return plain(getattr(error, "strerror", None) or error) or type(error).__name__


def _validator(headers: Message) -> str:
    etag = headers.get("ETag", "")
    if re.fullmatch(r'"[\x21\x23-\x7e]{1,200}"', etag):  # a weak one, W/"...", may stand for other bytes
        return etag
    date = headers.get("Last-Modified", "")
    return date if re.fullmatch(r"[A-Za-z0-9:, +-]{10,60}", date) else ""


def _count(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"[0-9]{1,18}", text) else None
