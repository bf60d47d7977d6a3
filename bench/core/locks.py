"""Locks between processes: ``flock`` on lock files, which the kernel releases when a process dies.

On a network file system they work across machines only if it supports ``flock``: NFS 4 and Lustre mounted with
``flock`` do, NFS 3 without its lock daemon does not.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

POLL_SECONDS = 0.2


@contextmanager
def file_lock(path: Path, timeout: float | None = 0) -> Iterator[bool]:
    """Lock the file ``path``; yield whether the lock was acquired within ``timeout`` seconds (None: wait forever).

    Not re-entrant. The file is removed on exit; waiting processes notice and lock the next file of that name.
    Raise ``OSError`` if the file cannot be created or the file system has no locks.
    """
    lock = FileLock(path, timeout=-1 if timeout is None else timeout, fallback_to_soft=False, thread_local=False)
    try:
        lock.acquire(poll_interval=POLL_SECONDS)
    except Timeout:
        yield False
        return
    except NotImplementedError as error:
        raise OSError(errno.ENOSYS, "this file system has no locks", str(path)) from error
    try:
        yield True
    finally:
        with suppress(OSError):
            path.unlink()
        lock.release()
