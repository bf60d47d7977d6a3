"""What validation showed while methods trained: one line per method, over updates of the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from bench.reporting.style import Look, legend, side_by_side

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

Looks = Mapping[str, Look]
MOST_BANDS = 20  # one over another, through which lines are still seen


def dynamics(history: DataFrame, style: Looks) -> Figure | None:
    """KL, MI and AU on validation over decoder updates."""
    panels = {"kl": "KL (nats)", "mi": "MI (nats)", "au": "active units", "au_kl": "active units by KL"}
    return _over_updates(history, style, panels)


def information(history: DataFrame, style: Looks) -> Figure | None:
    """KL(q(z|x) ‖ p) and its two parts, MI and KL(q(z) ‖ p), on validation over decoder updates.

    The curves of He et al. (2019), Figure 5.
    """
    panels = {
        "kl": r"KL$(q(z|x)\,\|\,p)$ (nats)",
        "mi": "MI (nats)",
        "kl_aggregate": r"KL$(q(z)\,\|\,p)$ (nats)",
    }
    return _over_updates(history, style, panels)


def _over_updates(history: DataFrame, style: Looks, panels: Mapping[str, str]) -> Figure | None:
    """One panel per column of ``history``: the mean over seeds, within one sd where there are several, of methods not
    too many."""
    if history.empty or history[list(panels)].isna().all(axis=None):
        return None
    methods = [name for name in style if history.loc[history["method"] == name, list(panels)].notna().any(axis=None)]
    figure, axes = side_by_side(2.1, columns=len(panels))
    for ax, (column, title) in zip(axes, panels.items(), strict=True):
        for place, name in enumerate(methods):
            # Staggered markers tell lines apart where they coincide, in print without colour too.
            every = (0.02 + 0.16 * place / len(methods), 0.16)
            marks = {**vars(style[name]), "markevery": every, "markersize": 3.5, "markeredgecolor": style[name].color}
            line(ax, history[history["method"] == name], column, marks, band=len(methods) <= MOST_BANDS)
        ax.set(title=title, xlabel="updates", ylabel="", ylim=(0, None))
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if column.startswith("au"):
            ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        elif history[column].max() > 20:  # one method far above must not flatten the rest
            ax.set_yscale("symlog", linthresh=1, linscale=0.5)
            ax.set(title=title.replace("(nats)", "(nats, log from 1)"), ylim=(0, None))
            ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    legend(figure, methods, style, lines=True)
    return figure


def line(ax: Axes, validations: DataFrame, column: str, marks: Mapping[str, Any], band: bool = True) -> None:
    """The mean of a column over seeds at every update, within a ``band`` of one sd where there are several."""
    seeds = validations.groupby("update")[column]
    mean, sd = seeds.mean().dropna(), seeds.std()
    ax.plot(mean.index, mean, **marks)
    if band and sd.notna().any():
        sd = sd[mean.index]
        ax.fill_between(mean.index, mean - sd, mean + sd, color=marks["color"], alpha=0.15, linewidth=0)
