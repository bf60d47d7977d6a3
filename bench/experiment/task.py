"""A cell to run, and what a process reports about it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.core.cancellation import never, when_missing
from bench.evaluation.config import EvaluationConfig
from bench.experiment.schema import CellConfig


def new_run_id() -> str:
    return uuid.uuid4().hex[:8]


@dataclass(frozen=True)
class CellTask:
    """One cell to train and evaluate."""

    config: CellConfig
    folder: Path
    data: Path  # the prepared arrays
    evaluation: EvaluationConfig
    command: str  # for the provenance
    threads: int = 1
    cells_per_device: int = 1  # run at the same time
    gpu_share: float = 0.0  # fraction of a GPU's memory; 0: no limit
    force: bool = False  # train again even if the cell is finished
    run_id: str = field(default_factory=new_run_id)
    marker: Path | None = None  # workers stop when this file is missing

    @property
    def cancelled(self) -> bool:
        return self.marker is not None and not self.marker.exists()

    def should_stop(self) -> Callable[[], bool]:
        """Return a function that returns whether the run was cancelled; it looks at most twice a second."""
        return when_missing(self.marker) if self.marker else never


@dataclass(frozen=True)
class TaskReport:
    """What a worker did with a task."""

    worker: str = ""  # host and process id
    started: float = 0.0  # UNIX time
    seconds: float = 0.0
    busy: bool = False  # another run holds the cell
    problem: str = ""  # why the worker could not run the cell, apart from failures of the cell itself
