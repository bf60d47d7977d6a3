"""Progress of a run, read from the cells' files: bars on a terminal, one line per event elsewhere."""

from __future__ import annotations

import threading
import time
from bisect import bisect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.evaluation.config import EvaluationConfig
from bench.experiment.cell_folder import CellFolder, RecordError, lock_file
from bench.experiment.runtime_estimate import about, wall_clock

POLL_SECONDS = 0.5
#: Shares of a cell's work at which a line is printed without a terminal.
LINES = (0.01, 0.03, *(tenths / 10 for tenths in range(1, 10)))
WINDOW = 100  # unfinished cells polled at a time, in the order in which they start
EVALUATION_SHARE = 0.1  # of a cell's bar
#: History and metric key -> heading.
SHOWN = {"nll": "NLL", "iw_nll": "IW-NLL", "elbo": "ELBO", "kl": "KL", "mi": "MI", "au": "AU"}


def make_console() -> Console:
    """Return a console on standard output that wraps no lines."""
    return Console(highlight=False, soft_wrap=True)


@dataclass(eq=False)
class CellProgress:
    """The state of one cell: ``waiting``, ``running``, ``evaluating``, ``done`` or ``failed``."""

    name: str
    folder: CellFolder
    updates: int  # planned decoder updates
    weight: float  # the cell's share of the run's work, in any unit
    evaluation: EvaluationConfig  # what must be evaluated
    state: str = "waiting"
    update: int = 0
    details: str = ""  # metrics of the last validation, of the test set once done, or why the cell failed
    began: tuple[float, float] | None = None  # time at which it was first seen at work, and ``fraction`` then
    ended: float | None = None  # time
    bar: TaskID | None = None

    def __post_init__(self) -> None:
        self.before = {name: self._modified(name) for name in ("result.json", "evaluation.json")}

    def _modified(self, name: str) -> float:
        try:
            return (self.folder.path / name).stat().st_mtime
        except OSError:  # there is no file
            return 0.0

    def poll(self) -> None:
        """Update the state from the folder. A damaged file raises ``RecordError`` and changes nothing."""
        self._read()
        if self.active and self.began is None:
            self.began = time.monotonic(), self.fraction
        if self.finished and self.ended is None:
            self.ended = time.monotonic()

    def _read(self) -> None:
        new = {name for name, time in self.before.items() if self._modified(name) != time}
        result = self.folder.result() if "result.json" in new else None
        if lock_file(self.folder.path).exists():  # a worker holds the cell
            if result and result.status == "running":
                self.state = "running"
                history, self.update = self.folder.history(), self.folder.attempts().update
                if history:
                    self.update, self.details = max(self.update, history[-1].update), _numbers(history[-1].metrics)
            elif self.folder.is_trained():
                self.state, self.update = "evaluating", self.updates
        elif result and result.failure:
            self.state, self.details = "failed", result.failure
        elif "evaluation.json" in new and (record := self.folder.evaluation()) and not self.evaluation.missing(record):
            self.state, self.update, self.details = "done", self.updates, _numbers(record.metrics)

    @property
    def active(self) -> bool:
        return self.state in ("running", "evaluating")

    @property
    def finished(self) -> bool:
        return self.state in ("done", "failed")

    @property
    def fraction(self) -> float:
        """The completed share of the cell's work."""
        return 1.0 if self.finished else (1 - EVALUATION_SHARE) * min(1.0, self.update / self.updates)

    @property
    def left(self) -> float:
        """The weight of the work that is left."""
        return self.weight * (1 - self.fraction)

    @property
    def timed(self) -> tuple[float, float]:
        """The seconds that were measured, and the weight of the work that was done in them."""
        if self.began is None or self.state == "failed":
            return 0.0, 0.0
        time_began, fraction = self.began
        return (self.ended or time.monotonic()) - time_began, self.weight * (self.fraction - fraction)


class RunProgress:
    """Shows the progress of cells, given in the order in which they start, from a thread while it is entered.

    ``seconds_per_weight`` is an estimate, used until cells are measured; None: unknown.
    """

    def __init__(self, cells: Sequence[CellProgress], console: Console, seconds_per_weight: float | None = None):
        self.cells, self.unfinished, self.console = cells, list(cells), console
        self.seconds_per_weight, self.parallel = seconds_per_weight, 1  # cells that were seen at work at one time
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        disable = not console.is_terminal
        self.bars = Progress(*columns, console=console, transient=True, disable=disable, speed_estimate_period=3600)
        self.total = self.bars.add_task("", total=sum(cell.weight for cell in cells))

    def __enter__(self) -> RunProgress:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _watch(self) -> None:
        with self.bars:
            while not self.stop.wait(POLL_SECONDS):
                self.poll(self.unfinished[:WINDOW])
            self.poll([*self.unfinished])

    def poll(self, cells: Sequence[CellProgress]) -> None:
        """Read the state of ``cells`` and show what has changed."""
        self.parallel = max(self.parallel, sum(cell.active for cell in self.unfinished[:WINDOW]))
        for cell in cells:
            before = cell.state, bisect(LINES, cell.fraction)
            with suppress(OSError, RecordError):  # a damaged file, or one that is just removed: keep the state
                cell.poll()
            if cell.finished:
                self.unfinished.remove(cell)
            self._update_bar(cell)
            changed = before != (cell.state, bisect(LINES, cell.fraction))
            if changed and (cell.finished or not self.console.is_terminal):
                self._log(cell)
        completed = sum(cell.weight * cell.fraction for cell in self.cells)
        self.bars.update(self.total, description=f"{self._count()} cells", completed=completed)

    def _update_bar(self, cell: CellProgress) -> None:
        if cell.state == "waiting":
            return
        if cell.bar is None:
            cell.bar = self.bars.add_task("", total=1.0)
        text = f"{cell.name}: {cell.state} {cell.details}"
        self.bars.update(cell.bar, completed=cell.fraction, description=text, visible=not cell.finished)

    def _log(self, cell: CellProgress) -> None:
        seconds = self.bars.tasks[0].elapsed or 0.0
        state = f"update {cell.update} of {cell.updates}" if cell.state == "running" else cell.state
        details = f" – {cell.details}" if cell.details else ""
        self.console.print(
            f"[{seconds:6.0f} s] {cell.name}: {state}{details} ({self._count()}{self._left()})", markup=False
        )

    def _count(self) -> str:
        return f"{len(self.cells) - len(self.unfinished)}/{len(self.cells)}"

    def seconds_left(self) -> float | None:
        """Return the estimated time of the unfinished cells; None if nothing is known about it.

        The estimates of the plan are multiplied by the ratio of measured to estimated time: of the cells that are done,
        or before there is one, of those at work.
        """
        if not self.unfinished:
            return None
        done = [cell.timed for cell in self.cells if cell.state == "done" and cell.began]
        timed = done or [cell.timed for cell in self.cells if cell.active]
        seconds, weight = (sum(column) for column in zip(*timed, strict=True)) if timed else (0.0, 0.0)
        ratio = seconds / weight if weight else self.seconds_per_weight
        return None if ratio is None else ratio * wall_clock([cell.left for cell in self.unfinished], self.parallel)

    def _left(self) -> str:
        seconds = self.seconds_left()
        return "" if seconds is None else f", {about(seconds)} left"


def _numbers(metrics: Mapping[str, object]) -> str:
    values = {key: x for key in SHOWN if isinstance(x := metrics.get(key), (int, float))}
    return ", ".join(f"{SHOWN[key]} {round(x, 2) + 0.0:.{0 if key == 'au' else 2}f}" for key, x in values.items())
