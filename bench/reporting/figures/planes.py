"""Rows as points in planes of two quantities: likelihood against cost, rate against distortion, trials of tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from bench.reporting.figures.style import (
    GREY,
    LINE,
    MIN_FONT,
    Looks,
    clip,
    core,
    core_of_intervals,
    label,
    legend,
    limits,
    line,
    point,
    subplots,
)
from bench.reporting.frame import headline
from bench.reporting.groups import CONTROLS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

MAX_LEGEND = 14  # rows in a legend; more are distinguished by their families, and those on a front are labelled


def front(points: DataFrame, x: str, y: str) -> DataFrame:
    """Return the rows that no other row beats in both columns (less is better), by ``x``."""
    ordered = points.sort_values([x, y], kind="stable")
    return ordered[ordered[y] < ordered[y].cummin().shift(fill_value=np.inf)]


def cost(rows: DataFrame, looks: Looks) -> list[Figure]:
    """Draw the difference in NLL to the baseline against the cost of training, with its 95 % interval.

    The line is the Pareto front of the rows that use z in every seed, without the controls; collapsed rows are pale.
    Rows of nearly the same cost are spread sideways.
    """
    nll = headline(rows)
    y = f"{nll}_minus_baseline"
    rows = rows.assign(**{y: rows[y].mask(rows["baseline"], 0.0)}).dropna(subset=[y, "relative_cost"])
    rows = rows[rows["relative_cost"] > 0]
    if len(rows) < 2:
        return []
    figure, [[ax]] = subplots(_height(rows))
    ax.set(xlabel="training FLOPs relative to the basic VAE", ylabel="NLL minus that of the basic VAE (nats)")
    first, last = rows["relative_cost"].min(), rows["relative_cost"].max()
    ends = (rows[f"{y}{end}"].mask(rows["collapsed"] == 1).to_numpy() for end in ("_low", "_high"))
    range_of_nll = limits(*core_of_intervals(rows[y].to_numpy(), *ends), margin=0.1)
    ax.set(xscale="log", xlim=(first / 1.15, last * 1.15), ylim=range_of_nll)
    steps = (1, *range(2, 10)) if last < 3 * first else (1, 2, 5) if last < 100 * first else (1,)
    ax.xaxis.set_major_locator(LogLocator(subs=steps))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}×"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.axhline(0, color="0.4", linewidth=0.6)
    rows = rows.assign(x=_spread(rows.sort_values(y)["relative_cost"], 0.012 * np.log(last / first * 1.3)))
    _points(ax, rows.assign(pale=rows["collapsed"] == 1), "x", y, looks)
    for row in rows.itertuples():
        low, high = getattr(row, f"{y}_low"), getattr(row, f"{y}_high")
        if np.isfinite([low, high]).all() and row.collapsed != 1:
            ax.plot([row.x, row.x], [low, high], color=looks[row.title].color_light, linewidth=0.6, zorder=1)
    best = front(rows[(rows["collapsed"] == 0) & (rows["family"] != CONTROLS)], "relative_cost", y)
    if len(best):
        ax.step(best["x"], best[y], where="post", color=GREY, linewidth=0.9, zorder=0.5)
    ax.set_title("grey line: Pareto front of the rows that use z in every seed; pale: collapsed")
    _key(ax, rows, looks)
    if len(rows) > MAX_LEGEND:
        label(ax, {row.title: (row.x, getattr(row, y)) for row in best.itertuples()})
    return [figure]


def rate_distortion(rows: DataFrame, finished: DataFrame, looks: Looks) -> list[Figure]:
    """Draw distortion against rate on the test set (Alemi et al., 2018), with lines of equal ELBO.

    Small points are seeds, large ones means.
    """
    rows = rows.dropna(subset=["rec", "kl"])
    if rows.empty:
        return []
    figure, [[ax]] = subplots(_height(rows))
    ax.set(xlabel="rate: KL (nats)", ylabel="distortion: rec (nats)")
    ax.set(xlim=limits(*core(rows["kl"])), ylim=limits(*core(rows["rec"])))
    _equal_elbo(ax)
    for title, cells in finished.groupby("title"):
        if title in looks and len(cells) > 1:
            ax.plot(cells["kl"], cells["rec"], ".", color=looks[title].color_light, markersize=2, alpha=0.5)
    _points(ax, rows.assign(pale=False), "kl", "rec", looks)
    ax.set_title("dotted: equal ELBO (nats)")
    _key(ax, rows, looks)
    if len(rows) > MAX_LEGEND:
        best = front(rows[rows["family"] != CONTROLS], "kl", "rec")
        chosen = best.iloc[np.unique(np.linspace(0, len(best) - 1, min(6, len(best))).round().astype(int))]
        label(ax, {row.title: (row.kl, row.rec) for row in chosen.itertuples()})
    return [figure]


def tuning(trials: DataFrame, looks: Looks) -> list[Figure]:
    """Draw the best NLL on validation over the number of trials, and all trials in the plane of MI and NLL.

    Left: the mean over seeds. Right: one point per trial, and a line through those that no other trial of the row
    beats in both (more MI, lower NLL). Of more than ``MAX_LEGEND`` rows those with the lowest NLL are drawn.
    """
    trials = trials.dropna(subset=["nll"]) if len(trials) else trials
    if trials.empty:
        return []
    best_first = trials.groupby("title")["nll"].min().sort_values(kind="stable").index[:MAX_LEGEND]
    titles = [title for title in looks if title in best_first]
    trials = trials[trials["title"].isin(titles)]
    figure, [[left, right]] = subplots(max(3.0, 2 * LINE * len(titles) + 0.5), columns=2)
    low, high = limits(*core(trials["nll"]))
    outside = int((~trials["nll"].between(low, high)).sum())
    ends = []
    for title in titles:
        look, own = looks[title], trials[trials["title"] == title]
        best = own.pivot_table(index="trial", columns=["base_seed", "seed"], values="nll").cummin().ffill().mean(axis=1)
        ends += [*best]
        left.plot(best.index + 1, best, **point(look, 4) | line(look), linewidth=1)
        right.plot(own["mi"], own["nll"], **point(look, 3) | {"linestyle": "none", "alpha": 0.6})
        best = front(own.assign(less_mi=-own["mi"]), "less_mi", "nll")
        right.plot(best["mi"], best["nll"], **line(look), linewidth=0.8)
    left.set(xlabel="trials", ylabel="best NLL on validation (nats)", ylim=limits(*core(ends)))
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set(xlabel="MI on validation (nats)", ylabel="NLL on validation (nats)", ylim=(low, high))
    right.set_title(f"{outside} trials are beyond the axis" if outside else "")
    legend(right, titles, looks)
    return [figure]


def _spread(costs: Series, step: float) -> Series:
    """Return the costs, nearly equal ones spread sideways, so that their points do not hide each other."""
    number = costs.groupby(np.log(costs).div(4 * step).round()).cumcount()
    return costs * np.exp(step * ((number + 2) % 5 - 2))


def _height(rows: DataFrame) -> float:
    """Return the height of a plane in inches: that of its legend at least."""
    titles = rows["title"] if len(rows) <= MAX_LEGEND else rows["family"].unique()
    return max(3.2, LINE * sum(1 + len(title) // 24 for title in titles) + 0.8)


def _points(ax: Axes, rows: DataFrame, x: str, y: str, looks: Looks) -> None:
    """Draw rows, those of column ``pale`` faintly; then an arrow with name and value for each beyond the axes."""
    inside = rows[x].between(*sorted(ax.get_xlim())) & rows[y].between(*sorted(ax.get_ylim()))
    for title, at_x, at_y, is_pale in rows.loc[inside, ["title", x, y, "pale"]].itertuples(index=False):
        ax.plot(at_x, at_y, **point(looks[title], 5.5), alpha=0.35 if is_pale else 1.0, zorder=2 if is_pale else 3)
    for title, at_x, at_y in rows.loc[~inside, ["title", x, y]].itertuples(index=False):
        clip(ax, at_x, at_y, title)


def _key(ax: Axes, rows: DataFrame, looks: Looks) -> None:
    """Add a legend of the rows, or of their families if there are many rows."""
    if len(rows) <= MAX_LEGEND:
        legend(ax, rows["title"], looks, lines=False)
        return
    colors = {str(family): looks[cells["title"].iloc[-1]].color_light for family, cells in rows.groupby("family")}
    handles = [Line2D([], [], linestyle="none", marker="s", color=color, label=name) for name, color in colors.items()]
    handles += [
        Line2D([], [], linestyle="none", label=row.title, **point(looks[row.title]))
        for row in rows[rows["baseline"]].itertuples()
    ]
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0, handlelength=1.0)


def _equal_elbo(ax: Axes) -> None:
    """Draw dotted lines -(rec + KL) = ELBO, labelled in the middle of their visible part unless that is short."""
    ax.grid(False)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    rate, distortion = np.meshgrid(np.linspace(left, right, 50), np.linspace(bottom, top, 50))
    lines = ax.contour(
        rate, distortion, -rate - distortion, levels=6, colors="0.7", linewidths=0.6, linestyles=":", zorder=0.5
    )
    visible = [(max(left, -elbo - top), min(right, -elbo - bottom), elbo) for elbo in lines.levels]
    long = [(low, high, elbo) for low, high, elbo in visible if high - low > 0.15 * (right - left)]
    middles = [((low + high) / 2, -elbo - (low + high) / 2) for low, high, elbo in long]
    ax.clabel(lines, [elbo for *_, elbo in long], fontsize=MIN_FONT, fmt="%g", colors="0.45", manual=middles)
