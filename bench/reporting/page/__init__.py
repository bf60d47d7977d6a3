"""``report.html``: one self-contained page for all groups of cells. It makes no network requests.

The page is drawn in the browser from the JSON of ``bench.reporting.page.data``. Its figures are drawn by Observable
Plot 0.6.17 on d3 7.9.0 (both ISC licence, unmodified releases in ``vendor/``), chosen over Vega-Lite (which compiles
its expressions at run time, so a strict content policy forbids it, and is twice as large), plotly (twice as large) and
uPlot (canvas, so no SVG to download).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from bench.core.citations import paper_link
from bench.core.docstrings import sections
from bench.reporting.page.data import SEED_COLUMNS
from bench.reporting.template import environment

if TYPE_CHECKING:
    from bench.experiment.schema import MethodRecord

ASSETS, VENDOR = (Path(__file__).with_name(name) for name in ("assets", "vendor"))
#: In the order in which they run.
SCRIPTS = (
    *(VENDOR / f"{name}.min.js" for name in ("d3", "plot")),
    *(ASSETS / f"{name}.js" for name in ("core", "plots", "figures", "gallery", "answer", "details", "table", "main")),
)


def page(sets: Sequence[Mapping[str, Any]], methods: Iterable[MethodRecord]) -> str:
    """Return the page of ``group_data`` dictionaries; those with the most seeds come first.

    ``methods``: records of all rows, for the cards of the methods.
    """
    cards = {
        method.name: {
            "summary": method.summary,
            "citation": method.citation,
            "link": paper_link(method.citation),
            "about": [section for section in sections(method.about).items() if section[0]],
            "family": method.family,
        }
        for method in methods
    }
    ordered = sorted(sets, key=lambda group: (-group["seeds"], -sum(row["n"] for row in group["rows"])))
    data = {"sets": ordered, "methods": cards, "seed_columns": SEED_COLUMNS}
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    scripts = [_escape_script(file.read_text("utf-8")) for file in SCRIPTS]
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    return (
        environment(ASSETS)
        .get_template("page.html")
        .render(
            style=Markup((ASSETS / "page.css").read_text("utf-8")),
            hashes=Markup(" ".join(f"'sha256-{value}'" for value in hashes)),
            data=Markup(text.replace("<", "\\u003c")),
            scripts=[Markup(script) for script in scripts],
        )
    )


def _escape_script(text: str) -> str:
    """Return a script without an end tag in its strings."""
    return text.replace("</", "<\\/")
