"""Syntax of expressions on the command line: ``name(setting=value, …)`` and values."""

from __future__ import annotations

import ast
import re
from typing import Any

from bench.core.errors import UserError

MAX_EXPRESSION_LENGTH = 10_000  #: Characters of an expression; longer ones would expand into too many variants.
MAX_VALUE_LENGTH = 1000  #: Characters of one value.

_CALL = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:\((.*)\))?\s*", re.DOTALL)


def split_expressions(text: str) -> list[str]:
    """Split at commas, except within parentheses."""
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
    """Parse ``name(key=a|b, …)`` into the name and the alternatives of each key.

    Errors quote ``expression``, the whole that ``text`` is a part of.
    """
    match = _CALL.fullmatch(text)
    if not match:
        raise UserError(f"cannot read the expression '{expression}': write name, name(setting=value) or name+anneal")
    settings: dict[str, list[str]] = {}
    for item in split_expressions(match[2] or ""):
        key, equals, value = (piece.strip() for piece in item.partition("="))
        if not equals or not key or not value:
            raise UserError(f"cannot read '{item}' in '{expression}': settings are written name=value")
        if key in settings:
            raise UserError(f"'{expression}' sets '{key}' twice")
        settings[key] = [piece.strip() for piece in value.split("|")]
    return match[1], settings


def parse_value(text: str) -> Any:
    """Parse a number, ``true``, ``false``, ``none`` or a tuple; return any other text as it is.

    Raise ``UserError`` for more than ``MAX_VALUE_LENGTH`` characters.
    """
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    if len(text) > MAX_VALUE_LENGTH:
        raise UserError(f"a value of {len(text):,} characters is too long: at most {MAX_VALUE_LENGTH:,}")
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):  # all that literal_eval may raise
        return text
