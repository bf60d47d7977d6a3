"""Finished cells in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.experiment.cell_record import CellRecord


def finished_cell(
    method: str,
    seed: int = 0,
    *,
    history: Sequence[dict[str, Any]] = (),
    train: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    **config: Any,
) -> CellRecord:
    """Return a finished cell of a text data set; the arguments change its records."""
    record = {
        "method": {"expression": method, "order": 1},
        "dataset": {"title": "reviews", "modality": "text"},
        "preset": "small",
        "preset_notes": ["reduced"],
        "train": {"epochs": 10, "max_encoder_updates": None} | (train or {}),
        "base_seed": 0,
        "seed": seed,
    }
    ended = {"status": "ok", "flops": 100.0, "train_seconds": 10.0} | (result or {})
    values = {"nll": 50.0, "kl": 1.0, "rec": 49.0, "mi": 0.9, "au": 2, "collapsed": False} | (metrics or {})
    return CellRecord(Path(method), record | config, ended, {"metrics": values, "settings": {}}, list(history))
