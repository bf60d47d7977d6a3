"""A cell to run, what it takes of a machine, and what is reported about it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.core.cancellation import never, when_missing
from bench.core.provenance import command, cores
from bench.evaluation.config import EvaluationConfig
from bench.experiment.schema import CellConfig


def new_run_id() -> str:
    return uuid.uuid4().hex[:8]


@dataclass(frozen=True)
class Resources:
    """Executor, and resources of one cell."""

    executor: str = "ray"  # or "local"
    cpus_per_cell: int = 1
    gpus_per_cell: float = 0.0  # a fraction limits the GPU memory of the cell, too
    address: str | None = None  # of a running Ray cluster

    def max_parallel(self, cells: int) -> int:
        """Return how many of ``cells`` cells this machine runs at the same time."""
        if self.executor == "local":
            return 1
        slots = max(1, cores() // self.cpus_per_cell)
        if self.gpus_per_cell:
            import torch

            slots = min(slots, int(torch.cuda.device_count() / self.gpus_per_cell))
        return max(1, min(slots, cells))

    def cells_per_device(self, cells: int) -> int:
        """Return how many of ``cells`` cells share a device: a GPU if they use one, otherwise the processor."""
        parallel = self.max_parallel(cells)
        return min(parallel, max(1, int(1 / self.gpus_per_cell))) if self.gpus_per_cell else parallel

    def for_memory(self, factor: float) -> Resources:
        """Return the resources of a cell that needs ``factor`` times the basic VAE's memory: more of a shared GPU."""
        share = min(1.0, factor * self.gpus_per_cell)
        return replace(self, gpus_per_cell=share) if 0 < self.gpus_per_cell < 1 else self


@dataclass(frozen=True)
class CellTask:
    """One cell to train and evaluate."""

    config: CellConfig
    folder: Path
    data: Path  # the prepared arrays
    evaluation: EvaluationConfig
    resources: Resources = Resources()
    cells_per_device: int = 1  # run at the same time
    force: bool = False  # train again even if the cell is finished
    training: bool = True  # False: fail if the cell is not trained, or its weights are damaged
    command: str = field(default_factory=command)  # for the provenance
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


@dataclass(frozen=True)
class RunStats:
    """Where the time of a run went, in seconds, and the problems of its workers."""

    cells: int
    workers: int
    wall: float
    startup: float  # until the first cell started
    in_cells: float  # summed over workers
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.wall), 60)
        wall = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        busy = 100 * self.in_cells / max(self.workers * self.wall, 1e-9)
        return (
            f"{self.cells} cell{'s' * (self.cells != 1)} in {wall} on {self.workers} worker{'s' * (self.workers != 1)}"
            f": {self.startup:.0f} s to start, workers {busy:.0f} % busy"
        )
