"""One look for every figure: a colour, marker and line per method, sizes that survive print, files without dates."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.core.files import replace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

WIDTH = 6.75  # inches: a page's text width
DPI = 150  # of a png
RC = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.92",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",  # text stays text: it scales, is found by a search and is small
    "svg.hashsalt": "figure",
}
SUFFIXES: dict[str, dict[str, Any]] = {  # of the files of one figure, with what keeps dates out of them
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
}

# Okabe and Ito's colours without yellow, which white paper swallows; the first is the first method's.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))


@dataclass(frozen=True)
class PlotStyle:
    """How one method is drawn. No two of the first 77 share colour and marker."""

    color: str
    marker: str
    linestyle: object


def plot_styles(methods: Iterable[str]) -> dict[str, PlotStyle]:
    """A look for every method, by its place in the tables."""
    return {
        method: PlotStyle(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], LINES[i // len(COLOURS) % len(LINES)])
        for i, method in enumerate(methods)
    }


def plot_styles_for(frame: DataFrame) -> dict[str, PlotStyle]:
    """The look of every method in ``cells_frame``: baselines have the first ones."""
    return plot_styles(dict.fromkeys(frame.sort_values("baseline", ascending=False, kind="stable")["method"]))


def subplots_row(height: float, columns: int = 1, width: float = 1.0) -> tuple[Figure, list[Axes]]:
    """A figure of axes side by side, ``height`` inches high and ``width`` pages wide."""
    figure = Figure(figsize=(width * WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def legend(figure: Figure, methods: list[str], style: Mapping[str, PlotStyle], lines: bool = False) -> None:
    """Below the axes, in as many columns as fit with their names; the figure grows by the rows."""

    def width(columns: int) -> float:  # inches: matplotlib splits the names like this
        return sum(0.07 * max(map(len, column)) + 0.5 for column in np.array_split(methods, columns))

    columns = next((n for n in range(len(methods), 1, -1) if width(n) <= figure.get_figwidth()), 1)
    rows = -(-len(methods) // columns)
    figure.set_figheight(figure.get_figheight() + 0.16 * rows + 0.1)
    handles = [Line2D([], [], **vars(style[name]) | ({} if lines else {"linestyle": "none"})) for name in methods]
    figure.legend(handles, methods, loc="outside lower center", ncols=columns, handlelength=2.6 if lines else 1.0)


def legend_right(ax: Axes, methods: list[str], style: Mapping[str, PlotStyle]) -> None:
    """A legend of lines to the right of the axes, long names in two lines."""
    handles = [Line2D([], [], **vars(style[name]) | {"markersize": 3.5}) for name in methods]
    names = [wrap_name(name, 18) for name in methods]
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.05), "borderaxespad": 0}
    ax.legend(handles, names, **place, handlelength=2.2, fontsize=6, labelspacing=0.25)


def wrap_name(name: str, most: int) -> str:
    """A name of more than ``most`` characters with its settings in a second line."""
    return name if len(name) <= most else name.replace("(", "\n(", 1)


def save(figure: Figure, path: Path, suffixes: Iterable[str] = SUFFIXES) -> list[Path]:
    """Write ``path`` as .png, .pdf and .svg, or what is asked for: the same bytes for the same figure."""
    files = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of names in scripts that the font has not: boxes stand for them
        if engine := figure.get_layout_engine():
            figure.set_dpi(DPI)  # the width of a text depends on it
            engine.execute(figure)
            figure.set_layout_engine(None)  # laid out once for all files; most of the time would go into it
        for suffix in suffixes:
            files.append(path.with_suffix(f".{suffix}"))
            replace(files[-1], partial(figure.savefig, format=suffix, dpi=DPI, metadata=SUFFIXES[suffix]))
    return files
