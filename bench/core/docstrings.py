"""The documentation of a method's file as a summary and named sections."""

from __future__ import annotations

import re


def sections(text: str) -> dict[str, str]:
    """Return name -> text of a documentation, each on one line; "" is its first paragraph.

    A section starts with its name and a colon at the start of a line, such as ``Loss:``.
    """
    summary, _, rest = text.partition("\n\n")
    parts = ["", summary, *re.split(r"^(\w+):\s", rest, flags=re.MULTILINE)[1:]]
    return {name: " ".join(part.split()) for name, part in zip(parts[::2], parts[1::2], strict=True)}
