"""All figures of one group of cells. Every function takes frames and plot styles, and returns a matplotlib figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from bench.experiment.lag_trace import LagTrace
from bench.reporting import curves, lag, points
from bench.reporting.frame import history_frame
from bench.reporting.style import RC, plot_styles_for, save

if TYPE_CHECKING:
    from pandas import DataFrame

MAX_NAME = 80  # characters of a method's name in a figure
MAX_IMAGES = 12  # test images in a row
Arrays = Mapping[str, Mapping[str, np.ndarray]]  # method -> the arrays of ``DIMENSIONS`` that its cell stored

#: Captions of the figures, in the order of the page.
CAPTIONS = {
    "rate_distortion": "Rate and distortion on the test set. Small points are seeds, large points their means; on a "
    "dotted line all points have the same ELBO.",
    "seeds": "NLL and MI of every seed (small points above the line), their mean, and its 95 % interval: for NLL over "
    "seeds and test examples, for MI over seeds.",
    "nll_time": "NLL against training time: lower and further left is better.",
    "nll_flops": "NLL against the FLOPs counted in training, which do not depend on the machine.",
    "gaps": "Inference gaps. Amortisation gap (filled): encoder against the best Gaussian of each example. "
    "Approximation gap (hatched): that Gaussian against the true posterior.",
    "dynamics": "Training dynamics on validation data: mean over seeds ± one standard deviation. If there are several "
    "rows, all show the first method in grey.",
    "information": "The KL term of the ELBO on validation data and its two parts: mutual information, and the KL "
    "divergence of the aggregate posterior from the prior.",
    "lag": "Inference lag on validation data: distance of the encoder from the posterior of the current model.",
    "lag_scatter": "Posterior means: encoder against model. On the diagonal the encoder keeps up; on the horizontal "
    "axis the model uses z and the encoder lags; all points at the origin: collapse.",
    "lag_stages": "Inference over training with a scalar latent, first seed of each method: means of q(z|x) against "
    "means of the true posterior, one point per test example. On the diagonal q matches the true posterior; on the "
    "horizontal axis the model uses z, but q does not depend on x.",
    "lag_trajectory": "The same over all of training: the path of one test example, and the spread of all examples.",
    "lag_updates": "The same: distance of the means, and KL(q(z|x) ‖ p(z|x)), over updates.",
    "reconstructions": "Test examples and their reconstructions from the posterior mean, first seed of each method.",
    "samples": "Samples from the prior, first seed of each method.",
}
#: Stored arrays that the figures use, and their number of dimensions.
DIMENSIONS = {"originals": 3, "reconstructions": 3, "samples": 3, "means": 2, "true_means": 2}


def draw(folder: Path, frame: DataFrame, log: Callable[[str], object]) -> list[Path]:
    """Write every figure that the cells of ``cells_frame`` have data for, in every format, and return the files."""
    frame = frame.assign(method=frame["method"].map(_short_names([*dict.fromkeys(frame["method"])])))
    finished = frame[frame["status"] == "done"]
    styles = plot_styles_for(frame)
    history, arrays, traces = history_frame(finished), _read_arrays(finished, log), _read_lag_traces(finished)
    figures: dict[str, Callable[[], Figure | None]] = {
        "rate_distortion": lambda: points.rate_distortion(finished, styles),
        "seeds": lambda: points.seeds(finished, styles),
        "nll_time": lambda: points.nll_cost(finished, styles, "train_seconds"),
        "nll_flops": lambda: points.nll_cost(finished, styles, "flops"),
        "gaps": lambda: points.gaps(finished, styles),
        "dynamics": lambda: curves.dynamics(history, styles),
        "information": lambda: curves.information(history, styles),
        "lag": lambda: lag.while_training(history, styles),
        "lag_scatter": lambda: lag.scatter(arrays, styles),
        "lag_stages": lambda: lag.stages(traces, styles),
        "lag_trajectory": lambda: lag.trajectory(traces, styles),
        "lag_updates": lambda: lag.over_updates(traces, styles),
        "reconstructions": lambda: image_grid(arrays, "reconstructions", "originals"),
        "samples": lambda: image_grid(arrays, "samples"),
    }
    files = []
    with matplotlib.rc_context(RC):
        for name, make in figures.items():
            try:
                files += save(figure, folder / name) if (figure := make()) else []
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
    count = min(MAX_IMAGES, *(len(images) for images in rows.values()))
    height, width = next(iter(rows.values())).shape[1:]
    gap = max(1, height // 14)  # pixels
    ink = max(1, *(images.max() for images in rows.values()))
    pad = ((0, 0), (gap, 0), (gap, 0))
    strips = [np.hstack([*np.pad(images[:count] / ink, pad, constant_values=0.15)]) for images in rows.values()]
    canvas = np.pad(np.vstack(strips), (0, gap), constant_values=0.15)
    side = max(0.12, min(0.42, 9 / len(rows)))  # inches per row
    margin = 0.068 * max(map(len, rows)) + 0.1  # inches, for the names
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
