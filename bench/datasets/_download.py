"""Files that others publish, held to the name that git gives their content."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from bench.datasets import keep
from bench.errors import UserError


def git_blob_sha1(content: bytes) -> str:
    """The name that git gives a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def download(path: Path, url: str, blob: str, name: str, folder: Path | None, remedy: str) -> Path:
    """The file that git calls ``blob``, kept at ``path``, downloaded unless it is there; nothing else is ever kept.

    ``UserError`` where it is not to be had: no ``name``, nothing in ``folder``, why no download, and the ``remedy``.
    """
    try:
        if git_blob_sha1(path.read_bytes()) == blob:
            return path
    except OSError:
        pass  # not there, or not to be read: fetched anew
    import pooch

    buffer = io.BytesIO()
    try:
        pooch.HTTPDownloader(timeout=30)(url, buffer, None)
        problem = None
        if (found := git_blob_sha1(buffer.getvalue())) != blob:
            problem = f"what came is not the published file (git blob {found}, not {blob})"
    except Exception as error:  # requests, urllib3, ssl and socket each have their own
        problem = " ".join(str(error).split()) or type(error).__name__
    if problem:
        looked = f"nothing in {folder}" if folder else "no data directory given"
        raise UserError(f"no {name}: {looked}, and downloading {url} failed: {problem}. {remedy}")
    keep(path, lambda file: file.write(buffer.getbuffer()))
    return path
