"""Where work says that it goes on. There it can be asked to stop, and one that is silent for too long is ended."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POLL_SECONDS = 0.5


class Interrupted(KeyboardInterrupt):
    """Work was asked to stop, and did where nothing is lost. No failure: whatever catches those lets it pass."""


_last = 0.0  # when work last said that it goes on
_stopping = False
_whole = False  # within work that is not to be stopped half-way


def beat() -> None:
    """Say that work goes on, where it cannot be stopped without losing some."""
    global _last
    _last = time.monotonic()


def pulse() -> None:
    """Say that work goes on, where it may be stopped: ``Interrupted`` if it has been asked to."""
    beat()
    if _stopping and not _whole:
        raise Interrupted


def stopping() -> bool:
    """Whether work has been asked to stop, by someone who can wait for a good moment."""
    return _stopping


def stop(asked: bool = True) -> None:
    """Ask the work in this process to stop; or, before it begins, take that back."""
    global _stopping
    _stopping = asked


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Within, ``pulse`` does not stop: for work that would have to be done again from its beginning."""
    global _whole
    before, _whole = _whole, True
    try:
        yield
    finally:
        _whole = before


@contextmanager
def watched(
    silence: float, ended: Callable[[str], object], asked: Callable[[], bool] = lambda: False
) -> Iterator[None]:
    """Watch the work of this thread from another: stop it when ``asked()``; when it was silent for ``silence``
    seconds, call ``ended`` with the stack where it stands."""
    beat()
    over, worker = threading.Event(), threading.get_ident()

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            if asked():
                stop()
            if time.monotonic() - _last > silence and not over.is_set():
                ended("".join(traceback.format_stack(sys._current_frames()[worker])))
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
