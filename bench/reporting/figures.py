"""The figures of one data set and preset. Each function takes frames and looks, and returns a matplotlib figure."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import seaborn
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from bench.reporting import lag
from bench.reporting.frame import history_frame
from bench.reporting.style import RC, WIDTH, Look, looks, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

Looks = Mapping[str, Look]


def draw(folder: Path, frame: DataFrame, log: Callable[[str], object]) -> list[Path]:
    """Every figure that ``cells_frame``'s cells have the numbers for, as png and pdf in ``folder``."""
    done = frame[frame["status"] == "ok"]
    style = looks(dict.fromkeys(frame.sort_values("baseline", ascending=False, kind="stable")["method"]))
    history, arrays = history_frame(done), _arrays(done, log)
    made: dict[str, Figure | None] = {}
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **RC, "backend": "agg"}):
        made["dynamics"] = dynamics(history, style)
        made["information"] = information(history, style)
        made["lag"] = lag.curves(history, style)
        made["lag_scatter"] = lag.scatter(arrays, style)
        made["rate_distortion"] = rate_distortion(done, style)
        made["nll_time"] = nll_time(done, style)
        made["reconstructions"] = grid(arrays, "reconstructions", "originals")
        made["samples"] = grid(arrays, "samples")
        return [file for name, figure in made.items() if figure for file in save(figure, folder / name)]


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
    """One panel per column of ``history``: the mean over seeds, within one sd where there are several."""
    if history.empty or history[list(panels)].isna().all(axis=None):
        return None
    methods = [name for name in style if history.loc[history["method"] == name, list(panels)].notna().any(axis=None)]
    figure, axes = _figure(2.1, columns=len(panels))
    for ax, (column, title) in zip(axes, panels.items(), strict=True):
        for place, name in enumerate(methods):
            # Staggered markers tell lines apart where they coincide, in print without colour too.
            every = (0.02 + 0.16 * place / len(methods), 0.16)
            marks = {**vars(style[name]), "markevery": every, "markersize": 3.5, "markeredgecolor": style[name].color}
            seeds = history[history["method"] == name]
            band = {"alpha": 0.15, "linewidth": 0}
            seaborn.lineplot(seeds, x="update", y=column, ax=ax, errorbar="sd", err_kws=band, **marks)
        ax.set(title=title, xlabel="updates", ylabel="", ylim=(0, None))
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if column.startswith("au"):
            ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        elif history[column].max() > 20:  # one method far above must not flatten the rest
            ax.set_yscale("symlog", linthresh=1, linscale=0.5)
            ax.set(title=title.replace("(nats)", "(nats, log from 1)"), ylim=(0, None))
            ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    _legend(figure, methods, style, lines=True)
    return figure


def rate_distortion(done: DataFrame, style: Looks) -> Figure | None:
    """Distortion against rate on the test set: seeds small, their mean large, and lines of equal ELBO.

    Where few methods spend far more rate than the rest, a second panel shows the rest.
    """
    done = done.dropna(subset=["rec", "kl"])
    if done.empty:
        return None
    methods = [name for name in style if (done["method"] == name).any()]
    rates = done.groupby("method")["kl"].mean()
    near = rates[rates <= 4 * max(rates.median(), 1.0)].index
    panels = [done] if len(near) == len(rates) else [done, done[done["method"].isin(near)]]
    figure, axes = _figure(3.1, columns=len(panels), width=1.0 if len(panels) > 1 else 0.62)
    for ax, cells in zip(axes, panels, strict=True):
        for name in methods:
            _points(ax, cells[cells["method"] == name], "kl", "rec", style[name])
        ax.margins(0.1)
        ax.set(xlabel="rate: KL (nats)", ylabel="distortion: rec (nats)")
        _equal_elbo(ax)
        ax.grid(False)
    axes[0].set_title("dotted: equal ELBO (nats)")
    if len(panels) > 1:
        axes[1].set_title("detail: methods of low rate")
    _legend(figure, methods, style)
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


def nll_time(done: DataFrame, style: Looks) -> Figure | None:
    """NLL against training seconds, named at the right margin in the order of NLL."""
    done = done[done["train_seconds"] > 0].dropna(subset=["nll"])
    if done.empty:
        return None
    means = done.groupby("method", sort=False)[["train_seconds", "nll"]].mean().sort_values("nll", kind="stable")
    line = 0.15  # inches between names
    figure, (ax,) = _figure(max(2.6, line * len(means) + 0.6))
    for name in means.index:
        _points(ax, done[done["method"] == name], "train_seconds", "nll", style[name])
    ax.margins(0.06)
    ax.set(xlabel="training time (s)", ylabel="NLL (nats)", xscale="log")
    first, last = done["train_seconds"].min(), done["train_seconds"].max()
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if last < 100 * first else (1,)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    low, high = ax.get_ylim()
    heights = _spread((means["nll"].to_numpy() - low) / (high - low), line / (figure.get_figheight() - 0.5))
    for (name, point), height in zip(means.iterrows(), heights, strict=True):
        marks: dict[str, Any] = {"color": style[name].color, "marker": style[name].marker}
        ax.plot([1.04], [height], **marks, transform=ax.transAxes, clip_on=False)
        ax.annotate(name, (1.055, height), xycoords="axes fraction", va="center", fontsize=7, annotation_clip=False)
        ends: dict[str, Any] = {"xyA": (point["train_seconds"], point["nll"]), "coordsA": "data"}
        ends |= {"xyB": (1.03, height), "coordsB": "axes fraction"}
        leader = ConnectionPatch(**ends, axesA=ax, axesB=ax, color="0.75", linewidth=0.4, zorder=0.5, clip_on=False)
        ax.add_artist(leader).set_in_layout(False)
    return figure


def grid(pictures: Mapping[str, Mapping[str, np.ndarray]], kind: str, first: str | None = None) -> Figure | None:
    """Rows of test pictures, one row per method, ``first`` above them. Pictures are uint8 ``[P, H, W]``, ink high."""
    rows = {name: arrays[kind] for name, arrays in pictures.items() if kind in arrays}
    if not rows:
        return None
    if first:
        rows = {first: next(iter(pictures[name][first] for name in rows)), **rows}
    count = min(12, *(len(images) for images in rows.values()))
    height, width = next(iter(rows.values())).shape[1:]
    gap = max(1, height // 14)
    ink = max(1, *(images.max() for images in rows.values()))
    canvas = np.full((len(rows) * (height + gap) + gap, count * (width + gap) + gap), 0.15)
    for row, images in enumerate(rows.values()):
        for column, image in enumerate(images[:count]):
            top, left = gap + row * (height + gap), gap + column * (width + gap)
            canvas[top : top + height, left : left + width] = image / ink
    side = min(0.42, 9 / len(rows))  # inches of a row: thirty of them stay on a page
    margin = 0.068 * max(map(len, rows)) + 0.1
    size = margin + side * canvas.shape[1] / (height + gap), side * canvas.shape[0] / (height + gap)
    figure = Figure(figsize=size)
    ax = figure.add_axes((margin / size[0], 0, 1 - margin / size[0], 1))
    ax.imshow(canvas, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    ax.set_yticks([gap + height / 2 + row * (height + gap) for row in range(len(rows))], list(rows))
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return figure


def _figure(height: float, columns: int = 1, width: float = 1.0) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * WIDTH, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _points(ax: Axes, cells: DataFrame, x: str, y: str, look: Look) -> None:
    marks: dict[str, Any] = {"color": look.color, "marker": look.marker, "linestyle": "none"}
    if len(cells) > 1:
        ax.plot(cells[x], cells[y], **marks, markersize=2.5, alpha=0.5, markeredgewidth=0)
    ax.plot([cells[x].mean()], [cells[y].mean()], **marks, markersize=6, markeredgecolor="white", markeredgewidth=0.5)


def _legend(figure: Figure, methods: list[str], style: Looks, lines: bool = False) -> None:
    """Below the axes, in as many columns as the longest name allows; the figure grows by its rows."""
    from matplotlib.lines import Line2D

    columns = max(1, min(len(methods), int(figure.get_figwidth() / (0.075 * max(map(len, methods)) + 0.5))))
    rows = -(-len(methods) // columns)
    figure.set_figheight(figure.get_figheight() + 0.16 * rows + 0.1)
    handles = [Line2D([], [], **vars(style[name]) | ({} if lines else {"linestyle": "none"})) for name in methods]
    figure.legend(handles, methods, loc="outside lower center", ncols=columns, handlelength=2.6 if lines else 1.0)


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


#: What is drawn of a cell's arrays, and how many dimensions it has.
DRAWN = {"originals": 3, "reconstructions": 3, "samples": 3, "means": 2, "true_means": 2}


def _arrays(done: DataFrame, log: Callable[[str], object]) -> dict[str, dict[str, np.ndarray]]:
    """Those of ``DRAWN`` that each method's first seed has."""
    found = {}
    for name, cells in done.groupby("method", sort=False):
        file = cells["cell"].iloc[0].folder / "arrays.npz"
        try:
            with np.load(file) as arrays:
                kinds = [kind for kind in DRAWN if kind in arrays]
                found[name] = {kind: arrays[kind] for kind in kinds if arrays[kind].ndim == DRAWN[kind]}
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            log(f"no pictures of {name}: {file.parent.name}/{file.name} is damaged ({type(error).__name__})")
    return found
