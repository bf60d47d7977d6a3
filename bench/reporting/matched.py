"""Comparisons that do not depend on the chosen settings: at matched rate and at matched training time.

Every function returns None if there are too few cells for the comparison.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bench.experiment.cell_record import CellRecord
from bench.reporting.frame import headline, history_frame
from bench.reporting.render import DASH, Document, Entry, Panel, number, with_interval
from bench.reporting.statistics import Summary, summary

if TYPE_CHECKING:
    from pandas import DataFrame

#: Rates (KL, nats) at which sweeps are compared.
RATES = (0.5, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0)
MIN_SEEDS, MIN_MEMBERS = 2, 3
MAX_LOAD = 1.25  # largest ratio of seconds per FLOP over the seeds of a row, above which seconds are not compared


def matched_panels(document: Document, frame: DataFrame, sweeps: Mapping[str, Collection[str]]) -> list[Panel]:
    """Return the panels at matched rate and at matched time; their footnotes are added to ``document``."""
    panels = [_rate_panel(document, frame, sweeps), _time_panel(document, frame)]
    return [panel for panel in panels if panel]


def matched_rate(
    frame: DataFrame, sweeps: Mapping[str, Collection[str]], rates: Iterable[float] = RATES, max_rates: int = 3
) -> DataFrame | None:
    """Compare the NLL and the distortion of sweeps at the same rate.

    In every seed the members of a sweep (at least ``MIN_MEMBERS``) are interpolated linearly in the order of their
    rate, the KL term in nats; there is no extrapolation.

    Args:
        frame: ``cells_frame``.
        sweeps: sweep -> methods.
        rates: candidates; of those that most sweeps reach, ``max_rates`` are kept, evenly spread.

    Returns:
        One row per (sweep, rate): ``n`` seeds that reach the rate (at least ``MIN_SEEDS``), and the mean, sd and 95 % t
        interval over seeds as ``nll``, ``nll_sd``, ``nll_low``, ``nll_high`` and ``rec``, … in nats. None if no rate is
        reached by two sweeps.
    """
    import numpy as np
    import pandas as pd

    name = headline(frame)
    finished = frame[frame["status"] == "done"].dropna(subset=["kl", name, "rec"])
    records = []
    for sweep, members in sorted(sweeps.items()):
        seeds = [cells for _, cells in finished[finished["method"].isin(members)].groupby("replicate", sort=False)]
        curves = [cells.groupby("kl")[[name, "rec"]].mean() for cells in seeds if len(cells) >= MIN_MEMBERS]
        for rate in rates:
            reached = [curve for curve in curves if curve.index[0] <= rate <= curve.index[-1]]
            if len(reached) >= MIN_SEEDS:
                record: dict[str, Any] = {"sweep": sweep, "rate": rate, "n": len(reached)}
                for column, metric in (("nll", name), ("rec", "rec")):
                    record |= _columns(column, [float(np.interp(rate, c.index, c[metric])) for c in reached])
                records.append(record)
    if not records:
        return None
    table = pd.DataFrame.from_records(records)
    sweeps_at = table.groupby("rate")["sweep"].nunique()
    if sweeps_at.max() < 2:
        return None
    candidates = [*sweeps_at.index[sweeps_at == sweeps_at.max()]]
    positions = np.linspace(0, len(candidates) - 1, min(max_rates, len(candidates))).round().astype(int)
    return table[table["rate"].isin([candidates[i] for i in positions])].reset_index(drop=True)


def matched_time(frame: DataFrame, fractions: Iterable[float] = (0.25, 0.5, 1.0)) -> DataFrame | None:
    """Compare the best validation ELBO that every method reaches within the same seconds of training.

    Args:
        frame: ``cells_frame``.
        fractions: of the training time of the fastest method, so that every method trained that long.

    Returns:
        One row per (method, seconds): ``n`` seeds, and the mean, sd and 95 % t interval over seeds as ``elbo``,
        ``elbo_sd``, ``elbo_low``, ``elbo_high`` in nats; NaN before the first validation of a seed. None with fewer
        than two methods of two seeds, or if seconds are not comparable because the cells were trained on different
        machines, with different numbers of cells per device, or beside other work (``MAX_LOAD``).
    """
    import pandas as pd

    finished = frame[(frame["status"] == "done") & (frame["train_seconds"] > 0)]
    conditions = {repr(_timing_conditions(cell)) for cell in finished["cell"]}
    seeds = finished.groupby("method")["replicate"].nunique()
    methods = [method for method in dict.fromkeys(finished["method"]) if seeds[method] >= MIN_SEEDS]
    pace = (finished["train_seconds"] / finished["flops"]).groupby(finished["method"])
    if len(methods) < 2 or len(conditions) > 1 or (pace.max() / pace.min()).max() > MAX_LOAD:
        return None
    finished = finished[finished["method"].isin(methods)]
    history = history_frame(finished).dropna(subset=["seconds", "elbo"])
    ends = history.groupby(["method", "replicate"])["seconds"].max()
    if {*ends.index.get_level_values("method")} != {*methods}:
        return None
    records = []
    for seconds in (fraction * ends.min() for fraction in fractions):
        best = history[history["seconds"] <= seconds * (1 + 1e-9)].groupby(["method", "replicate"])["elbo"].max()
        for method in methods:
            replicates = finished.loc[finished["method"] == method, "replicate"]
            values = [best.get((method, replicate), math.nan) for replicate in replicates]
            complete = not any(map(math.isnan, values))  # else the mean would be over other seeds than elsewhere
            record = {"method": method, "seconds": seconds, "n": len(values) if complete else 0}
            records.append(record | _columns("elbo", values if complete else []))
    table = pd.DataFrame.from_records(records)
    comparable = table.groupby("seconds")["elbo"].transform("count") >= 2
    return table[comparable].reset_index(drop=True) if comparable.any() else None


def _columns(name: str, values: Iterable[float]) -> dict[str, float]:
    value = summary(values)
    return {column: getattr(value, key) for key, column in _summary_columns(name).items()}


def _summary_columns(name: str) -> dict[str, str]:
    """Return field of ``Summary`` -> column."""
    return {"mean": name, "sd": f"{name}_sd", "low": f"{name}_low", "high": f"{name}_high"}


def _timing_conditions(cell: CellRecord) -> tuple[Any, ...]:
    """What seconds depend on in addition to the method: machine, threads, and the number of cells per device."""
    provenance = cell.result.provenance if cell.result else None
    machine = provenance and (provenance.machine, provenance.threads)
    return machine, cell.result.cells_per_device if cell.result else 1


def _panel(caption: str, table: DataFrame, row: str, at: str, headings: Mapping[str, str]) -> Panel:
    """Return a panel with one row per value of the column ``row`` and one column per metric and value of ``at``.

    ``headings`` (formats) are by metric.
    """
    points = sorted(table[at].unique())
    header = [Entry(heading.format(point)) for heading in headings.values() for point in points]
    grid = []
    for key, records in table.groupby(row, sort=False):
        at_point = {record[at]: record for record in records.to_dict("records")}
        grid.append([Entry(key), *(_entry(at_point.get(point), name) for name in headings for point in points)])
    return Panel(caption, [Entry(row), *header], grid)


def _entry(record: Mapping[str, Any] | None, name: str) -> Entry:
    """Return NLL with its interval, and other metrics with their standard deviation."""
    if record is None or math.isnan(record[name]):
        return Entry(DASH)
    value = Summary(n=record["n"], **{key: record[column] for key, column in _summary_columns(name).items()})
    if name == "nll":
        return Entry(with_interval(value), value=value.mean)
    return Entry(number(value.mean, 2), number(value.sd, 2), value=value.mean)


def _rate_panel(document: Document, frame: DataFrame, sweeps: Mapping[str, Collection[str]]) -> Panel | None:
    if (table := matched_rate(frame, sweeps)) is None:
        return None
    estimate = "NLL" if headline(frame) == "nll" else "IW-NLL"
    document.define(
        "NLL at a rate",
        f"mean and 95 % t interval over seeds of the {estimate}, interpolated linearly between the members of a sweep "
        "in the order of their rate (KL), without extrapolation; rec is the distortion at that rate",
    )
    headings = {"nll": "NLL at {:g} nats", "rec": "rec at {:g}"}
    return _panel("At matched rate", table, "sweep", "rate", headings)


def _time_panel(document: Document, frame: DataFrame) -> Panel | None:
    if (table := matched_time(frame)) is None:
        return None
    document.define(
        "ELBO by a time",
        "best validation ELBO within the same seconds of training: a quarter, half, all of the fastest method's time",
    )
    headings = {"elbo": "ELBO by {:,.3g} s"}
    return _panel("At matched training time", table, "method", "seconds", headings)
