"""Atomic file writes and JSON files."""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from bench.core.safe_io import open_regular_file

RECORD_BYTES = 16 << 20  #: Maximum size of a JSON file, a thousand times the usual one.
UNFINISHED = ".unfinished"  #: Suffix of a file that is being written.


class StorageError(OSError):
    """A file could not be written: the disk is full, or the folder is missing or not writable."""


def rename_to_backup(path: Path) -> Path:
    """Rename a file or folder to ``<name>.bak-<n>`` so that it is not overwritten; return the new path."""
    number = 1
    while (backup := path.with_name(f"{path.name}.bak-{number}")).exists():
        number += 1
    return path.rename(backup)


def dumps(record: Any, **options: Any) -> str:
    """Return ``record`` as JSON, with NaN and infinities as null and non-ASCII text unescaped."""
    return json.dumps(_finite(record), ensure_ascii=False, allow_nan=False, **options)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    write_text(path, dumps(record, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    replace(path, lambda file: file.write(text.encode()))


def read_json(path: Path, missing_ok: bool = False) -> Any:
    """Return the content of a JSON file; None if it is missing and ``missing_ok``. ``ValueError`` if damaged."""
    text = read_text(path, missing_ok)
    return None if text is None else json.loads(text)


def read_text(path: Path, missing_ok: bool) -> str | None:
    """Return the text of a file of at most ``RECORD_BYTES``; None if it is missing and ``missing_ok``.

    Raise ``ValueError`` if it is not UTF-8, too large or not a regular file.
    """
    try:
        with open_regular_file(path, RECORD_BYTES) as file:
            return file.read(RECORD_BYTES).decode()
    except FileNotFoundError:
        if missing_ok:
            return None
        raise


def replace(path: Path, write: Callable[[IO[bytes]], Any], parents: bool = True, flush: bool = True) -> None:
    """Write a file atomically: a reader sees the old or the new content, also after a power failure.

    ``write`` receives the open temporary file, which is then renamed to ``path``. ``parents``: create missing folders.
    ``flush=False`` is a hundred times faster, but a power failure may leave an empty file. Raise ``StorageError`` if
    the file cannot be written.
    """
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
    except OSError as error:
        raise StorageError(error.errno, error.strerror, str(path)) from error
    raw = _ErrorTrackingFile(descriptor, "wb")
    try:
        with io.BufferedWriter(raw) as file:
            write(file)
            file.flush()
            if flush:
                os.fsync(descriptor)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        if flush:
            _flush_folder(path.parent)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        cause = raw.error or (error if isinstance(error, OSError) else None)
        if cause is None or not isinstance(error, Exception):
            raise
        raise StorageError(cause.errno, cause.strerror, str(path)) from error


class _ErrorTrackingFile(io.FileIO):
    """A file that keeps its last write error, because writers such as ``torch.save`` raise a different one."""

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def _flush_folder(folder: Path) -> None:
    """Flush the folder, where the system supports it, so that a power failure does not undo a rename in it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
