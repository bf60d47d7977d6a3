"""Methods on the test set: seeds and means as points, in planes of two quantities and in rows, and gaps as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import seaborn
from matplotlib.ticker import LogLocator, MaxNLocator, StrMethodFormatter

from bench.reporting.frame import headline, interval
from bench.reporting.style import PlotStyles, height_of, legend, semantics, subplots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

NLL_LABELS = {"iw_nll": "IW-NLL (nats)", "nll": "NLL (nats)"}


def rate_distortion(finished: DataFrame, styles: PlotStyles) -> Figure | None:
    """Draw distortion against rate on the test set (Alemi et al., 2018), with lines of equal ELBO.

    If a few methods are far from the others in rate or in distortion, a second panel shows the others.
    """
    finished = finished.dropna(subset=["rec", "kl"])
    if finished.empty:
        return None
    means = finished.groupby("method")[["kl", "rec"]].mean()
    rate, excess = means["kl"], means["rec"] - means["rec"].median()
    near = means.index[(rate <= 4 * max(rate.median(), 1.0)) & (excess <= 4 * max(excess.abs().median(), 1.0))]
    panels = [finished] if len(near) == len(means) else [finished, finished[finished["method"].isin(near)]]
    figure, [axes] = subplots(height_of(means.index, 3.1), columns=len(panels))
    for ax, cells in zip(axes, panels, strict=True):
        _points(ax, cells, "kl", "rec", styles)
        ax.set(xlabel="rate: KL (nats)", ylabel="distortion: rec (nats)")
        _equal_elbo(ax)
    axes[0].set_title("dotted: equal ELBO (nats)")
    if len(panels) > 1:
        axes[1].set_title("detail: most methods")
    legend(axes[-1], _methods(finished, styles), styles, lines=False)
    return figure


def _equal_elbo(ax: Axes) -> None:
    """Draw labelled dotted lines -(rec + KL) = ELBO."""
    ax.grid(False)
    rate, distortion = np.meshgrid(np.linspace(*ax.get_xlim(), 50), np.linspace(*ax.get_ylim(), 50))
    lines = ax.contour(
        rate, distortion, -rate - distortion, levels=6, colors="0.7", linewidths=0.6, linestyles=":", zorder=0.5
    )
    ax.clabel(lines, fontsize=6, fmt="%g", colors="0.45")


def nll_cost(finished: DataFrame, styles: PlotStyles, cost: str, label: str) -> Figure | None:
    """Draw the headline NLL against a cost of training; the legend is sorted by NLL."""
    nll = headline(finished)
    finished = finished[finished[cost] > 0].dropna(subset=[nll])
    if finished.empty:
        return None
    methods = [*finished.groupby("method", sort=False)[nll].mean().sort_values(kind="stable").index]
    figure, [[ax]] = subplots(height_of(methods, 2.6))
    _points(ax, finished, cost, nll, styles)
    ax.set(xlabel=label, ylabel=NLL_LABELS[nll], xscale="log")
    first, last = finished[cost].min(), finished[cost].max()
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if last < 100 * first else (1,)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    ax.minorticks_off()
    legend(ax, methods, styles, lines=False)
    return figure


def seeds(finished: DataFrame, styles: PlotStyles) -> Figure | None:
    """Draw one row per method: the headline NLL and MI of every seed, their mean, and its 95 % interval.

    MI has no mean if only some seeds collapsed.
    """
    nll = headline(finished)
    methods = _methods(finished.dropna(subset=[nll]), styles)
    if finished["replicate"].nunique() < 2 or not methods:
        return None
    columns = {nll: NLL_LABELS[nll]} | ({"mi": "MI (nats)"} if finished["mi"].notna().any() else {})
    figure, [axes] = subplots(0.7 + 0.22 * len(methods), columns=len(columns))
    palette = {name: styles[name].color for name in methods}
    for ax, (column, title) in zip(axes, columns.items(), strict=True):
        row = {"y": "method", "hue": "method", "order": methods, "palette": palette, "legend": False, "ax": ax}
        state = np.random.get_state()
        seaborn.stripplot(finished, x=column, **row, jitter=False, size=3, alpha=0.6)
        np.random.set_state(state)  # it draws numbers even without jitter
        for i, name in enumerate(methods):
            cells = finished[finished["method"] == name]
            if column == "mi" and cells["collapsed"].nunique() > 1:
                continue  # of seeds that collapsed and seeds that did not the mean says nothing
            value, _ = interval(cells, column)
            error = [[value.mean - value.low], [value.high - value.mean]]
            marks = {"color": palette[name], "marker": styles[name].marker, "markeredgecolor": "white"}
            ax.errorbar(value.mean, i + 0.25, xerr=error, **marks, markersize=5, markeredgewidth=0.5, elinewidth=1)
        ax.set(xlabel=title, ylabel="", ylim=(len(methods) - 0.4, -0.5))
        ax.tick_params(axis="y", length=0, labelleft=ax is axes[0])
        ax.xaxis.set_major_locator(MaxNLocator(5))
    return figure


def gaps(finished: DataFrame, styles: PlotStyles) -> Figure | None:
    """Draw one bar per method: the mean amortisation gap followed by the mean approximation gap."""
    parts = ["gap_amortisation", "gap_approximation"]
    measured = finished.dropna(subset=parts)
    if not (methods := _methods(measured, styles)):
        return None
    means = measured.groupby("method")[parts].mean().loc[methods]
    amortisation, approximation = (means[part] for part in parts)
    colors = [styles[name].color for name in methods]
    figure, [[ax]] = subplots(0.8 + 0.2 * len(methods))
    ax.barh(methods, amortisation, height=0.6, color=colors)
    # Stacked if both are positive; a negative estimate is drawn to the left of 0.
    start = amortisation.where((amortisation > 0) & (approximation > 0), 0)
    ax.barh(methods, approximation, height=0.6, left=start, color="white", edgecolor=colors, hatch="////")
    ax.tick_params(axis="y", length=0)
    ax.axvline(0, color="0.6", linewidth=0.6)
    ax.set(xlabel="inference gap (nats): filled amortisation, hatched approximation", ylim=(len(methods) - 0.4, -0.6))
    ax.grid(False, axis="y")
    return figure


def tuning(trials: DataFrame, styles: PlotStyles) -> Figure | None:
    """Draw the best NLL on validation over the number of trials, and all trials in the plane of MI and NLL.

    Left: the mean over seeds. Right: one point per trial, and a line through those that no other trial of the method
    beats in both (more MI, lower NLL).
    """
    trials = trials.dropna(subset=["nll"]) if len(trials) else trials
    if trials.empty:
        return None
    methods = _methods(trials, styles)
    figure, [axes] = subplots(height_of(methods, 3.1), columns=2)
    for name in methods:
        style, own = styles[name], trials[trials["method"] == name]
        best = own.pivot_table(index="trial", columns=["base_seed", "seed"], values="nll").cummin().ffill().mean(axis=1)
        axes[0].plot(best.index + 1, best, color=style.color, linestyle=style.linestyle, linewidth=1)
        axes[1].scatter(own["mi"], own["nll"], color=style.color, marker=style.marker, s=8, alpha=0.5, linewidth=0)
        front = own.sort_values(["mi", "nll"], ascending=[False, True])
        front = front[front["nll"] < front["nll"].cummin().shift(fill_value=np.inf)]
        axes[1].plot(front["mi"], front["nll"], color=style.color, linestyle=style.linestyle, linewidth=0.8)
    axes[0].set(xlabel="trials", ylabel="best NLL on validation (nats)")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[1].set(xlabel="MI on validation (nats)", ylabel="NLL on validation (nats)")
    legend(axes[1], methods, styles)
    return figure


def _methods(cells: DataFrame, styles: PlotStyles) -> list[str]:
    return [name for name in styles if name in cells["method"].to_numpy()]


def _points(ax: Axes, cells: DataFrame, x: str, y: str, styles: PlotStyles) -> None:
    """Draw every seed as a small point and the mean of every method as a large one."""
    means, marks = cells.groupby("method", as_index=False)[[x, y]].mean(), semantics(_methods(cells, styles), styles)
    seaborn.scatterplot(cells, x=x, y=y, ax=ax, **marks, s=8, alpha=0.5, linewidth=0)
    seaborn.scatterplot(means, x=x, y=y, ax=ax, **marks, s=38, linewidth=0.5)
    ax.margins(0.08)
