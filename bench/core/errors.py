"""Errors reported to the user, and the exit status of a command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable


def printable(text: str) -> str:
    """Return ``text`` as one line, with control characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class UserError(Exception):
    """An error that the user can fix: one printed line that says what is wrong and what to do; exit status 2.

    Control characters, for example in a quoted file name, are escaped.
    """

    def __init__(self, message: object):
        super().__init__(printable(str(message)))


class Stopped(Exception):
    """Raised after a graceful shutdown on SIGINT or SIGTERM."""

    def __init__(self, signal: int, message: str):
        super().__init__(message)
        self.signal = signal


def exit_status(command: Callable[[], int], on_stop: str) -> int:
    """Run ``command`` and return the exit status of the process; print errors as one line.

    2 after a ``UserError`` or an unreadable or unwritable file; 130 after Ctrl-C and 128 + n after signal n, with
    ``on_stop`` (what has been saved, or how to continue) printed.
    """
    try:
        status = command()
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader has closed the pipe, for example "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {UserError(f'{where}{error.strerror or error}')}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"stopped: {stopped}; {on_stop}", file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print(f"\ninterrupted: {on_stop}", file=sys.stderr)
        return 130
