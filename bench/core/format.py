"""Durations and errors as short texts."""

from __future__ import annotations

from bench.core.errors import printable


def duration(seconds: float) -> str:
    """Return a duration as text, in the largest unit of which it has at least two: ``"90 s"``, ``"3 h"``."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def error_summary(error: BaseException) -> str:
    """Return one line: the error's type, the first line of its message, and its first note, if it has one."""
    try:
        text = next(iter(str(error).strip().splitlines()), "")
    except Exception:  # an error whose __str__ fails
        text = ""
    note = next((f" ({note})" for note in getattr(error, "__notes__", ())), "")
    return printable(f"{type(error).__name__}{text and ': '}{text}{note}")
