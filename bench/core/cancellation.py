"""Cooperative cancellation: long computations call ``should_stop()`` at points where they can stop without loss."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.5
#: Signals that stop a run: ^C, the warning of a cluster before it kills, a closed terminal.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupted(KeyboardInterrupt):
    """Raised when a computation stops on request. Not an ``Exception``, so failure handlers do not catch it."""


def never() -> bool:
    """Return False: the default ``should_stop``."""
    return False


def when_missing(marker: Path) -> Callable[[], bool]:
    """Return a ``should_stop`` that is True once the file ``marker`` is missing."""
    return throttled(lambda: not marker.exists())


def throttled(stopped: Callable[[], bool]) -> Callable[[], bool]:
    """Return a ``should_stop`` that is True once ``stopped`` was; it calls it every ``POLL_SECONDS``."""
    checked, result = -POLL_SECONDS, False

    def should_stop() -> bool:
        nonlocal checked, result
        if not result and time.monotonic() - checked >= POLL_SECONDS:
            checked, result = time.monotonic(), stopped()
        return result

    return should_stop


@contextmanager
def signal_handlers(handlers: Mapping[int, Any]) -> Iterator[None]:
    """Install handlers of signals; restore the earlier ones of all ``SIGNALS`` on exit. Only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
