"""Files that others publish, held to the name that git gives their content."""

from __future__ import annotations

import hashlib
import os
import threading
import urllib.parse
from pathlib import Path
from typing import IO, TYPE_CHECKING

from bench.core.errors import UserError
from bench.core.files import StorageError
from bench.core.safe_io import open_or_user_error
from bench.data.cache import exclusive, write_cache_file

if TYPE_CHECKING:
    import requests

MOST = 256 << 20  # bytes of a published file; the largest here has about a fifth
SILENCE = 30.0  # seconds without a byte
DEADLINE = 1800.0  # seconds for a whole transfer
REDIRECTS = 10
_CHUNK = 1 << 16


def git_blob_sha1(content: bytes) -> str:
    """The name that git gives a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def download(path: Path, url: str, blob: str, name: str, folder: Path | None, remedy: str) -> Path:
    """The file that git calls ``blob``, kept at ``path``, downloaded unless it is there; nothing else is ever kept.

    Of several processes that want it one downloads, and the others wait. ``UserError`` where it is not to be had: no
    ``name``, nothing in ``folder``, why no download, and the ``remedy``.
    """
    if _is(path, blob):
        return path
    with exclusive(path):
        if _is(path, blob):
            return path
        try:
            write_cache_file(path, lambda file: _fetch(url, blob, file))
        except Refused as error:
            why = " ".join(str(error).split())
            looked = f"nothing in {folder}" if folder else "no data directory given"
            raise UserError(f"no {name}: {looked}, and downloading {url} failed: {why}. {remedy}") from error
    return path


class Refused(Exception):
    """What came is not what was asked for, or nothing came; the message says it in one line."""


def _is(path: Path, blob: str) -> bool:
    """Whether ``path`` is the file that git calls ``blob``; one that is not, or cannot be read, is fetched anew."""
    try:
        with open_or_user_error(path, MOST) as file:
            return _blob(file) == blob
    except (UserError, OSError):
        return False


def _blob(file: IO[bytes]) -> str:
    """``git_blob_sha1`` of an open file. Its size comes first, so that it cannot be hashed as it is received."""
    start = hashlib.sha1(b"blob %d\0" % file.seek(0, os.SEEK_END), usedforsecurity=False)
    file.seek(0)
    return hashlib.file_digest(file, lambda: start).hexdigest()  # type: ignore[arg-type]


def _fetch(url: str, blob: str, file: IO[bytes]) -> None:
    """Receive ``url`` into ``file`` and hold it to ``blob``; ``Refused`` where that fails, or takes too long."""
    transfer = Transfer(url, file)
    transfer.start()
    try:
        # In a thread, for a server that sends a byte now and then keeps any one read waiting for ever.
        transfer.join(DEADLINE)
    finally:
        transfer.wanted = False
    if transfer.is_alive():
        raise Refused(f"after {DEADLINE:,.0f} seconds it was not complete")
    if transfer.error:
        raise transfer.error
    file.flush()
    with open(file.fileno(), "rb", closefd=False) as received:
        if (found := _blob(received)) != blob:
            raise Refused(f"what came from {transfer.place} is not the published file (git blob {found}, not {blob})")


class Transfer(threading.Thread):
    """Receives ``url`` into ``file``, as long as it is wanted. What goes wrong is kept in ``error``."""

    def __init__(self, url: str, file: IO[bytes]):
        super().__init__(daemon=True)
        self.url, self.file = url, file
        self.wanted = True
        self.error: Exception | None = None  # ``Refused``, or the file's own
        self.received = 0  # bytes

    @property
    def place(self) -> str:
        """Where it comes from, without the query, which may be long, and hold what is nobody's business."""
        parts = urllib.parse.urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:200]

    def run(self) -> None:
        try:
            self._run()
        except (Refused, StorageError) as error:
            self.error = error
        except Exception as error:  # requests, urllib3, ssl and socket each have their own
            kind = type(error).__name__
            broken = f"it broke off after {self.received:,} bytes ({kind})"
            self.error = Refused(broken if self.received else str(error) or kind)
            self.error.__cause__ = error

    def _run(self) -> None:
        import requests

        session = requests.Session()  # takes proxies from the environment
        # Redirects are followed here: requests, even when told not to, would first read whatever comes with one, whole.
        session.get_redirect_target = lambda response: None  # type: ignore[method-assign, assignment]
        headers = {"Accept-Encoding": "identity"}  # what is compressed could unpack to any size
        for _ in range(REDIRECTS):
            with session.get(self.url, stream=True, timeout=SILENCE, headers=headers) as response:
                if not response.is_redirect:
                    return self._receive(response)
                self.url = urllib.parse.urljoin(self.url, response.headers["Location"])
        raise Refused(f"it was redirected {REDIRECTS} times")

    def _receive(self, response: requests.Response) -> None:
        if response.status_code != 200:
            raise Refused(f"{self.place} answered {response.status_code} {response.reason}")
        kind, length = response.headers.get("Content-Type", ""), response.headers.get("Content-Length", "")
        page = kind.lower().startswith(("text/html", "application/xhtml"))
        while chunk := b"" if page else response.raw.read(_CHUNK):
            page = not self.received and _is_page(chunk)
            self.received += len(chunk)
            if self.received > MOST or length.isdigit() and int(length) > MOST:
                raise Refused(f"{self.place} sends more than {MOST:,} bytes")
            if page or not self.wanted:
                break
            try:
                self.file.write(chunk)
            except OSError as error:  # no word about the network
                raise StorageError(error.errno, error.strerror) from error
        if page:
            raise Refused(
                f"a web page came instead, from {self.place}; the network may want a login in a browser first, or the "
                "file has moved"
            )


def _is_page(start: bytes) -> bool:
    return start.lstrip(b"\xef\xbb\xbf \t\r\n")[:14].lower().startswith((b"<!doctype html", b"<html"))
