"""The files of a cell's evaluation: stored, loaded to add metrics, and read for intervals over seeds and examples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.core.files import read_arrays, read_text, rename_to_backup
from bench.evaluation.record import Evaluation, SampleTexts
from bench.experiment.cell_folder import CellFolder, RecordError
from bench.experiment.schema import EvaluationFile, parse

if TYPE_CHECKING:
    from pandas import DataFrame

EXAMPLES = "examples.parquet"
COMPRESSION = {"compression": "zstd", "use_dictionary": False, "use_byte_stream_split": True}


def store_evaluation(folder: CellFolder, evaluation: Evaluation) -> None:
    """Write all files of an evaluation; ``evaluation.json`` last, because it marks the others as complete."""
    import pandas as pd

    examples = pd.DataFrame(evaluation.columns)
    folder.write(EXAMPLES, lambda file: examples.to_parquet(file, engine="pyarrow", index=False, **COMPRESSION))
    folder.write("arrays.npz", lambda file: np.savez_compressed(file, **evaluation.arrays))  # type: ignore[arg-type]
    if evaluation.texts:
        folder.write_record("texts.json", evaluation.texts)
    else:
        (folder.path / "texts.json").unlink(missing_ok=True)
    file = EvaluationFile(cell_id=folder.config.cell_id, evaluation=evaluation.record)
    folder.write_record("evaluation.json", file)


def load_evaluation(folder: CellFolder) -> Evaluation | None:
    """Return the stored evaluation; None without one.

    If other files of it are damaged or do not belong to it, the record has version 0, so that everything is measured
    again with the stored settings. A damaged ``evaluation.json`` is renamed.
    """
    try:
        record = folder.evaluation()
    except RecordError:
        rename_to_backup(folder.path / "evaluation.json")
        return None
    if record is None:
        return None
    try:
        columns = read_columns(folder.path)
        arrays = read_arrays(folder.path / "arrays.npz")
        text = read_text(folder.path / "texts.json", missing_ok=True)
        nll, n = record.metrics["iw_nll"], record.metrics["n"]
        consistent = nll is None or math.isclose(columns["iw_nll"].mean(), nll, rel_tol=1e-9)
        if consistent and len(columns) == len(arrays["means"]) == n:
            texts = parse(SampleTexts, text) if text else None
            return Evaluation(record, {name: columns[name].to_numpy() for name in columns}, arrays, texts)
    except Exception:  # damaged or missing: pyarrow, zipfile, zlib and NumPy raise different errors
        pass
    return Evaluation(record.model_copy(update={"version": 0}))


def read_columns(folder: Path) -> DataFrame:
    """Return ``examples.parquet``: one row per test example. ``OSError`` or ``ValueError`` if it cannot be read."""
    import pandas as pd

    with open(folder / EXAMPLES, "rb") as file:  # pyarrow takes only paths in UTF-8
        return pd.read_parquet(file)


@dataclass(frozen=True)
class Examples:
    """Float64 values ``[N]`` by metric, in the order of ``index`` ``[N]``; empty without a file.

    ``sampled``: on how many of them ``nll`` was measured. ``problem``: why the file is not used.
    """

    index: np.ndarray | None = None
    values: dict[str, np.ndarray] = field(default_factory=dict)
    problem: str = ""
    sampled: int = 0


def read_examples(folder: Path, metrics: Mapping[str, float | int | bool | None]) -> Examples:
    """Return the values of ``iw_nll`` and ``nll``; their means must be the cell's ``metrics``."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with open(folder / EXAMPLES, "rb") as raw, ParquetFile(raw) as file:
            # reads only the columns in this list that the file has
            table = file.read(["index", "iw_nll", "nll"], use_threads=False).to_pandas()
        table = table.set_index("index").sort_index(kind="stable").astype(np.float64)
        if not table.index.is_unique:
            raise ValueError("examples that are stored twice")
        index, values = table.index.to_numpy(np.int64), {str(name): table[name].to_numpy() for name in table}
        nll = values["iw_nll"]
    except FileNotFoundError:
        return Examples()
    except (OSError, ValueError, KeyError, TypeError, ArrowException) as error:
        return Examples(problem=f"{EXAMPLES} is damaged ({type(error).__name__})")
    refined = values.pop("nll", np.full_like(nll, np.nan))
    sampled = int(np.isfinite(refined).sum())
    if np.isnan(nll).all():  # a posterior without density
        del values["iw_nll"]
        nll = np.full_like(nll, np.nanmean(refined)) if sampled else nll
    if sampled:
        values["nll"] = regression_values(nll, refined)
    elif "iw_nll" in values and metrics.get("nll") == metrics.get("iw_nll"):  # exact, so there is no proposal
        values["nll"] = nll
    for name, column in list(values.items()):
        stored = metrics.get(name)
        if stored is None and not np.isfinite(column).all():  # of a model that diverged
            del values[name]
        elif stored is None or not abs(column.mean() - stored) <= 1e-5 * max(1.0, abs(stored)):
            return Examples(problem=f"{EXAMPLES} does not belong to evaluation.json")
    return Examples(index, values, sampled=sampled or len(index))


def regression_values(nll: np.ndarray, refined: np.ndarray) -> np.ndarray:
    """Return values ``[N]`` whose mean and variance are those of the refined NLL, measured on n examples (else NaN).

    The metric is a regression estimate: the mean of ``iw_nll`` over all N plus the mean of c = refined - nll over the n
    sampled examples. As a mean over N values, a sampled example contributes nll + mean(c) + N/n (c - mean(c)), any
    other nll + mean(c). The factor N/n gives the mean of N values the variance of the mean of c over n.
    """
    sampled = np.isfinite(refined)
    difference = (refined - nll)[sampled]
    values = nll + difference.mean()
    values[sampled] += len(nll) / len(difference) * (difference - difference.mean())
    return values
