"""Methods on the test set: every seed as a point, in planes of two quantities, in rows, and as bars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from bench.reporting.frame import mean_interval
from bench.reporting.statistics import summary
from bench.reporting.style import PlotStyle, legend, subplots_row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

    from bench.reporting.compare import Ranks

Looks = Mapping[str, PlotStyle]
MOST_NARROW = 12  # methods whose legend fits below a narrow figure


def rate_distortion(done: DataFrame, style: Looks) -> Figure | None:
    """Distortion against rate on the test set: seeds small, their mean large, and lines of equal ELBO.

    Where few methods are far from the rest, in rate or in distortion, a second panel shows the rest.
    """
    done = done.dropna(subset=["rec", "kl"])
    if done.empty:
        return None
    methods = [name for name in style if (done["method"] == name).any()]
    means = done.groupby("method")[["kl", "rec"]].mean()
    rate, excess = means["kl"], means["rec"] - means["rec"].median()
    near = means.index[(rate <= 4 * max(rate.median(), 1.0)) & (excess <= 4 * max(excess.abs().median(), 1.0))]
    panels = [done] if len(near) == len(means) else [done, done[done["method"].isin(near)]]
    narrow = len(panels) == 1 and len(methods) <= MOST_NARROW
    figure, axes = subplots_row(3.1, columns=len(panels), width=0.62 if narrow else 1.0)
    for ax, cells in zip(axes, panels, strict=True):
        for name in methods:
            _points(ax, cells[cells["method"] == name], "kl", "rec", style[name])
        ax.margins(0.1)
        ax.set(xlabel="rate: KL (nats)", ylabel="distortion: rec (nats)")
        _equal_elbo(ax)
        ax.grid(False)
    axes[0].set_title("dotted: equal ELBO (nats)")
    if len(panels) > 1:
        axes[1].set_title("detail: most methods")
    legend(figure, methods, style)
    return figure


def _equal_elbo(ax: Axes) -> None:
    """Dotted lines rec + KL = -ELBO across the axes as they are, labelled where they cross the rising diagonal."""
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


#: What training costs: the column and the label of its axis.
COSTS = {"train_seconds": "training time (s)", "flops": "training FLOPs, counted"}


def nll_cost(done: DataFrame, style: Looks, cost: str) -> Figure | None:
    """The headline NLL against a cost of ``COSTS``, named at the right margin in the order of NLL."""
    nll, label = headline(done)
    done = done[done[cost] > 0].dropna(subset=[nll])
    if done.empty:
        return None
    means = done.groupby("method", sort=False)[[cost, nll]].mean().sort_values(nll, kind="stable")
    line = 0.15  # inches between names
    figure, (ax,) = subplots_row(max(2.6, line * len(means) + 0.6))
    for name in means.index:
        _points(ax, done[done["method"] == name], cost, nll, style[name])
    ax.margins(0.06)
    ax.set(xlabel=COSTS[cost], ylabel=label, xscale="log")
    first, last = done[cost].min(), done[cost].max()
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if last < 100 * first else (1,)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}" if last < 1e6 else "{x:.0e}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    low, high = ax.get_ylim()
    heights = _spread((means[nll].to_numpy() - low) / (high - low), line / (figure.get_figheight() - 0.5))
    for (name, point), height in zip(means.iterrows(), heights, strict=True):
        marks: dict[str, Any] = {"color": style[name].color, "marker": style[name].marker}
        ax.plot([1.04], [height], **marks, transform=ax.transAxes, clip_on=False)
        ax.annotate(name, (1.055, height), xycoords="axes fraction", va="center", fontsize=7, annotation_clip=False)
        ends: dict[str, Any] = {"xyA": (point[cost], point[nll]), "coordsA": "data"}
        ends |= {"xyB": (1.03, height), "coordsB": "axes fraction"}
        leader = ConnectionPatch(**ends, axesA=ax, axesB=ax, color="0.75", linewidth=0.4, zorder=0.5, clip_on=False)
        ax.add_artist(leader).set_in_layout(False)
    return figure


def headline(done: DataFrame) -> tuple[str, str]:
    """The column of the NLL that methods are compared by, and its label: the common-proposal one where all have it."""
    judged = done.dropna(subset=["nll"])
    if "nll_refined" in done and len(judged) and judged["nll_refined"].notna().all():
        return "nll_refined", "NLL, common proposal (nats)"
    return "nll", "NLL (nats)"


def seeds(done: DataFrame, style: Looks) -> Figure | None:
    """One row per method: the headline NLL and MI of every seed, their mean, and its 95 % interval as in the table."""
    nll, label = headline(done)
    methods = [name for name in style if done.loc[done["method"] == name, nll].notna().any()][::-1]
    if done["replicate"].nunique() < 2 or not methods:
        return None
    columns = {nll: label} | ({"mi": "MI (nats)"} if done["mi"].notna().any() else {})
    figure, axes = subplots_row(0.7 + 0.2 * len(methods), columns=len(columns))
    for ax, (column, title) in zip(axes, columns.items(), strict=True):
        for place, name in enumerate(methods):
            cells = done[done["method"] == name]
            values = cells[column].dropna()
            if values.empty:
                continue
            look, of = style[name], mean_interval(cells, column)[0] if column == nll else summary(values)
            marks: dict[str, Any] = {"color": look.color, "marker": look.marker, "linestyle": "none"}
            ax.plot([of.low, of.high], [place, place], color=look.color, linewidth=1.0)
            ax.plot(values, [place + 0.22] * len(values), **marks, markersize=2.5, alpha=0.6, markeredgewidth=0)
            ax.plot([of.mean], [place], **marks, markersize=5, markeredgecolor="white", markeredgewidth=0.5)
        ax.set(xlabel=title, ylim=(-0.6, len(methods) - 0.3))
        ax.set_yticks(range(len(methods)), methods if ax is axes[0] else [""] * len(methods))
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_locator(MaxNLocator(5))
    return figure


def ranks(found: Ranks) -> Figure:
    """One row per method, the best on top: its mean rank, and grey bars over those too near to be told apart."""
    names, means = [*found.ranks], [*found.ranks.values()]
    figure, (ax,) = subplots_row(0.8 + 0.2 * len(names), width=0.8)
    ends = [
        sum(other - mean < found.critical_difference for other in means[place:]) for place, mean in enumerate(means)
    ]
    reach = 0
    for place, count in enumerate(ends):
        if found.p < 0.05 and count > 1 and place + count > reach:  # no bar within another
            reach = place + count
            ax.plot([means[reach - 1]] * 2, [place - 0.3, reach - 0.7], color="0.75", linewidth=3, zorder=1)
    ax.plot(means, range(len(names)), color="black", marker="o", linestyle="none", zorder=2)
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="mean rank", xlim=(0.8, len(names) + 0.2))
    ax.invert_yaxis()
    return figure


def gaps(done: DataFrame, style: Looks) -> Figure | None:
    """Bars, one per method: the mean amortisation gap, and beyond it the approximation gap."""
    parts = ["gap_amortisation", "gap_approximation"]
    if not {*parts} <= {*done}:
        return None
    means = done.dropna(subset=parts).groupby("method")[parts].mean()
    methods = [name for name in style if name in means.index][::-1]
    if not methods:
        return None
    figure, (ax,) = subplots_row(0.8 + 0.2 * len(methods))
    places, (first, second) = range(len(methods)), (means.loc[methods, part] for part in parts)
    colors = [style[name].color for name in methods]
    ax.barh(places, first, height=0.6, color=colors, label="amortisation")
    # Stacked where both are gaps; an estimate below 0 is drawn to the left of 0.
    ax.barh(
        places,
        second,
        height=0.6,
        left=first.where((first > 0) & (second > 0), 0),
        color="white",
        edgecolor=colors,
        hatch="////",
        linewidth=0.8,
        label="approximation",
    )
    ax.set_yticks(places, methods)
    ax.tick_params(axis="y", length=0)
    ax.axvline(0, color="0.6", linewidth=0.6)
    ax.set(xlabel="inference gap (nats): filled amortisation, hatched approximation", ylim=(-0.6, len(methods) - 0.4))
    ax.grid(False, axis="y")
    return figure


def _points(ax: Axes, cells: DataFrame, x: str, y: str, look: PlotStyle) -> None:
    marks: dict[str, Any] = {"color": look.color, "marker": look.marker, "linestyle": "none"}
    if len(cells) > 1:
        ax.plot(cells[x], cells[y], **marks, markersize=2.5, alpha=0.5, markeredgewidth=0)
    ax.plot([cells[x].mean()], [cells[y].mean()], **marks, markersize=6, markeredgecolor="white", markeredgewidth=0.5)


def _spread(heights: np.ndarray, least: float) -> np.ndarray:
    """Ascending positions in [0, 1] moved as little as needed to stand ``least`` apart, centred where they crowd."""
    blocks: list[list[float]] = []  # [sum of wished starts, count]
    for i, height in enumerate(heights):
        blocks.append([height - i * least, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    starts = np.concatenate([np.full(int(count), total / count) for total, count in blocks])
    steps = least * np.arange(len(heights))
    return np.clip(starts, 0, max(0, 1 - steps[-1])) + steps
