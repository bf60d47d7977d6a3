"""A run from start to end: its lock, its tasks, their executor, and the signals that stop it.

A run locks the file ``.run-<id>.lock`` in the output folder and removes it to stop its workers. Its tasks run one after
the other in this process, or on Ray. A cell that another run holds is left to the end and then waited for.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

from bench.core.cancellation import SIGNALS, signal_handlers
from bench.core.errors import Stopped, UserError
from bench.core.files import file_lock
from bench.experiment.cell_folder import CellFolder, remove_stale_files
from bench.experiment.task import CellTask, Resources, RunStats, TaskReport, new_run_id
from bench.experiment.tracking import tracking

STOPPING = "\nstopping: running cells write a checkpoint; press ^C again to stop at once\n"


def run_tasks(
    out: Path,
    tasks: Sequence[CellTask],
    resources: Resources,
    progress: AbstractContextManager[object],
    log: Callable[[str], object],
    tracker: str | None = None,
) -> RunStats:
    """Execute ``tasks`` as one run that stores under ``out``, within the context ``progress``.

    ``log`` prints a line; it is called for every worker that stopped, too. ``tracker``: where metrics are logged
    (``bench.experiment.tracking``).
    Raise ``Stopped`` after a signal, and ``UserError`` if ``out`` does not support file locks or was removed meanwhile.
    """
    with running(out) as run:
        if run.others:
            log("another run uses the same folder: cells that it runs are waited for, not run again")
        tasks = [_in_run(task, run) for task in tasks]
        with progress, tracking(tracker, out, tasks, run.id, log) if tracker else nullcontext():
            stats = execute(tasks, resources)
        output_deleted = run.signal is None and not run.marker.exists()
    if run.signal is not None:
        attempts = [CellFolder(task.folder).attempts() for task in tasks]
        finished = sum(last.run_id == run.id and last.finished for last in attempts)
        raise Stopped(run.signal, f"{finished} of {len(tasks)} cells are finished")
    if output_deleted:
        raise UserError(f"--out {out} was removed during the run: restore it, and run the same command again")
    for problem in stats.problems:
        log(f"a worker stopped: {problem}; the same command resumes")
    return stats


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
    worked = [report for report in reports if report.worker and not report.busy]
    return RunStats(
        cells=len(tasks),
        workers=max(1, len({report.worker for report in worked})),
        wall=wall,
        startup=min((report.started for report in worked), default=began) - began,
        in_cells=sum(report.seconds for report in worked),
        problems=tuple(dict.fromkeys(report.problem for report in reports if report.problem)),
    )


def run_in_process(tasks: Sequence[CellTask], resources: Resources, wait: bool) -> list[TaskReport]:
    """Run tasks one after the other in this process."""
    from bench.experiment.worker import run_task

    return [run_task(task, wait) for task in tasks]


def _in_run(task: CellTask, run: RunSession) -> CellTask:
    folder, data = task.folder.resolve(), task.data.resolve()
    return replace(task, folder=folder, data=data, run_id=run.id, marker=run.marker)


class RunSession:
    """One run: its id, its marker file, and the signal that stopped it, if any."""

    def __init__(self, out: Path):
        self.id = new_run_id()
        self.marker = out.resolve() / f".run-{self.id}.lock"
        self.signal: int | None = None
        self.others = 0  # runs that already used the folder

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first one cancels the workers, the second one stops at once."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        with suppress(OSError):  # standard error may be closed or full
            os.write(2, STOPPING.encode())
        try:
            self.marker.unlink(missing_ok=True)
        except OSError as error:
            raise KeyboardInterrupt from error


@contextmanager
def running(out: Path) -> Iterator[RunSession]:
    """Yield a run that uses ``out``. ``UserError`` if files cannot be locked there."""
    run = RunSession(out)
    with ExitStack() as stack:
        try:
            run.others = remove_leftovers(out)
            stack.enter_context(file_lock(run.marker, None))
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot lock files under --out {out} ({reason}): use another file system") from error
        handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # as under nohup
        stack.enter_context(signal_handlers(dict.fromkeys(handled, run.stop)))
        yield run


def remove_leftovers(out: Path) -> int:
    """Remove the files of killed runs under ``out``; return how many runs are using it."""
    others = 0
    for marker in out.glob(".run-*.lock"):
        with file_lock(marker) as unused:  # unlocking removes it
            others += not unused
    remove_stale_files(out)
    return others
