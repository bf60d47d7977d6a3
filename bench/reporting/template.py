"""Jinja templates of the page and of the Markdown files. HTML is escaped automatically."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape

TEMPLATES = Path(__file__).with_name("templates")


@cache
def template(name: str) -> Template:
    """Return the template ``templates/<name>``; an undefined name in it raises an error."""
    return environment(TEMPLATES).get_template(name)


def environment(*folders: Path) -> Environment:
    """Return the environment of the templates in folders, the first of which has priority."""
    return Environment(
        loader=FileSystemLoader(folders),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
