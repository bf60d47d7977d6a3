"""Atomic writes, JSON and NumPy files, and locks between processes.

Locks are ``flock`` on lock files, which the kernel releases when a process dies. On a network file system they work
across machines only if it supports ``flock``: NFS 4 and Lustre mounted with ``flock`` do, NFS 3 without its lock daemon
does not.
"""

from __future__ import annotations

import errno
import io
import json
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from bench.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np

UNFINISHED = ".unfinished"  #: Suffix of a file that is being written.
POLL_SECONDS = 0.2  #: Between two attempts to acquire a lock.


class StorageError(OSError):
    """A file could not be written: the disk is full, or the folder is missing or not writable."""


def expand_user(path: str | Path) -> Path:
    """Return the path with ``~`` replaced by the home folder; ``UserError`` if that is unknown."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"the home folder of '{path}' is unknown: write the whole path, or ./{path}") from error


def rename_to_backup(path: Path) -> Path:
    """Rename a file or folder to ``<name>.bak-<n>`` so that it is not overwritten; return the new path."""
    number = 1
    while (backup := path.with_name(f"{path.name}.bak-{number}")).exists():
        number += 1
    return path.rename(backup)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    replace(path, lambda file: file.write(content))


def read_json(path: Path, missing_ok: bool = False) -> Any:
    """Return the content of a JSON file; None if it is missing and ``missing_ok``. ``ValueError`` if damaged."""
    text = read_text(path, missing_ok)
    return None if text is None else json.loads(text)


def read_text(path: Path, missing_ok: bool) -> str | None:
    """Return the text of a file; None if it is missing and ``missing_ok``. ``ValueError`` if it is not UTF-8."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        if missing_ok:
            return None
        raise


def read_bytes(path: Path) -> bytes:
    """Return the content of a file of the user; ``UserError`` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def read_arrays(path: Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file, only those in ``names`` if given. Pickled objects are not loaded.

    A damaged file raises any of the exceptions of zipfile, zlib and NumPy.
    """
    import numpy as np

    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files if names is None or name in names}


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


@contextmanager
def file_lock(path: Path, timeout: float | None = 0) -> Iterator[bool]:
    """Lock the file ``path``; yield whether the lock was acquired within ``timeout`` seconds (None: wait forever).

    Not re-entrant. The file is removed on exit; waiting processes notice and lock the next file of that name.
    Raise ``StorageError`` if the file cannot be created or the file system has no locks.
    """
    lock = FileLock(path, timeout=-1 if timeout is None else timeout, fallback_to_soft=False, thread_local=False)
    try:
        lock.acquire(poll_interval=POLL_SECONDS)
    except Timeout:
        yield False
        return
    except NotImplementedError as error:
        raise StorageError(errno.ENOSYS, "this file system has no locks", str(path)) from error
    except OSError as error:
        raise StorageError(error.errno, error.strerror, str(path)) from error
    try:
        yield True
    finally:
        with suppress(OSError):
            path.unlink()
        lock.release()
