"""The syntax of expressions: ``name(setting=value, …)`` and values."""

from __future__ import annotations

import ast
import re
from typing import Any

from bench.core.errors import UserError

#: What stands on a command line is written by hand: more is a mistake, and would take hours or all memory to expand.
MAX_EXPRESSION_LENGTH = 10_000  # of an expression


MAX_VALUE_LENGTH = 1000  # characters of one value


_PART = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:\((.*)\))?\s*", re.DOTALL)


def split_expressions(text: str) -> list[str]:
    """The expressions in a comma-separated list; commas within parentheses separate settings."""
    parts, depth, current = [], 0, ""
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += character
    return [part.strip() for part in [*parts, current] if part.strip()]


def parse_call(text: str, expression: str) -> tuple[str, dict[str, list[str]]]:
    """``name(key=a|b, …)`` -> name, key -> alternatives."""
    match = _PART.fullmatch(text)
    if not match:
        raise UserError(f"cannot read the expression '{expression}': write name, name(setting=value) or name+anneal")
    given: dict[str, list[str]] = {}
    for item in split_expressions(match[2] or ""):
        key, equals, value = (piece.strip() for piece in item.partition("="))
        if not equals or not key or not value:
            raise UserError(f"cannot read '{item}' in '{expression}': settings are written name=value")
        if key in given:
            raise UserError(f"'{expression}' gives '{key}' twice")
        given[key] = [piece.strip() for piece in value.split("|")]
    return match[1], given


def parse_value(text: str) -> Any:
    """A number, ``true``, ``false``, ``none``, a tuple, or else the text itself. ``UserError`` for a very long one."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    if len(text) > MAX_VALUE_LENGTH:
        raise UserError(f"a value of {len(text):,} characters is too long: {MAX_VALUE_LENGTH:,} at most")
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):  # all that it may raise
        return text
