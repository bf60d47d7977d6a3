"""All figures of one group of cells. Every function takes frames and plot styles, and returns a matplotlib figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pandas import DataFrame

from bench.experiment.lag_trace import LagTrace
from bench.reporting import curves, lag, points
from bench.reporting.frame import history_frame
from bench.reporting.style import RC, PlotStyles, plot_styles_for, save, subplots

MAX_NAME = 80  # characters of a method's name in a figure
MAX_IMAGES = 12  # test images in a row
Arrays = Mapping[str, Mapping[str, np.ndarray]]  # method -> the arrays of ``DIMENSIONS`` that its cell stored

#: Stored arrays that the figures use, and their number of dimensions.
DIMENSIONS = {"originals": 3, "reconstructions": 3, "samples": 3, "means": 2, "true_means": 2}


class Data(NamedTuple):
    """What the figures show: finished cells, their validations, and arrays and lag traces of the first seeds."""

    finished: DataFrame
    history: DataFrame
    arrays: Arrays
    traces: Mapping[str, LagTrace]
    styles: PlotStyles
    trials: DataFrame  # of tuned methods


def _over_updates(**titles: str) -> Callable[[Data], Figure | None]:
    return lambda data: curves.over_updates(data.history, data.styles, titles)


#: The figures in the order of the page: a function returns None if there are no data. ``templates/captions.html`` has
#: their captions.
FIGURES: dict[str, Callable[[Data], Figure | None]] = {
    "rate_distortion": lambda data: points.rate_distortion(data.finished, data.styles),
    "seeds": lambda data: points.seeds(data.finished, data.styles),
    "nll_time": lambda data: points.nll_cost(data.finished, data.styles, "train_seconds", "training time (s)"),
    "nll_flops": lambda data: points.nll_cost(data.finished, data.styles, "flops", "training FLOPs, counted"),
    "gaps": lambda data: points.gaps(data.finished, data.styles),
    "dynamics": _over_updates(kl="KL (nats)", mi="MI (nats)", au="active units", au_kl="active units by KL"),
    "information": _over_updates(
        kl=r"KL$(q(z|x)\,\|\,p)$ (nats)", mi="MI (nats)", kl_aggregate=r"KL$(q(z)\,\|\,p)$ (nats)"
    ),
    "lag": _over_updates(lag="distance of the means", lag_kl="inference gap (nats)"),
    "lag_scatter": lambda data: lag.scatter(data.arrays, data.styles),
    "lag_stages": lambda data: lag.stages(data.traces, data.styles),
    "lag_trajectory": lambda data: lag.trajectory(data.traces, data.styles),
    "reconstructions": lambda data: image_grid(data.arrays, "reconstructions", "originals"),
    "samples": lambda data: image_grid(data.arrays, "samples"),
    "tuning": lambda data: points.tuning(data.trials, data.styles),
}


def draw(
    folder: Path, frame: DataFrame, log: Callable[[str], object], trials: Sequence[Mapping[str, Any]] = ()
) -> list[Path]:
    """Write every figure that the cells of ``cells_frame`` have data for, in every format, and return the files.

    ``trials``: of tuned methods.
    """
    frame = frame.assign(method=frame["method"].map(_short_names([*dict.fromkeys(frame["method"])])))
    finished = frame[frame["status"] == "done"]
    arrays, traces = _read_arrays(finished, log), _read_lag_traces(finished)
    styles = plot_styles_for(frame)
    data = Data(finished, history_frame(finished), arrays, traces, styles, pd.DataFrame(trials))
    files = []
    with matplotlib.style.context(RC, after_reset=True):  # not the user's configuration
        for name, function in FIGURES.items():
            try:
                files += save(figure, folder / name) if (figure := function(data)) else []
            except (ValueError, ArithmeticError) as error:  # for example numbers beyond the range of an axis
                log(f"no figure {name} of {folder.name}: {str(error).splitlines()[0]}")
    return files


def _short_names(methods: list[str]) -> dict[str, str]:
    """Shorten long names, still unique; a legend would ignore a leading underscore."""
    short = {
        name: name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 8]}… ({i})" for i, name in enumerate(methods)
    }
    return {name: f" {text}" if text.startswith("_") else text for name, text in short.items()}


def image_grid(arrays: Arrays, kind: str, first: str | None = None) -> Figure | None:
    """Draw test images, one row per method, below a row of ``first``. Images are uint8 ``(P, H, W)``, ink high."""
    rows = {name: stored[kind] for name, stored in arrays.items() if kind in stored and (first or kind) in stored}
    if not rows:
        return None
    if first:
        rows = {first: next(arrays[name][first] for name in rows), **rows}
    count = min(MAX_IMAGES, *map(len, rows.values()))
    ink = max(1, *(images.max() for images in rows.values()))
    side = max(0.12, min(0.42, 9 / len(rows)))  # inches per image
    width = side * count + 0.08 * max(map(len, rows)) + 0.1  # with the names
    figure, axes = subplots(side * len(rows), len(rows), width=width)
    figure.set_layout_engine("compressed", h_pad=0.01, hspace=0)
    for (ax,), (name, images) in zip(axes, rows.items(), strict=True):
        strip = np.hstack([*np.pad(images[:count] / ink, ((0, 0), (1, 1), (1, 1)), constant_values=0.15)])
        ax.imshow(strip, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        ax.set_yticks([strip.shape[0] / 2], [name])
        ax.set_xticks([])
        ax.tick_params(length=0)
        ax.grid(False)
        ax.spines[:].set_visible(False)
    return figure


def _read_arrays(finished: DataFrame, log: Callable[[str], object]) -> dict[str, dict[str, np.ndarray]]:
    """Return the stored arrays of the first seed of every method."""
    arrays = {}
    for name, cells in finished.groupby("method", sort=False):
        file = cells["cell"].iloc[0].folder / "arrays.npz"
        try:
            with np.load(file, allow_pickle=False) as stored:
                arrays[name] = {kind: stored[kind] for kind in DIMENSIONS if kind in stored}
            if any(array.ndim != DIMENSIONS[kind] for kind, array in arrays[name].items()):
                raise ValueError("unexpected shapes")
        except FileNotFoundError:
            continue
        except Exception as error:  # zipfile, zlib and NumPy raise different types
            arrays.pop(name, None)
            log(f"no images of {name}: {file.parent.name}/{file.name} is damaged ({type(error).__name__})")
    return arrays


def _read_lag_traces(finished: DataFrame) -> dict[str, LagTrace]:
    """Read the lag trace of each method's first seed, for the cells that have one."""
    cells = finished.groupby("method", sort=False)["cell"].first()
    traces = {str(name): LagTrace.read(cell.folder) for name, cell in cells.items()}
    return {name: trace for name, trace in traces.items() if trace}
