"""Downloads of published files, verified by their hash."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from bench.core.errors import UserError
from bench.core.files import replace
from bench.data.cache import exclusive

TIMEOUT = 30.0  #: Seconds to wait for the connection and for each part of the file.


def git_blob_sha1(content: bytes) -> str:
    """Return the hash by which git names a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def has_digest(content: bytes, digest: str) -> bool:
    """Return whether the hash of a file is ``digest``: 64 hexadecimal digits of SHA-256, or 40 of a git blob."""
    return digest == (hashlib.sha256(content).hexdigest() if len(digest) == 64 else git_blob_sha1(content))


def download(path: Path, url: str, digest: str, name: str, folder: Path | None, remedy: str) -> Path:
    """Return ``path``, downloaded from ``url`` unless it already has the hash ``digest`` of ``has_digest``.

    Only a verified file is stored. Only one process downloads, others wait for it. The ``UserError`` after a failure
    says that the data set ``name`` is not in ``folder`` (the user's, if any), why the download failed, and the
    ``remedy``. Proxies are taken from the environment.
    """
    if _verified(path, digest):
        return path
    with exclusive(path):
        if not _verified(path, digest):
            try:
                content = _fetch(url, digest)
            except OSError as error:
                searched = f"nothing in {folder}" if folder else "no data directory given"
                raise UserError(f"no {name}: {searched}, and downloading {url} failed: {error}. {remedy}") from error
            replace(path, lambda file: file.write(content))
    return path


def _fetch(url: str, digest: str) -> bytes:
    """Download ``url``. Raise ``OSError`` if that fails or the file does not have the hash ``digest``."""
    from pooch import HTTPDownloader

    content = io.BytesIO()
    HTTPDownloader(timeout=TIMEOUT)(url, content, None)
    if not has_digest(content.getvalue(), digest):
        raise OSError("the server sent another file than the published one (does the network require a login?)")
    return content.getvalue()


def _verified(path: Path, digest: str) -> bool:
    return path.is_file() and has_digest(path.read_bytes(), digest)
