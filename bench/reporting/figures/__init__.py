"""All figures of one group of cells, as PNG and PDF at the width of a column or of a page."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench.experiment.lag_trace import LagTrace
from bench.reporting.frame import cells_frame, headline, history_frame
from bench.reporting.groups import CONTROLS, Group
from bench.reporting.looks import look

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from bench.reporting.figures.images import Arrays
    from bench.reporting.figures.style import Looks

MAX_CURVES, MAX_PANELS = 6, 8  # rows in a figure of curves, and in one of panels
RULE = "the basic VAE in grey, and the rows with the lowest NLL, those that use z in every seed first"

#: Stored arrays that the figures use, and their possible numbers of dimensions; images in colour have four.
DIMENSIONS = {
    **dict.fromkeys(("originals", "reconstructions", "samples"), (3, 4)),
    **dict.fromkeys(("means", "true_means"), (2,)),
}


class Data(NamedTuple):
    """What the figures show: finished cells, rows, validations, and arrays and lag traces of the first seeds."""

    finished: DataFrame
    rows: DataFrame
    history: DataFrame
    arrays: Arrays
    traces: Mapping[str, LagTrace]
    looks: Looks
    trials: DataFrame  # of tuned methods

    def shown(self, name: str, most: int) -> Arrays:
        """Return the arrays of the rows that have one of that name, of at most ``most`` chosen rows."""
        having = [title for title, stored in self.arrays.items() if name in stored]
        return {title: self.arrays[title] for title in chosen(self.rows[self.rows["title"].isin(having)], most)}


def _figures() -> dict[str, Callable[[Data], list[Figure]]]:
    """Return name -> function that returns the pages of a figure, none if there are no data."""
    from bench.reporting.figures import curves, forest, images, lag, planes

    def over_updates(columns: Mapping[str, str]) -> Callable[[Data], list[Figure]]:
        def draw(data: Data) -> list[Figure]:
            with_values = data.history.dropna(subset=[*columns], how="all")["title"]
            candidates = data.rows[data.rows["title"].isin({*with_values})]
            rule = RULE if len(candidates) > MAX_CURVES else ""
            return curves.over_updates(data.history, chosen(candidates), data.looks, columns, rule)

        return draw

    return {
        "nll": lambda data: forest.differences(data.rows, data.looks),
        "mi": lambda data: forest.information(data.finished, data.looks),
        "nll_cost": lambda data: planes.cost(data.rows, data.looks),
        "rate_distortion": lambda data: planes.rate_distortion(data.rows, data.finished, data.looks),
        "dynamics": over_updates(curves.DYNAMICS),
        "gaps": lambda data: forest.gaps(data.finished, data.looks),
        "lag": over_updates(curves.LAG),
        "lag_scatter": lambda data: lag.scatter(data.shown("true_means", MAX_PANELS), data.looks),
        "lag_stages": lambda data: lag.stages(data.traces, data.looks),
        "lag_trajectory": lambda data: lag.trajectory(data.traces, data.looks),
        "reconstructions": lambda data: images.image_grid(
            data.shown("reconstructions", 9), "reconstructions", "originals"
        ),
        "samples": lambda data: images.image_grid(data.shown("samples", 10), "samples"),
        "tuning": lambda data: planes.tuning(data.trials, data.looks),
    }


def draw(
    folder: Path,
    frame: DataFrame,
    rows: DataFrame,
    log: Callable[[str], object],
    trials: Sequence[Mapping[str, Any]] = (),
) -> list[Path]:
    """Write every figure that the cells have data for, in every format, and return the files.

    Args:
        folder: of the figures; those of earlier reports are removed. Further pages of ``name`` are ``name-2``, ….
        frame, rows: ``cells_frame`` and ``rows_frame``.
        log: receives why a figure could not be drawn.
        trials: of tuned methods.
    """
    from bench.reporting.figures.style import save

    data, files = collect(frame, rows, log, trials), []
    for name, figure in pages(data, lambda message: log(f"{message} of {folder.name}")):
        files += save(figure, folder / name)
    remove_figures(folder, files)
    return files


def remove_figures(folder: Path, kept: Collection[Path] = ()) -> None:
    """Remove the figures in a folder, except those ``kept``, and the folder if nothing else is in it."""
    from bench.reporting.figures.style import METADATA

    for file in folder.glob("*"):
        if file.suffix[1:] in METADATA and file not in kept:
            file.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def draw_levels(folder: Path, setting: str, groups: Mapping[float, Group]) -> None:
    """Write the figure of tables that differ in one ``setting`` of their model; ``groups``: its value -> the table."""
    import matplotlib.style

    from bench.reporting.figures import capacity
    from bench.reporting.figures.style import RC, save

    frames = {level: cells_frame(group.cells) for level, group in groups.items()}
    looks = {
        row.title: look(row.cell.config.method)
        for frame in frames.values()
        for row in frame[(frame["family"] != CONTROLS) | frame["mi"].isna()].itertuples()  # the decoder without z
    }
    with matplotlib.style.context(RC, after_reset=True):
        finished = {level: frame[frame["status"] == "done"] for level, frame in frames.items()}
        save(capacity.draw(finished, setting, looks), folder / "capacity")


def collect(
    frame: DataFrame, rows: DataFrame, log: Callable[[str], object], trials: Sequence[Mapping[str, Any]] = ()
) -> Data:
    """Return what the figures show."""
    import pandas as pd

    titles = dict(zip(frame["method"], frame["title"], strict=True))
    finished = frame[frame["status"] == "done"]
    history = history_frame(finished)
    return Data(
        finished,
        rows[(rows["selection"] == "") & (rows["n"] > 0)],
        history.assign(title=history["method"].map(titles)),
        _read_arrays(finished, log),
        _read_lag_traces(finished),
        {row.title: look(row.cell.config.method) for row in frame.drop_duplicates("title").itertuples()},
        pd.DataFrame([{**trial, "title": titles.get(trial["method"], trial["method"])} for trial in trials]),
    )


def pages(data: Data, log: Callable[[str], object]) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the figure of every page."""
    import matplotlib.style

    from bench.reporting.figures.style import RC

    for name, function in _figures().items():
        try:
            with matplotlib.style.context(RC, after_reset=True):  # not the user's configuration
                for number, figure in enumerate(function(data), 1):
                    yield name if number == 1 else f"{name}-{number}", figure
        except (ValueError, ArithmeticError) as error:  # for example numbers beyond the range of an axis
            log(f"no figure {name} ({str(error).splitlines()[0]})")


def chosen(rows: DataFrame, count: int = MAX_CURVES) -> list[str]:
    """Return the titles of the rows that a figure shows, in the order of the tables.

    The baseline and the rows with the lowest NLL, those that use z in every seed first. Controls are left out unless
    there is room for all rows.
    """
    if len(rows) > count:
        ranked = rows.assign(collapses=rows["collapsed"] != 0).sort_values(["collapses", headline(rows)], kind="stable")
        ranked = ranked[~ranked["baseline"] & (ranked["family"] != CONTROLS)]
        best = {*rows.loc[rows["baseline"], "title"], *ranked["title"][: count - 1]}
        rows = rows[rows["title"].isin(best)]
    return [*rows.sort_values("baseline", ascending=False, kind="stable")["title"]]


def _read_arrays(finished: DataFrame, log: Callable[[str], object]) -> dict[str, dict[str, np.ndarray]]:
    """Return the stored arrays of the first seed of every row."""
    arrays = {}
    for name, cells in finished.groupby("title", sort=False):
        file = cells["cell"].iloc[0].folder / "arrays.npz"
        try:
            with np.load(file, allow_pickle=False) as stored:
                arrays[name] = {kind: stored[kind] for kind in DIMENSIONS if kind in stored}
            if any(array.ndim not in DIMENSIONS[kind] for kind, array in arrays[name].items()):
                raise ValueError("unexpected shapes")
        except FileNotFoundError:
            continue
        except Exception as error:  # zipfile, zlib and NumPy raise different types
            arrays.pop(name, None)
            log(f"no images of {name}: {file.parent.name}/{file.name} is damaged ({type(error).__name__})")
    return arrays


def _read_lag_traces(finished: DataFrame) -> dict[str, LagTrace]:
    """Read the lag trace of each row's first seed, for the cells that have one."""
    cells = finished.groupby("title", sort=False)["cell"].first()
    traces = {str(name): LagTrace.read(cell.folder) for name, cell in cells.items()}
    return {name: trace for name, trace in traces.items() if trace}
