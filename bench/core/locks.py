"""Locks between processes, by lock files that the kernel lets go of when their holder dies.

They are ``flock`` locks. On a network file system they hold across machines only where it supports them: NFS 4 does,
and Lustre mounted with ``flock``; NFS 3 without its lock daemon does not.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

POLL_SECONDS = 0.2


@contextmanager
def file_lock(path: Path, patience: float | None = 0) -> Iterator[bool]:
    """Hold the lock file ``path`` within, and say whether it is held.

    Waits at most ``patience`` seconds for whoever holds it, None: for as long as it takes. Not re-entrant. The file is
    removed at the end; whoever waits for it notices that and locks the next one. ``OSError`` where it cannot be made.
    """
    lock = FileLock(path, timeout=-1 if patience is None else patience, fallback_to_soft=False, thread_local=False)
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
