"""Comparisons that settings do not decide: at matched rate, at matched training time, over data sets.

Each returns None where there is too little for it to mean something.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.reporting.frame import headline, history_frame
from bench.reporting.statistics import summary

if TYPE_CHECKING:
    from pandas import DataFrame

#: Rates (nats) at which sweeps are compared, as far as they reach them.
RATES = (0.5, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0)
LEAST_SEEDS, LEAST_MEMBERS, LEAST_BLOCKS, LEAST_METHODS = 2, 3, 6, 3


def matched_rate(
    frame: DataFrame, sweeps: Mapping[str, Collection[str]], rates: Iterable[float] = RATES, most: int = 3
) -> DataFrame | None:
    """NLL and distortion of every sweep at the same rate: one row per (sweep, rate), at most ``most`` rates.

    ``frame`` is ``cells_frame``. In every seed the members of a sweep are joined by lines in the order of their rate
    (KL, nats) and read off at ``rate``, never beyond the lowest and highest. Columns: sweep, rate, n (seeds that
    reach it), and mean, sd, 95 % t interval over seeds as ``nll``, ``nll_sd``, ``nll_low``, ``nll_high`` and
    ``rec``…; NLL is the headline's. None without two sweeps that two seeds take to the same rate with at least
    ``LEAST_MEMBERS`` members. Of more rates than ``most`` those that most sweeps reach, spread evenly.
    """
    import pandas as pd

    name = headline(frame)
    done = frame[frame["status"] == "ok"].dropna(subset=["kl", name, "rec"])
    records = []
    for sweep, members in sorted(sweeps.items()):
        seeds = [cells for _, cells in done[done["method"].isin(members)].groupby("replicate", sort=False)]
        curves = [cells.groupby("kl")[[name, "rec"]].mean() for cells in seeds if len(cells) >= LEAST_MEMBERS]
        for rate in rates:
            within = [curve for curve in curves if curve.index[0] <= rate <= curve.index[-1]]
            if len(within) >= LEAST_SEEDS:
                record = {"sweep": sweep, "rate": rate, "n": len(within)}
                for column, metric in (("nll", name), ("rec", "rec")):
                    value = summary(interpolated(curve.index, curve[metric], rate) for curve in within)
                    record |= {column: value.mean, f"{column}_sd": value.sd}
                    record |= {f"{column}_low": value.low, f"{column}_high": value.high}
                records.append(record)
    if not records:
        return None
    found = pd.DataFrame.from_records(records)
    reached = found.groupby("rate")["sweep"].nunique()
    chosen = [rate for rate, count in reached.items() if count == reached.max()]
    if reached.max() < 2:
        return None
    count = min(most, len(chosen))
    places = [round(i * (len(chosen) - 1) / max(1, count - 1)) for i in range(count)]
    return found[found["rate"].isin([chosen[place] for place in places])].reset_index(drop=True)


def interpolated(x: Iterable[float], y: Iterable[float], at: float) -> float:
    """The line through points of rising ``x``, read off within them."""
    import numpy as np

    return float(np.interp(at, np.asarray([*x]), np.asarray([*y])))


def matched_time(frame: DataFrame, shares: Iterable[float] = (0.25, 0.5, 1.0)) -> DataFrame | None:
    """The best validation ELBO that every method has reached within the same seconds of training.

    ``frame`` is ``cells_frame``. One row per (method, seconds) with mean, sd and 95 % t interval over seeds: method,
    seconds, n, ``elbo``, ``elbo_sd``, ``elbo_low``, ``elbo_high``. The seconds are ``shares`` of the time that the
    quickest method took for all of its training, so that everyone had them; ``elbo`` is NaN before a method's first
    validation. None without two methods of two seeds, and where seconds do not compare: cells were trained on
    different machines, or beside different numbers of others.
    """
    import pandas as pd

    done = frame[(frame["status"] == "ok") & (frame["train_seconds"] > 0)]
    where = {repr(_place(cell)) for cell in done["cell"]}
    counts = done.groupby("method")["replicate"].nunique()
    methods = [method for method in dict.fromkeys(done["method"]) if counts[method] >= LEAST_SEEDS]
    if len(methods) < 2 or len(where) > 1:
        return None
    done = done[done["method"].isin(methods)]
    history = history_frame(done).dropna(subset=["seconds", "elbo"])
    ends = history.groupby(["method", "replicate"])["seconds"].max()
    if {*ends.index.get_level_values("method")} != {*methods}:
        return None
    records = []
    for seconds in (share * ends.min() for share in shares):
        best = history[history["seconds"] <= seconds * (1 + 1e-9)].groupby(["method", "replicate"])["elbo"].max()
        for method in methods:
            replicates = done.loc[done["method"] == method, "replicate"]
            values = [best.get((method, replicate), math.nan) for replicate in replicates]
            # A mean over those seeds alone that have been validated would be one over others.
            value = summary(values if not any(map(math.isnan, values)) else [])
            record = {"method": method, "seconds": seconds, "n": value.n, "elbo": value.mean, "elbo_sd": value.sd}
            records.append(record | {"elbo_low": value.low, "elbo_high": value.high})
    found = pd.DataFrame.from_records(records)
    enough = found.groupby("seconds")["elbo"].transform("count") >= 2
    return found[enough].reset_index(drop=True) if enough.any() else None


def _place(cell) -> tuple:
    """What seconds depend on beside the method: machine, threads, and how many cells shared the device."""
    provenance = cell.result.get("provenance") or {}
    return provenance.get("machine"), provenance.get("threads"), cell.result.get("shared", 1)


@dataclass(frozen=True)
class Ranks:
    """Mean ranks of K methods over B blocks, 1 for the lowest NLL, best first, and what tells them apart.

    ``statistic`` and ``p`` are Friedman's; two methods differ at 5 % (Nemenyi) where their mean ranks are at least
    ``critical_difference`` apart, which means something only where p is below 0.05.
    """

    ranks: dict[str, float]
    blocks: tuple[str, ...]
    statistic: float
    p: float
    critical_difference: float


def ranks(tables: Mapping[str, DataFrame]) -> Ranks | None:
    """Mean ranks of the methods that every block has, a block being a data set and preset: name -> ``rows_frame``.

    After Demšar (2006, JMLR 7, 1–30); equal values share their mean rank. Rows selected on validation are left out,
    for their members are there. A block ranks by its headline NLL. None below six blocks or three methods.
    """
    import numpy as np
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    columns = {}
    for block, rows in tables.items():
        rows = rows[rows["selection"] == ""]
        columns[block] = rows.set_index("method")[headline(rows)].dropna()
    if len(columns) < LEAST_BLOCKS:
        return None
    first, *others = columns.values()
    methods = [method for method in first.index if all(method in other.index for other in others)]
    if len(methods) < LEAST_METHODS:
        return None
    values = np.array([column[methods] for column in columns.values()])
    if (values == values[:, :1]).all():  # Friedman's statistic is 0 / 0
        return None
    mean = rankdata(values, axis=1).mean(0)
    count, blocks = len(methods), len(values)
    statistic, p = friedmanchisquare(*values.T)
    quantile = studentized_range.ppf(0.95, count, np.inf) / math.sqrt(2)
    ordered = {methods[place]: float(mean[place]) for place in np.argsort(mean, kind="stable")}
    critical = float(quantile * math.sqrt(count * (count + 1) / (6 * blocks)))
    return Ranks(ordered, tuple(columns), float(statistic), float(p), critical)
