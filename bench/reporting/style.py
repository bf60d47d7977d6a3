"""One look for every figure: a colour, marker and line per method, sizes that survive print, files without dates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.store import replace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 6.75  # inches: a page's text width
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
}

# Okabe and Ito's colours without yellow, which white paper swallows; the first is the first method's.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
LINES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))


@dataclass(frozen=True)
class Look:
    """How one method is drawn. No two of the first 77 share colour and marker."""

    color: str
    marker: str
    linestyle: object


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """A look for every method, by its place in the tables."""
    return {
        method: Look(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], LINES[i // len(COLOURS) % len(LINES)])
        for i, method in enumerate(methods)
    }


def save(figure: Figure, path: Path) -> list[Path]:
    """Write ``path`` as .png (150 dpi) and .pdf: the same bytes for the same figure, whenever it is drawn."""
    without_dates = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    files = []
    for suffix, metadata in without_dates.items():
        files.append(path.with_suffix(f".{suffix}"))
        replace(files[-1], partial(figure.savefig, format=suffix, dpi=150, metadata=metadata))
    return files
