"""Style shared by all figures: one colour, marker and line per method, print sizes, and files without dates."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.core.files import replace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

WIDTH = 6.75  # inches: the text width of a page
LEGEND_LINE = 0.13  # inches
DPI = 150  # of PNG files
#: matplotlib settings of every figure, on top of matplotlib's defaults.
RC: dict[str, Any] = {
    **seaborn.axes_style("whitegrid"),
    **seaborn.plotting_context("paper", font_scale=0.83),
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same bytes on every machine
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "0.92",
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "pdf.fonttype": 42,
    "svg.hashsalt": "figure",
}

#: File formats, with the metadata that would make the bytes differ between builds.
METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
}

#: Black, and the colour-blind palette without its yellow and pale colours.
COLOURS = ("#000000", *(seaborn.color_palette("colorblind").as_hex()[i] for i in (0, 3, 2, 4, 9, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))


@dataclass(frozen=True)
class PlotStyle:
    """How one method is drawn. The first 77 methods differ in colour or marker."""

    color: str
    marker: str
    linestyle: Any


PlotStyles = Mapping[str, PlotStyle]


def plot_styles(methods: Iterable[str]) -> dict[str, PlotStyle]:
    """Return the style of every method, by its position."""
    return {
        method: PlotStyle(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], LINES[i // len(COLOURS) % len(LINES)])
        for i, method in enumerate(methods)
    }


def plot_styles_for(frame: DataFrame) -> dict[str, PlotStyle]:
    """Return the style of every method in ``cells_frame``; baselines come first."""
    return plot_styles(dict.fromkeys(frame.sort_values("baseline", ascending=False, kind="stable")["method"]))


def semantics(methods: list[str], styles: PlotStyles, lines: bool = False) -> dict[str, Any]:
    """Return the arguments by which seaborn draws every method in its style."""
    arguments: dict[str, Any] = {"hue": "method", "style": "method", "hue_order": methods, "style_order": methods}
    arguments["palette"] = {name: styles[name].color for name in methods}
    arguments["markers"] = {name: styles[name].marker for name in methods}
    if lines:
        patterns = {name: styles[name].linestyle for name in methods}
        arguments["dashes"] = {name: "" if pattern == "-" else pattern[1] for name, pattern in patterns.items()}
    return arguments | {"legend": False}


def subplots(
    height: float, rows: int = 1, columns: int = 1, width: float = WIDTH, **options: Any
) -> tuple[Figure, np.ndarray]:
    """Return a figure of this size in inches and its axes ``(rows, columns)``."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def height_of(methods: Collection[str], least: float) -> float:
    """Return the height in inches, ``least`` at least, of axes with a legend of these methods at their right."""
    return max(least, LEGEND_LINE * sum(1 + wrap_name(name, 36).count("\n") for name in methods) + 0.6)


def legend(ax: Axes, methods: Iterable[str], styles: PlotStyles, lines: bool = True) -> None:
    """Add a legend to the right of the axes, with long names in two lines."""
    plain = {"markersize": 3.5} if lines else {"markersize": 3.5, "linestyle": "none"}
    handles = [
        Line2D([], [], **vars(styles[name]) | plain, label=wrap_name(name, 18 if lines else 36)) for name in methods
    ]
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.05), "borderaxespad": 0}
    ax.legend(handles=handles, **place, handlelength=2.2 if lines else 1.0, fontsize=6, labelspacing=0.25)


def wrap_name(name: str, max_length: int) -> str:
    """Return the name, with its settings in a second line if it is too long."""
    return name if len(name) <= max_length else name.replace("(", "\n(", 1)


def save(figure: Figure, path: Path, formats: Iterable[str] = METADATA) -> list[Path]:
    """Write the figure to ``path`` in every format and return the files. The same figure gives the same bytes."""
    if engine := figure.get_layout_engine():
        figure.set_dpi(DPI)  # text widths depend on it
        engine.execute(figure)
        figure.set_layout_engine(None)  # lay out once for all formats: it takes most of the time
    files = [path.with_suffix(f".{name}") for name in formats]
    for file in files:
        name = file.suffix[1:]
        replace(file, partial(figure.savefig, format=name, dpi=DPI, metadata=METADATA[name]))
    return files
