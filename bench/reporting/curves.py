"""What validation showed while methods trained: one line per method, over updates of the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from bench.reporting.style import WIDTH, PlotStyle, legend, legend_right, subplots_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

Looks = Mapping[str, PlotStyle]
MOST_LINES = 12  # in one panel, with one legend below
MOST_IN_ROW = 9  # methods, where there are several rows
ROW = 1.7  # inches


def dynamics(history: DataFrame, style: Looks) -> Figure | None:
    """KL, MI and AU on validation over decoder updates."""
    panels = {"kl": "KL (nats)", "mi": "MI (nats)", "au": "active units", "au_kl": "active units by KL"}
    return over_updates(history, style, panels)


def information(history: DataFrame, style: Looks) -> Figure | None:
    """KL(q(z|x) ‖ p) and its two parts, MI and KL(q(z) ‖ p), on validation over decoder updates.

    The curves of He et al. (2019), Figure 5.
    """
    panels = {
        "kl": r"KL$(q(z|x)\,\|\,p)$ (nats)",
        "mi": "MI (nats)",
        "kl_aggregate": r"KL$(q(z)\,\|\,p)$ (nats)",
    }
    return over_updates(history, style, panels)


def over_updates(history: DataFrame, style: Looks, titles: Mapping[str, str]) -> Figure | None:
    """One panel per column of ``history`` that has numbers: the mean over seeds, within one sd where there are several.

    Of methods that are too many for one panel each row of panels shows some, and in grey the first.
    """
    panels = {name: title for name, title in titles.items() if name in history and history[name].notna().any()}
    if not panels:
        return None
    methods = [name for name in style if history.loc[history["method"] == name, list(panels)].notna().any(axis=None)]
    if len(methods) <= MOST_LINES:
        figure, axes = subplots_row(2.1, columns=len(panels))
        for ax, (column, title) in zip(axes, panels.items(), strict=True):
            _panel(ax, history, column, methods, style)
            ax.set(title=_title(ax, title), xlabel="updates", ylim=(0, None))
        legend(figure, methods, style, lines=True)
        return figure
    rows = [methods[start : start + MOST_IN_ROW] for start in range(0, len(methods), MOST_IN_ROW)]
    figure = Figure(figsize=(WIDTH, ROW * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(panels), squeeze=False, sharex=True, sharey="col")
    for of_row, some in zip(grid, rows, strict=True):
        for ax, column in zip(of_row, panels, strict=True):
            if some is not rows[0]:
                line(ax, history[history["method"] == methods[0]], column, {"color": "0.8"}, band=False)
            _panel(ax, history, column, some, style)
        legend_right(of_row[-1], some, style)
    for ax, title in zip(grid[0], panels.values(), strict=True):
        ax.set(title=_title(ax, title), ylim=(0, None))  # of the column, now that all of it is drawn
    for ax in grid[-1]:
        ax.set_xlabel("updates")
        ax.xaxis.set_major_locator(MaxNLocator(2, integer=True))
    return figure


def _panel(ax: Axes, history: DataFrame, column: str, methods: list[str], style: Looks) -> None:
    for place, name in enumerate(methods):
        # Staggered markers tell lines apart where they coincide, in print without colour too.
        every = (0.02 + 0.16 * place / len(methods), 0.16)
        marks = {**vars(style[name]), "markevery": every, "markersize": 3.5, "markeredgecolor": style[name].color}
        line(ax, history[history["method"] == name], column, marks)
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    if column.startswith("au"):
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    elif history[column].max() > 20:  # one method far above must not flatten the rest
        ax.set_yscale("symlog", linthresh=1, linscale=0.5)
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _title(ax: Axes, title: str) -> str:
    return title.replace("(nats)", "(nats, log from 1)") if ax.get_yscale() == "symlog" else title


def line(ax: Axes, validations: DataFrame, column: str, marks: Mapping[str, Any], band: bool = True) -> None:
    """The mean of a column over seeds at every update, within a ``band`` of one sd where there are several."""
    seeds = validations.groupby("update")[column]
    mean, sd = seeds.mean().dropna(), seeds.std()
    ax.plot(mean.index, mean, **marks)
    if band and sd.notna().any():
        sd = sd[mean.index]
        ax.fill_between(mean.index, mean - sd, mean + sd, color=marks["color"], alpha=0.15, linewidth=0)
