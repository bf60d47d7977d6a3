"""The grammar of command-line expressions.

list       = expression ("," expression)*
expression = call ("+" call)*
call       = name ["(" setting ("," setting)* ")"]
setting    = key "=" value ("|" value)*
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any

from bench.core.errors import UserError

#: No name has a hyphen: with one it is reported as unknown, with the right name.
_CALL = re.compile(r"\s*([^\W\d][\w-]*)\s*(?:\((.*)\))?\s*", re.DOTALL)


@dataclass(frozen=True)
class Call:
    """A name with its settings as typed: key → alternative values."""

    name: str
    settings: dict[str, list[str]]


def split_expressions(text: str) -> list[str]:
    """Split a comma-separated list of expressions; empty entries are dropped."""
    return [part.strip() for part in _split(text, ",") if part.strip()]


def parse_expression(text: str) -> list[Call]:
    """Return the calls of an expression. Raise ``UserError`` if it does not follow the grammar."""
    parts = _split(text, "+")
    if not all(part.strip() for part in parts):
        raise UserError(f"cannot read '{text}': write a name on both sides of '+', such as vae+anneal, or no '+'")
    return [parse_call(part) for part in parts]


def parse_call(text: str) -> Call:
    """Return the single call of an expression without ``+``."""
    match = _CALL.fullmatch(text)
    if not match:
        raise UserError(f"cannot read '{text}': write a name, or name(setting=value)")
    settings: dict[str, list[str]] = {}
    for item in split_expressions(match[2] or ""):
        key, _, value = (piece.strip() for piece in item.partition("="))
        if not key or not value:
            raise UserError(f"cannot read '{item}' in '{text}': write settings as name=value")
        if key in settings:
            raise UserError(f"'{text}' sets '{key}' twice: remove one")
        settings[key] = [piece.strip() for piece in value.split("|")]
        if "" in settings[key]:
            raise UserError(f"cannot read '{item}' in '{text}': write a value on both sides of '|', or no '|'")
    return Call(match[1], settings)


def _split(text: str, separator: str) -> list[str]:
    """Split at separators outside parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def parse_value(text: str) -> Any:
    """Return ``true``, ``false``, ``none`` or a Python literal as its value, and any other text as it is."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text
