"""Download a file whole or not at all; a cut or killed one is gone on with behind `<name>.part`. Also the 48
models of the 2020 release: one table in configs/ feeds README, listing, downloader and tests.
"""

import csv
import html
import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_type_hints
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry
from urllib3.exceptions import HTTPError

import hat
from hat.config import shipped
from hat.errors import ConfigError, DataError, HatError, brief
from hat.files import atomic
from hat.files.archive import check_file
from hat.log import info, progress

TABLE = shipped("configs") / "released_models.csv"
# The last commit of the public repository that holds all tables and predictors; a commit never changes.
LATENCY_DATA_URL = (
    "https://raw.githubusercontent.com/mit-han-lab/hardware-aware-transformers/"
    "35d12828fb9e8e7a184adaa4caa187bef3a94be2/latency_dataset"
)
MAX_PAUSE_S = 120  # between two tries, also if a server asks for more
_MIB = 1 << 20
_BUSY = (408, 425, 429, 500, 502, 503, 504, 509)  # answers that may be others a moment later
_PAGE = rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body|script)\b"
_GOOGLE = r"https?://(docs\.google|drive(\.usercontent)?\.google|[\w-]+\.googleusercontent)\.com(/.*)?"

Check = Callable[[Path], None]  # raises ValueError that says what is wrong


class Unreachable(DataError):
    """The server cannot be reached at all, so asking it for other files is in vain too."""


@dataclass(frozen=True)
class Downloaded:
    """A file that is there and proven."""

    path: Path
    num_bytes: int
    sha256: str
    status: Literal["downloaded", "intact"]  # intact: it was there


def download(
    url: str,
    path: Path,
    *,
    check: Check = check_file,
    tries: int = 5,
    timeout: float = 30.0,
    sha256: str | None = None,
    quiet: bool = True,
) -> Downloaded:
    """Make `path` the file at `url`, unless it is there and intact. `timeout` is in seconds without a byte;
    `tries` attempts in a row may bring nothing new, with growing pauses, or those that the server asks for;
    `check` looks at the structure. On ConfigError, DataError or HatError (the disk) `path` stays as it was.
    """
    if not url.startswith(("https://", "http://")):
        raise ConfigError(f"cannot download {url!a}: an address with http:// or https:// is allowed")
    sha256 = sha256 and sha256.lower()
    atomic.refuse_folder(path)
    with atomic.disk_errors(path):
        if path.exists():
            digest, recorded = atomic.file_digest(path), atomic.recorded_digests(path)
            try:
                if (sha256 and digest != sha256) or (recorded and digest not in recorded):
                    raise ValueError("its SHA-256 is another one than recorded")
                if not recorded:
                    check(path)
                    with suppress(HatError), atomic.recording(path, digest):
                        pass  # a folder to be read only serves as well
                return Downloaded(path, path.stat().st_size, digest, "intact")
            except ValueError as error:
                info(f"{path} is damaged ({error}); downloading it again")
        with atomic.new_folders(path.parent), _Part(path, url) as part:
            digest = _fetch(part, check, sha256, tries, timeout, quiet)
            with atomic.recording(path, digest):
                os.fsync(part.fd)
                os.replace(part.path, path)
                atomic.sync_directory(path.parent)
            return Downloaded(path, path.stat().st_size, digest, "downloaded")


class _Part(atomic.Lock):
    """`<name>.part`: what was received so far. `<name>.part.from` holds its address and version."""

    def __init__(self, target: Path, url: str) -> None:
        self.target, self.url = target, url
        self.path, self.note = (target.with_name(target.name + end) for end in (".part", ".part.from"))
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        super().__init__(fd, target, "wait for it or stop it")
        self.push(self._leave)
        self.resumed = False  # whether bytes of two answers are joined
        self.version = ""  # ETag or date, if the server says one
        self.total: int | None = None  # bytes
        with suppress(OSError, ValueError):
            known, version = self.note.read_text("utf-8").split("\n")
            self.version = version if known == url else ""
        if not self.version:
            os.ftruncate(fd, 0)

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def proven(self, check: Check, sha256: str | None) -> str:
        digest = atomic.file_digest(self.path)
        try:
            check(self.path)
            if sha256 and digest != sha256:
                raise ValueError(f"its SHA-256 is {digest}, not {sha256}")
        except ValueError as error:
            kind = HTTPError if self.resumed else ValueError  # received in one piece it may be right
            self.restart()
            raise kind(str(error)) from error
        return digest

    def restart(self, version: str = "", total: int | None = None) -> None:
        self.version, self.total, self.resumed = version, total, False
        os.ftruncate(self.fd, 0)
        atomic.write_text_atomic(self.note, f"{self.url}\n{version}")

    def _leave(self, kind: type | None, value: object, trace: object) -> None:
        # What cannot be gone on with is removed, and all on a full disk, which harms everything that runs.
        if value is None or isinstance(value, OSError) or not (self.version and self.size):
            self.path.unlink(missing_ok=True)
            self.note.unlink(missing_ok=True)


def _fetch(part: _Part, check: Check, sha256: str | None, tries: int, timeout: float, quiet: bool) -> str:
    most, failures = part.size, 0
    if most:
        info(f"{part.target.name}: going on behind the {most} bytes of an earlier run")
    # Until an answer begins urllib3 asks again; the loop does, from the next byte on, if the answer is cut.
    how = {"status_forcelist": _BUSY, "retry_after_max": MAX_PAUSE_S, "raise_on_status": False}
    adapter = HTTPAdapter(max_retries=Retry(tries - 1, connect=1, other=0, backoff_factor=1, **how))
    with requests.Session() as session:
        session.headers.update({"User-Agent": f"hat/{hat.__version__}", "Accept-Encoding": "identity"})
        session.adapters.update({"https://": adapter, "http://": adapter})
        while True:
            try:
                _receive(session, part, timeout, quiet, direct_url(part.url))
                return part.proven(check, sha256)
            except (HTTPError, requests.RequestException, ValueError) as error:
                failures = 0 if part.size >= most + _MIB else failures + 1
                if failures >= tries or not isinstance(error, HTTPError):
                    kind = Unreachable if isinstance(error, requests.ConnectionError) else DataError
                    found = f"cannot download {part.url}: {_reason(error)}"
                    if part.version and part.size:
                        found += f"; {part.size} bytes are kept and the same command goes on there"
                    advice = f"fetch the file elsewhere and put it at {part.target}"
                    raise kind(f"{found}; check network and address, or {advice}") from error
                info(f"{part.target.name}: {_reason(error)}; trying again")
            most = max(most, part.size)
            time.sleep(min(MAX_PAUSE_S, 2.0**failures - 1))


def _receive(session: requests.Session, part: _Part, timeout: float, quiet: bool, url: str) -> None:
    """Ask once for what is missing and write it down. Raises HTTPError if asking again may help."""
    name, start = part.target.name, part.size if part.version else 0
    asked = {"Range": f"bytes={start}-", "If-Range": part.version} if start else {}
    with session.get(url, headers=asked, stream=True, timeout=timeout) as answer:
        if url.startswith("https:") and not answer.url.startswith("https:"):
            raise ValueError(f"it is redirected to {brief(answer.url)}, which is not https")
        headers, etag = answer.headers, answer.headers.get("ETag", "W/")
        # A weak ETag, W/"...", may stand for other bytes.
        version = headers.get("Last-Modified", "") if etag.startswith("W/") else etag
        blocks = iter(lambda: answer.raw.read(_MIB, decode_content=False), b"")
        if answer.status_code in (206, 416):
            found = re.fullmatch(rf"bytes {start}-\d+/(\d{{1,18}})", headers.get("Content-Range", ""))
            total = int(found[1]) if found else 0
            if total != (part.total or total or 1) or version not in ("", part.version):
                part.restart()
                raise HTTPError("the file changed meanwhile, or other bytes came than those asked for")
            part.total, part.resumed = total, True
        else:  # the first bytes, another version, or a server that cannot resume: all of it comes
            answer.raise_for_status()
            first = next(blocks, b"")
            if re.match(_PAGE, first, re.I | re.S) and part.target.suffix not in (".html", ".htm"):
                if confirmed := _confirmed(first, answer.url):
                    _receive(session, part, timeout, quiet, confirmed)
                    return
                raise ValueError(f"it is a web page, not the file {name}")
            length = headers.get("Content-Length", "")
            if not length.isdigit() and headers.get("Transfer-Encoding", "").lower() != "chunked":
                raise ValueError("the server does not say how long the file is, so a cut would go unseen")
            part.restart(version, int(length) if length.isdigit() else None)
            blocks = chain([first], blocks)
        in_mib, done = -(-(part.total or 0) // _MIB), part.size // _MIB
        for block in progress(blocks, in_mib, name, "MiB", quiet=quiet, done=done):
            while block:
                block = block[os.write(part.fd, block) :]
    if part.size != (part.total or part.size):
        raise HTTPError(f"it ended after {part.size} of {part.total} bytes")


def direct_url(url: str) -> str:
    """Return the address of the file for a share link of Dropbox, its mirrors or Google Drive, else `url`."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if re.fullmatch(r"(.*\.)?dropbox\.com", host) or parts.query == "dl=0":
        query = [(name, value) for name, value in parse_qsl(parts.query) if name != "dl"]
        return urlunsplit(parts._replace(query=urlencode([*query, ("dl", "1")])))
    found = re.search(r"(?:/d/|[?&]id=)([\w-]+)", url, re.ASCII)
    if host in ("drive.google.com", "docs.google.com") and found:
        return urlunsplit(parts._replace(path="/uc", query=f"export=download&id={found[1]}"))
    return url


def _confirmed(content: bytes, url: str) -> str | None:
    # Google Drive asks before a large file; returns where the button leads
    page = content.decode("utf-8", "replace")
    form = re.search(r'<form[^>]*id="download-?form"[^>]*action="([^"]*)"', page, re.I)
    target = urljoin(url, html.unescape(form[1])) if form else ""
    if not all(re.fullmatch(_GOOGLE, each, re.I) for each in (url, target)):
        return None
    fields = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', page)
    query = {name: html.unescape(value) for name, value in fields}
    return requests.Request("GET", target, params=query).prepare().url


def _reason(error: BaseException) -> str:
    """Return why in a few words: those of the deepest cause, without the number that the system gives."""
    cause = None if type(error) is ValueError else error.__cause__ or error.__context__
    return _reason(cause) if cause else brief(getattr(error, "strerror", None) or error)


@dataclass(frozen=True)
class ReleasedModel:
    """One model; a field is a column of the table. Figures of a SuperTransformer are None or empty."""

    model_name: str
    task_name: str
    hardware: str  # empty for a SuperTransformer
    latency: str  # as printed, for example 3.5s or 137.9ms
    params_m: float | None  # millions, without embeddings
    flops_g: float | None
    bleu: float | None
    sacrebleu: float | None
    encoder_embed_dim: int | None
    decoder_embed_dim: int | None
    encoder_layer_num: int | None
    decoder_layer_num: int | None
    encoder_ffn_embed_dim: tuple[int, ...]  # one entry per layer, like all below
    decoder_ffn_embed_dim: tuple[int, ...]
    encoder_self_attention_heads: tuple[int, ...]
    decoder_self_attention_heads: tuple[int, ...]
    decoder_ende_attention_heads: tuple[int, ...]
    decoder_arbitrary_ende_attn: tuple[int, ...]  # -1, 1, 2: the last one, two, three encoder layers
    url: str

    @property
    def latency_data(self) -> str | None:
        """Return the name of the latency table and predictor of its task and device: wmt14ende_cpu_xeon."""
        found = re.fullmatch(r"HAT_(\w+)_(\w+)@.*", self.model_name)
        return f"{found[1]}_{self.hardware.split()[-1].lower()}_{found[2]}" if found else None


def released_models(path: Path = TABLE) -> tuple[ReleasedModel, ...]:
    """Return the 48 models of the 2020 release in the order of the table; DataError if it is damaged."""
    hints = get_type_hints(ReleasedModel)

    def value(cell: str, hint: Any) -> Any:
        if hint == tuple[int, ...]:
            return tuple(map(int, cell.split()))
        return cell if hint is str else (int if hint == int | None else float)(cell) if cell else None

    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [{name: value(row[name], hints[name]) for name in hints} for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"cannot read {path}: {error}; restore it from the repository") from error
    return tuple(ReleasedModel(**row) for row in rows)


def latency_data_names(models: tuple[ReleasedModel, ...]) -> tuple[str, ...]:
    """Return the names of the released latency tables, each once, in the order of `models`."""
    return tuple(dict.fromkeys(name for model in models if (name := model.latency_data)))
