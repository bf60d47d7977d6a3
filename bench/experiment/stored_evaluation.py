"""Store the evaluation of a cell, and load it to add metrics."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from bench.core.files import read_arrays, read_text, rename_to_backup
from bench.evaluation.record import Evaluation, SampleTexts
from bench.experiment.cell_folder import CellFolder, RecordError
from bench.experiment.schema import EvaluationFile, parse


def store_evaluation(folder: CellFolder, evaluation: Evaluation) -> None:
    """Write all files of an evaluation; ``evaluation.json`` last, because it marks the others as complete."""
    folder.write("examples.parquet", lambda file: pd.DataFrame(evaluation.columns).to_parquet(file, index=False))
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
        columns = pd.read_parquet(folder.path / "examples.parquet", partitioning=None)
        arrays = read_arrays(folder.path / "arrays.npz")
        text = read_text(folder.path / "texts.json", missing_ok=True)
        nll, n = record.metrics["nll"], record.metrics["n"]
        consistent = nll is None or math.isclose(columns["nll"].mean(), nll, rel_tol=1e-9)
        if consistent and len(columns) == len(arrays["means"]) == n:
            texts = parse(SampleTexts, text) if text else None
            return Evaluation(record, {name: columns[name].to_numpy() for name in columns}, arrays, texts)
    except Exception:  # damaged or missing: pyarrow, zipfile, zlib and NumPy raise different errors
        pass
    return Evaluation(record.model_copy(update={"version": 0}))
