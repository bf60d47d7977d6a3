"""Figures of inference lag, after Figures 2 and 3 of He et al. (2019): means of q(z|x) against means of p(z|x).

On the diagonal q matches the true posterior. On the horizontal axis the model uses z, but q does not depend on x. At
the origin the posterior has collapsed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from bench.experiment.lag_trace import LagTrace
from bench.reporting import curves
from bench.reporting.style import WIDTH, PlotStyle, wrap_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

Styles = Mapping[str, PlotStyle]
Traces = Mapping[str, LagTrace]

STAGES = 4  # columns of the figure of stages
MAX_METHODS = 12  # in the figure of stages, one row each
TRUE_MEAN, MEAN = "mean of $p(z|x)$", "mean of $q(z|x)$"
DISTANCE, KL = "distance of the means", r"KL$(q(z|x)\,\|\,p(z|x))$ (nats)"
#: History columns. ``lag_kl`` is that KL where quadrature gives it, otherwise the amortisation gap.
TITLES = {"lag": DISTANCE, "lag_kl": "inference gap (nats)"}


def stages(traces: Traces, style: Styles) -> Figure | None:
    """Draw all examples: one row per method, one column per stage of training. None without traces."""
    shown = dict(list(traces.items())[:MAX_METHODS])
    if not shown:
        return None
    last = min(len(trace.updates) for trace in shown.values()) - 1
    columns = np.unique(np.linspace(0, last, STAGES).round().astype(int)).tolist()
    side = (WIDTH - 0.6) / len(columns)
    figure = Figure(figsize=(WIDTH, side * len(shown) + 0.5), layout="constrained")
    grid = figure.subplots(len(shown), len(columns), squeeze=False, sharex=True, sharey=True)
    limit = _limit(means[columns] for trace in shown.values() for means in (trace.means, trace.true_means))
    for row, (name, trace) in zip(grid, shown.items(), strict=True):
        for ax, stage in zip(row, columns, strict=True):
            _points(ax, trace.true_means[stage], trace.means[stage], style[name].color, limit)
            ax.set_title(f"{trace.updates[stage]:,} updates")
            ax.text(
                0.04, 0.96, f"lag {trace.lag[stage]:.2f}", transform=ax.transAxes, va="top", fontsize=7, color="0.3"
            )
        row[0].set_ylabel(f"{name}\n{MEAN}")
    for ax in grid[-1]:
        ax.set_xlabel(TRUE_MEAN)
    return figure


def trajectory(traces: Traces, style: Styles) -> Figure | None:
    """Draw the path of one example through training, and of the standard deviation over all. None without traces."""
    if not traces:
        return None
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    single, spread = figure.subplots(1, 2)
    example = _representative_example(traces)
    for name, trace in traces.items():
        sign = np.sign(trace.true_means[-1, example]) or 1.0
        _path(single, sign * trace.true_means[:, example], sign * trace.means[:, example], style[name], name)
        _path(spread, trace.true_means.std(axis=1), trace.means.std(axis=1), style[name], name)
    single.set(title="one example", xlabel=TRUE_MEAN, ylabel=MEAN)
    spread.set(title="all examples: standard deviation", xlabel=f"sd of the {TRUE_MEAN}", ylabel=f"sd of the {MEAN}")
    for ax in (single, spread):
        low = min(0.0, *ax.get_xlim(), *ax.get_ylim())
        high = max(0.1, *ax.get_xlim(), *ax.get_ylim())
        ax.set(xlim=(low, high), ylim=(low, high))
        ax.set_aspect("equal")
        _diagonal(ax)
    title = "open: before training; filled: after training"
    figure.legend(*single.get_legend_handles_labels(), loc="outside lower center", ncols=4, title=title)
    return figure


def over_updates(traces: Traces, style: Styles) -> Figure | None:
    """Draw lag and KL(q(z|x) ‖ p(z|x)) over decoder updates on logarithmic axes. None without traces."""
    if not traces:
        return None
    figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
    axes = figure.subplots(1, 2)
    for name, trace in traces.items():
        for ax, values in zip(axes, (trace.lag, trace.kl.mean(axis=1)), strict=True):
            ax.plot(trace.updates, values, **vars(style[name]) | {"markersize": 3.0}, label=name)
    last = max(trace.updates[-1] for trace in traces.values())
    for ax, title in zip(axes, (DISTANCE, KL), strict=True):
        ax.set_xscale("symlog", linthresh=1, linscale=0.3)
        ax.set_yscale("symlog", linthresh=0.1, linscale=0.5)  # the first updates may move q far away
        ax.set(title=title, xlabel="updates", xlim=(0, last), ylim=(0, None))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def while_training(history: DataFrame, style: Styles) -> Figure | None:
    """Draw ``lag`` and ``lag_kl`` on validation over decoder updates, mean ± one sd over seeds. None without either."""
    return curves.over_updates(history, style, TITLES)


def scatter(arrays: Mapping[str, Mapping[str, np.ndarray]], style: Styles) -> Figure | None:
    """Draw the posterior means of each method's test examples. None if no method has true means.

    ``arrays``: method -> ``means`` (N, D) and ``true_means`` (M, D) of the first M examples, D = 1 or 2.
    """
    pairs = {
        name: (stored["true_means"], stored["means"][: len(stored["true_means"])])
        for name, stored in arrays.items()
        if {"means", "true_means"} <= stored.keys()
    }
    if not pairs:
        return None
    limit = _limit(means for pair in pairs.values() for means in pair)
    columns = min(4, len(pairs))
    rows = -(-len(pairs) // columns)
    side = (WIDTH - 0.5) / 4
    figure = Figure(figsize=(0.5 + side * columns, 0.45 + (side + 0.1) * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for ax in grid.flat[len(pairs) :]:
        ax.set_visible(False)
    for ax, (name, (true_means, means)) in zip(grid.flat, pairs.items(), strict=False):
        for d, marker in zip(range(means.shape[1]), "o^", strict=False):
            _points(ax, true_means[:, d], means[:, d], style[name].color, limit, marker)
        ax.set_title(wrap_name(name, 22))
    for ax in grid[:, 0]:
        ax.set_ylabel(MEAN)
    for column in range(columns):
        lowest = max(row for row in range(rows) if row * columns + column < len(pairs))
        grid[lowest, column].set_xlabel(TRUE_MEAN)
        grid[lowest, column].tick_params(labelbottom=True)
    return figure


def _limit(arrays: Iterable[np.ndarray]) -> float:
    """Return the end of both axes: all values of ``arrays`` lie within."""
    return 1.05 * max(0.5, *(float(np.abs(array).max()) for array in arrays))


def _points(ax: Axes, true_means: np.ndarray, means: np.ndarray, color: str, limit: float, marker: str = "o") -> None:
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit))
    ax.set_aspect("equal")
    ax.locator_params(nbins=5)
    _diagonal(ax)
    ax.scatter(true_means, means, s=7, marker=marker, color=color, alpha=0.3, linewidths=0, rasterized=True)


def _diagonal(ax: Axes) -> None:
    ax.axline((0, 0), slope=1, color="0.6", linewidth=0.8, linestyle="--", zorder=0.5)


def _representative_example(traces: Traces) -> int:
    """Return the example at the upper decile of |mean of p(z|x)| after training, for the method with the largest."""
    widest = max(traces.values(), key=lambda trace: np.abs(trace.true_means[-1]).mean())
    order = np.abs(widest.true_means[-1]).argsort(kind="stable")
    return int(order[int(0.9 * (len(order) - 1))])


def _path(ax: Axes, x: np.ndarray, y: np.ndarray, style: PlotStyle, name: str) -> None:
    ax.plot(x, y, color=style.color, linestyle=style.linestyle, marker=".", markersize=2.5, linewidth=1.0, label=name)
    marks: dict[str, Any] = {"marker": style.marker, "markeredgecolor": style.color, "markersize": 6}
    marks["linestyle"] = "none"
    ax.plot(x[:1], y[:1], markerfacecolor="white", zorder=3, **marks)
    ax.plot(x[-1:], y[-1:], markerfacecolor=style.color, zorder=3, **marks)
