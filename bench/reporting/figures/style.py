"""Style shared by all figures: sizes for papers, the look of every row, clipped outliers, labels, legends, files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import seaborn
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from bench.core.files import replace
from bench.reporting.looks import LIGHT, Look, marker_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

Looks = Mapping[str, Look]  # row -> its look, in the order of the tables
T = TypeVar("T")

COLUMN, WIDTH = 3.3, 6.8  # inches: one column and the full width of a page
MIN_FONT = 7  # points
LINE = 0.135  # inches: a line of text
DPI = 200  # of PNG files
GREY = "0.55"
GAP = 1.5  # beyond which values do not count for the range of an axis
#: matplotlib settings of every figure, on top of matplotlib's defaults.
RC: dict[str, Any] = {
    **seaborn.axes_style("whitegrid"),
    **seaborn.plotting_context("paper", font_scale=0.83),
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same bytes on every machine
    "font.size": MIN_FONT,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "figure.titlesize": 7.5,
    "figure.labelsize": 7.5,
    "legend.fontsize": MIN_FONT,
    "xtick.labelsize": MIN_FONT,
    "ytick.labelsize": MIN_FONT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "0.92",
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,
}

#: File formats, with the metadata that would make the bytes differ between builds.
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def face(look: Look) -> str:
    """Return the colour of a marker's face on white."""
    color, white = np.array(to_rgb(look.color_light)), np.array(to_rgb(LIGHT))
    return to_hex(look.fill * color + (1 - look.fill) * white)


def point(look: Look, size: float = 5.0) -> dict[str, Any]:
    """Return the arguments of ``plot`` and ``errorbar`` for a row's marker."""
    marks = {"marker": marker_path(look.marker), "markersize": size, "markerfacecolor": face(look)}
    return marks | {"color": look.color_light, "markeredgecolor": look.color_light, "markeredgewidth": 0.7}


def line(look: Look) -> dict[str, Any]:
    """Return the arguments of ``plot`` for a row's line without markers."""
    return {"color": look.color_light, "linestyle": (0, look.dashes) if look.dashes else "-"}


def subplots(
    height: float, rows: int = 1, columns: int = 1, width: float = WIDTH, **options: Any
) -> tuple[Figure, np.ndarray]:
    """Return a figure of this size in inches and its axes ``(rows, columns)``."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def pages(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield the items in pages of equal length, of at most ``size``."""
    count = -(-len(items) // size)
    length = -(-len(items) // max(count, 1))
    yield from (items[start : start + length] for start in range(0, len(items), max(length, 1)))


def core(values: Iterable[float], needed: Iterable[float] = ()) -> tuple[float, float]:
    """Return the range of the values without those that would stretch an axis: (low, high), with ``needed`` inside.

    Values at an end are left out if their distance from the others is ``GAP`` times the range of these, up to a quarter
    of all.
    """
    kept = sorted(value for value in values if np.isfinite(value))
    spare = len(kept) // 4
    while spare:
        above = [k for k in range(1, spare + 1) if kept[-k] - kept[-k - 1] > GAP * (kept[-k - 1] - kept[0])]
        below = [k for k in range(1, spare + 1) if kept[k] - kept[k - 1] > GAP * (kept[-1] - kept[k])]
        if above:
            del kept[-above[-1] :]
        elif below:
            del kept[: below[-1]]
        else:
            break
        spare -= max(above or below)
    ends = [*kept, *needed]
    return (min(ends), max(ends)) if ends else (0.0, 1.0)


def core_of_intervals(means: np.ndarray, lows: np.ndarray, highs: np.ndarray) -> tuple[float, float]:
    """Return the ``core`` of means and 0, with the core of the intervals of these means."""
    low, high = core(means, [0.0])
    inside = (means >= low) & (means <= high)
    return core([*lows[inside], *highs[inside]], [low, high])


def limits(low: float, high: float, margin: float = 0.06) -> tuple[float, float]:
    """Return the limits of an axis around a range."""
    pad = margin * (high - low) or 0.5
    return low - pad, high + pad


def clip(ax: Axes, x: float, y: float, text: str = "") -> tuple[float, float]:
    """Return the point, or the nearest one inside the axes, with an arrow and its value drawn there.

    The text covers no points and texts that are already drawn, if one of the places near the arrow is free.
    """
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    bottom, top = sorted((bottom, top))
    inside = min(max(x, left), right), min(max(y, bottom), top)
    if inside == (x, y):
        return inside
    direction = np.sign(x - inside[0]), np.sign(y - inside[1])
    sign = -1 if ax.yaxis_inverted() else 1
    values = [f"{value:.3g}" for value, out in zip((x, y), direction, strict=True) if out]
    along = np.array([-16 * direction[0], -16 * sign * direction[1]])
    across = np.array([0, 1] if direction[0] else [1, 0])
    marks, texts = _marks(ax), [Text.get_window_extent(drawn) for drawn in ax.texts]
    for shift in (0, 10, -10, 20, -20):
        note = ax.annotate(
            f"{text} {', '.join(values)}".strip(),
            inside,
            tuple(along + shift * across),
            textcoords="offset points",
            fontsize=MIN_FONT,
            color="0.3",
            ha={1: "right", -1: "left", 0: "center"}[int(direction[0])],
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            arrowprops={"arrowstyle": "->", "color": "0.3", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 0},
        )
        box = Text.get_window_extent(note).padded(4)
        if not (text and (_hides(box, marks) or any(box.overlaps(other) for other in texts))):
            break
        note.remove()
    else:
        ax.add_artist(note)
    return inside


def _marks(ax: Axes) -> np.ndarray:
    """Return the places of single points in pixels, (points, 2)."""
    lines = [np.asarray(line.get_xydata()) for line in ax.lines]
    return ax.transData.transform(np.vstack([np.empty((0, 2)), *(line for line in lines if len(line) == 1)]))


def _hides(box: Bbox, marks: np.ndarray) -> bool:
    return bool(((marks > (box.x0, box.y0)) & (marks < (box.x1, box.y1))).all(axis=1).any())


def label(ax: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Write names beside points where they hide no other name or point; a name without a free place is left out."""
    if figure := ax.get_figure(root=True):
        figure.draw_without_rendering()
    taken = [text.get_window_extent() for text in ax.texts]
    marks = _marks(ax)
    for name, at in points.items():
        for dx, dy in ((3, 7), (3, -7), (-3, 7), (-3, -7), (5, 0), (-5, 0), (0, 10), (0, -10)):
            align: dict[str, Any] = {"ha": "left" if dx > 0 else "right" if dx < 0 else "center", "va": "center"}
            text = ax.annotate(name, at, (dx, dy), textcoords="offset points", fontsize=MIN_FONT, **align)
            box = text.get_window_extent().padded(3)
            inside = ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1 and ax.bbox.y0 <= box.y0 and box.y1 <= ax.bbox.y1
            if inside and not _hides(box, marks) and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def broken(name: str, characters: int) -> str:
    """Return a name in lines, not broken within a setting."""
    return fill(name.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"), characters)


def legend(ax: Axes, names: Iterable[str], looks: Looks, lines: bool = True) -> None:
    """Add a legend to the right of the axes, with long names in two lines."""
    styles = {name: line(looks[name]) if lines else {"linestyle": "none"} for name in names}
    handles = [
        Line2D([], [], label=broken(name, 24), **point(looks[name], 4.5) | style) for name, style in styles.items()
    ]
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.02), "borderaxespad": 0}
    ax.legend(handles=handles, **place, handlelength=2.4 if lines else 1.0, labelspacing=0.25)


def save(figure: Figure, path: Path) -> list[Path]:
    """Write the figure to ``path`` in every format and return the files. The same figure gives the same bytes."""
    if engine := figure.get_layout_engine():
        figure.set_dpi(DPI)  # text widths depend on it
        engine.execute(figure)
        figure.set_layout_engine(None)  # lay out once for all formats: it takes most of the time
    files = [path.with_name(f"{path.name}.{name}") for name in METADATA]
    for file in files:
        name = file.suffix[1:]
        replace(file, partial(figure.savefig, format=name, dpi=DPI, metadata=METADATA[name]))
    return files
