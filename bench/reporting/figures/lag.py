"""Figures of inference lag, after Figures 2 and 3 of He et al. (2019): means of q(z|x) against means of p(z|x).

On the diagonal q matches the true posterior. On the horizontal axis the model uses z, but q does not depend on x. At
the origin the posterior has collapsed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.experiment.lag_trace import LagTrace
from bench.reporting.figures.style import LINE, WIDTH, Looks, broken, legend, line, pages, point, subplots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Traces = Mapping[str, LagTrace]

STAGES = 4  # columns of the figure of stages
MAX_PANELS = 8  # on a page
MAX_PATHS = 12  # rows in the figure of trajectories
TRUE_MEAN, MEAN = "mean of $p(z|x)$", "mean of $q(z|x)$"


@dataclass(frozen=True)
class _Panel:
    """Means of p(z|x) and of q(z|x), both ``(N, D)``, of one method."""

    title: str
    method: str
    true_means: np.ndarray
    means: np.ndarray


def stages(traces: Traces, looks: Looks) -> list[Figure]:
    """Draw all examples: one line of panels per row, one column per stage of training."""
    figures = []
    for names in pages([*traces], MAX_PANELS // STAGES):
        last = min(len(traces[name].updates) for name in names) - 1
        columns = np.unique(np.linspace(0, last, STAGES).round().astype(int))
        panels = [[_stage(name, traces[name], i) for i in columns] for name in names]
        figure, axes = _draw(panels, looks)
        for ax, name in zip(axes[:, 0], names, strict=True):
            ax.set_ylabel(broken(name, 24))
        figures.append(figure)
    return figures


def _stage(name: str, trace: LagTrace, i: int) -> _Panel:
    title = f"{trace.updates[i]:,} updates,\nlag {trace.lag[i]:.2f}"
    return _Panel(title, name, trace.true_means[i][:, None], trace.means[i][:, None])


def scatter(arrays: Mapping[str, Mapping[str, np.ndarray]], looks: Looks) -> list[Figure]:
    """Draw the posterior means of each row's test examples.

    ``arrays``: row -> ``means`` (N, D) and ``true_means`` (M, D) of the first M examples, D = 1 or 2.
    """
    panels = [
        _Panel(broken(name, 22), name, stored["true_means"], stored["means"][: len(stored["true_means"])])
        for name, stored in arrays.items()
        if {"means", "true_means"} <= stored.keys()
    ]
    return [_draw([panels[i : i + 4] for i in range(0, len(panels), 4)], looks)[0]] if panels else []


def _draw(rows: Sequence[Sequence[_Panel]], looks: Looks) -> tuple[Figure, np.ndarray]:
    """Return a figure of square panels with the same limits, and its axes."""
    panels = [panel for row in rows for panel in row]
    limit = 1.05 * max(0.5, *(np.abs([panel.means, panel.true_means]).max() for panel in panels))
    columns, side = len(rows[0]), (WIDTH - 0.6) / 4  # inches
    size = {"height": (side + 0.3) * len(rows) + 0.45, "width": side * columns + 0.6}
    figure, axes = subplots(rows=len(rows), columns=columns, **size)
    for ax, panel in zip(axes.flat, panels, strict=False):
        for true_means, means, marker in zip(panel.true_means.T, panel.means.T, "o^", strict=False):
            marks = {"marker": marker, "color": looks[panel.method].color_light, "alpha": 0.3, "linewidths": 0}
            ax.scatter(true_means, means, s=7, rasterized=True, **marks)
        ax.locator_params(nbins=5)
        ax.set_title(panel.title)
        _square(ax, -limit, limit)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    figure.supxlabel(TRUE_MEAN, fontsize="medium")
    figure.supylabel(MEAN, fontsize="medium")
    return figure, axes


def trajectory(traces: Traces, looks: Looks) -> list[Figure]:
    """Draw the path of one example through training, and of the standard deviation over all."""
    figures = []
    for names in pages([*traces], MAX_PATHS):
        figure, [[single, spread]] = subplots(max(2.9, 2 * LINE * len(names) + 0.5), columns=2)
        example = _representative_example(traces)
        for name in names:
            trace, look = traces[name], looks[name]
            sign = np.sign(trace.true_means[-1, example]) or 1.0
            one = sign * trace.true_means[:, example], sign * trace.means[:, example]
            for ax, (x, y) in ((single, one), (spread, (trace.true_means.std(axis=1), trace.means.std(axis=1)))):
                ax.plot(x, y, **line(look), linewidth=1.0, marker=".", markersize=2.5)
                for at, size in ((0, 3), (-1, 6)):
                    ax.plot(x[at], y[at], **point(look, size), zorder=3)
        single.set(title="one example", xlabel=TRUE_MEAN, ylabel=MEAN)
        titles = {"xlabel": f"sd of the {TRUE_MEAN}", "ylabel": f"sd of the {MEAN}"}
        spread.set(title="all examples: standard deviation", **titles)
        for ax in (single, spread):
            ends = *ax.get_xlim(), *ax.get_ylim()
            _square(ax, min(0.0, *ends), max(0.1, *ends))
        legend(spread, names, looks)
        figures.append(figure)
    return figures


def _square(ax: Axes, low: float, high: float) -> None:
    """Give both axes the same limits, and draw the diagonal."""
    ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    ax.axline((0, 0), slope=1, color="0.6", linewidth=0.8, linestyle="--", zorder=0.5)


def _representative_example(traces: Traces) -> int:
    """Return the example at the upper decile of |mean of p(z|x)| after training, for the row with the largest."""
    widest = max(traces.values(), key=lambda trace: np.abs(trace.true_means[-1]).mean())
    order = np.abs(widest.true_means[-1]).argsort(kind="stable")
    return int(order[int(0.9 * (len(order) - 1))])
