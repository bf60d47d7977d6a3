"""Downloads of published files, verified by their git blob hash."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from bench.core.errors import UserError
from bench.core.files import UNFINISHED
from bench.data.cache import exclusive, writing

TIMEOUT = 30.0  #: Seconds to wait for the connection and for each part of the file.


def git_blob_sha1(content: bytes) -> str:
    """Return the hash by which git names a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def download(path: Path, url: str, blob: str, name: str, folder: Path | None, remedy: str) -> Path:
    """Return ``path``, downloaded from ``url`` unless it already has the git blob hash ``blob``.

    Only a verified file is stored. Only one process downloads, others wait for it. The ``UserError`` after a failure
    says that the data set ``name`` is not in ``folder`` (the user's, if any), why the download failed, and the
    ``remedy``. Proxies are taken from the environment.
    """
    if _verified(path, blob):
        return path
    with exclusive(path):
        if not _verified(path, blob):
            partial = path.with_name(f".{path.name}{UNFINISHED}")
            try:
                with writing(path.parent):
                    failure = _fetch(url, blob, partial)
                    if failure is None:
                        os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
            if failure:
                searched = f"nothing in {folder}" if folder else "no data directory given"
                raise UserError(f"no {name}: {searched}, and downloading {url} failed: {failure}. {remedy}")
    return path


def _fetch(url: str, blob: str, path: Path) -> str | None:
    """Download ``url`` to ``path``; return why that failed, or None if the file has the hash ``blob``."""
    import requests
    from pooch import HTTPDownloader

    try:
        HTTPDownloader(timeout=TIMEOUT)(url, str(path), None)
    except requests.RequestException as error:
        return " ".join(str(error).split())
    if _verified(path, blob):
        return None
    return "the server sent another file than the published one (does the network require a login?)"


def _verified(path: Path, blob: str) -> bool:
    return path.is_file() and git_blob_sha1(path.read_bytes()) == blob
