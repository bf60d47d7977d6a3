"""Errors reported to the user, and their texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


def printable(text: str) -> str:
    """Return ``text`` as one line, with control characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def error_summary(error: BaseException) -> str:
    """Return one line: the error's type, the first line of its message, and its first note, if it has one."""
    try:
        text = next(iter(str(error).strip().splitlines()), "")
    except Exception:  # an error whose __str__ fails
        text = ""
    note = next((f" ({note})" for note in getattr(error, "__notes__", ())), "")
    return printable(f"{type(error).__name__}{text and ': '}{text}{note}")


def first_error(error: ValidationError) -> str:
    """Return the first error of a pydantic validation in one line, with its place."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return printable(f"{place}: {first['msg']}" if place else first["msg"])


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
