"""Atomic file writes and JSON files."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bench.core.safe_io import open_regular_file

if TYPE_CHECKING:
    pass


RECORD_BYTES = 16 << 20  # of a JSON file at most: a thousand times what one has


#: How the name of a file ends that is being written.
UNFINISHED = ".unfinished"


class StorageError(OSError):
    """A file could not be written: the disk is full, the folder is gone or may not be written to."""


def rename_to_backup(path: Path) -> Path:
    """Rename a cell's folder, or a file of it, so that nothing of it is lost to what takes its place; its new path."""
    number = 1
    while (aside := path.with_name(f"superseded-{path.name}-{number}")).exists():
        number += 1
    return path.rename(aside)


def dumps(record: Any, **options: Any) -> str:
    """JSON as every file of the harness holds it: NaN and infinities as null, text as it is."""
    return json.dumps(_finite(record), ensure_ascii=False, allow_nan=False, **options)


def write_json(path: Path, record: dict) -> None:
    write_text(path, dumps(record, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    replace(path, lambda file: file.write(text.encode()))


def read_json(path: Path, missing_ok: bool = False) -> Any:
    """The content of a JSON file; None where there is none and ``missing_ok``. ``ValueError`` for a damaged one."""
    text = read_text(path, missing_ok)
    return None if text is None else parse_json(text)


def read_text(path: Path, missing_ok: bool) -> str | None:
    """The text of a file, within bounds; None where there is none and ``missing_ok``. ``ValueError``: it is no text."""
    try:
        with open_regular_file(path, RECORD_BYTES) as file:
            return file.read(RECORD_BYTES).decode()
    except FileNotFoundError:
        if missing_ok:
            return None
        raise


def parse_json(text: str) -> Any:
    """What JSON says. Refused are ``null``, which stands for no record, and NaN and infinity, which none writes."""
    try:
        record = json.loads(text, parse_constant=_refused)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return _refused("null") if record is None else record


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no record")


def replace(path: Path, write: Callable[[IO[bytes]], Any], parents: bool = True, flush: bool = True) -> None:
    """Write a file so that a reader, or a power cut, sees the old one or the new one and nothing between.

    ``parents``: make its folder if there is none. Without ``flush`` a power cut may leave an empty one, at a hundredth
    of the time. ``StorageError`` where it cannot be written.
    """
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
    except RecursionError as error:  # of a path of a thousand folders
        raise StorageError(errno.ENAMETOOLONG, "too many folders", str(path)[:200]) from error
    except OSError as error:
        raise StorageError(error.errno, error.strerror, str(path)) from error
    raw = _Raw(descriptor, "wb")
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


class _Raw(io.FileIO):
    """A file that remembers why it could not be written: those who write into it may not say."""

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def _flush_folder(folder: Path) -> None:
    """Flush a folder's list of names, where the system can: a rename that a power cut undoes did not happen."""
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
