"""Cells on machines that do not see the output folder: their files travel to and from the machine of the run.

``Writer`` stores files there, as an actor of Ray. On the other machine ``run_remotely`` works in a folder of its cache.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.core.cancellation import throttled
from bench.core.files import rename_to_backup, write_bytes
from bench.core.hashing import short_hash
from bench.data.cache import cache_dir
from bench.data.dataset import Prepared
from bench.experiment.cell_folder import lock_cell
from bench.experiment.task import CellTask, TaskReport
from bench.experiment.worker import POLL_SECONDS, run_task

#: Calls a method of the writer: ``call("close", 3)``.
Call = Callable[..., Any]


class Writer:
    """Stores the files of cells, named by their numbers in ``tasks``, and holds the locks of their folders."""

    def __init__(self, tasks: Sequence[CellTask]):
        self.tasks = tasks
        self.locks: dict[int, ExitStack] = {}

    def _lock(self, cell: int) -> bool:
        if cell not in self.locks:
            stack = ExitStack()
            if not stack.enter_context(lock_cell(self.tasks[cell].folder)):
                return False
            self.locks[cell] = stack
        return True

    def open(self, cell: int) -> dict[str, bytes] | None:
        """Lock a cell and return its files; None if another run holds it."""
        task = self.tasks[cell]
        if not (task.cancelled or self._lock(cell)):
            return None
        return {name: (task.folder / name).read_bytes() for name in stamps(task.folder)}

    def data(self, cell: int) -> dict[str, bytes]:
        """Return the files of a cell's data set; the record, which marks it as complete, is the last."""
        path = self.tasks[cell].data
        return {file.name: file.read_bytes() for file in (path, path.with_suffix(".json"))}

    def store(self, cell: int, files: Mapping[str, bytes], removed: Collection[str]) -> bool:
        """Replace and remove files of a cell; return whether the run was cancelled."""
        task = self.tasks[cell]
        if any(Path(name).name != name or name.startswith(".") for name in (*files, *removed)):
            raise ValueError(f"not names of files: {[*files, *removed]}")
        if files and not self._lock(cell):  # after a restart of the writer
            raise RuntimeError("another run holds the cell")
        write_files(task.folder, files)
        for name in removed:
            (task.folder / name).unlink(missing_ok=True)
        return task.cancelled

    def archive(self, cell: int) -> None:
        """Rename the folder of a cell, if it exists, to a backup."""
        if self.tasks[cell].folder.exists():
            rename_to_backup(self.tasks[cell].folder)

    def close(self, cell: int) -> None:
        """Unlock a cell."""
        self.locks.pop(cell, ExitStack()).close()


@dataclass(frozen=True, kw_only=True)
class RemoteTask(CellTask):
    """A task in a folder of this machine, whose changes are sent whenever it looks whether the run was cancelled."""

    cell: int
    call: Call
    sent: dict[str, int]

    def sync(self) -> bool:
        """Send what has changed; return whether the run was cancelled."""
        for backup in self.folder.parent.glob("*.bak-*"):  # the worker archived the folder and started a new one
            self.call("archive", self.cell)
            shutil.rmtree(backup)
            self.sent.clear()
        now = stamps(self.folder)
        files = {name: (self.folder / name).read_bytes() for name in now if now[name] != self.sent.get(name)}
        removed = self.sent.keys() - now.keys() if now else ()  # none if the cache was emptied
        cancelled = self.call("store", self.cell, files, removed)
        self.sent.clear()
        self.sent.update(now)
        return cancelled

    @property
    def cancelled(self) -> bool:
        return self.sync()

    def should_stop(self) -> Callable[[], bool]:
        return throttled(self.sync)


def run_remotely(task: CellTask, cell: int, call: Call, wait: bool) -> TaskReport:
    """Run a task whose folder this machine does not see; with ``wait``, wait until no other run holds the cell."""
    while (files := call("open", cell)) is None:
        if not wait:
            return TaskReport(busy=True)
        time.sleep(POLL_SECONDS)
    scratch = cache_dir() / "cells" / short_hash(str(task.folder))  # runs with other outputs may have an equal cell
    folder = scratch / task.folder.name
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # of a killed process
        scratch.mkdir(parents=True)
        write_files(folder, files)
        here = {"folder": folder, "data": local_data(task, cell, call), "marker": None}
        remote = RemoteTask(**(vars(task) | here), cell=cell, call=call, sent=stamps(folder))
        report = run_task(remote)
        remote.sync()
    finally:
        call("close", cell)
        shutil.rmtree(scratch, ignore_errors=True)
    return report


def local_data(task: CellTask, cell: int, call: Call) -> Path:
    """Return the prepared data set in this machine's cache, where it is stored if it is missing."""
    path = cache_dir() / task.data.name
    prepared = Prepared.read(path)
    if prepared is None or prepared.info.fingerprint != task.config.dataset.fingerprint:
        write_files(path.parent, call("data", cell))
    return path


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files to a folder, which is created in an existing one."""
    for name, content in files.items():
        folder.mkdir(exist_ok=True)
        write_bytes(folder / name, content)


def stamps(folder: Path) -> dict[str, int]:
    """Return the files of a cell that are sent → time of their last change, the oldest first.

    ``previous.pt`` is not sent: it is needed only if ``last.pt`` is damaged.
    """
    files = [file for file in folder.glob("[!.]*") if file.name != "previous.pt"]
    times = {file.name: file.stat().st_mtime_ns for file in files}
    return dict(sorted(times.items(), key=lambda item: item[1]))
