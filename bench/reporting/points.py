"""Methods on the test set: seeds and means as points, in planes of two quantities and in rows, and gaps as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import seaborn
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from bench.reporting.frame import mean_interval
from bench.reporting.statistics import summary
from bench.reporting.style import PlotStyles, legend, legend_right, semantics, subplots_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

MAX_NARROW = 12  # methods whose legend fits below a narrow figure
#: Costs of training: column -> axis label.
COSTS = {"train_seconds": "training time (s)", "flops": "training FLOPs, counted"}


def rate_distortion(finished: DataFrame, styles: PlotStyles) -> Figure | None:
    """Draw distortion against rate on the test set (Alemi et al., 2018), with lines of equal ELBO.

    If a few methods are far from the others in rate or in distortion, a second panel shows the others.
    """
    finished = finished.dropna(subset=["rec", "kl"])
    if finished.empty:
        return None
    methods = _methods(finished, styles)
    means = finished.groupby("method")[["kl", "rec"]].mean()
    rate, excess = means["kl"], means["rec"] - means["rec"].median()
    near = means.index[(rate <= 4 * max(rate.median(), 1.0)) & (excess <= 4 * max(excess.abs().median(), 1.0))]
    panels = [finished] if len(near) == len(means) else [finished, finished[finished["method"].isin(near)]]
    is_narrow = len(panels) == 1 and len(methods) <= MAX_NARROW
    figure, axes = subplots_row(3.1, columns=len(panels), width=0.62 if is_narrow else 1.0)
    for ax, cells in zip(axes, panels, strict=True):
        _points(ax, cells, "kl", "rec", methods, styles)
        ax.margins(0.1)
        ax.set(xlabel="rate: KL (nats)", ylabel="distortion: rec (nats)")
        _equal_elbo(ax)
        ax.grid(False)
    axes[0].set_title("dotted: equal ELBO (nats)")
    if len(panels) > 1:
        axes[1].set_title("detail: most methods")
    legend(figure, methods, styles)
    return figure


def _equal_elbo(ax: Axes) -> None:
    """Draw dotted lines rec + KL = -ELBO, labelled where they cross the rising diagonal of the axes."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    ax.set(xlim=(left, right), ylim=(bottom, top))
    for total in MaxNLocator(6).tick_values(left + bottom, right + top):
        share = (total - left - bottom) / (right - left + top - bottom)
        if 0.04 < share < 0.96:
            at = left + share * (right - left), bottom + share * (top - bottom)
            ax.axline(at, slope=-1, color="0.75", linewidth=0.6, linestyle=":", zorder=0.5)
            label = ax.text(*at, f"{-total:g}", fontsize=6, color="0.45", ha="center", va="center", zorder=0.6)
            label.set(rotation=-45, rotation_mode="anchor", transform_rotates_text=True)
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})


def nll_cost(finished: DataFrame, styles: PlotStyles, cost: str) -> Figure | None:
    """Draw the headline NLL against a cost of ``COSTS``; the legend is sorted by NLL."""
    nll, label = headline(finished)
    finished = finished[finished[cost] > 0].dropna(subset=[nll])
    if finished.empty:
        return None
    methods = [*finished.groupby("method", sort=False)[nll].mean().sort_values(kind="stable").index]
    figure, (ax,) = subplots_row(max(2.6, 0.13 * len(methods) + 0.6))
    _points(ax, finished, cost, nll, methods, styles)
    ax.margins(0.06)
    ax.set(xlabel=COSTS[cost], ylabel=label, xscale="log")
    first, last = finished[cost].min(), finished[cost].max()
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if last < 100 * first else (1,)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}" if last < 1e6 else "{x:.0e}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    legend_right(ax, methods, styles, lines=False)
    return figure


def headline(finished: DataFrame) -> tuple[str, str]:
    """Return the column and label of the NLL to compare methods by: the refined one if all cells have it."""
    evaluated = finished.dropna(subset=["nll"])
    if "nll_refined" in finished and len(evaluated) and evaluated["nll_refined"].notna().all():
        return "nll_refined", "NLL, refined posterior (nats)"
    return "nll", "NLL (nats)"


def seeds(finished: DataFrame, styles: PlotStyles) -> Figure | None:
    """Draw one row per method: the headline NLL and MI of every seed, their mean, and its 95 % interval."""
    nll, label = headline(finished)
    methods = _methods(finished.dropna(subset=[nll]), styles)
    if finished["replicate"].nunique() < 2 or not methods:
        return None
    columns = {nll: label} | ({"mi": "MI (nats)"} if finished["mi"].notna().any() else {})
    figure, axes = subplots_row(0.7 + 0.22 * len(methods), columns=len(columns))
    palette = {name: styles[name].color for name in methods}
    for ax, (column, title) in zip(axes, columns.items(), strict=True):
        row = {"y": "method", "hue": "method", "order": methods, "palette": palette, "legend": False, "ax": ax}
        seaborn.stripplot(finished, x=column, **row, jitter=False, size=3, alpha=0.6)
        for i, name in enumerate(methods):
            cells = finished[finished["method"] == name]
            value = mean_interval(cells, column)[0] if column == nll else summary(cells[column])
            ax.plot([value.low, value.high], [i + 0.25] * 2, color=palette[name], linewidth=1.0)
            marks: dict[str, Any] = {"marker": styles[name].marker, "markersize": 5, "markeredgecolor": "white"}
            ax.plot([value.mean], [i + 0.25], color=palette[name], markeredgewidth=0.5, **marks)
        ax.set(xlabel=title, ylabel="", ylim=(len(methods) - 0.4, -0.5))
        ax.tick_params(axis="y", length=0, labelleft=ax is axes[0])
        ax.xaxis.set_major_locator(MaxNLocator(5))
    return figure


def gaps(finished: DataFrame, styles: PlotStyles) -> Figure | None:
    """Draw one bar per method: the mean amortisation gap followed by the mean approximation gap."""
    parts = ["gap_amortisation", "gap_approximation"]
    if not {*parts} <= {*finished}:
        return None
    means = finished.dropna(subset=parts).groupby("method")[parts].mean()
    methods = [name for name in styles if name in means.index]
    if not methods:
        return None
    figure, (ax,) = subplots_row(0.8 + 0.2 * len(methods))
    amortisation, approximation = (means.loc[methods, part] for part in parts)
    colors = [styles[name].color for name in methods]
    ax.barh(methods, amortisation, height=0.6, color=colors)
    # Stacked if both are positive; a negative estimate is drawn to the left of 0.
    start = amortisation.where((amortisation > 0) & (approximation > 0), 0)
    ax.barh(methods, approximation, height=0.6, left=start, color="white", edgecolor=colors, hatch="////")
    ax.tick_params(axis="y", length=0)
    ax.axvline(0, color="0.6", linewidth=0.6)
    ax.set(xlabel="inference gap (nats): filled amortisation, hatched approximation", ylim=(len(methods) - 0.4, -0.6))
    ax.grid(False, axis="y")
    return figure


def _methods(cells: DataFrame, styles: PlotStyles) -> list[str]:
    present = {*cells["method"]}
    return [name for name in styles if name in present]


def _points(ax: Axes, cells: DataFrame, x: str, y: str, methods: list[str], styles: PlotStyles) -> None:
    """Draw every seed as a small point and the mean of every method as a large one."""
    means = cells.groupby("method", as_index=False)[[x, y]].mean()
    for data, marks in ((cells, {"s": 8, "alpha": 0.5, "linewidth": 0}), (means, {"s": 38, "linewidth": 0.5})):
        present = [name for name in methods if (data["method"] == name).any()]
        seaborn.scatterplot(data, x=x, y=y, ax=ax, **semantics(present, styles), **marks)
