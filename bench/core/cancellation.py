"""Cooperative cancellation: long work asks ``should_stop()`` where it can stop without losing anything."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

POLL_SECONDS = 0.5


class Interrupted(KeyboardInterrupt):
    """Raised when work stops because it was asked to. Not an ``Exception``: failure handlers let it pass."""


def never() -> bool:
    """Return False: the ``should_stop`` of work that nobody cancels."""
    return False


def when_missing(marker: Path) -> Callable[[], bool]:
    """Return a ``should_stop`` that is true once the file ``marker`` is gone; looks every ``POLL_SECONDS``."""
    checked, missing = -POLL_SECONDS, False

    def should_stop() -> bool:
        nonlocal checked, missing
        if not missing and time.monotonic() - checked >= POLL_SECONDS:
            checked, missing = time.monotonic(), not marker.exists()
        return missing

    return should_stop
