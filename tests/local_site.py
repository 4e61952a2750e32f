"""A web server in this process that serves one file and cuts, stalls, errs and lies as it is told."""

import contextlib
import gzip
import http.server
import io
import random
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import torch

from hat.files.download import download

PAGE = b"<!DOCTYPE html><html><head><title>Sign \x1b[31min</title></head><body>no file</body></html>"
get = partial(download, timeout=30.0)


def names(folder: Path) -> list[str]:
    """Return what lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def zip_checkpoint(seed: int = 0, size: int = 200_000) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("m/data.pkl"), b"\x80\x02}q\x00.")
        archive.writestr(zipfile.ZipInfo("m/data/0"), random.Random(seed).randbytes(size))
    return file.getvalue()


def old_checkpoint(seed: int = 0, size: int = 200_000) -> bytes:
    """Return a file as PyTorch wrote it before 1.6."""
    file = io.BytesIO()
    weight = torch.frombuffer(bytearray(random.Random(seed).randbytes(size)), dtype=torch.uint8)
    content = {"args": {}, "model": {"weight": weight}, "text": "é"}
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Takes the next of `ANSWERS` off `site.plan`, a list of (name, number); serves well once it is empty."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        site = self.site = self.server.site
        name, number = site.plan.pop(0) if site.plan else ("serve", 0)
        if site.watched is not None:
            site.states.add(site.watched.read_bytes() if site.watched.exists() else None)
        site.asked.append((self.path, self.headers.get("Range")))
        site.content = site.content_of(self.path) if site.content_of else site.content
        self.close_connection = True
        with contextlib.suppress(OSError):  # the client left
            ANSWERS[name](self, site.content, number)

    def head(self, status: int = 200, **headers: object) -> None:
        self.send_response(status)
        self.send_header("Connection", "close")
        for key, value in headers.items():
            if value is not None:
                self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()

    def body(self, content: bytes) -> None:
        self.site.sent += len(content)
        self.wfile.write(content)

    def send(self, content: bytes = b"", status: int = 200, **headers: object) -> None:
        self.head(status, Content_Length=len(content), **headers)
        self.body(content)

    def serve(self, stop: int, etag: str | None = None, content: bytes | None = None) -> None:
        site, asked = self.site, self.headers.get("Range")
        if self.headers.get("If-Range") not in (None, site.etag or site.date):
            asked = None
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        content = site.content if content is None else content
        size = len(content)
        shown = {"ETag": etag or site.etag, "Last_Modified": site.date, "Content_Length": size - start}
        if start:
            shown["Content_Range"] = f"bytes {start}-{size - 1}/{size}"
        self.head(206 if start else 200, **shown)
        self.body(content[start : start + stop if stop else None])

    def chunks(self, content: bytes, stop: int) -> None:
        self.head(ETag=self.site.etag, Transfer_Encoding="chunked")
        for at in range(0, stop or len(content), 50_000):
            block = content[at : at + 50_000]
            self.body(b"%x\r\n%s\r\n" % (len(block), block))
        if not stop:
            self.body(b"0\r\n\r\n")

    def drive(self, number: int) -> None:
        """Ask first, by a form (0), by a form of another site (1) or by no form at all (2)."""
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if query.get("confirm") == "t0k" and "asked=yes" in self.headers.get("Cookie", ""):
            assert query["id"] == "FILE_id-1"
            self.serve(0)
            return
        host = "evil.example" if number == 1 else "drive.usercontent.google.com"
        form = (
            f'<form id="download-form" action="http://{host}/download" method="get"><input type="submit">'
            '<input type="hidden" name="id" value="FILE_id-1">'
            '<input type="hidden" name="confirm" value="t0k">'
            '<input type="hidden" name="uuid" value="a&amp;b"></form>'
        )
        text = "<p>Too many users</p>" if number == 2 else form
        page = f"<!DOCTYPE html><html><head><title>Google Drive</title></head>{text}</html>".encode()
        cookie = "asked=yes; Path=/; Domain=.google.com"
        self.send(page, Content_Type="text/html; charset=utf-8", Set_Cookie=cookie)

    def log_message(self, *args: object) -> None:
        pass


def other_tail(content: bytes) -> bytes:
    return content[:-9] + b"x" + content[-8:]


def whole(self: Handler, content: bytes, stop: int) -> None:
    del self.headers["Range"]
    self.serve(stop)


def wrong_range(self: Handler, content: bytes, _: int) -> None:
    size = len(content)
    self.send(content[7:], 206, Content_Range=f"bytes 7-{size - 1}/{size}")


ANSWERS: dict[str, Callable[[Handler, bytes, int], object]] = {
    "serve": lambda self, content, stop: self.serve(stop),
    "stall": lambda self, content, stop: (self.serve(stop), self.site.woken.wait(5)),
    "error": lambda self, content, status: self.send(status=status),
    "busy": lambda self, content, wait_s: self.send(status=503, Retry_After=wait_s),
    "whole": whole,
    "wrong_range": wrong_range,
    "new_etag": lambda self, content, _: self.serve(0, '"v2"', other_tail(content)),
    "new_size": lambda self, content, _: self.serve(0, content=content + b"more"),
    "new_tail": lambda self, content, _: self.serve(0, content=other_tail(content)),
    "page": lambda self, content, _: self.send(PAGE, Content_Type="text/html"),
    "redirect": lambda self, content, _: self.send(status=302, Location="/elsewhere"),
    "leave": lambda self, content, _: self.send(status=302, Location="file:///etc/passwd"),
    "chunks": lambda self, content, stop: self.chunks(content, stop),
    "endless": lambda self, content, _: (self.head(), self.body(content)),
    "packed": lambda self, content, _: self.send(gzip.compress(content), Content_Encoding="gzip"),
    "drive": lambda self, content, number: self.drive(number),
}


class Site:
    """A local server: what it serves, how it behaves next, what it was asked and how much it sent."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.content = zip_checkpoint()
        self.content_of: Callable[[str], bytes] | None = None  # by path, instead of `content`
        self.etag: str | None = '"v1"'
        self.date: str | None = None
        self.plan: list[tuple[str, int]] = []
        self.asked: list[tuple[str, str | None]] = []  # paths and ranges
        self.sent = 0
        self.watched: Path | None = None  # the final name of the download
        self.states: set[bytes | None] = set()  # what was there when something was asked for
        self.woken = threading.Event()


@contextlib.contextmanager
def serving() -> Iterator[Site]:
    """Serve a file at `site.url` until the block ends."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.site = Site(f"http://127.0.0.1:{server.server_port}/file")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server.site
        server.site.woken.set()
        server.shutdown()
