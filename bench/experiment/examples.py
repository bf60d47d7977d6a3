"""What a cell has stored per test example, as intervals over seeds and examples need it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.core.safe_io import open_regular_file
from bench.experiment.schema import LARGEST

FILE = "examples.parquet"
MOST, FILE_BYTES = 2_000_000, 256 << 20  # rows, and bytes of a file: at most


@dataclass(frozen=True)
class Examples:
    """Per judged test example, by rising ``index`` [N]: float64 values [N] by metric; empty without a file.

    ``sampled``: on how many of them ``nll_refined`` was measured. ``problem`` says why a file is not used.
    """

    index: Any = None
    values: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    sampled: int = 0


def read(folder: Path, metrics: Mapping[str, Any]) -> Examples:
    """The values per example in a cell's folder, whose means are its metrics ``nll`` and ``nll_refined``."""
    import numpy as np
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile
    from pyarrow.types import is_floating, is_integer

    try:
        with open_regular_file(folder / FILE, FILE_BYTES) as opened, ParquetFile(opened) as file:
            names = [name for name in ("index", "nll", "nll_refined") if name in file.schema_arrow.names]
            kinds = [file.schema_arrow.field(name).type for name in names]
            if file.metadata.num_rows > MOST or not all(is_integer(kind) or is_floating(kind) for kind in kinds):
                raise ValueError("more examples than any test set has, or something else than numbers")
            table = file.read(columns=names, use_threads=False)
        columns = {name: table.column(name).to_numpy() for name in names}
        with np.errstate(invalid="ignore"):
            index = np.asarray(columns["index"], np.int64)
            order = np.argsort(index, kind="stable")
            values = {name: np.asarray(columns[name], np.float64)[order] for name in names[1:]}
        if any((np.abs(each) > LARGEST).any() for each in values.values()):
            raise ValueError("numbers beyond all bounds")
    except FileNotFoundError:
        return Examples()
    except (OSError, ValueError, KeyError, TypeError, ArrowException) as error:
        return Examples(problem=f"{FILE} is damaged ({type(error).__name__})")
    nll, common = values.get("nll"), values.pop("nll_refined", None)
    if nll is not None and np.isnan(nll).all() and common is not None:  # of a posterior without density
        del values["nll"]
        nll = np.full_like(common, np.nanmean(common)) if np.isfinite(common).any() else common
    if nll is not None and common is not None and np.isfinite(common).any():
        values["nll_refined"] = of_all(nll, common)
    elif nll is not None and metrics.get("nll_refined") == metrics.get("nll"):  # exact, so no proposal is needed
        values["nll_refined"] = nll
    for name, each in values.items():
        stored = metrics.get(name)
        if stored is None or not abs(each.mean() - stored) <= 1e-5 * max(1.0, abs(stored)):
            return Examples(problem=f"{FILE} does not belong to evaluation.json")
    rests_on = nll if common is None else common
    return Examples(index[order], values, sampled=0 if rests_on is None else int(np.isfinite(rests_on).sum()))


def of_all(nll: Any, common: Any) -> Any:
    """Values [N] whose mean and spread are those of the common-proposal NLL, measured on a sample of n (else NaN).

    Its metric is a regression estimate, the mean of ``nll`` over all plus that of c = common - nll over the sample.
    Written as a mean over all N, an example of the sample counts nll + mean(c) + N/n (c - mean(c)) and another one
    nll + mean(c). The weight N/n gives the mean of N values the variance that c's mean over n has.
    """
    import numpy as np

    sample = np.isfinite(common)
    more = (common - nll)[sample]
    values = nll + more.mean()
    values[sample] += len(nll) / len(more) * (more - more.mean())
    return values
