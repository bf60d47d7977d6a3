"""Values per test example, for intervals over seeds and examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

FILE = "examples.parquet"


@dataclass(frozen=True)
class Examples:
    """Float64 values ``[N]`` by metric, in the order of ``index`` ``[N]``; empty without a file.

    ``sampled``: on how many of them ``nll_refined`` was measured. ``problem``: why the file is not used.
    """

    index: np.ndarray | None = None
    values: dict[str, np.ndarray] = field(default_factory=dict)
    problem: str = ""
    sampled: int = 0


def read(folder: Path, metrics: Mapping[str, float | int | bool | None]) -> Examples:
    """Return the values of ``nll`` and ``nll_refined``; their means must be the cell's ``metrics``."""
    import numpy as np
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(folder / FILE) as file:
            names = [name for name in ("index", "nll", "nll_refined") if name in file.schema_arrow.names]
            table = file.read(columns=names, use_threads=False)
        index = np.asarray(table.column("index").to_numpy(), np.int64)
        order = np.argsort(index, kind="stable")
        values = {name: np.asarray(table.column(name).to_numpy(), np.float64)[order] for name in names[1:]}
    except FileNotFoundError:
        return Examples()
    except (OSError, ValueError, KeyError, TypeError, ArrowException) as error:
        return Examples(problem=f"{FILE} is damaged ({type(error).__name__})")
    nll, refined = values.get("nll"), values.pop("nll_refined", None)
    measured = np.isfinite(refined).any() if refined is not None else False
    if nll is not None and np.isnan(nll).all() and refined is not None:  # a posterior without density
        del values["nll"]
        nll = np.full_like(refined, np.nanmean(refined)) if measured else refined
    if nll is not None and refined is not None and measured:
        values["nll_refined"] = regression_values(nll, refined)
    elif nll is not None and metrics.get("nll_refined") == metrics.get("nll"):  # exact, so there is no proposal
        values["nll_refined"] = nll
    for name, column in values.items():
        stored = metrics.get(name)
        if stored is None or not abs(column.mean() - stored) <= 1e-5 * max(1.0, abs(stored)):
            return Examples(problem=f"{FILE} does not belong to evaluation.json")
    source = nll if refined is None else refined
    return Examples(index[order], values, sampled=0 if source is None else int(np.isfinite(source).sum()))


def regression_values(nll: np.ndarray, refined: np.ndarray) -> np.ndarray:
    """Return values ``[N]`` whose mean and variance are those of the refined NLL, measured on n examples (else NaN).

    The metric is a regression estimate: the mean of ``nll`` over all N plus the mean of c = refined - nll over the n
    sampled examples. As a mean over N values, a sampled example contributes nll + mean(c) + N/n (c - mean(c)), any
    other nll + mean(c). The factor N/n gives the mean of N values the variance of the mean of c over n.
    """
    import numpy as np

    sampled = np.isfinite(refined)
    difference = (refined - nll)[sampled]
    values = nll + difference.mean()
    values[sampled] += len(nll) / len(difference) * (difference - difference.mean())
    return values
