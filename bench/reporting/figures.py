"""The figures of one data set and preset. Each function takes frames and looks, and returns a matplotlib figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from bench.core.safe_io import open_regular_file
from bench.core.safe_io import read_arrays as read_arrays
from bench.experiment.schema import LARGEST
from bench.reporting import curves, lag, points
from bench.reporting.frame import history_frame
from bench.reporting.style import RC, plot_styles_for, save

if TYPE_CHECKING:
    from pandas import DataFrame

    from bench.reporting.compare import Ranks

LONGEST = 80  # characters of a name in a figure

#: What each figure shows, in the order of a page.
CAPTIONS = {
    "rate_distortion": "KLTerm and distortion on the test set: what the latent tells, and what the decoder is left to "
    "explain. Small points are seeds, large ones their means; on a dotted line all have the same ELBO.",
    "seeds": "Every seed as a small point above its row, the mean as a large one, and the mean's 95 % interval: of NLL "
    "with seeds and test examples as crossed noise, of MI over seeds.",
    "nll_time": "NLL against training time: lower and further left is better.",
    "nll_flops": "NLL against the FLOPs counted in training, which do not depend on the machine.",
    "gaps": "What inference loses of the likelihood: filled, what the encoder loses against the best Gaussian of each "
    "example (amortisation); hatched, what that Gaussian loses against the true posterior (approximation).",
    "dynamics": "Training dynamics on validation: the mean over seeds, within one standard deviation. Where there are "
    "several rows, the first method stands in all, in grey.",
    "information": "The KL term of the ELBO on validation and its two parts: mutual information, and the distance of "
    "the aggregate posterior from the prior.",
    "lag": "Inference lag on validation: how far the encoder is behind the posterior of the model as it is.",
    "lag_scatter": "Posterior means: what the encoder says against what the model says. On the diagonal inference "
    "keeps up; points along the horizontal axis: the model uses z and the encoder lags; all at the origin: collapse.",
    "reconstructions": "Test examples and their reconstructions from the posterior mean, first seed of each method.",
    "ranks": "Mean rank by NLL over data sets and presets, 1 the lowest; methods that a grey bar joins cannot be told "
    "apart at 5 %.",
    "samples": "Samples from the prior, first seed of each method.",
}


def draw(folder: Path, frame: DataFrame, log: Callable[[str], object]) -> list[Path]:
    """Every figure that ``cells_frame``'s cells have the numbers for, as png, pdf and svg in ``folder``."""
    frame = frame.assign(method=frame["method"].map(shown(frame["method"])))
    done = frame[frame["status"] == "ok"]
    style = plot_styles_for(frame)
    history, arrays = history_frame(done), _arrays(done, log)
    makers: dict[str, Callable[[], Figure | None]] = {
        "rate_distortion": lambda: points.rate_distortion(done, style),
        "seeds": lambda: points.seeds(done, style),
        "nll_time": lambda: points.nll_cost(done, style, "train_seconds"),
        "nll_flops": lambda: points.nll_cost(done, style, "flops"),
        "gaps": lambda: points.gaps(done, style),
        "dynamics": lambda: curves.dynamics(history, style),
        "information": lambda: curves.information(history, style),
        "lag": lambda: lag.while_training(history, style),
        "lag_scatter": lambda: lag.scatter(arrays, style),
        "reconstructions": lambda: grid(arrays, "reconstructions", "originals"),
        "samples": lambda: grid(arrays, "samples"),
    }
    files = []
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **RC, "backend": "agg"}):
        for name, make in makers.items():  # one figure at a time is in memory
            try:
                files += save(figure, folder / name) if (figure := make()) else []
            except (ValueError, ArithmeticError, MemoryError) as error:  # numbers that no axis holds
                log(f"no figure {name} of {folder.name}: {str(error).splitlines()[0]}")
    return files


def shown(names: Iterable[str]) -> dict[str, str]:
    """Of every name what a figure has room for, no two alike; in none a formula begins."""
    short: dict[str, str] = {}
    for name in dict.fromkeys(names):
        end = f"… #{len(short) + 1}" if len(name) > LONGEST else ""
        text = ((name[: LONGEST - len(end)] if end else name) + end).replace("$", r"\$")
        short[name] = f" {text}" if text.startswith("_") else text  # else a legend leaves it out
    return short


def draw_ranks(folder: Path, found: Ranks) -> list[Path]:
    """The figure of mean ranks, as png, pdf and svg in ``folder``."""
    found = replace(found, ranks={shown(found.ranks)[name]: rank for name, rank in found.ranks.items()})
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **RC, "backend": "agg"}):
        return save(points.ranks(found), folder / "ranks")


def grid(pictures: Mapping[str, Mapping[str, np.ndarray]], kind: str, first: str | None = None) -> Figure | None:
    """Rows of test pictures, one row per method, ``first`` above them. Pictures are uint8 ``[P, H, W]``, ink high."""
    rows = {name: arrays[kind] for name, arrays in pictures.items() if kind in arrays and (first or kind) in arrays}
    rows = {name: images for name, images in rows.items() if images.shape[1:] == next(iter(rows.values())).shape[1:]}
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
    side = max(0.12, min(0.42, 9 / len(rows)))  # inches of a row: seventy of them stay on a page, names beside names
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


#: What is drawn of a cell's arrays, and how many dimensions it has.
DRAWN = {"originals": 3, "reconstructions": 3, "samples": 3, "means": 2, "true_means": 2}
FILE_BYTES, SIDE = 64 << 20, 256  # of a cell's arrays, pixels of a picture: at most


def _arrays(done: DataFrame, log: Callable[[str], object]) -> dict[str, dict[str, np.ndarray]]:
    """Those of ``DRAWN`` that each method's first seed has."""
    found = {}
    for name, cells in done.groupby("method", sort=False):
        file = cells["cell"].iloc[0].folder / "arrays.npz"
        try:
            with open_regular_file(file, FILE_BYTES) as opened:
                stored = read_arrays(opened, DRAWN)
            found[name] = {kind: array for kind, array in stored.items() if array.ndim == DRAWN[kind]}
            if not drawable(found[name]):
                raise ValueError("pictures of another kind")
        except FileNotFoundError:
            continue
        except Exception as error:  # zipfile, zlib and NumPy each fail in ways of their own
            found.pop(name, None)
            log(f"no pictures of {name}: {file.parent.name}/{file.name} is damaged ({type(error).__name__})")
    return found


def drawable(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether pictures ``[P, H, W]`` are small and means ``[N, D]`` go together, all of finite numbers."""
    pictures = [array.shape for array in arrays.values() if array.ndim == 3]
    if not all(count and 0 < height <= SIDE and 0 < width <= SIDE for count, height, width in pictures):
        return False
    if len({shape[1:] for shape in pictures}) > 1 or not all(array.dtype.kind in "biuf" for array in arrays.values()):
        return False
    ends = [float(end) for array in arrays.values() if array.size for end in (array.min(), array.max())]
    if not all(-LARGEST < end < LARGEST for end in ends):  # not NaN either
        return False
    means, true_means = (arrays.get(kind) for kind in ("means", "true_means"))
    if means is None or true_means is None:
        return True
    return len(means) >= len(true_means) and means.shape[1] == true_means.shape[1]
