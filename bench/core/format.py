"""Durations and failure reasons as short texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.core.errors import printable


def failure_reason(result: Any) -> str:
    """Return in one line why a cell is not finished, from its ``result.json``."""
    record = result if isinstance(result, Mapping) else {}
    failure = record.get("evaluation_failure")
    reason = record.get("reason") or (failure.get("reason") if isinstance(failure, Mapping) else None)
    if reason:
        return " ".join(str(reason).split())
    if not record:
        return "not started"
    return f"{'evaluation' if record.get('status') == 'ok' else 'training'} was interrupted"


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
