"""Finished cells in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.experiment.cell_record import CellRecord
from bench.experiment.schema import ResultRecord
from tests.fixtures import make_cells
from tests.fixtures.make_cells import PROVENANCE, TEXT, TRAIN, training, validation


def finished_cell(
    method: str,
    seed: int = 0,
    *,
    history: Sequence[dict[str, Any]] = (),
    costs: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    max_encoder_updates: float | None = None,
    **config: Any,
) -> CellRecord:
    """Return a finished cell of a text data set; the arguments change its records."""
    settings = {"dataset": TEXT, "preset": "small", "train": replace(TRAIN, max_encoder_updates=max_encoder_updates)}
    record = make_cells.config(make_cells.method(method, 1), seed, **settings | config)
    ended = {"training": training(**{"flops": 100.0, "train_seconds": 10.0} | (costs or {})), "provenance": PROVENANCE}
    values = {"nll": 50.0, "kl": 1.0, "rec": 49.0, "mi": 0.9, "au": 2, "collapsed": False} | (metrics or {})
    return CellRecord(
        Path(method),
        record,
        ResultRecord(cell_id=record.cell_id, status="ok", **ended | (result or {})),
        make_cells.evaluation(values, {}),
        [validation(**line) for line in history],
    )
