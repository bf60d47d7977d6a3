"""Metrics over updates of the decoder: one line per row, the baseline in grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from bench.reporting.figures.style import LINE, Looks, legend, line, point, subplots
from bench.reporting.looks import BASELINE, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

#: The dynamics of a training, and inference lag during training: column of ``history_frame`` -> title.
DYNAMICS = {"kl": "KL (nats)", "mi": "MI (nats)", "au": "active units", "au_kl": "active units by KL"}
LAG = {"lag": "distance of the means", "lag_kl": "inference gap (nats)"}
GREY = "#8c8c8c"  # of the baseline
LINEAR = 20  # values up to which an axis is linear


def over_updates(
    history: DataFrame, rows: Sequence[str], looks: Looks, columns: Mapping[str, str], rule: str = ""
) -> list[Figure]:
    """Draw one panel per column of ``history_frame``: the mean over seeds ± one standard deviation.

    ``rows`` are drawn, and ``rule`` says how they were chosen.
    """
    shown = [name for name in columns if name in history and history[name].notna().any()]
    drawn = [row for row in rows if history.loc[history["title"] == row, shown].notna().any(axis=None)]
    if not drawn:
        return []
    styles = {row: _grey(looks[row]) for row in drawn}
    height = max(2.1, 2 * LINE * len(drawn) + 0.6)
    figure, [axes] = subplots(height, columns=len(shown), sharex=True)
    for ax, column in zip(axes, shown, strict=True):
        _panel(ax, history[history["title"].isin(drawn)], column, drawn, styles)
        title = columns[column]
        ax.set_title(title.replace("(nats)", "(nats, log above 1)") if ax.get_yscale() == "symlog" else title)
        ax.set_ylim(-0.03 * ax.get_ylim()[1])  # a line at 0 is visible
    legend(axes[-1], drawn, styles)
    if rule:
        figure.suptitle(rule, x=0.01, ha="left")
    return [figure]


def _grey(look: Look) -> Look:
    """Return the look, or that of the basic VAE in grey."""
    is_baseline = look.marker == BASELINE and not look.dashes
    return replace(look, color_light=GREY) if is_baseline else look


def _panel(ax: Axes, history: DataFrame, column: str, rows: Sequence[str], looks: Looks) -> None:
    for i, row in enumerate(rows):
        style, values = looks[row], history[history["title"] == row].dropna(subset=[column])
        over_seeds = values.groupby("update")[column].agg(["mean", "std"])
        mean, sd, every = over_seeds["mean"], over_seeds["std"].fillna(0), (0.02 + 0.16 * i / len(rows), 0.16)
        ax.plot(mean.index, mean, **point(style, 4) | line(style), linewidth=1.1, markevery=every)
        ax.fill_between(mean.index, mean - sd, mean + sd, color=style.color_light, alpha=0.15, linewidth=0)
    ax.set(xlabel="updates")
    ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    if column.startswith("au"):
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    elif history[column].max() > LINEAR:  # keep small values visible next to one large one
        ax.set_yscale("symlog", linthresh=1, linscale=0.5)
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
