"""Durations and failure reasons for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.core.errors import printable


def failure_reason(result: Any) -> str:
    """Why a cell is not done, in one line, as far as its ``result.json`` tells."""
    record = result if isinstance(result, Mapping) else {}
    failure = record.get("evaluation_failure")
    told = record.get("reason") or (failure.get("reason") if isinstance(failure, Mapping) else None)
    if told:
        return " ".join(str(told).split())
    if not record:
        return "it was not begun"
    return f"its {'evaluation' if record.get('status') == 'ok' else 'training'} was broken off"


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
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
