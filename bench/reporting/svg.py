"""matplotlib's SVG made fit for a page: inline, in the page's colours, with ids that no other figure has."""

from __future__ import annotations

import re

from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.transforms import Affine2D

from bench.reporting.style import PlotStyle

#: Greys of the figures -> variables of the page's style sheet. A colour of a method stays, but black.
THEME = {
    "#000000": "currentColor",
    "#ffffff": "var(--paper)",
    "#ebebeb": "var(--grid)",
    "#bfbfbf": "var(--line)",
    "#737373": "var(--soft)",
    "#4c4c4c": "var(--soft)",
}
TAG = r"<[^>]*>"
POINTS = 4 / 3  # pixels of a point
LETTERS = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"}


def inline(svg: str, name: str, label: str) -> str:
    """An <svg> element for a page that holds many: ``name`` is the prefix of its ids, ``label`` what it shows.

    ``label`` must be escaped already.
    """
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert size is not None
    body = svg[svg.index(">", size.end()) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    used = dict.fromkeys(re.findall(r'(?:href="|url\()#([^")]+)', "".join(re.findall(TAG, body))))
    new = {old: f"{name}-{index}" for index, old in enumerate(used)}

    def fitted(found: re.Match[str]) -> str:
        tag = found[0].replace("xlink:href", "href")
        tag = re.sub(r' id="([^"]+)"', lambda found: f' id="{new[found[1]]}"' if found[1] in new else "", tag)
        tag = re.sub(r'(href="|url\()#([^")]+)', lambda found: f"{found[1]}#{new[found[2]]}", tag)
        tag = re.sub(r"#[0-9a-f]{6}\b(?=[;\"])", lambda found: THEME.get(found[0], found[0]), tag)
        tag = tag.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
        return re.sub(r"(\d\.\d\d)\d+", r"\1", tag)  # a hundredth of a point is enough

    body = re.sub(TAG, fitted, body)  # what stands between tags are names and numbers, which stay as they are
    body = re.sub(r"\s*\n\s*", "\n", body).strip()
    width, height = (float(each) * POINTS for each in size.groups())
    style = f"--width: {width:.0f}px; aspect-ratio: {width:.0f} / {height:.0f}"
    box = f'viewBox="0 0 {size[1]} {size[2]}" style="{style}"'
    return f'<svg class="figure" role="img" aria-label="{label}" {box}>\n{body}\n</svg>'


def chip(look: PlotStyle) -> str:
    """The marker of a method in its colour, as the figures have it."""
    marker = MarkerStyle(look.marker)
    path = marker.get_path().transformed(marker.get_transform() + Affine2D().scale(9, -9))
    steps = [
        LETTERS[code] + " ".join(f"{value:.1f}" for value in ([] if code == Path.CLOSEPOLY else points))
        for points, code in path.iter_segments()
    ]
    color = THEME.get(look.color, look.color)
    return (
        f'<svg class="chip" viewBox="-6 -6 12 12" aria-hidden="true"><path fill="{color}" d="{"".join(steps)}"/></svg>'
    )
