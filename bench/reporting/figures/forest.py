"""One line per row: differences in NLL, mutual information, and inference gaps, sorted by their value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.reporting.figures.style import (
    COLUMN,
    GREY,
    LINE,
    WIDTH,
    Looks,
    clip,
    core,
    core_of_intervals,
    limits,
    pages,
    point,
    subplots,
)
from bench.reporting.frame import headline
from bench.reporting.looks import Look
from bench.reporting.paired import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

MAX_ROWS = 50  # on a page
COLLAPSED = 0.1  # nats of MI
LONG_NAME, MAX_NAME = 26, 60  # characters: longer names need the full width, or are cut


def differences(rows: DataFrame, looks: Looks) -> list[Figure]:
    """Draw the difference in NLL to the baseline of every row, with its paired 95 % interval.

    ``rows``: of ``rows_frame``. Names of rows that collapsed in every seed are grey.
    """
    name = f"{headline(rows)}_minus_baseline"
    rows = rows.dropna(subset=[name]).sort_values(name, kind="stable")
    if rows.empty:
        return []
    means, lows, highs = (rows[f"{name}{end}"].to_numpy() for end in ("", "_low", "_high"))
    ends = limits(*core_of_intervals(means, lows, highs))
    figures = []
    for at in pages(range(len(rows)), MAX_ROWS):
        page = rows.iloc[at]
        figure, ax = _axes(page["title"], page["collapsed"] == 1)
        ax.set(xlabel="NLL minus that of the basic VAE (nats)", xlim=ends)
        ax.axvline(0, color="black", linewidth=0.8)
        for y, (i, title) in enumerate(zip(at, page["title"], strict=True)):
            _mark(ax, y, means[i], (lows[i], highs[i]), looks[title])
        figures.append(figure)
    return figures


def information(finished: DataFrame, looks: Looks) -> list[Figure]:
    """Draw the MI of every seed (small), and of every row the mean and its 95 % interval over seeds.

    A row of which only some seeds collapsed has no mean: it would be that of no seed.
    """
    finished = finished.dropna(subset=["mi"])
    groups = {str(title): cells for title, cells in finished.groupby("title", sort=False)}
    means = {title: cells["mi"].mean() for title, cells in groups.items()}
    names = sorted(groups, key=lambda title: -means[title])
    ends = limits(*core(means.values(), [0.0]))
    figures = []
    for page in pages(names, MAX_ROWS):
        figure, ax = _axes(page, [groups[title]["collapsed"].min() == 1 for title in page])
        ax.set(xlabel="mutual information (nats)", xlim=ends)
        ax.axvline(COLLAPSED, color=GREY, linewidth=0.8, linestyle="--")
        for y, title in enumerate(page):
            cells, look = groups[title], looks[title]
            if len(cells) > 1:
                ax.plot(cells["mi"], [y] * len(cells), ".", color=look.color_light, markersize=2.5, alpha=0.6)
            if cells["collapsed"].nunique() == 1 or len(cells) == 1:
                value, _ = interval(cells, "mi")
                _mark(ax, y, value.mean, (value.low, value.high), look)
        figures.append(figure)
    return figures


def gaps(finished: DataFrame, looks: Looks) -> list[Figure]:
    """Draw one bar per row: the mean amortisation gap followed by the mean approximation gap."""
    parts = ["gap_amortisation", "gap_approximation"]
    means = finished.dropna(subset=parts).groupby("title")[parts].mean()
    if means.empty:
        return []
    means = means.loc[means.sum(axis=1).sort_values(kind="stable").index]
    ends = limits(*core(means.sum(axis=1), [0.0, *means.min()]))
    figures = []
    for page in pages([*means.index], MAX_ROWS):
        amortisation, approximation = (means.loc[page, part] for part in parts)
        colors = [looks[title].color_light for title in page]
        figure, ax = _axes(page)
        ax.set(xlabel="inference gap (nats)\nfilled: amortisation\nhatched: approximation", xlim=ends)
        y = np.arange(len(page))
        ax.barh(y, amortisation, height=0.6, color=colors)
        # Stacked if both are positive; a negative estimate is drawn to the left of 0.
        start = amortisation.where((amortisation > 0) & (approximation > 0), 0)
        ax.barh(y, approximation, height=0.6, left=start, color="white", edgecolor=colors, hatch="/////", linewidth=0.6)
        for i, total in enumerate(means.loc[page].sum(axis=1)):
            clip(ax, total, i)
        ax.axvline(0, color="0.4", linewidth=0.6)
        figures.append(figure)
    return figures


def _axes(names: Sequence[str], grey: Sequence[bool] = ()) -> tuple[Figure, Axes]:
    """Return a figure with one line per name, some of them grey."""
    names = [name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…" for name in names]
    width = COLUMN if max(map(len, names)) <= LONG_NAME else WIDTH
    figure, [[ax]] = subplots(0.6 + 1.15 * LINE * len(names), width=width)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")
    for text, is_grey in zip(ax.get_yticklabels(), [*grey], strict=False):
        text.set_color(GREY if is_grey else "black")
    return figure, ax


def _mark(ax: Axes, y: float, mean: float, ends: tuple[float, float], look: Look) -> None:
    """Draw a mean with its interval; a part beyond the axes becomes an arrow."""
    left, right = ax.get_xlim()
    low, high = ends
    style = point(look)
    if np.isfinite([low, high]).all() and low < right and high > left:
        ax.plot([max(low, left), min(high, right)], [y, y], color=style["color"], linewidth=1, solid_capstyle="butt")
        for end, marker, is_out in ((left, "<", low < left), (right, ">", high > right)):
            if is_out:
                ax.plot(end, y, marker, color=style["color"], markersize=3, clip_on=False)
    x, _ = clip(ax, mean, y)
    if x == mean:
        ax.plot(x, y, **style, zorder=3)
