"""Pictures of inference lag, after Figures 2 and 3 of He et al. (2019): means of q(z|x) against those of p(z|x).

On the diagonal inference keeps up with the model. Points on the horizontal axis: the model uses z and q does not know;
all points at the origin: collapse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from bench.core.files import replace
from bench.reporting import curves
from bench.reporting.style import RC, WIDTH, PlotStyle, plot_styles, save, wrap_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

Looks = Mapping[str, PlotStyle]

STAGES = 4  # columns of the picture
TRUE_MEAN, MEAN = "mean of $p(z|x)$", "mean of $q(z|x)$"
DISTANCE, KL = "distance of the means", r"KL$(q(z|x)\,\|\,p(z|x))$ (nats)"
#: Columns of a history; the gap is that KL where quadrature gives it, else the amortisation gap.
TITLES = {"lag": DISTANCE, "lag_kl": "inference gap (nats)"}


@dataclass(frozen=True)
class Trace:
    """One method's inference over training, on N fixed points at F stages; a scalar latent."""

    updates: np.ndarray  # [F], of the decoder
    means: np.ndarray  # [F, N], of q(z|x)
    true_means: np.ndarray  # [F, N], of p(z|x)
    kl: np.ndarray  # [F, N]: KL(q(z|x) ‖ p(z|x)) in nats

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Trace:
        """From arrays as they are stored; ``ValueError`` or ``TypeError`` where they are not those of a trace."""
        trace = cls(**arrays)
        shapes = {array.shape for array in (trace.means, trace.true_means, trace.kl)}
        whole = trace.updates.shape == trace.means.shape[:1] and len(shapes) == 1 and trace.means.ndim == 2
        if not (whole and trace.means.size and trace.updates.dtype.kind in "iu"):
            raise ValueError("not the arrays of a trace")
        if not all(array.dtype.kind == "f" and np.isfinite(array).all() for array in (trace.means, trace.true_means)):
            raise ValueError("means that are no numbers")
        return trace

    @property
    def lag(self) -> np.ndarray:
        """The mean distance of the two means at every stage ``[F]``."""
        return np.abs(self.means - self.true_means).mean(axis=1)


def draw(folder: Path, traces: Mapping[str, Trace]) -> list[Path]:
    """Every picture of these methods, in their order, as png and pdf in ``folder``, and the film."""
    style = plot_styles(traces)
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **RC, "backend": "agg"}):
        made = {
            "lag": stages(traces, style),
            "trajectory": trajectory(traces, style),
            "lag_curves": over_updates(traces, style),
        }
        files = [file for name, figure in made.items() for file in save(figure, folder / name, ("png", "pdf"))]
        return [*files, film(folder / "lag.gif", traces, style)]


def shown_stages(count: int) -> list[int]:
    """Which of ``count`` stages stand in the picture: the first, the last and evenly between."""
    return np.unique(np.linspace(0, count - 1, STAGES).round().astype(int)).tolist()


def stages(traces: Mapping[str, Trace], style: Looks) -> Figure:
    """One row per method, one column per stage of training: all points, and the diagonal."""
    chosen = shown_stages(min(len(trace.updates) for trace in traces.values()))
    side = (WIDTH - 0.6) / len(chosen)
    figure = Figure(figsize=(WIDTH, side * len(traces) + 0.5), layout="constrained")
    grid = figure.subplots(len(traces), len(chosen), squeeze=False, sharex=True, sharey=True)
    limit = _limit(traces.values(), chosen)
    for row, (name, trace) in zip(grid, traces.items(), strict=True):
        for ax, stage in zip(row, chosen, strict=True):
            _points(ax, trace.true_means[stage], trace.means[stage], style[name].color, limit)
            ax.set_title(_updates(trace.updates[stage]))
            _number(ax, trace, stage)
        row[0].set_ylabel(f"{name}\n{MEAN}")
    for ax in grid[-1]:
        ax.set_xlabel(TRUE_MEAN)
    return figure


def trajectory(traces: Mapping[str, Trace], style: Looks) -> Figure:
    """The way of one point through training, and that of the spread of all: 0 on either axis says nothing of x."""
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    one, every = figure.subplots(1, 2)
    point = _telling_point(traces)
    for name, trace in traces.items():
        sign = np.sign(trace.true_means[-1, point]) or 1.0
        _way(one, sign * trace.true_means[:, point], sign * trace.means[:, point], style[name], name)
        _way(every, trace.true_means.std(axis=1), trace.means.std(axis=1), style[name], name)
    one.set(title="one point", xlabel=TRUE_MEAN, ylabel=MEAN)
    every.set(title="all points: standard deviation", xlabel=f"sd of the {TRUE_MEAN}", ylabel=f"sd of the {MEAN}")
    for ax in (one, every):
        low = min(0.0, *ax.get_xlim(), *ax.get_ylim())
        high = max(0.1, *ax.get_xlim(), *ax.get_ylim())
        ax.set(xlim=(low, high), ylim=(low, high))
        ax.set_aspect("equal")
        _diagonal(ax)
    handles, labels = one.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=4, title="open: before training; filled: at its end"
    )
    return figure


def over_updates(traces: Mapping[str, Trace], style: Looks) -> Figure:
    """Lag and KL(q(z|x) ‖ p(z|x)) over updates of the decoder, which are few at first and many later."""
    figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
    axes = figure.subplots(1, 2)
    for name, trace in traces.items():
        for ax, values in zip(axes, (trace.lag, trace.kl.mean(axis=1)), strict=True):
            ax.plot(trace.updates, values, **vars(style[name]) | {"markersize": 3.0}, label=name)
    last = max(trace.updates[-1] for trace in traces.values())
    for ax, title in zip(axes, (DISTANCE, KL), strict=True):
        ax.set_xscale("symlog", linthresh=1, linscale=0.3)
        ax.set_yscale("symlog", linthresh=0.1, linscale=0.5)  # the first updates may throw q far off
        ax.set(title=title, xlabel="updates", xlim=(0, last), ylim=(0, None))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def film(path: Path, traces: Mapping[str, Trace], style: Looks) -> Path:
    """All stages as an animated gif, the methods side by side; the last stage stays for a while."""
    from PIL import Image

    count = min(len(trace.updates) for trace in traces.values())
    limit = _limit(traces.values(), range(count))
    figure = Figure(figsize=(2.6 * len(traces) + 0.4, 2.9), layout="constrained", dpi=100)
    canvas = FigureCanvasAgg(figure)
    frames = []
    for stage in range(count):
        figure.clear()
        axes = figure.subplots(1, len(traces), squeeze=False, sharey=True)[0]
        for ax, (name, trace) in zip(axes, traces.items(), strict=True):
            _points(ax, trace.true_means[stage], trace.means[stage], style[name].color, limit)
            _number(ax, trace, stage)
            ax.set(title=f"{name}, {_updates(trace.updates[stage])}", xlabel=TRUE_MEAN)
        axes[0].set_ylabel(MEAN)
        canvas.draw()
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        frames.append(image.quantize(64, dither=Image.Dither.NONE))
    durations = [250] * (count - 1) + [2000]  # milliseconds
    options: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": 0}
    replace(path, lambda file: frames[0].save(file, format="GIF", **options))
    return path


def while_training(history: DataFrame, style: Looks) -> Figure | None:
    """``lag`` and ``lag_kl`` on validation over decoder updates: the mean over seeds, within one sd where there are
    several. None where no method has either."""
    return curves.over_updates(history, style, TITLES)


def scatter(pictures: Mapping[str, Mapping[str, np.ndarray]], style: Looks) -> Figure | None:
    """Posterior means of each method's test examples: ``means`` ``[N, D]`` against ``true_means`` ``[M, D]`` of the
    first M, D = 1 or 2. None where no method has both."""
    pairs = {
        name: (arrays["true_means"], arrays["means"][: len(arrays["true_means"])])
        for name, arrays in pictures.items()
        if {"means", "true_means"} <= {*arrays}
    }
    if not pairs:
        return None
    limit = 1.05 * max(0.5, *(float(np.abs(both).max()) for both in pairs.values()))
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


def _limit(traces: Any, chosen: Sequence[int]) -> float:
    """The end of both axes: what holds the points of every trace at the chosen stages."""
    both = [np.abs(part[list(chosen)]).max() for trace in traces for part in (trace.means, trace.true_means)]
    return 1.05 * max(0.5, *map(float, both))


def _points(ax: Axes, true_means: np.ndarray, means: np.ndarray, color: str, limit: float, marker: str = "o") -> None:
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit))
    ax.set_aspect("equal")
    ax.locator_params(nbins=5)
    _diagonal(ax)
    ax.scatter(true_means, means, s=7, marker=marker, color=color, alpha=0.3, linewidths=0, rasterized=True)


def _diagonal(ax: Axes) -> None:
    ax.axline((0, 0), slope=1, color="0.6", linewidth=0.8, linestyle="--", zorder=0.5)


def _number(ax: Axes, trace: Trace, stage: int) -> None:
    """The lag of a stage, in the corner that points on the diagonal or on an axis leave free."""
    ax.text(0.04, 0.96, f"lag {trace.lag[stage]:.2f}", transform=ax.transAxes, va="top", fontsize=7, color="0.3")


def _updates(count: int) -> str:
    return f"{count:,} update" if count == 1 else f"{count:,} updates"


def _telling_point(traces: Mapping[str, Trace]) -> int:
    """The point at the upper decile of what the model, of whichever method tells most, makes of z at the end."""
    widest = max(traces.values(), key=lambda trace: np.abs(trace.true_means[-1]).mean())
    order = np.abs(widest.true_means[-1]).argsort(kind="stable")
    return int(order[int(0.9 * (len(order) - 1))])


def _way(ax: Axes, x: np.ndarray, y: np.ndarray, look: PlotStyle, name: str) -> None:
    ax.plot(x, y, color=look.color, linestyle=look.linestyle, marker=".", markersize=2.5, linewidth=1.0, label=name)
    marks: dict[str, Any] = {"marker": look.marker, "markeredgecolor": look.color, "markersize": 6, "linestyle": "none"}
    ax.plot(x[:1], y[:1], markerfacecolor="white", zorder=3, **marks)
    ax.plot(x[-1:], y[-1:], markerfacecolor=look.color, zorder=3, **marks)
