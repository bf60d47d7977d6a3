"""Runs tasks: on Ray, or one after the other in this process.

Ray is a scheduler here and nothing else: its workers all walk through the same list of cells, take those that nobody is
at, and write into the cells' folders: those files are the truth. Ray's driver is a process of its , ``ray_executor``:
whatever becomes of it, this one goes on and says what happened.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.errors import UserError
from bench.core.provenance import cores

POLL_SECONDS = 0.5
STARTS = 3  # of Ray, if it is lost


@dataclass(frozen=True)
class Resources:
    """What one cell takes, and where from."""

    executor: str = "ray"  # or "local"
    cpus_per_cell: int = 1
    gpus_per_cell: float = 0.0
    address: str | None = None  # of a running Ray cluster

    def max_parallel(self, cells: int) -> int:
        """How many of so many cells this machine runs at the same time."""
        if self.executor == "local":
            return 1
        slots = max(1, cores() // self.cpus_per_cell)
        if self.gpus_per_cell:
            import torch

            slots = min(slots, int(torch.cuda.device_count() / self.gpus_per_cell))
        return max(1, min(slots, cells))

    def cells_per_device(self, cells: int) -> int:
        """How many of them share one device: its GPU where they use one, else the processor."""
        side_by_side = self.max_parallel(cells)
        return min(side_by_side, max(1, int(1 / self.gpus_per_cell))) if self.gpus_per_cell else side_by_side


@dataclass
class WorkerStats:
    """What one worker did, and what ended it if that was neither the end of the list nor the run's."""

    began: float = 0.0  # its first cell, as a time
    seconds: float = 0.0  # in cells
    problem: str | None = None


@dataclass(frozen=True)
class RunStats:
    """Where the time of a run went, in seconds, and what its workers ran into."""

    cells: int
    workers: int
    wall: float
    starting: float  # until the first cell began
    in_cells: float  # of all workers together
    problems: tuple[str, ...] = ()

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.wall), 60)
        wall = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        return (
            f"{self.cells} cell{'s' * (self.cells > 1)} in {wall} on {self.workers} worker{'s' * (self.workers > 1)}: "
            f"{self.starting:.0f} s until the first began, "
            f"{100 * self.in_cells / (self.workers * self.wall):.0f} % of the workers' time in cells"
        )


def execute(
    tasks: Sequence[dict[str, Any]], resources: Resources, log: Callable[[str], object] = lambda line: None
) -> RunStats:
    """Work on every task until it is done or given up; what became of each stands in its folder.

    Comes back early, without an error, once the run's marker (``task["marker"]``) is gone. ``log`` hears of mishaps.
    """
    began = time.time()
    ran = [worker_loop(tasks)] if resources.executor == "local" else _on_ray(tasks, resources, log)
    wall = time.time() - began
    starting = min((each.began for each in ran if each.began), default=began) - began
    problems = dict.fromkeys(each.problem for each in ran if each.problem)
    in_cells = sum(each.seconds for each in ran)
    return RunStats(len(tasks), max(1, len(ran)), wall, starting, in_cells, tuple(problems))


def worker_loop(
    tasks: Sequence[dict[str, Any]], tell: Callable[[WorkerStats], object] = lambda done: None
) -> WorkerStats:
    """Run those tasks that nobody is at, then those that others let go, until none is left or the run is to stop.

    Whoever dies lets go of its cell, so the others take it over. ``tell`` hears of every cell that was run.
    """
    from bench.core.cancellation import Interrupted
    from bench.experiment.cell_folder import lock_cell
    from bench.experiment.worker import is_finished, run_cell

    done, waiting = WorkerStats(), list(tasks)
    try:
        while waiting:
            elsewhere = []
            for task in waiting:
                if not Path(task["marker"]).exists():
                    return done
                with lock_cell(Path(task["folder"])) as mine:
                    if not mine:
                        elsewhere.append(task)
                    elif not is_finished(task):
                        began = time.time()
                        done.began = done.began or began
                        try:
                            run_cell(task)
                        finally:
                            done.seconds += time.time() - began
                        tell(done)
            if len(elsewhere) == len(waiting):
                time.sleep(POLL_SECONDS)
            waiting = elsewhere
    except Interrupted:
        pass
    except OSError as error:
        done.problem = f"cannot read or write {error.filename or 'files'}: {error.strerror or error}"
    except Exception as error:  # of the machine, since a cell's own is stored with it
        done.problem = f"{type(error).__name__}: {error}".splitlines()[0]
    return done


def _on_ray(tasks: Sequence[dict[str, Any]], resources: Resources, log: Callable[[str], object]) -> list[WorkerStats]:
    """What each of Ray's workers did, as far as it lived to tell. Ray is started again if it is lost."""
    for start in range(1, STARTS + 1):
        with tempfile.TemporaryDirectory() as scratch:
            answer, output = Path(scratch) / "answer", Path(scratch) / "output"
            status = _driver(tasks, resources, answer, output)
            if answer.exists():
                ran: list[WorkerStats] | UserError = pickle.loads(answer.read_bytes())
                if isinstance(ran, UserError):
                    raise ran
                return ran
            last = (output.read_text("utf-8", "replace").strip().splitlines() or [""])[-1]
        if not Path(tasks[0]["marker"]).exists():
            return []
        log(f"Ray was lost (exit status {status}): {'started again' if start < STARTS else last}")
    raise UserError("Ray was lost again and again: the same command goes on, or does without by --executor local")


def _driver(tasks: Sequence[dict[str, Any]], resources: Resources, answer: Path, output: Path) -> int:
    """Run Ray's driver to its end; it ends with this process, whose end it sees by its standard input."""
    command = [sys.executable, "-m", "bench.experiment.ray_executor", str(answer)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # it imports what this process does
    with output.open("wb") as file:
        driver = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            start_new_session=True,  # ^C is for this process to say what it means
        )
        try:
            assert driver.stdin
            try:
                pickle.dump((list(tasks), resources), driver.stdin)
                driver.stdin.flush()
            except BrokenPipeError:
                pass
            return driver.wait()
        finally:
            if driver.poll() is None:
                driver.terminate()
                try:
                    driver.wait(10)
                except subprocess.TimeoutExpired:
                    driver.kill()
