"""Runs tasks: on Ray Tune, or one after the other in this process. The only file that imports ray, and only to use it.

Ray is a scheduler here and nothing else: its workers all walk through the same list of cells, take those that nobody is
at, and write into the cells' folders. Those files are the truth.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.errors import UserError
from bench.provenance import cores

POLL_SECONDS = 0.5


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


@dataclass
class Work:
    """What one worker did, and what ended it if that was neither the end of the list nor the run's."""

    began: float = 0.0  # its first cell, as a time
    seconds: float = 0.0  # in cells
    problem: str | None = None


@dataclass(frozen=True)
class Spent:
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


def execute(tasks: Sequence[dict[str, Any]], resources: Resources) -> Spent:
    """Work on every task until it is done or given up; what became of each stands in its folder.

    Comes back early, without an error, once the run's marker (``task["marker"]``) is gone.
    """
    began = time.time()
    ran = [work(tasks)] if resources.executor == "local" else _with_ray(tasks, resources)
    wall = time.time() - began
    starting = min((each.began for each in ran if each.began), default=began) - began
    problems = dict.fromkeys(each.problem for each in ran if each.problem)
    return Spent(len(tasks), len(ran), wall, starting, sum(each.seconds for each in ran), tuple(problems))


def work(tasks: Sequence[dict[str, Any]], tell: Callable[[Work], object] = lambda done: None) -> Work:
    """Run those tasks that nobody is at, then those that others let go, until none is left or the run is to stop.

    Whoever dies lets go of its cell, so the others take it over. ``tell`` hears of every cell that was run.
    """
    from bench.cell import run_cell, settled
    from bench.store import claim
    from bench.watchdog import Interrupted, stop

    stop(False)
    done, waiting = Work(), list(tasks)
    try:
        while waiting:
            elsewhere = []
            for task in waiting:
                if not Path(task["marker"]).exists():
                    return done
                with claim(Path(task["folder"])) as mine:
                    if not mine:
                        elsewhere.append(task)
                    elif not settled(task):
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


def _with_ray(tasks: Sequence[dict[str, Any]], resources: Resources) -> list[Work]:
    """What each of Ray's workers did, as far as it lived to tell."""
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

    def worker(config: dict[str, Any], tasks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return asdict(work(tasks, lambda done: tune.report(asdict(done))))

    try:
        with tempfile.TemporaryDirectory() as scratch:
            needs = {"cpu": resources.cpus_per_cell, "gpu": resources.gpus_per_cell}
            results = tune.Tuner(
                tune.with_resources(tune.with_parameters(worker, tasks=list(tasks)), needs),
                param_space={"worker": tune.grid_search(list(range(resources.side_by_side(len(tasks)))))},
                run_config=tune.RunConfig(
                    name="workers",
                    storage_path=str(Path(scratch).resolve()),
                    verbose=0,
                    # For workers that die: a cell is given up after some of them.
                    failure_config=tune.FailureConfig(max_failures=2 * len(tasks) + 2),
                ),
            ).fit()
            told = [results[number].metrics or {} for number in range(len(results))]
            return [Work(**{name: each[name] for name in asdict(Work())}) for each in told if "seconds" in each]
    finally:
        ray.shutdown()
