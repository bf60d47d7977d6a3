"""Use of z against the strength of the decoder: the tables of one data set and preset that differ in one setting of
their model, in one figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from bench.reporting.figures.forest import COLLAPSED
from bench.reporting.figures.style import GREY, LINE, Looks, legend, line, point, subplots
from bench.reporting.frame import headline

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


def draw(levels: Mapping[float, DataFrame], setting: str, looks: Looks) -> Figure:
    """Draw MI and NLL of every row over the values of a setting: each seed as a dot, the mean over seeds as a line.

    Args:
        levels: Value of the setting -> finished cells (``cells_frame``).
        setting: Its name.
        looks: Title of a row -> its look. Rows without MI are drawn in the panel of NLL only.
    """
    metrics = {"mi": "MI (nats)", headline(next(iter(levels.values()))): "NLL (nats)"}
    figure, [axes] = subplots(max(2.3, 2 * LINE * len(looks) + 0.6), columns=2)
    for ax, (metric, title) in zip(axes, metrics.items(), strict=True):
        for row, look in looks.items():
            points = [
                (level, value)
                for level, cells in levels.items()
                for value in cells.loc[cells["title"] == row, metric].dropna()
            ]
            if not points:
                continue
            means: dict[float, list[float]] = {}
            for level, value in points:
                means.setdefault(level, []).append(value)
            ax.plot(*zip(*points, strict=True), ".", color=look.color_light, markersize=2.5, alpha=0.6)
            curve = [*means], [sum(values) / len(values) for values in means.values()]
            ax.plot(*curve, **point(look, 4.5) | line(look), linewidth=1.1)
        ax.set(title=title, xlabel=setting.replace("_", " "), xscale="log")
        ax.xaxis.set_major_locator(FixedLocator([*levels]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes[0].axhline(COLLAPSED, color=GREY, linewidth=0.8, linestyle="--")
    legend(axes[1], looks, looks)
    return figure
