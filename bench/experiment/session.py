"""A run from beginning to end: the marker by which its workers know that it goes on, and the signals that stop it.

The marker is a file in the output folder, locked by the run. It is gone when the run is to stop, or when the folder is.
One that nobody locks was left by a run that was killed.
"""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from bench.core.errors import Stopped, UserError
from bench.core.locks import file_lock
from bench.experiment.cell_folder import CellFolder, remove_stale_files
from bench.experiment.executor import Resources, RunStats, execute

PREFIX = ".run-"
#: Ask to stop: ^C, what clusters send before they kill, a terminal that closes.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
STOPPING = "\nstopping: cells finish their step and write a checkpoint; once more to stop at once\n"


class RunSession:
    """One run: its ``id``, its ``marker``, and the ``signal`` that stopped it, if one did."""

    def __init__(self, out: Path):
        self.id = uuid.uuid4().hex[:8]
        self.marker = out.resolve() / f"{PREFIX}{self.id}"
        self.signal: int | None = None
        self.others = 0  # that were at work in the same folder when it began
        self.before: dict[int, Any] = {}  # handlers of signals

    def install_signal_handlers(self) -> None:
        """Handle signals from now on; those that are ignored, as under nohup, stay so."""
        if threading.current_thread() is threading.main_thread():
            found = {number: signal.getsignal(number) for number in SIGNALS}
            self.before = {number: each for number, each in found.items() if each is not signal.SIG_IGN}
            for number in self.before:
                signal.signal(number, self.stop)

    def restore_signal_handlers(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def task(self) -> dict[str, Any]:
        """What every task of this run says of it."""
        return {"run": self.id, "marker": str(self.marker)}

    def output_deleted(self) -> bool:
        """Whether the marker is gone though nobody asked the run to stop."""
        return self.signal is None and not self.marker.exists()

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first calls the workers off, another one stops at once."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        os.write(2, STOPPING.encode())
        try:
            self.marker.unlink(missing_ok=True)
        except OSError as error:
            raise KeyboardInterrupt from error


def run_tasks(
    out: Path,
    tasks: Sequence[dict[str, Any]],
    resources: Resources,
    progress: AbstractContextManager,
    log: Callable[[str], object],
) -> RunStats:
    """Execute ``tasks`` as one run that stores under ``out``, within ``progress``; ``log`` hears of mishaps.

    ``Stopped`` after a signal; ``UserError`` where files cannot be locked under ``out``, or it has vanished meanwhile.
    """
    with running(out) as run:
        if run.others:
            log("another run is at work in the same folder: its cells are not run again, but waited for")
        with progress:
            spent = execute([task | run.task() for task in tasks], resources, log)
        vanished = run.output_deleted()
    if run.signal is not None:
        tries = [CellFolder(Path(task["folder"])).attempts() for task in tasks]
        through = sum(each["run"] == run.id and each["over"] for each in tries)
        raise Stopped(run.signal, f"{through} of {len(tasks)} cells are through")
    if vanished:
        raise UserError(f"--out {out} has vanished: bring it back, and the same command goes on")
    return spent


def remove_leftovers(out: Path) -> int:
    """Remove what runs left under ``out`` that were killed; how many are at work there."""
    others = 0
    for marker in out.glob(f"{PREFIX}*"):
        with file_lock(marker) as left:  # by a run that was killed, and so removed
            others += not left
    remove_stale_files(out)
    return others


@contextmanager
def running(out: Path) -> Iterator[RunSession]:
    """Within, a run goes on until it is asked to stop. ``UserError`` where files cannot be locked under ``out``."""
    run, refused = RunSession(out), f"cannot lock files under --out {out}: give a folder on another file system"
    with ExitStack() as locks:
        try:
            run.others = remove_leftovers(out)
            made = locks.enter_context(file_lock(run.marker, timeout=10))
        except OSError as error:
            raise UserError(f"{refused} ({error.strerror or error})") from error
        if not made:
            raise UserError(refused)
        run.install_signal_handlers()
        try:
            yield run
        finally:
            run.restore_signal_handlers()
