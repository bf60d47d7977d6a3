"""Metrics over updates of the decoder: one line per method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import seaborn
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from bench.reporting.style import PlotStyles, legend, semantics, subplots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

METHODS_PER_ROW = 9
ROW_HEIGHT = 2.1  # inches


def over_updates(history: DataFrame, styles: PlotStyles, titles: Mapping[str, str]) -> Figure | None:
    """Draw one panel per column of ``history_frame``: the mean over seeds ± one standard deviation.

    More than ``METHODS_PER_ROW`` methods are split into rows of panels, each with the first method in grey. None
    without numbers.
    """
    columns = [name for name in titles if name in history and history[name].notna().any()]
    methods = [name for name in styles if history.loc[history["method"] == name, columns].notna().any(axis=None)]
    if not methods:
        return None
    rows = [methods[start : start + METHODS_PER_ROW] for start in range(0, len(methods), METHODS_PER_ROW)]
    figure, grid = subplots(ROW_HEIGHT * len(rows), len(rows), len(columns), sharex=True, sharey="col")
    first = history[history["method"] == methods[0]]
    for axes, row in zip(grid, rows, strict=True):
        for ax, column in zip(axes, columns, strict=True):
            if row is not rows[0]:
                seaborn.lineplot(first, x="update", y=column, errorbar=None, color="0.8", ax=ax)
            _panel(ax, history, column, row, styles)
        legend(axes[-1], row, styles)
    for ax, column in zip(grid[0], columns, strict=True):
        is_log = ax.get_yscale() == "symlog"
        ax.set(title=titles[column].replace("(nats)", "(nats, log above 1)") if is_log else titles[column])
        ax.set_ylim(0, None)
    return figure


def _panel(ax: Axes, history: DataFrame, column: str, methods: list[str], styles: PlotStyles) -> None:
    rows, drawn = history[history["method"].isin(methods)], len(ax.lines)
    marks = semantics(methods, styles, lines=True) | {"markersize": 4, "err_kws": {"alpha": 0.15, "linewidth": 0}}
    seaborn.lineplot(rows, x="update", y=column, errorbar="sd", ax=ax, **marks)
    for i, line in enumerate(ax.lines[drawn:]):  # staggered markers: lines that coincide can be told apart
        line.set_markevery((0.02 + 0.16 * i / len(methods), 0.16))
    ax.set(xlabel="updates", ylabel="")
    ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    if column.startswith("au"):
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    elif history[column].max() > 20:  # keep small values visible next to one large one
        ax.set_yscale("symlog", linthresh=1, linscale=0.5)
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
