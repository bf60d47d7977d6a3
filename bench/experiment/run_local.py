"""Run tasks one after the other in this process, or hand them to Ray.

Results are in the cells' folders. A cell that another run holds is left to the end and then waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.experiment.task import CellTask, Resources, TaskReport


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


def execute(tasks: Sequence[CellTask], resources: Resources) -> RunStats:
    """Run every task until its cell is done or has failed; return early once the run is cancelled."""
    if resources.executor == "local":
        run: Callable[[Sequence[CellTask], Resources, bool], list[TaskReport]] = run_in_process
    else:
        from bench.experiment.run_on_ray import run_on_ray as run

    began = time.time()
    reports = run(tasks, resources, False)
    if busy := [task for task, report in zip(tasks, reports, strict=True) if report.busy]:
        reports += run(busy, resources, True)
    wall = time.time() - began
    worked = [report for report in reports if not report.busy]
    return RunStats(
        cells=len(tasks),
        workers=max(1, len({report.worker for report in worked})),
        wall=wall,
        startup=min((report.started for report in worked), default=began) - began,
        in_cells=sum(report.seconds for report in worked),
        problems=tuple(dict.fromkeys(report.problem for report in worked if report.problem)),
    )


def run_in_process(tasks: Sequence[CellTask], resources: Resources, wait: bool) -> list[TaskReport]:
    """Run tasks one after the other in this process."""
    from bench.experiment.worker import run_task

    return [run_task(task, wait) for task in tasks]
