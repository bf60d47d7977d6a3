"""Runs tasks: on Ray Tune, or one after the other in this process. The only file that imports ray, and only to use it.

Ray is a scheduler here and nothing else: workers write into the cells' folders, and those files are the truth.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.provenance import cores


@dataclass(frozen=True)
class Resources:
    """What one cell takes, and where from."""

    executor: str = "ray"  # or "local"
    cpus_per_cell: int = 1
    gpus_per_cell: float = 0.0
    address: str | None = None  # of a running Ray cluster

    def side_by_side(self, cells: int) -> int:
        """How many of so many cells this machine runs at the same time."""
        if self.executor == "local":
            return 1
        slots = max(1, cores() // self.cpus_per_cell)
        if self.gpus_per_cell:
            import torch

            slots = min(slots, int(torch.cuda.device_count() / self.gpus_per_cell))
        return max(1, min(slots, cells))

    def sharing(self, cells: int) -> int:
        """How many of them share one device: its GPU where they use one, else the processor."""
        side_by_side = self.side_by_side(cells)
        return min(side_by_side, max(1, int(1 / self.gpus_per_cell))) if self.gpus_per_cell else side_by_side


@dataclass(frozen=True)
class Spent:
    """Where the time of a run went, in seconds."""

    cells: int
    workers: int
    wall: float
    starting: float  # until the first cell began
    in_cells: float  # of all workers together

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.wall), 60)
        wall = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        return (
            f"{self.cells} cell{'s' * (self.cells > 1)} in {wall} on {self.workers} worker{'s' * (self.workers > 1)}: "
            f"{self.starting:.0f} s until the first began, "
            f"{100 * self.in_cells / (self.workers * self.wall):.0f} % of the workers' time in cells"
        )


def execute(tasks: Sequence[dict[str, Any]], resources: Resources) -> Spent:
    """Run every task to its end; what became of each stands in its folder."""
    began = time.time()
    ran = [_run(task) for task in tasks] if resources.executor == "local" else _with_ray(tasks, resources)
    wall = time.time() - began
    starting = min((each["began"] for each in ran), default=began) - began
    in_cells = sum(each["seconds"] for each in ran)
    return Spent(len(tasks), resources.side_by_side(len(tasks)), wall, starting, in_cells)


def _run(task: dict[str, Any]) -> dict[str, float]:
    """Run one task; when it began, and for how long."""
    from bench.cell import run_cell

    began = time.time()
    run_cell(task)
    return {"began": began, "seconds": time.time() - began}


def _with_ray(tasks: Sequence[dict[str, Any]], resources: Resources) -> list[dict[str, float]]:
    """What ``_run`` gives of each task whose worker lived to tell."""
    # Set before ray is imported: no usage reports, no change of folder, no log files or boxes of its own.
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # ^C is for bench.run to say what it means
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_ENABLE_AUTO_CONNECT": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    import ray
    from ray import tune

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if resources.address:
            ray.init(address=resources.address, **options)
        else:
            ray.init(
                address="local",
                num_cpus=max(cores(), resources.cpus_per_cell),
                include_dashboard=False,
                object_store_memory=100 * 2**20,
                **options,
            )
    except Exception as error:  # Ray raises many kinds
        raise UserError(f"cannot start or reach Ray ({error}): try --executor local") from error
    try:
        with tempfile.TemporaryDirectory() as scratch:
            needs = {"cpu": resources.cpus_per_cell, "gpu": resources.gpus_per_cell}
            results = tune.Tuner(
                tune.with_resources(lambda config: _run(config["task"]), needs),
                param_space={"task": tune.grid_search(list(tasks))},
                tune_config=tune.TuneConfig(reuse_actors=True),
                run_config=tune.RunConfig(
                    name="cells",
                    storage_path=str(Path(scratch).resolve()),
                    verbose=0,
                    # For a worker that dies; a cell's own failure is tried again in the worker.
                    failure_config=tune.FailureConfig(max_failures=1),
                ),
            ).fit()
            told = [results[number].metrics or {} for number in range(len(results))]
            return [metrics for metrics in told if "seconds" in metrics]
    finally:
        ray.shutdown()
